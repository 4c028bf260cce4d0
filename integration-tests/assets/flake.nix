# The toy systems as a flake: `fleet.json` beside it is a list of specifications (system.nix).
{
  outputs =
    _:
    let
      specs = builtins.fromJSON (builtins.readFile ./fleet.json);
      toplevels = import ./system.nix {
        spec = builtins.toJSON specs;
        system = "x86_64-linux";
      };
      systems = builtins.genList (index: {
        name = (builtins.elemAt specs index).host;
        value.config.system.build.toplevel = builtins.elemAt toplevels index;
      }) (builtins.length specs);
    in
    {
      nixosConfigurations = builtins.listToAttrs systems;
    };
}
