# The fleet of four-groups.nix, kept up to date by itself: every Sunday everything, every night the
# critical group from a source of its own, and every night a look at everybody's health and a cleanup.
let
  fleet = import ./four-groups.nix;
in
fleet
// {
  updateSettings = fleet.updateSettings // {
    timezone = "Europe/Oslo";
    source.flake = "git+https://git.example.org/fleet?ref=main";
  };

  schedules = {
    # Weekly full system update - Sundays at 2 AM. The critical group wants an approval: until somebody
    # answers, its machines have a part in this rollout, and the daily run below goes without them.
    # docs/concepts.md#schedules has what to do where that is not wanted.
    weekly = {
      cron = "0 2 * * 0";
      action = "update";
      jitter = "15m";
      reason = "weekly full system update";
    };

    # Daily security updates for critical machines
    security = {
      cron = "0 3 * * *";
      action = "update";
      groups = [ "critical" ];
      source.flake = "git+https://git.example.org/fleet?ref=security";
      reason = "daily security updates";
    };

    # Health check and cleanup
    health = {
      cron = "0 1 * * *";
      action = "health-check";
    };
    cleanup = {
      cron = "0 1 * * *";
      action = "cleanup";
      keep = 5;
      keepFor = "336h";
    };
  };
}
