# The agent of lab-updater, one on every machine of the fleet.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    any
    concatStringsSep
    elem
    filterAttrs
    getExe'
    literalExpression
    literalMD
    makeBinPath
    mkEnableOption
    mkIf
    mkOption
    mkPackageOption
    optional
    optionalAttrs
    optionalString
    types
    ;

  cfg = config.services.lab-updater;
  toml = pkgs.formats.toml { };
  settingsOf = import ./settings.nix { inherit lib pkgs; };

  # Hooks run as units of their own, in the environment that PID 1 gives them. The order of the
  # path lets a hook override what the module gives, and find every command of the system.
  hook =
    name: path: text:
    pkgs.writeShellScript "lab-updater-${name}" ''
      set -euo pipefail
      export PATH=${makeBinPath path}:/run/wrappers/bin:/run/current-system/sw/bin
      ${text}
    '';

  rollbackAlreadyDone = pkgs.writeShellScriptBin "nixos-rebuild" (
    builtins.readFile ./nixos-rebuild-in-rollback.sh
  );

  hookSettings =
    optionalAttrs (cfg.preUpdateScript != "") {
      pre_update = "${hook "pre-update" cfg.hookPackages cfg.preUpdateScript}";
    }
    // optionalAttrs (cfg.postUpdateScript != "") {
      post_update = "${hook "post-update" cfg.hookPackages cfg.postUpdateScript}";
    }
    // optionalAttrs (cfg.rollbackScript != "") {
      rollback = "${hook "rollback" ([ rollbackAlreadyDone ] ++ cfg.hookPackages) cfg.rollbackScript}";
    }
    // optionalAttrs (cfg.backupCheckScript != "") {
      backup_check = "${hook "backup-check" cfg.hookPackages cfg.backupCheckScript}";
    }
    // optionalAttrs (cfg.trafficScript != "") {
      traffic = "${hook "traffic" cfg.hookPackages cfg.trafficScript}";
    };

  targets = filterAttrs (_: places: places != [ ]) cfg.targets;

  given = filterAttrs (_: value: value != null);

  configFile = toml.generate "lab-agent.toml" cfg.settings;

  path = [
    config.nix.package
    config.programs.ssh.package
    config.systemd.package
    pkgs.gitMinimal
  ];

  environment =
    config.nix.envVars
    // config.networking.proxy.envVars
    // {
      HOME = "/var/lib/lab-updater";
      # Downloads and builds are the daemon's work, in its cgroup and its sandbox.
      NIX_REMOTE = "daemon";
    }
    // optionalAttrs (config.nix.nixPath != [ ]) {
      # Where a target that is a channel finds the machine's configuration.
      NIX_PATH = concatStringsSep ":" config.nix.nixPath;
    };

  # Health checks and conditions are written alike.
  checkList = types.listOf (
    types.submodule {
      freeformType = toml.type;
      options = {
        name = mkOption {
          type = types.str;
          example = "web";
          description = "Name of the check, as `lab health-check` shows it.";
        };
        kind = mkOption {
          type = types.enum [
            "command"
            "disk"
            "file"
            "http"
            "journal"
            "load"
            "memory"
            "network"
            "tcp"
            "unit"
          ];
          example = "http";
          description = ''
            What is checked. Each kind has its own further keys:
            `unit`: `unit`; `http`: `url`, `status`, `contains`; `tcp`: `address`;
            `command`: `command` (a list of words); `disk`: `path`, `free_bytes_min`;
            `file`: `path`, `age_max`;
            `memory`: `available_bytes_min`; `load`: `per_cpu_max`;
            `journal`: `priority`, `entries_max`; `network`: `addresses`.
          '';
        };
        timeout = mkOption {
          type = types.nullOr (types.either types.ints.positive types.str);
          default = null;
          example = "10s";
          description = "How long the check may take, in seconds or as text such as `10s`.";
        };
      };
    }
  );

  # The agent itself judges its configuration, before a system that carries it exists.
  checkedConfigFile = pkgs.runCommand "lab-agent-checked.toml" { } ''
    ${optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
      ${getExe' cfg.package "lab-agent"} --config ${configFile} --check-config
    ''}
    cp ${configFile} $out
  '';
in
{
  options.services.lab-updater = {
    enable = mkEnableOption "the lab-updater agent, which keeps this machine up to date when the coordinator gives it its turn";

    package = mkPackageOption pkgs "lab-updater" { };

    group = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "infrastructure";
      description = ''
        The update group that this machine belongs to.

        The coordinator's fleet configuration decides; this is the machine's own word about it.
        With {option}`services.lab-coordinator.nixosConfigurations` the two are compared when the
        coordinator's system is evaluated, and a difference is an error.
      '';
    };

    coordinator = mkOption {
      type = types.str;
      default = "lab-coordinator:7443";
      example = "updates.example.org:7443";
      description = ''
        Where the coordinator listens, as `host:port`.
        The coordinator proves who it is by its certificate, whatever name it is reached by.
      '';
    };

    tokenFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      # A path literal must not be copied into the world-readable store.
      apply = value: if value == null then null else toString value;
      example = "/run/secrets/lab-updater-token";
      description = ''
        File with the enrolment token of this machine, made by `lab token create`. It is handed to
        the agent as a systemd credential and read only as long as the machine has no identity;
        after that the file may go.
      '';
    };

    targets = {
      flakes = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "git+https://git.example.org/fleet" ];
        description = ''
          What references of flakes may begin with that the coordinator names as this machine's
          target. None by default: such a flake is built and run here, so whoever can name one
          chooses what runs. It must be fixed to a revision besides (`rev` or `narHash`).
          Signed closures need no permission.
        '';
      };
      channels = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "https://channels.nixos.org/" ];
        description = ''
          What URLs of channels may begin with that the coordinator names as this machine's target.
          None by default, for the same reason as with
          {option}`services.lab-updater.targets.flakes`.
        '';
      };
    };

    preUpdateScript = mkOption {
      type = types.lines;
      default = "";
      example = ''
        systemctl stop some-service
      '';
      description = ''
        Shell commands run once the machine has its turn, before the new system is activated.
        A command that fails ends the attempt: nothing is switched, and
        {option}`services.lab-updater.rollbackScript` runs.

        Hooks run as root in a unit of their own with a time limit, under `set -euo pipefail`, with
        {option}`services.lab-updater.hookPackages` and the system's own commands in their path.
      '';
    };

    postUpdateScript = mkOption {
      type = types.lines;
      default = "";
      example = ''
        systemctl start some-service
        curl -f http://localhost:8080/health
      '';
      description = ''
        Shell commands run after the new system is active (after the reboot, if there is one).
        A command that fails makes the machine go back to the system it came from.
      '';
    };

    rollbackScript = mkOption {
      type = types.lines;
      default = "";
      example = ''
        systemctl restart some-service
      '';
      description = ''
        Shell commands run after the agent has gone back to the system that ran before the update.

        The agent goes back by itself, to the exact store path it has recorded, before this script
        runs. So `nixos-rebuild switch --rollback` in here finds its work done: it says so and
        succeeds without changing generations. Everything else that `nixos-rebuild` can do is
        passed on.
      '';
    };

    backupCheckScript = mkOption {
      type = types.lines;
      default = "";
      example = ''
        restic snapshots --latest 1
      '';
      description = ''
        Shell commands run while the update is staged, before the machine asks for its turn, and
        again just before the update: a failure says that there is no recent backup, and puts the
        update off. Going back to an older system does not ask for it.
      '';
    };

    trafficScript = mkOption {
      type = types.lines;
      default = "";
      example = ''
        # The web server's /ready answers 503 while the file is there; who sends the traffic asks for
        # it, and has noticed after 15 s.
        case $LAB_TRAFFIC in
          in)
            rm -f /var/lib/without-traffic
            sync /var/lib
            curl --fail --silent --show-error --max-time 10 --output /dev/null http://127.0.0.1/ready
            sleep 15
            ;;
          out)
            touch /var/lib/without-traffic
            sync /var/lib
            sleep 15
            for _ in $(seq "$LAB_DRAIN_SECONDS"); do
              connections=$(ss --no-header --tcp state established '( sport = :443 )')
              [ -n "$connections" ] || break
              sleep 1
            done
            ;;
        esac
      '';
      description = ''
        Shell commands run when this machine is to take traffic (`LAB_TRAFFIC=in`) or to leave it
        (`LAB_TRAFFIC=out`). For machines of a group with two sides whose traffic is moved by such
        scripts.

        It is told the same thing more than once, and each time has to succeed when that is so
        already. What it was told last has to hold until it is told otherwise, across reboots and
        switches too: a machine that was told `out` must not get traffic because it booted, or
        because a new system started a unit that was merely stopped. Told `out`, it may wait for
        connections to end, at most `LAB_DRAIN_SECONDS`. Exit status 0 says that it is done; anything
        else, and taking longer than the coordinator allows, is a failure.

        It runs like the other hooks. It does not run during an update, and no update begins while it
        runs.
      '';
    };

    hookPackages = mkOption {
      type = types.listOf types.package;
      default = [
        pkgs.coreutils
        pkgs.curl
        pkgs.gnugrep
        pkgs.gnused
        pkgs.jq
      ];
      defaultText = literalExpression "with pkgs; [ coreutils curl gnugrep gnused jq ]";
      example = literalExpression "[ pkgs.postgresql ]";
      description = ''
        Packages in the path of the hooks, in front of the system's own.
      '';
    };

    conditions = mkOption {
      type = checkList;
      default = [ ];
      example = literalExpression ''
        [
          { name = "standby"; kind = "tcp"; address = "db-02.example.org:5432"; }
          { name = "backup"; kind = "file"; path = "/var/backups"; age_max = "26h"; }
        ]
      '';
      description = ''
        What must hold on this machine before an update or a reboot, such as a service of another
        machine or a backup that is not old. Looked at while the update is staged, before the
        machine asks for its turn, and again when it has it. Going back to an older system waits
        for none of it.
      '';
    };

    checks = mkOption {
      type = checkList;
      default = [ ];
      example = literalExpression ''
        [
          { name = "web"; kind = "http"; url = "http://localhost:8080/health"; }
          { name = "space"; kind = "disk"; path = "/"; free_bytes_min = 2 * 1024 * 1024 * 1024; }
        ]
      '';
      description = ''
        Health checks of this machine: they run from time to time, before a lease is used and after
        an update. Units that fail anew are noticed without a check.
      '';
    };

    settings = settingsOf {
      options = {
        machine = mkOption {
          type = types.str;
          default = config.networking.hostName;
          defaultText = literalExpression "config.networking.hostName";
          description = "Name of this machine in the fleet configuration.";
        };
        boot_directory = mkOption {
          type = types.path;
          default =
            if !config.boot.loader.systemd-boot.enable then
              "/boot"
            else if config.boot.loader.systemd-boot.xbootldrMountPoint != null then
              config.boot.loader.systemd-boot.xbootldrMountPoint
            else
              config.boot.loader.efi.efiSysMountPoint;
          defaultText = literalMD "`/boot`, or the partition that systemd-boot takes its kernels from";
          description = ''
            Where the boot loader finds its kernels. A target whose kernel does not fit there is
            refused before anything changes.
          '';
        };
        limits.boot_timeout = mkOption {
          type = types.either types.ints.positive types.str;
          default = "15m";
          description = ''
            How long a machine may take from asking for a reboot until the agent runs again, in
            seconds or as text such as `15m`. After the same time without an agent in a new boot,
            the machine goes back to the system it came from.
          '';
        };
      };
      example = literalExpression ''
        {
          hooks.timeout = "10m";
          limits.store_reserve_bytes = 4 * 1024 * 1024 * 1024;
        }
      '';
      description = ''
        Configuration of the agent, as in its configuration file: `docs/examples/agent.toml` has
        every key. The other options are written into it; whatever else is set here is added. The
        agent checks the result while the system is built.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = !config.system.autoUpgrade.enable;
        message = ''
          services.lab-updater and system.autoUpgrade would both update this machine, and the second
          one asks nobody for its turn. Set system.autoUpgrade.enable = false.
        '';
      }
      {
        assertion = config.nix.enable;
        message = "services.lab-updater needs Nix on the machine: nix.enable must be true.";
      }
      {
        assertion = any (
          user:
          elem user [
            "*"
            "lab-updater-fetch"
          ]
        ) (config.nix.settings.allowed-users or [ "*" ]);
        message = ''
          The Nix daemon would refuse the user who fetches updates for services.lab-updater: add
          "lab-updater-fetch" to nix.settings.allowed-users.
        '';
      }
    ];

    services.lab-updater.settings = {
      inherit (cfg) coordinator;
      state_dir = "/var/lib/lab-updater";
      hooks = mkIf (hookSettings != { }) hookSettings;
      targets = mkIf (targets != { }) targets;
      conditions = mkIf (cfg.conditions != [ ]) (map given cfg.conditions);
      checks = mkIf (cfg.checks != [ ]) (map given cfg.checks);
      token_file = mkIf (cfg.tokenFile != null) "/run/credentials/lab-updater.service/token";
    };

    # The agent's own dead-man timer is a transient one and does not outlive a boot. This one is for
    # a target that boots and whose agent does not come up: nobody else would bring it back.
    systemd.timers.lab-updater-dead-man = {
      description = "Way back from a boot without lab-updater agent";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        # Since the service manager was started: a soft-reboot starts it anew, and a boot as well.
        OnStartupSec = cfg.settings.limits.boot_timeout;
        AccuracySec = "1s";
      };
    };
    systemd.services = {
      lab-updater-dead-man = {
        description = "Way back from a boot without lab-updater agent";
        restartIfChanged = false;
        unitConfig = {
          X-StopOnRemoval = false;
          StartLimitIntervalSec = 0;
        };
        # It carries out the switch itself, with neither agent nor D-Bus: nothing can be taken from it.
        inherit path environment;
        serviceConfig = {
          Type = "oneshot";
          ExecStart = "${getExe' cfg.package "lab-agent"} dead-man --config ${checkedConfigFile}";
          # Nobody else brings the machine back: it does not give up, and does not hurry. Status 3
          # says that there is nothing that it could still do.
          Restart = "on-failure";
          RestartSec = 60;
          RestartPreventExitStatus = 3;
        };
      };

      # A soft-reboot starts user space anew and nothing else: what stage 2 does at a boot is done by
      # nobody. So the target is activated by this one, when everything but the file systems is stopped.
      lab-updater-soft-reboot = {
        description = "Way to another system by soft-reboot";
        wantedBy = [ "multi-user.target" ];
        # Started before everything, and so stopped after it.
        before = [
          "sysinit.target"
          "shutdown.target"
        ];
        after = [ "local-fs.target" ];
        conflicts = [ "shutdown.target" ];
        restartIfChanged = false;
        unitConfig = {
          DefaultDependencies = false;
          X-StopOnRemoval = false;
        };
        inherit path environment;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStop = "${getExe' cfg.package "lab-agent"} soft-reboot --config ${checkedConfigFile}";
          TimeoutStopSec = "5m";
        };
      };

      lab-updater = {
        description = "lab-updater agent";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [
          "dbus.socket"
          "network-online.target"
          "nix-daemon.socket"
        ];

        # The agent carries out the very switch that may change its unit. It is not to be stopped by
        # it: it compares its unit with the loaded one afterwards and restarts itself.
        restartIfChanged = false;
        unitConfig = {
          X-StopOnRemoval = false;
          # An agent that gave up would be a machine that nobody updates.
          StartLimitIntervalSec = 0;
        };

        inherit path environment;

        serviceConfig = import ./hardening.nix // {
          Type = "notify";
          ExecStart = "${getExe' cfg.package "lab-agent"} --config ${checkedConfigFile}";
          # What it starts has limits of its own; it itself takes a few MiB.
          MemoryMax = "256M";
          TasksMax = 128;
          # It also ends, well, to be started as the new one when its own unit has changed.
          Restart = "always";
          RestartSec = 5;
          # Longer than any of its waits on a bus that a switch restarts.
          WatchdogSec = 300;

          StateDirectory = "lab-updater";
          StateDirectoryMode = "0700";
          # Disk checks see the file systems that they name.
          ProtectHome = "read-only";
          # Roots that keep the staged and the previous system from garbage collection.
          ReadWritePaths = [ "-/nix/var/nix/gcroots" ];

          LoadCredential = optional (cfg.tokenFile != null) "token:${cfg.tokenFile}";
          # The token may go once it is used: an empty line in its place, and the unit still starts.
          SetCredential = optional (cfg.tokenFile != null) ''token:\n'';
        };
      };
    };
  };

  meta.maintainers = [ ];
}
