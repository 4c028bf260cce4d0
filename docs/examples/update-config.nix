{
  updateGroups = {
    dev = {
      machines = [
        "dev-01"
        "dev-02"
        "test-env"
      ];
      updatePolicy = "aggressive";
      maintenanceWindow = "02:00-06:00";
      allowReboot = true;
    };
    infrastructure = {
      machines = [
        "monitor-01"
        "log-server"
        "backup-01"
      ];
      updatePolicy = "conservative";
      maintenanceWindow = "03:00-05:00";
      allowReboot = true;
      dependencies = [ "dev" ];
    };
    critical = {
      machines = [
        "db-primary"
        "web-01"
        "web-02"
      ];
      updatePolicy = "manual-approval";
      maintenanceWindow = "04:00-05:00";
      allowReboot = false; # Requires manual reboot
      dependencies = [ "infrastructure" ];
    };
  };

  updateSettings = {
    maxParallel = 3;
    healthCheckTimeout = 300;
    rollbackOnFailure = true;
    notificationChannels = [
      "email"
      "discord"
    ];
  };
}
