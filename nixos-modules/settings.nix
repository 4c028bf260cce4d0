# An option for everything that the configuration file of one of the programs can say: its own keys
# by their names, with types and defaults where they are wanted here (RFC 42).
{ lib, pkgs }:
{
  options,
  example,
  description,
}:
lib.mkOption {
  type = lib.types.submodule {
    freeformType = (pkgs.formats.toml { }).type;
    inherit options;
  };
  default = { };
  inherit example description;
}
