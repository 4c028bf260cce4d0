# A coordinator and two machines, as NixOS virtual machines: they enrol with their tokens, get a new
# system one after the other, and run it afterwards.
{ self }:
{ lib, ... }:
let
  machines = [
    "web1"
    "web2"
  ];

  machine =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.agent ];

      services.lab-updater = {
        enable = true;
        group = "web";
        coordinator = "coordinator:7443";
        tokenFile = "/var/lib/lab-token";
        # The store's free space is half of the virtual machine's memory, and nothing is fetched into it.
        settings.limits.store_reserve_bytes = 0;
        preUpdateScript = ''
          systemctl stop web.service
        '';
        postUpdateScript = ''
          systemctl start web.service
          curl --fail --retry 5 --retry-connrefused http://localhost:8080/
        '';
        checks = [
          {
            name = "web";
            kind = "unit";
            unit = "web.service";
          }
        ];
      };

      systemd.services.web = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "${lib.getExe pkgs.python3Minimal} -m http.server 8080 --directory /etc/web";
      };
      environment.etc."web/index.html".text = lib.mkDefault "old";

      # Qemu starts the kernel itself: there is no disk that a boot loader could be installed on, and a
      # switch would fail trying to.
      boot.loader.grub.enable = false;

      # The update: the same machine with another page.
      specialisation.next.configuration.environment.etc."web/index.html".text = "new";
      system.switch.enable = true;
    };
in
{
  name = "lab-updater-rollout";
  meta.maintainers = [ ];

  nodes = lib.genAttrs machines (_: machine) // {
    coordinator = {
      imports = [ self.nixosModules.coordinator ];

      services.lab-coordinator = {
        enable = true;
        openFirewall = true;
        fleet = {
          updateGroups.web = {
            inherit machines;
            updatePolicy = "aggressive";
            allowReboot = false;
          };
          updateSettings.maxParallel = 1;
        };
      };
    };
  };

  testScript = ''
    import json

    start_all()
    coordinator.wait_for_unit("lab-coordinator.service")
    coordinator.wait_for_unit("lab-coordinator-fleet.service")
    lab = "lab --coordinator=localhost:7443 --identity=/var/lib/lab-coordinator/admin.pem --output=json"

    targets = []
    for machine in [web1, web2]:
        created = json.loads(coordinator.succeed(f"{lab} token create --machine={machine.name}"))
        machine.succeed(f"(umask 077; echo '{created['token']}' > /var/lib/lab-token)")
        machine.succeed("systemctl restart lab-updater.service")
        machine.wait_for_unit("lab-updater.service")
        machine.wait_until_succeeds("curl --fail http://localhost:8080/ | grep old")
        target = machine.succeed("readlink --canonicalize /run/current-system/specialisation/next").strip()
        targets.append((machine, target))

    with subtest("Every machine is given its target"):
        closures = " ".join(f"--closure={machine.name}={target}" for machine, target in targets)
        coordinator.succeed(f"{lab} update prepare {closures} --timeout=10m")

    with subtest("The rollout ends, and every machine runs its target"):
        coordinator.succeed(f"{lab} update execute --timeout=20m")
        for machine, target in targets:
            running = machine.succeed("readlink --canonicalize /run/current-system").strip()
            assert running == target, f"{machine.name} runs {running}"
            machine.succeed("curl --fail http://localhost:8080/ | grep new")
        coordinator.succeed(f"{lab} update verify")

    with subtest("The token is used up, and the agent starts without it"):
        for machine, _ in targets:
            machine.succeed("rm /var/lib/lab-token")
            machine.succeed("systemctl restart lab-updater.service")
            machine.wait_for_unit("lab-updater.service")
  '';
}
