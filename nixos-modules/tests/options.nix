# The options of NixOS that the modules read or set, by their names and types there: enough to
# evaluate the modules on a machine that has no nixpkgs. Nothing here does anything.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  texts = types.listOf types.str;
  # A key of a unit: one value, or a list that is written as several lines.
  unitValue = types.oneOf [
    types.bool
    types.int
    types.str
    (types.listOf types.str)
  ];
  service = types.submodule {
    options = {
      description = option types.str "";
      wantedBy = option texts [ ];
      wants = option texts [ ];
      requires = option texts [ ];
      after = option texts [ ];
      before = option texts [ ];
      conflicts = option texts [ ];
      path = option (types.listOf types.package) [ ];
      environment = option (types.attrsOf types.str) { };
      restartIfChanged = option types.bool true;
      restartTriggers = option texts [ ];
      unitConfig = option (types.attrsOf unitValue) { };
      serviceConfig = option (types.attrsOf unitValue) { };
    };
  };
  timer = types.submodule {
    options = {
      description = option types.str "";
      wantedBy = option texts [ ];
      timerConfig = option (types.attrsOf unitValue) { };
    };
  };
in
{
  options = {
    assertions = option (types.listOf (types.attrsOf types.raw)) [ ];
    warnings = option texts [ ];
    meta.maintainers = option (types.listOf types.raw) [ ];
    environment.systemPackages = option (types.listOf types.package) [ ];
    boot.loader = {
      systemd-boot.enable = option types.bool false;
      systemd-boot.xbootldrMountPoint = option (types.nullOr types.str) null;
      efi.efiSysMountPoint = option types.str "/boot";
    };
    networking = {
      hostName = option types.str "nixos";
      firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
      proxy.envVars = option (types.attrsOf types.str) { };
    };
    nix = {
      enable = option types.bool true;
      package = option types.package pkgs.nix;
      envVars = option (types.attrsOf types.str) { };
      settings.allowed-users = option texts [ "*" ];
      nixPath = option texts [ "nixos-config=/etc/nixos/configuration.nix" ];
    };
    programs.ssh.package = option types.package pkgs.openssh;
    system.autoUpgrade.enable = option types.bool false;
    systemd = {
      package = option types.package pkgs.systemd;
      services = option (types.attrsOf service) { };
      timers = option (types.attrsOf timer) { };
    };
  };
}
