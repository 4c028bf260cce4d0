# Evaluates the project's flake.nix without Nix's own handling of flakes, and returns what its outputs
# come to, as data. The assertions about it are in integration-tests/tests/nixos_modules.
#
#   --arg nixpkgs PATH   every output to its derivation, with the packages of this nixpkgs
#   nothing              what the flake itself says, with stand-ins for what it calls
{
  nixpkgs ? null,
}:
let
  real = nixpkgs != null;
  flake = import ../../flake.nix;
  inherit (lib) attrNames genAttrs mapAttrs;

  lib = import ./lib.nix // {
    getExe = package: "${package}/bin/${package.name}";
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    licenses = {
      asl20 = "Apache-2.0";
      mit = "MIT";
    };
    # A set of files is the list of its paths, each from the root.
    fileset = {
      unions = paths: paths;
      toSource =
        { root, fileset }:
        let
          start = builtins.stringLength (toString root) + 1;
        in
        map (path: builtins.substring start (-1) (toString path)) fileset;
    };
  };

  # A derivation that remembers what it was called with.
  made = name: arguments: {
    type = "derivation";
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
    inherit arguments name;
    overrideAttrs = change: made name (arguments // change arguments);
  };

  standIns =
    import ./packages.nix { inherit lib; }
    // genAttrs [
      "cargo"
      "cargo-deny"
      "clippy"
      "deadnix"
      "installShellFiles"
      "nixfmt"
      "nixfmt-tree"
      "python3Minimal"
      "rust-analyzer"
      "rustc"
      "rustfmt"
      "shellcheck"
      "statix"
    ] (name: made name { });

  packages =
    system:
    let
      pkgs = standIns // {
        inherit lib;
        callPackage =
          file: arguments:
          let
            function = import file;
          in
          function (builtins.intersectAttrs (builtins.functionArgs function) pkgs // arguments);
        mkShell = made "shell";
        # The modules' own tests, against our stand-ins.
        path = null;
        runCommand =
          name: arguments: text:
          made name (arguments // { inherit text; });
        rustPlatform.buildRustPackage = arguments: made arguments.pname arguments;
        stdenv = {
          buildPlatform.canExecute = _: true;
          hostPlatform = { inherit system; };
        };
        testers.runNixOSTest =
          test:
          let
            called = test { inherit lib pkgs; };
          in
          made called.name {
            inherit (called) testScript;
            nodes = attrNames called.nodes;
          };
        writeText = name: text: made name { inherit text; };
      };
    in
    pkgs;

  given =
    if real then
      {
        lib = import (nixpkgs + "/lib");
        legacyPackages = genAttrs systems (system: import nixpkgs { inherit system; });
      }
    else
      {
        inherit lib;
        legacyPackages = genAttrs systems packages;
      };
  systems = [
    "aarch64-linux"
    "x86_64-linux"
  ];
  # A text and not a path: nothing is copied into a store.
  self = outputs // {
    outPath = toString ../..;
  };
  outputs = flake.outputs {
    inherit self;
    nixpkgs = given;
  };

  # A derivation as data, which forces all of it.
  shown =
    package:
    if real then
      builtins.unsafeDiscardStringContext package.drvPath
    else
      mapAttrs (_: value: if builtins.isFunction value then "a function" else value) (
        package.arguments or { }
      );
  bySystem = mapAttrs (_: mapAttrs (_: shown));

  # A machine with the flake's modules: whose package it gets.
  machine = lib.evalModules {
    specialArgs.pkgs = packages "x86_64-linux";
    modules = [
      ./options.nix
      self.nixosModules.default
    ];
  };
in
{
  inherit (flake) description inputs;
  modules = attrNames outputs.nixosModules;
  packages = bySystem outputs.packages;
  checks = bySystem outputs.checks;
  devShells = bySystem outputs.devShells;
  formatter = mapAttrs (_: shown) outputs.formatter;
  # The files that the package and the checks are built from.
  sources = ((packages "x86_64-linux").callPackage ../package.nix { }).arguments.src;
}
// lib.optionalAttrs (!real) {
  moduleTakes = {
    agent = machine.config.services.lab-updater.package.name;
    coordinator = machine.config.services.lab-coordinator.package.name;
  };
}
