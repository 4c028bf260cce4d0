# The part of nixpkgs' library that the modules use, written for the machine that has none: options,
# types, priorities, conditions, submodules and free forms. Where nixpkgs is more lenient, this is
# strict, so what passes here has no excuse there.
let
  lists = import ./lists.nix;
  inherit (lists)
    genAttrs
    isDerivation
    optional
    optionalAttrs
    ;
  inherit (builtins)
    all
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    map
    mapAttrs
    partition
    substring
    tail
    typeOf
    ;

  # --- Definitions ------------------------------------------------------------------------------

  defaultPriority = 100;
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };

  # Takes a definition apart into plain values with their priorities.
  discharge =
    value:
    let
      kind = if isAttrs value then value._type or null else null;
    in
    if kind == "if" then
      (if value.condition then discharge value.content else [ ])
    else if kind == "merge" then
      concatMap discharge value.contents
    else if kind == "override" then
      map (inner: inner // { inherit (value) priority; }) (discharge value.content)
    else
      [
        {
          priority = defaultPriority;
          inherit value;
        }
      ];

  # The sets that a definition of a whole level comes to, its conditions and priorities moved to
  # what is inside: which names there are must not depend on a condition, since conditions read them.
  pushDown =
    value:
    let
      kind = value._type or null;
      inside = wrap: map (mapAttrs (_: wrap)) (pushDown value.content);
    in
    if kind == "if" then
      inside (mkIf value.condition)
    else if kind == "merge" then
      concatMap pushDown value.contents
    else if kind == "override" then
      inside (mkOverride value.priority)
    else
      [ value ];

  # The values that count: those of the strongest (lowest) priority.
  strongest =
    definitions:
    let
      found = concatMap discharge definitions;
      lowest = foldl' (a: b: if b.priority < a then b.priority else a) 10000 found;
    in
    map (definition: definition.value) (filter (definition: definition.priority == lowest) found);

  # The value of `type` at `path` that these definitions come to.
  merged =
    path: type: definitions:
    let
      values = strongest definitions;
      bad = filter (value: !type.check value) values;
    in
    if bad != [ ] then
      throw "option ${path}: a ${typeOf (head bad)} is not ${type.description}"
    else
      type.merge path values;

  # --- Types ------------------------------------------------------------------------------------

  one =
    path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "option ${path} is defined more than once, with different values";
  plain = description: check: {
    inherit description check;
    merge = one;
  };
  present = definitions: concatMap discharge definitions != [ ];
  definitionsOf = name: sets: concatMap (set: optional (set ? ${name}) set.${name}) sets;
  namesOf = sets: attrNames (foldl' (a: b: a // b) { } sets);

  types = rec {
    raw = {
      description = "anything";
      check = _: true;
      merge = one;
    };
    bool = plain "a boolean" isBool;
    int = plain "an integer" isInt;
    float = plain "a floating point number" isFloat;
    str = plain "a string" isString;
    path = plain "a path" (value: isPath value || (isString value && substring 0 1 value == "/"));
    package = plain "a package" (value: isDerivation value);
    lines = {
      description = "lines of text";
      check = isString;
      merge = _: concatStringsSep "\n";
    };
    enum = values: plain "one of ${builtins.toJSON values}" (value: elem value values);
    port = plain "a port" (value: isInt value && value >= 0 && value <= 65535);
    ints.unsigned = plain "an integer that is not negative" (value: isInt value && value >= 0);
    ints.positive = plain "a positive integer" (value: isInt value && value > 0);
    nullOr = type: {
      description = "null or ${type.description}";
      check = value: value == null || type.check value;
      merge = path: values: if elem null values then one path values else type.merge path values;
    };
    either = a: b: {
      description = "${a.description} or ${b.description}";
      check = value: a.check value || b.check value;
      merge = path: values: if all a.check values then a.merge path values else b.merge path values;
    };
    oneOf = alternatives: foldl' either (head alternatives) (tail alternatives);
    listOf = type: {
      description = "a list of ${type.description}";
      check = isList;
      merge =
        path: values:
        concatMap (value: optional (present [ value ]) (merged "${path}.*" type [ value ])) (
          concatLists values
        );
    };
    attrsOf = type: {
      description = "a set of ${type.description}";
      check = value: isAttrs value && !isDerivation value;
      merge =
        path: sets:
        genAttrs (filter (name: present (definitionsOf name sets)) (namesOf sets)) (
          name: merged "${path}.${name}" type (definitionsOf name sets)
        );
    };
    lazyAttrsOf = attrsOf;
    submodule = module: {
      description = "a submodule";
      check = isAttrs;
      merge =
        path: values:
        (evalModules {
          prefix = path;
          modules = [ module ] ++ map (config: { inherit config; }) values;
        }).config;
    };
  };

  # --- Options ----------------------------------------------------------------------------------

  mkOption = option: option // { _type = "option"; };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    pkgs: name: _:
    mkOption {
      type = types.package;
      default = pkgs.${name};
      description = "The ${name} package to use.";
    };

  # --- Modules ----------------------------------------------------------------------------------

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? "",
    }:
    let
      arguments = specialArgs // {
        inherit config lib;
      };
      # A module with all that it imports, each as { options, config, freeformType }.
      collect =
        module:
        let
          body = if isPath module || isString module then import module else module;
          content = if isFunction body then body arguments else body;
          explicit = content ? options || content ? config;
          allowed = [
            "config"
            "freeformType"
            "imports"
            "meta"
            "options"
          ];
          unknown = filter (name: !elem name allowed) (attrNames content);
        in
        if explicit && unknown != [ ] then
          throw "module: unsupported attribute ${head unknown}"
        else
          [
            {
              options = content.options or { };
              freeformType = content.freeformType or null;
              config =
                if explicit then
                  mkMerge [
                    (content.config or { })
                    (optionalAttrs (content ? meta) { inherit (content) meta; })
                  ]
                else
                  removeAttrs content [
                    "freeformType"
                    "imports"
                  ];
            }
          ]
          ++ concatMap collect (content.imports or [ ]);
      collected = concatMap collect modules;
      freeform = filter (type: type != null) (map (module: module.freeformType) collected);

      config = level {
        path = prefix;
        options = map (module: module.options) collected;
        definitions = map (module: module.config) collected;
        freeformType = if freeform == [ ] then null else head freeform;
      };

      # One level of the option tree.
      level =
        {
          path,
          options,
          definitions,
          freeformType,
        }:
        let
          sets = concatMap pushDown definitions;
          at = name: if path == "" then name else "${path}.${name}";
          declared = namesOf options;
          undeclared = filter (name: !elem name declared) (namesOf sets);
          free =
            if undeclared == [ ] then
              { }
            else if freeformType == null then
              throw "the option ${at (head undeclared)} does not exist"
            else
              freeformType.merge path (map (set: removeAttrs set declared) sets);
          child =
            name:
            let
              inner = definitionsOf name options;
              split = partition (option: option._type or null == "option") inner;
            in
            if split.right == [ ] then
              level {
                path = at name;
                options = inner;
                definitions = definitionsOf name sets;
                # What is free in a set is free in the sets within.
                inherit freeformType;
              }
            else if length inner > 1 then
              throw "the option ${at name} is declared twice"
            else
              valueOf (at name) (head split.right) (definitionsOf name sets);
        in
        genAttrs declared child // free;

      valueOf =
        path: option: definitions:
        let
          # A default is a definition too, the weakest one.
          every = definitions ++ optional (option ? default) (mkOverride 1500 option.default);
        in
        if present every then
          (option.apply or (value: value)) (merged path option.type every)
        else
          throw "the option ${path} is used and has no value";
    in
    {
      inherit config;
    };

  lib = lists // {
    inherit
      evalModules
      mkEnableOption
      mkIf
      mkMerge
      mkOption
      mkOverride
      mkPackageOption
      types
      ;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    literalExpression = text: {
      _type = "literalExpression";
      inherit text;
    };
  };
in
lib
