# Both modules: `services.lab-updater` for every machine, `services.lab-coordinator` for one of them.
{
  imports = [
    ./agent.nix
    ./coordinator.nix
  ];
}
