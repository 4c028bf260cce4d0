# A system closure of NixOS shape by plain derivations: real Nix, no nixpkgs, no network.
# `nix-build system.nix --argstr spec '{"host":"web-01","version":"1",…}'`; the keys of the
# specification are the arguments of `toplevel`.
{
  spec,
  system ? builtins.currentSystem,
}:
let
  builder =
    name: env: text:
    derivation (
      {
        inherit name system;
        builder = "/bin/sh";
        args = [ text ];
      }
      // env
    );

  # One file in a store path of its own: kernel, initrd and modules are that on NixOS too.
  single =
    name: file: content:
    builder name { inherit file content; } (
      builtins.toFile "single.sh" ''
        PATH=/usr/bin:/bin
        mkdir "$out" && printf '%s\n' "$content" >"$out/$file"
        exit 0
      ''
    );

  # So many bytes that nobody needs.
  ballast =
    bytes:
    builder "ballast-${toString bytes}" { inherit bytes; } (
      builtins.toFile "ballast.sh" ''
        PATH=/usr/bin:/bin
        head -c "$bytes" /dev/zero >"$out"
        exit 0
      ''
    );

  toplevel =
    {
      host,
      version,
      kernel,
      kernelParams ? "",
      bulk ? 0,
      failure ? "none",
      inhibitors ? { },
      switcher ? "",
      files ? { },
      units ? { },
    }:
    let
      # `@file:NAME@` in a unit is the store path of that file, as configuration is on NixOS.
      names = builtins.attrNames files;
      placeholders = map (name: "@file:${name}@") names;
      paths = map (name: builtins.toFile name files.${name}) names;
      unitFile = name: builtins.toFile name (builtins.replaceStrings placeholders paths units.${name});
    in
    builder "nixos-system-${host}-${version}" {
      inherit version failure switcher;
      kernel_path = single "linux-${kernel}" "bzImage" "kernel ${kernel}";
      initrd_path = single "initrd-linux-${kernel}" "initrd" "initrd ${kernel}";
      modules_path = single "linux-${kernel}-modules" "modules.builtin" "modules ${kernel}";
      kernel_params = kernelParams;
      bulk_path = if bulk == 0 then "" else ballast bulk;
      inhibitors = builtins.toJSON inhibitors;
      unit_files = builtins.concatStringsSep " " (
        map (name: "${name}=${unitFile name}") (builtins.attrNames units)
      );
      stc_script = ./switch-to-configuration.sh;
      activate_script = ./activate.sh;
      init_script = ./init.sh;
    } ./build-toplevel.sh;
in
map toplevel (builtins.fromJSON spec)
