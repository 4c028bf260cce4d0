# Packages by name only, for evaluation without nixpkgs: nothing here is ever built.
{ lib }:
let
  inherit (lib) genAttrs types;

  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
    __toString = self: self.outPath;
  };

  # The types of `pkgs.formats`, and generated files that carry their value for the tests to see.
  format =
    description: optional:
    let
      value =
        optional (
          types.oneOf [
            types.bool
            types.int
            types.float
            types.str
            types.path
            (types.attrsOf value)
            (types.listOf value)
          ]
        )
        // {
          inherit description;
        };
    in
    _: {
      type = value;
      generate = name: content: package name // { inherit content; };
    };
in
genAttrs [
  "coreutils"
  "curl"
  "gitMinimal"
  "gnugrep"
  "gnused"
  "jq"
  "lab-updater"
  "nix"
  "openssh"
  "systemd"
] package
// {
  formats = {
    toml = format "TOML value" (type: type);
    json = format "JSON value" types.nullOr;
  };
  runCommand =
    name: _: _:
    package name;
  writeShellScript = name: _: package name;
  writeShellScriptBin = name: _: package name;
  stdenv = {
    buildPlatform.canExecute = _: true;
    hostPlatform = { };
  };
}
