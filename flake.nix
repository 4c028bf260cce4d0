{
  description = "lab-updater keeps a fleet of NixOS machines up to date, in waves";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});

      # A module whose service takes this flake's package, unless the machine names another one.
      withPackage =
        service: module:
        { pkgs, ... }:
        {
          imports = [ module ];
          services.${service}.package =
            lib.mkDefault
              self.packages.${pkgs.stdenv.hostPlatform.system}.lab-updater;
        };
    in
    {
      nixosModules = {
        agent = withPackage "lab-updater" ./nixos-modules/agent.nix;
        coordinator = withPackage "lab-coordinator" ./nixos-modules/coordinator.nix;
        default = {
          imports = [
            self.nixosModules.agent
            self.nixosModules.coordinator
          ];
        };
      };

      packages = eachSystem (pkgs: rec {
        lab-updater = pkgs.callPackage ./nixos-modules/package.nix { };
        default = lab-updater;
      });

      checks = eachSystem (
        pkgs:
        let
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) lab-updater;
          # One cargo command over the workspace, with the package's sources and vendored crates.
          cargoCheck =
            name: tools: command:
            lab-updater.overrideAttrs (old: {
              pname = "lab-updater-${name}";
              nativeBuildInputs = old.nativeBuildInputs or [ ] ++ tools;
              buildPhase = ''
                runHook preBuild
                ${command}
                runHook postBuild
              '';
              installPhase = "touch $out";
            });
        in
        {
          package = lab-updater;
          clippy = cargoCheck "clippy" [ pkgs.clippy ] ''
            cargo clippy --workspace --all-targets --offline -- -D warnings
          '';
          # Without those that run the demo's machines, whose scripts look for their tools where other
          # distributions have them, and those of real machines, which need root: .ci/run has these.
          tests = cargoCheck "tests" [ ] ''
            cargo test --workspace --exclude integration-tests --offline
            cargo test --package integration-tests --test simulation --test turmoil --offline
          '';
          rustfmt = cargoCheck "rustfmt" [ pkgs.rustfmt ] ''
            cargo fmt --check
          '';
          nixfmt = pkgs.runCommand "lab-updater-nixfmt" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
            find ${self} -name '*.nix' -exec nixfmt --check {} +
            touch $out
          '';
          modules =
            let
              result = import ./nixos-modules/tests { nixpkgs = pkgs.path; };
            in
            pkgs.writeText "lab-updater-modules.json" (builtins.toJSON result);
          rollout = pkgs.testers.runNixOSTest (
            import ./integration-tests/nixos/rollout.nix { inherit self; }
          );
        }
      );

      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.cargo-deny
            pkgs.clippy
            pkgs.deadnix
            pkgs.nixfmt
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
            pkgs.shellcheck
            pkgs.statix
          ];
        };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
