# The options of NixOS that the modules read or set, by their names and types there: enough to
# evaluate the modules on a machine that has no nixpkgs. Nothing here does anything.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  texts = types.listOf types.str;
  # The forms that NixOS asks of names and descriptions.
  matching =
    pattern:
    types.str
    // {
      description = "string matching the pattern ${pattern}";
      check = value: types.str.check value && builtins.match pattern value != null;
    };
  units = types.listOf (
    matching ''[a-zA-Z0-9@%:_.\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)''
  );
  line = matching "[^\n\r]*\n?";
  # A key of a unit: one value, or a list that is written as several lines.
  unitValue = types.oneOf [
    types.bool
    types.int
    types.str
    (types.listOf types.str)
  ];
  service = types.submodule {
    options = {
      description = option line "";
      wantedBy = option units [ ];
      wants = option units [ ];
      requires = option units [ ];
      after = option units [ ];
      before = option units [ ];
      conflicts = option units [ ];
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
      description = option line "";
      wantedBy = option units [ ];
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
      hostName = option (matching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$") "nixos";
      firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
      proxy.envVars = option (types.attrsOf types.str) { };
    };
    nix = {
      enable = option types.bool true;
      package = option types.package pkgs.nix;
      envVars = option (types.attrsOf types.str) { };
      settings.allowed-users = option texts [ "*" ];
      nixPath = option texts [
        "nixpkgs=/nix/var/nix/profiles/per-user/root/channels/nixos"
        "nixos-config=/etc/nixos/configuration.nix"
        "/nix/var/nix/profiles/per-user/root/channels"
      ];
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
