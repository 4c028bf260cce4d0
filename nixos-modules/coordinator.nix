# The coordinator of lab-updater, on one machine of the fleet.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    attrNames
    concatMap
    concatStringsSep
    elem
    getExe'
    last
    literalExpression
    mkEnableOption
    mkIf
    mkOption
    mkPackageOption
    optionals
    optionalString
    removeSuffix
    splitString
    toInt
    types
    ;

  cfg = config.services.lab-coordinator;
  toml = pkgs.formats.toml { };
  settingsOf = import ./settings.nix { inherit lib pkgs; };
  json = pkgs.formats.json { };
  canExecute = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;

  stateDirectory = "/var/lib/lab-coordinator";
  port = address: toInt (last (splitString ":" address));

  # Where this machine itself reaches the coordinator.
  host = removeSuffix ":${toString (port cfg.settings.listen)}" cfg.settings.listen;
  ownAddress =
    if
      elem host [
        "[::]"
        "0.0.0.0"
      ]
    then
      "localhost:${toString (port cfg.settings.listen)}"
    else
      cfg.settings.listen;

  configFile = toml.generate "lab-coordinator.toml" cfg.settings;

  rate = who: perSecond: burst: {
    per_second = mkOption {
      type = types.ints.unsigned;
      default = perSecond;
      description = "Requests of ${who} a second, in the long run. With 0 there is no limit.";
    };
    burst = mkOption {
      type = types.ints.positive;
      default = burst;
      description = "Requests of ${who} at once, after a quiet time.";
    };
  };

  # Both units are one user that is nobody else, with one directory.
  confined = import ./hardening.nix // {
    DynamicUser = true;
    User = "lab-coordinator";
    StateDirectory = "lab-coordinator";
    StateDirectoryMode = "0700";
    PrivateUsers = true;
    ProcSubset = "pid";
  };

  # The coordinator itself judges its settings and its fleet, before a system that carries them
  # exists.
  check =
    name: file: arguments:
    pkgs.runCommand name { } ''
      ${optionalString canExecute ''
        ${getExe' cfg.package "lab-coordinator"} --config ${configFile} --check-config ${arguments}
      ''}
      cp ${file} $out
    '';
  checkedConfigFile = check "lab-coordinator-checked.toml" configFile "";
  fleetFile = json.generate "lab-fleet.json" cfg.fleet;
  checkedFleetFile = check "lab-fleet-checked.json" fleetFile "--fleet ${fleetFile}";

  # What a machine says of its group against what the fleet configuration says.
  groupFaults = concatMap (
    name:
    let
      machine = cfg.nixosConfigurations.${name}.config;
      agent = machine.services.lab-updater;
      listed = cfg.fleet.updateGroups.${agent.group}.machines or [ ];
    in
    optionals (agent.enable && agent.group != null && !(elem agent.settings.machine listed)) [
      "${agent.settings.machine} says it is in group ${agent.group}, which does not list it"
    ]
  ) (attrNames cfg.nixosConfigurations);
in
{
  options.services.lab-coordinator = {
    enable = mkEnableOption "the lab-updater coordinator, which decides when each machine of the fleet is updated";

    package = mkPackageOption pkgs "lab-updater" { };

    fleet = mkOption {
      type = types.nullOr json.type;
      default = null;
      example = literalExpression "import ./update-config.nix";
      description = ''
        The fleet configuration: groups, policies, windows. With `null` it is kept by hand, with
        `lab update-config`.

        It is written to the coordinator whenever it changed and when the coordinator's machine
        starts. What `lab update-config set` has changed in between is overwritten then. A fleet
        configuration with a fault fails the build of the system.
      '';
    };

    nixosConfigurations = mkOption {
      type = types.lazyAttrsOf types.raw;
      default = { };
      example = literalExpression "self.nixosConfigurations";
      description = ''
        The systems of the fleet's machines. When given, the
        {option}`services.lab-updater.group` of each is compared with
        {option}`services.lab-coordinator.fleet`.
      '';
    };

    settings = settingsOf {
      options = {
        listen = mkOption {
          type = types.str;
          default = "[::]:7443";
          description = "Address and port for agents and operators (mutual TLS).";
        };
        enrol_listen = mkOption {
          type = types.str;
          default = "[::]:7444";
          description = "Address and port for enrolment only: machines without a certificate, or whose certificate has ended.";
        };
        limits = {
          machine = rate "one machine" 20 100;
          operator = rate "one operator" 50 200;
          enrolment = rate "one address from which machines enrol" 5 100;
        };
        connections = {
          machines = mkOption {
            type = types.ints.positive;
            default = 32768;
            description = "Machines that may be connected at one time. Operators have places of their own.";
          };
          per_address = mkOption {
            type = types.ints.positive;
            default = 16384;
            description = "Of these, how many from one address, for fleets behind one NAT.";
          };
        };
      };
      example = {
        listen = "192.0.2.10:7443";
      };
      description = ''
        Configuration of the coordinator, as in its configuration file:
        `docs/examples/coordinator.toml` has every key. The coordinator checks it while the system
        is built.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the ports of `listen` and `enrol_listen` in the firewall.";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.fleet == null || groupFaults == [ ];
        message = "services.lab-coordinator.fleet: ${concatStringsSep "; " groupFaults}.";
      }
    ];

    services.lab-coordinator.settings.state_dir = stateDirectory;

    # `lab`, for the operators on this machine.
    environment.systemPackages = [ cfg.package ];

    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall [
      (port cfg.settings.listen)
      (port cfg.settings.enrol_listen)
    ];

    systemd.services.lab-coordinator = {
      description = "lab-updater coordinator";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];

      unitConfig.StartLimitIntervalSec = 0;

      # For schedules whose source is a flake.
      path = optionals config.nix.enable [ config.nix.package ];
      environment.XDG_CACHE_HOME = "${stateDirectory}/cache";

      serviceConfig = confined // {
        Type = "notify";
        ExecStart = "${getExe' cfg.package "lab-coordinator"} --config ${checkedConfigFile}";
        Restart = "always";
        RestartSec = 2;
        WatchdogSec = 30;
        # Above all places for connections together, so that an operator always finds one.
        LimitNOFILE = 65536;
        # Others on this machine live on, whatever a fleet does to it: 50 KiB for each machine is
        # what it takes.
        MemoryMax = "75%";
        TasksMax = 512;
        # Nix, which evaluates a schedule's flake, may come to take too much; the coordinator goes on.
        OOMPolicy = "continue";
      };
    };

    systemd.services.lab-coordinator-fleet = mkIf (cfg.fleet != null) {
      description = "Fleet configuration of the lab-updater coordinator";
      wantedBy = [ "multi-user.target" ];
      requires = [ "lab-coordinator.service" ];
      after = [ "lab-coordinator.service" ];

      environment = {
        LAB_COORDINATOR = ownAddress;
        LAB_IDENTITY = "${stateDirectory}/admin.pem";
      };

      serviceConfig = confined // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${getExe' cfg.package "lab"} update-config import --yes ${checkedFleetFile}";
        Restart = "on-failure";
        RestartSec = 10;
      };
    };
  };

  meta.maintainers = [ ];
}
