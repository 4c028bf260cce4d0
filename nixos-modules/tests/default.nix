# Evaluates the modules in the cases that must work and in those that must be refused, and returns
# what came out, as data. The assertions about it are in integration-tests/tests/nixos_modules.
#
#   nix-instantiate --eval --strict --json --read-write-mode nixos-modules/tests
#     --arg nixpkgs PATH   the real NixOS module system and option declarations
#     --arg nixpkgsLib PATH   the real module system (nixpkgs' lib), and our declarations of the options
#     --arg nixpkgs null   neither: our own stand-ins for both
{
  nixpkgs ? null,
  nixpkgsLib ? null,
  # Packages and system to evaluate with, where `import nixpkgs { }` is not what is wanted.
  pkgs ? import nixpkgs { },
}:
let
  real = nixpkgs != null;
  lib =
    if real then
      import (nixpkgs + "/lib")
    else if nixpkgsLib != null then
      import nixpkgsLib
    else
      import ./lib.nix;
  standIns = import ./packages.nix { inherit lib; };

  evaluate =
    module:
    if real then
      import (nixpkgs + "/nixos/lib/eval-config.nix") {
        inherit lib pkgs;
        system = null;
        modules = [
          ../.
          {
            services.lab-updater.package = pkgs.emptyDirectory;
            services.lab-coordinator.package = pkgs.emptyDirectory;
            boot.loader.grub.enable = false;
            fileSystems."/" = {
              device = "/dev/vda";
              fsType = "ext4";
            };
            system.stateVersion = lib.trivial.release;
          }
          module
        ];
      }
    else
      lib.evalModules {
        specialArgs.pkgs = standIns;
        modules = [
          ./options.nix
          ../.
          module
        ];
      };

  # A unit as NixOS writes it.
  unitText =
    service:
    let
      text = value: if lib.isBool value then (if value then "true" else "false") else toString value;
      line = name: value: "${name}=${text value}";
      lines =
        set:
        lib.concatMap (
          name:
          let
            value = set.${name};
          in
          if lib.isList value then map (line name) value else [ (line name value) ]
        ) (lib.attrNames set);
      words = name: values: lib.optional (values != [ ]) "${name}=${lib.concatStringsSep " " values}";
    in
    lib.concatStringsSep "\n" (
      [ "[Unit]" ]
      ++ words "After" service.after
      ++ words "Before" service.before
      ++ words "Conflicts" service.conflicts
      ++ [ "Description=${service.description}" ]
      ++ words "Requires" service.requires
      ++ words "Wants" service.wants
      ++ lines service.unitConfig
      ++ [
        ""
        "[Service]"
      ]
      ++ map (name: "Environment=\"${name}=${service.environment.${name}}\"") (
        lib.attrNames service.environment
      )
      ++ [ "Environment=\"PATH=${lib.makeBinPath service.path}\"" ]
      ++ lib.optional (!service.restartIfChanged) "X-RestartIfChanged=false"
      ++ lines service.serviceConfig
      ++ lib.optionals (service.wantedBy != [ ]) [
        ""
        "[Install]"
        "WantedBy=${lib.concatStringsSep " " service.wantedBy}"
      ]
      ++ [ "" ]
    );

  units =
    config:
    lib.genAttrs
      (lib.filter (name: config.systemd.services ? ${name}) [
        "lab-updater"
        "lab-updater-dead-man"
        "lab-updater-soft-reboot"
        "lab-coordinator"
        "lab-coordinator-fleet"
      ])
      (
        name:
        if real then
          builtins.unsafeDiscardStringContext config.systemd.units."${name}.service".text
        else
          unitText config.systemd.services.${name}
      );

  # What a case came to. Everything in here is forced by the caller.
  result =
    module:
    let
      inherit (evaluate module) config;
      agent = config.services.lab-updater;
      coordinator = config.services.lab-coordinator;
      data = value: builtins.fromJSON (builtins.unsafeDiscardStringContext (builtins.toJSON value));
    in
    {
      failedAssertions = map (assertion: assertion.message) (
        lib.filter (assertion: !assertion.assertion) config.assertions
      );
      units = units config;
      timers = lib.mapAttrs (_: timer: timer.timerConfig) (
        lib.filterAttrs (name: _: name == "lab-updater-dead-man") config.systemd.timers
      );
      openPorts = lib.filter (port: port != 22) config.networking.firewall.allowedTCPPorts;
    }
    // lib.optionalAttrs agent.enable { agentSettings = data agent.settings; }
    // lib.optionalAttrs coordinator.enable {
      coordinatorSettings = data coordinator.settings;
      fleet = data coordinator.fleet;
    };

  # The whole system of a case, which forces every assertion of NixOS' own.
  system =
    module: builtins.unsafeDiscardStringContext (evaluate module).config.system.build.toplevel.drvPath;

  # Whether evaluating a case is refused altogether.
  refused = module: !(builtins.tryEval (builtins.deepSeq (result module) true)).success;

  named = name: module: {
    imports = [ module ];
    networking.hostName = name;
  };
  machine = ../../docs/examples/machine.nix;
  fleet = import ../../docs/examples/update-config.nix;
  coordinator = {
    networking.hostName = "controller-01";
    services.lab-coordinator = {
      enable = true;
      inherit fleet;
      openFirewall = true;
      nixosConfigurations = {
        dev-01 = member "dev-01" "dev";
        web-01 = member "web-01" "critical";
        # A machine that leaves it to the coordinator.
        web-02 = member "web-02" null;
      };
    };
  };

  # A machine of a fleet, as a coordinator sees it through `nixosConfigurations`.
  member = name: group: {
    config.services.lab-updater = {
      enable = true;
      inherit group;
      settings.machine = name;
    };
  };
in
{
  source =
    if real then
      "NixOS"
    else if nixpkgsLib != null then
      "the module system of nixpkgs and our declarations of NixOS' options"
    else
      "our own stand-ins for the module system and for NixOS' options";

  # The machine's configuration of the research document, as it stands.
  machine = result (named "monitor-01" machine);

  # Every option that a machine can have.
  fullMachine = result {
    networking.hostName = "db-primary";
    services.lab-updater = {
      enable = true;
      group = "critical";
      coordinator = "updates.example.org:7443";
      tokenFile = "/run/secrets/lab-updater-token";
      postUpdateScript = "true";
      backupCheckScript = "true";
      trafficScript = "true";
      targets.flakes = [ "git+https://git.example.org/fleet" ];
      conditions = [
        {
          name = "backup";
          kind = "file";
          path = "/var/backups";
          age_max = "26h";
        }
      ];
      checks = [
        {
          name = "database";
          kind = "unit";
          unit = "postgresql.service";
        }
        {
          name = "web";
          kind = "http";
          url = "http://localhost:8080/health";
          timeout = "10s";
        }
        {
          name = "space";
          kind = "disk";
          path = "/";
          free_bytes_min = 1073741824;
        }
      ];
      settings = {
        hooks.timeout = "10m";
        limits = {
          boot_timeout = 600;
          switch_timeout = "20m";
        };
      };
    };
  };

  # The coordinator with the fleet of the research document, as it stands.
  coordinator = result coordinator;

  # With NixOS itself: machine and coordinator as a whole.
  systems = lib.optionalAttrs real {
    machine = system (named "monitor-01" machine);
    coordinator = system coordinator;
  };

  # Machines with the boot loaders that NixOS has: where their kernels lie.
  kernelsIn =
    let
      of =
        loader:
        (result {
          services.lab-updater = {
            enable = true;
            coordinator = "hub:7443";
          };
          boot.loader = loader;
        }).agentSettings.boot_directory;
    in
    {
      grub = of { };
      systemdBoot = of {
        systemd-boot.enable = true;
        efi.efiSysMountPoint = "/efi";
      };
      extended = of {
        systemd-boot = {
          enable = true;
          xbootldrMountPoint = "/boot";
        };
        efi.efiSysMountPoint = "/efi";
      };
    };

  # A coordinator whose fleet is kept by hand, and that listens on one address.
  bareCoordinator = result {
    services.lab-coordinator = {
      enable = true;
      settings = {
        listen = "192.0.2.10:7443";
        limits.machine.per_second = 0;
        limits.operator.burst = 7;
      };
    };
  };

  # Nothing is enabled: nothing is there.
  nothing = result { };

  # What the modules say of their own options.
  optionsDoc = import ./options-doc.nix {
    inherit lib;
    inherit (evaluate { }) options;
  };

  # Contradictions: refused by an assertion that says what to do.
  autoUpgrade = result {
    imports = [ machine ];
    system.autoUpgrade.enable = true;
  };
  withoutNix = result {
    imports = [ machine ];
    nix.enable = false;
  };
  closedDaemon = result {
    imports = [ machine ];
    nix.settings.allowed-users = [ "@wheel" ];
  };
  strangeGroup = result {
    services.lab-coordinator = {
      enable = true;
      inherit fleet;
      nixosConfigurations = {
        dev-01 = member "dev-01" "dev";
        lost-01 = member "lost-01" "dev";
        web-01 = member "web-01" "databases";
      };
    };
  };

  # Mistakes: refused by their type.
  refused = {
    unknownOption = refused { services.lab-updater.enabled = true; };
    strangeCheck = refused {
      services.lab-updater = {
        enable = true;
        checks = [
          {
            name = "web";
            kind = "ping";
          }
        ];
      };
    };
    hookNotText = refused {
      services.lab-updater = {
        enable = true;
        preUpdateScript = [ "true" ];
      };
    };
    otherStateDirectory = refused {
      services.lab-updater = {
        enable = true;
        settings.state_dir = "/elsewhere";
      };
    };
  };
}
