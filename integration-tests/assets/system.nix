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

  # The same with a file of the machine that builds: a kernel, or an initrd, that can be booted.
  copied =
    name: file: from:
    builder name { inherit file from; } (
      builtins.toFile "copied.sh" ''
        PATH=/usr/bin:/bin
        mkdir "$out" && cp "$from" "$out/$file"
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
      bootFiles ? "",
      bootTries ? 0,
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
      bootFile =
        name: file: content:
        if bootFiles == "" then single name file content else copied name file "${bootFiles}/${file}";
    in
    builder "nixos-system-${host}-${version}" {
      inherit version failure switcher;
      kernel_path = bootFile "linux-${kernel}" "bzImage" "kernel ${kernel}";
      initrd_path = bootFile "initrd-linux-${kernel}" "initrd" "initrd ${kernel}";
      modules_path = single "linux-${kernel}-modules" "modules.builtin" "modules ${kernel}";
      kernel_params = kernelParams;
      boot_tries = toString bootTries;
      bulk_path = if bulk == 0 then "" else ballast bulk;
      inhibitors = builtins.toJSON inhibitors;
      unit_files = builtins.concatStringsSep " " (
        map (name: "${name}=${unitFile name}") (builtins.attrNames units)
      );
      stc_script = ./switch-to-configuration.sh;
      activate_script = ./activate.sh;
      init_script = ./init.sh;
      loader_script = ./install-systemd-boot.sh;
    } ./build-toplevel.sh;
in
map toplevel (builtins.fromJSON spec)
