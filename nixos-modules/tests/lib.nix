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

  # The path of an option is the list of its names.
  showOption = concatStringsSep ".";

  # The value of `type` at `path` that these definitions come to.
  merged =
    path: type: definitions:
    let
      values = strongest definitions;
      bad = filter (value: !type.check value) values;
    in
    if bad != [ ] then
      throw "option ${showOption path}: a ${typeOf (head bad)} is not of type '${type.description}'"
    else
      type.merge path values;

  # --- Types ------------------------------------------------------------------------------------

  one =
    path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "option ${showOption path} is defined more than once, with different values";

  # Descriptions are nixpkgs' own, word for word: the reference of the options shows them. The class
  # says where one takes parentheses.
  plain = description: check: {
    inherit description check;
    descriptionClass = "noun";
    merge = one;
    getSubOptions = _: { };
  };
  clause =
    description: check: plain description check // { descriptionClass = "nonRestrictiveClause"; };
  phrase =
    classes: type:
    if elem type.descriptionClass classes then type.description else "(${type.description})";
  alternative = phrase [
    "noun"
    "conjunction"
  ];
  element = phrase [
    "noun"
    "composite"
  ];

  present = definitions: concatMap discharge definitions != [ ];
  definitionsOf = name: sets: concatMap (set: optional (set ? ${name}) set.${name}) sets;
  namesOf = sets: attrNames (foldl' (a: b: a // b) { } sets);

  types = rec {
    raw = plain "raw value" (_: true);
    bool = plain "boolean" isBool;
    int = plain "signed integer" isInt;
    float = plain "floating point number" isFloat;
    str = plain "string" isString;
    path = plain "absolute path" (
      value: isPath value || (isString value && substring 0 1 value == "/")
    );
    package = plain "package" isDerivation;
    lines = plain "strings concatenated with ${builtins.toJSON "\n"}" isString // {
      merge = _: concatStringsSep "\n";
    };
    enum =
      values:
      plain "one of ${concatStringsSep ", " (map builtins.toJSON values)}" (value: elem value values)
      // {
        descriptionClass = "conjunction";
      };
    port = plain "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (
      value: isInt value && value >= 0 && value <= 65535
    );
    ints.unsigned = clause "unsigned integer, meaning >=0" (value: isInt value && value >= 0);
    ints.positive = clause "positive integer, meaning >0" (value: isInt value && value > 0);
    nullOr = type: {
      description = "null or ${alternative type}";
      descriptionClass = "conjunction";
      check = value: value == null || type.check value;
      merge = path: values: if elem null values then one path values else type.merge path values;
      inherit (type) getSubOptions;
    };
    either =
      a: b:
      let
        first = if a.descriptionClass == "nonRestrictiveClause" then "${a.description}," else alternative a;
        second = phrase [
          "noun"
          "conjunction"
          "composite"
        ] b;
      in
      {
        description = "${first} or ${second}";
        descriptionClass = "conjunction";
        check = value: a.check value || b.check value;
        merge = path: values: if all a.check values then a.merge path values else b.merge path values;
        getSubOptions = _: { };
      };
    oneOf = alternatives: foldl' either (head alternatives) (tail alternatives);
    listOf = type: {
      description = "list of ${element type}";
      descriptionClass = "composite";
      check = isList;
      merge =
        path: values:
        concatMap (value: optional (present [ value ]) (merged (path ++ [ "*" ]) type [ value ])) (
          concatLists values
        );
      getSubOptions = path: type.getSubOptions (path ++ [ "*" ]);
    };
    attrsOf = type: {
      description = "attribute set of ${element type}";
      descriptionClass = "composite";
      check = value: isAttrs value && !isDerivation value;
      merge =
        path: sets:
        genAttrs (filter (name: present (definitionsOf name sets)) (namesOf sets)) (
          name: merged (path ++ [ name ]) type (definitionsOf name sets)
        );
      getSubOptions = path: type.getSubOptions (path ++ [ "<name>" ]);
    };
    lazyAttrsOf = type: attrsOf type // { description = "lazy ${(attrsOf type).description}"; };
    submodule =
      module:
      let
        evaluated =
          prefix: values:
          evalModules {
            inherit prefix;
            modules = [ module ] ++ map (config: { inherit config; }) values;
          };
        inherit (evaluated [ ] [ ]) freeformType;
      in
      {
        description =
          if freeformType == null then "submodule" else "open submodule of ${element freeformType}";
        descriptionClass = null;
        check = isAttrs;
        merge = path: values: (evaluated path values).config;
        getSubOptions = path: (evaluated path [ ]).options;
      };
  };

  # --- Options ----------------------------------------------------------------------------------

  mkOption = option: option // { _type = "option"; };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    pkgs: name: _:
    mkOption {
      type = types.package;
      default = pkgs.${name};
      defaultText = literalExpression "pkgs.${name}";
      description = "The ${name} package to use.";
    };

  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };

  # --- Modules ----------------------------------------------------------------------------------

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
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
      declarations = map (module: module.options) collected;
      freeform = filter (type: type != null) (map (module: module.freeformType) collected);
      freeformType = if freeform == [ ] then null else head freeform;

      config = level {
        path = prefix;
        options = declarations;
        definitions = map (module: module.config) collected;
        inherit freeformType;
      };

      # The tree of the options themselves, each with its place in it.
      placed =
        path: options:
        genAttrs (namesOf options) (
          name:
          let
            inner = definitionsOf name options;
            loc = path ++ [ name ];
          in
          if (head inner)._type or null == "option" then head inner // { inherit loc; } else placed loc inner
        );

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
          at = name: path ++ [ name ];
          declared = namesOf options;
          undeclared = filter (name: !elem name declared) (namesOf sets);
          free =
            if undeclared == [ ] then
              { }
            else if freeformType == null then
              throw "the option ${showOption (at (head undeclared))} does not exist"
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
              throw "the option ${showOption (at name)} is declared twice"
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
          throw "the option ${showOption path} is used and has no value";
    in
    {
      inherit config freeformType;
      options = placed prefix declarations;
    };

  lib = lists // {
    inherit
      evalModules
      literalExpression
      literalMD
      mkEnableOption
      mkIf
      mkMerge
      mkOption
      mkOverride
      mkPackageOption
      showOption
      types
      ;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
  };
in
lib
