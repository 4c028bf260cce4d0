# The three programs: `lab`, `lab-agent` and `lab-coordinator`.
{
  lib,
  installShellFiles,
  rustPlatform,
  stdenv,
}:
let
  inherit (lib) fileset importTOML licenses;
  root = ../.;
  cargo = importTOML (root + "/Cargo.toml");
  shared = {
    inherit (cargo.workspace.package) version;

    # What the tests read belongs to it too: they are checks that build from here.
    src = fileset.toSource {
      inherit root;
      fileset = fileset.unions (
        map (path: root + "/${path}") (
          cargo.workspace.members
          ++ [
            "Cargo.lock"
            "Cargo.toml"
            "clippy.toml"
            "docs/commands.md"
            "docs/examples"
            "docs/fault-matrix.md"
            "docs/nixos-options.md"
            "flake.lock"
            "flake.nix"
            "nixos-modules"
            "rustfmt.toml"
          ]
        )
      );
    };

    cargoLock.lockFile = root + "/Cargo.lock";
    # Tests are a check of their own: `nix flake check`.
    doCheck = false;
  };

  # It lives on every machine: a profile of its own makes it small (Cargo.toml).
  agent = rustPlatform.buildRustPackage (
    shared
    // {
      pname = "lab-agent";
      buildType = "agent";
      cargoBuildFlags = [ "--package=agent" ];
    }
  );
in
rustPlatform.buildRustPackage (
  shared
  // {
    pname = "lab-updater";

    # By package, not by workspace: the integration tests switch on test-only features of the cores,
    # and no part of them belongs into the programs.
    cargoBuildFlags = [
      "--package=cli"
      "--package=coordinator"
    ];

    nativeBuildInputs = [ installShellFiles ];

    postInstall = ''
      ln -s ${lib.getExe' agent "lab-agent"} $out/bin/
    ''
    + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
      mkdir manual
      $out/bin/lab man --directory manual
      installManPage manual/*
      installShellCompletion --cmd lab \
        --bash <($out/bin/lab completions bash) \
        --fish <($out/bin/lab completions fish) \
        --zsh <($out/bin/lab completions zsh)
    '';

    meta = {
      inherit (cargo.workspace.package) description;
      license = [
        licenses.mit
        licenses.asl20
      ];
      mainProgram = "lab";
      maintainers = [ ];
      platforms = [
        "aarch64-linux"
        "x86_64-linux"
      ];
    };
  }
)
