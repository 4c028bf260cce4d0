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
in
rustPlatform.buildRustPackage {
  pname = "lab-updater";
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

  # By package, not by workspace: the integration tests switch on test-only features of the cores,
  # and no part of them belongs into the programs.
  cargoBuildFlags = [
    "--package=agent"
    "--package=cli"
    "--package=coordinator"
  ];

  nativeBuildInputs = [ installShellFiles ];

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    mkdir manual
    $out/bin/lab man --directory manual
    installManPage manual/*
    installShellCompletion --cmd lab \
      --bash <($out/bin/lab completions bash) \
      --fish <($out/bin/lab completions fish) \
      --zsh <($out/bin/lab completions zsh)
  '';

  # Tests are a check of their own: `nix flake check`.
  doCheck = false;

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
