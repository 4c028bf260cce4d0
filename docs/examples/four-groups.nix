# The fleet of update-config.nix with its fourth group: the management nodes, last of all, because
# the coordinator itself runs on one of them.
let
  fleet = import ./update-config.nix;
in
fleet
// {
  updateGroups = fleet.updateGroups // {
    management = {
      machines = [
        "controller-01"
        "orchestrator-01"
      ];
      updatePolicy = "conservative";
      maintenanceWindow = "05:00-07:00";
      allowReboot = true;
      dependencies = [ "critical" ];
    };
  };
}
