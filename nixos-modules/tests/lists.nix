# Lists, sets and text: what the modules use of nixpkgs' library besides the module system.
let
  inherit (builtins)
    elemAt
    fromJSON
    isAttrs
    isString
    length
    listToAttrs
    map
    match
    split
    stringLength
    substring
    ;
in
rec {
  inherit (builtins)
    any
    attrNames
    attrValues
    concatMap
    concatStringsSep
    elem
    filter
    isBool
    isList
    mapAttrs
    ;

  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  last = list: elemAt list (length list - 1);
  filterAttrs =
    keep: set:
    listToAttrs (
      concatMap (
        name:
        optional (keep name set.${name}) {
          inherit name;
          value = set.${name};
        }
      ) (builtins.attrNames set)
    );
  genAttrs =
    names: make:
    listToAttrs (
      map (name: {
        inherit name;
        value = make name;
      }) names
    );
  isDerivation = value: isAttrs value && value.type or null == "derivation";
  # Only for separators that mean themselves in a regular expression.
  splitString = separator: text: filter isString (split separator text);
  removeSuffix =
    suffix: text:
    let
      kept = stringLength text - stringLength suffix;
    in
    if kept >= 0 && substring kept (stringLength suffix) text == suffix then
      substring 0 kept text
    else
      text;
  toInt = text: if match "[0-9]+" text == null then throw "not a number: ${text}" else fromJSON text;
  makeBinPath = packages: concatStringsSep ":" (map (package: "${package}/bin") packages);
  getExe' = package: name: "${package}/bin/${name}";
}
