# Every option of both modules as data, for the reference in docs/nixos-options.md: its name, the
# description of its type, its default, an example (each as text, or null) and its own description.
#
# `options` is what the module system of nixpkgs gives under that name, or our stand-in for it.
{ lib, options }:
let
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    isAttrs
    isList
    isString
    length
    replaceStrings
    split
    toJSON
    ;

  isOption = value: value._type or null == "option";
  isShown = option: !(option.internal or false) && option.visible or true == true;

  first = [
    "enable"
    "package"
  ];
  namesIn =
    tree: filter (name: tree ? ${name}) first ++ filter (name: !elem name first) (attrNames tree);

  # The options of a tree, and after each one those of the submodules in it.
  within =
    tree:
    concatMap (
      name:
      let
        value = tree.${name};
      in
      if !isOption value then
        within value
      else if isShown value then
        [ value ] ++ within (value.type.getSubOptions value.loc)
      else
        [ ]
    ) (namesIn tree);

  # A value as Nix code.
  code =
    value:
    if isString value then
      let
        lines = filter isString (split "\n" value);
        indented = line: if line == "" then "" else "  ${escaped line}";
        escaped = replaceStrings [ "''" "\${" ] [ "'''" "''\${" ];
      in
      if length lines > 1 then
        "''\n${concatStringsSep "\n" (map indented lines)}''"
      else
        replaceStrings [ "\${" ] [ "\\\${" ] (toJSON value)
    else if isList value then
      "[ ${concatStringsSep "" (map (item: "${code item} ") value)}]"
    else if isAttrs value then
      "{ ${concatStringsSep "" (map (name: "${name} = ${code value.${name}}; ") (attrNames value))}}"
    else
      toJSON value;

  # What the documentation says of a value: code, or text about it where its author wrote that.
  text =
    value:
    if value._type or null == "literalMD" then
      { markdown = value.text; }
    else if value._type or null == "literalExpression" then
      { nix = value.text; }
    else
      { nix = code value; };

  described = option: {
    name = lib.showOption option.loc;
    type = option.type.description;
    default =
      if option ? defaultText then
        text option.defaultText
      else if option ? default then
        text option.default
      else
        null;
    example = if option ? example then text option.example else null;
    description = option.description or null;
  };
in
map described (within options.services.lab-updater ++ within options.services.lab-coordinator)
