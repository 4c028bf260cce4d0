use super::*;

const OLD: &str = "/nix/store/00000000000000000000000000000000-nixos-system-m-1";
const NEW: &str = "/nix/store/11111111111111111111111111111111-nixos-system-m-2";

fn path(text: &str) -> StorePath {
    text.parse().expect("a store path")
}

/// As systemd 257 prints it, shortened.
fn listed() -> String {
    format!(
        r#"[{{"type":"type1","source":"esp","id":"nixos-bbb.conf","path":"/boot/loader/entries/nixos-bbb+1-1.conf",
            "root":"/boot","title":"NixOS","sortKey":"nixos","options":"init={NEW}/init root=/dev/vda2 rw",
            "linux":"/EFI/nixos/k.efi","isReported":true,"triesLeft":1,"triesDone":1,"isDefault":true,
            "isSelected":true,"addons":null}},
           {{"type":"type1","id":"nixos-aaa.conf","options":"init={OLD}/init","isDefault":false}},
           {{"type":"auto","id":"auto-reboot-to-firmware-setup","isReported":true,"isDefault":false}}]"#
    )
}

#[test]
fn the_list_says_what_boots_next() {
    let entries = entries(&listed()).expect("a list");
    assert_eq!(entries.len(), 3);
    let default = default_of(&entries).expect("one");
    assert_eq!(default.id, "nixos-bbb.conf");
    assert_eq!(default.tries_left, Some(1));
    assert_eq!(default.starts(), NextBoot::System(path(NEW)));
    assert_eq!(entries[1].tries_left, None);
    let other = NextBoot::Other("auto-reboot-to-firmware-setup".to_owned());
    assert_eq!(entries[2].starts(), other);
}

#[test]
fn what_is_no_list_is_no_answer() {
    for text in ["", "null", "{}", "[1]", r#"["x"]"#, r#"[{"id":3}]"#, "[{]"] {
        assert!(entries(text).is_err(), "{text}");
    }
    let long = format!("[{}]", " ".repeat(READ_MAX));
    assert!(matches!(entries(&long), Err(BootLoaderError::TooLong(_))));
    // Too little is not made up for.
    let bare = entries("[{}]").expect("a list");
    assert_eq!(bare[0].system, None);
    assert!(!bare[0].is_default);
    let two = listed().replace("\"isDefault\":false", "\"isDefault\":true");
    for (text, number) in [(two.as_str(), 3), ("[]", 0)] {
        let entries = entries(text).expect("a list");
        let found = default_of(&entries);
        assert!(
            matches!(found, Err(BootLoaderError::Defaults(n)) if n == number),
            "{found:?}"
        );
    }
    let wild = entries(r#"[{"id":"a\u001b[2J\u202eb"}]"#).expect("a list");
    assert!(
        !wild[0].id.contains(['\u{1b}', '\u{202e}']),
        "{:?}",
        wild[0].id
    );
}

#[test]
fn command_lines_name_a_system_or_none() {
    let table = [
        (format!("init={OLD}/init root=/dev/sda1"), Some(OLD)),
        (format!("quiet init={OLD}/init"), Some(OLD)),
        (format!("init=/bin/sh init={OLD}/init"), Some(OLD)),
        (format!("init={OLD}/init init=/bin/sh"), None),
        (format!("xinit={OLD}/init"), None),
        (format!("init={OLD}"), None),
        (format!("init={OLD}/bin/init"), None),
        (format!("init={OLD}/../x/init"), None),
        ("init=/nix/store/short-x/init".to_owned(), None),
        ("init=/nix/var/nix/profiles/system/init".to_owned(), None),
        ("root=/dev/sda1".to_owned(), None),
        (String::new(), None),
    ];
    for (options, system) in table {
        assert_eq!(system_of(&options), system.map(path), "{options}");
    }
}

fn utf16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    [6, 0, 0, 0].into_iter().chain(units).collect()
}

#[test]
fn variables_are_read_with_or_without_an_end() {
    let loader = "systemd-boot 257.13";
    let ended = utf16(&format!("{loader}\0"));
    assert_eq!(text_variable(&ended).as_deref(), Some(loader));
    assert_eq!(text_variable(&utf16(loader)).as_deref(), Some(loader));
    assert_eq!(text_variable(&utf16("")).as_deref(), Some(""));
    let odd = &ended[..ended.len() - 1];
    // Half a pair of surrogates.
    let broken = [6, 0, 0, 0, 0x00, 0xd8];
    for bytes in [&[][..], &[6, 0, 0], odd, &broken] {
        assert_eq!(text_variable(bytes), None, "{bytes:?}");
    }
    let features = [6, 0, 0, 0, 0x18, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(number_variable(&features), Some(0x18));
    assert_eq!(number_variable(&features[..11]), None);
    assert_eq!(number_variable(&[]), None);
}

#[test]
fn loader_conf_is_read_line_by_line() {
    let table = [
        (
            "timeout 5\ndefault nixos-generation-7.conf\n",
            Some("nixos-generation-7.conf"),
            false,
        ),
        (
            "preferred nixos-ab.conf\ndefault nixos-*\n",
            Some("nixos-*"),
            true,
        ),
        ("default a\ndefault\tb \n", Some("b"), false),
        (
            "# default a\n#default b\ndefaults c\ndefault\n",
            None,
            false,
        ),
        ("", None, false),
        (
            "\0\u{feff}\r\n\r\ndefault @saved\r\n",
            Some("@saved"),
            false,
        ),
    ];
    for (text, default, prefers) in table {
        let conf = LoaderConf::parse(text);
        assert_eq!(conf.default.as_deref(), default, "{text:?}");
        assert_eq!(conf.prefers, prefers, "{text:?}");
    }
}

/// A machine on which boots are counted.
fn counting() -> BootChain {
    BootChain {
        loader: Some("systemd-boot 257.13-1~deb13u1".to_owned()),
        features: COUNTING | ONE_SHOT,
        variables_writable: true,
        chosen: None,
        conf: LoaderConf::parse("preferred nixos-bbb.conf\ndefault nixos-*\n"),
        entries: Ok(entries(&listed()).expect("a list")),
    }
}

/// The same chain with one thing changed, and what then cannot be relied on.
#[test]
fn what_can_be_relied_on_is_said_and_why_not() {
    type Change = fn(&mut BootChain);
    let table: &[(&str, Change, bool, bool)] = &[
        ("as it is", |_| (), true, true),
        (
            "GRUB",
            |c| c.loader = Some("GRUB 2.12".to_owned()),
            false,
            false,
        ),
        ("silent", |c| c.loader = None, false, false),
        (
            "only a stub",
            |c| c.loader = Some("systemd-stub 257".to_owned()),
            false,
            false,
        ),
        (
            "no version",
            |c| c.loader = Some("systemd-boot ?".to_owned()),
            false,
            false,
        ),
        ("no features", |c| c.features = 0, false, false),
        ("no counting", |c| c.features = ONE_SHOT, false, true),
        ("no one-shot", |c| c.features = COUNTING, true, false),
        (
            "counts badly",
            |c| c.loader = Some("systemd-boot 258.3".to_owned()),
            false,
            true,
        ),
        (
            "counts again",
            |c| c.loader = Some("systemd-boot 260".to_owned()),
            true,
            true,
        ),
        (
            "read-only variables",
            |c| c.variables_writable = false,
            true,
            false,
        ),
        (
            "chosen by hand",
            |c| c.chosen = Some("nixos-aaa.conf".to_owned()),
            false,
            true,
        ),
        (
            "one default",
            |c| c.conf = LoaderConf::parse("default nixos-bbb.conf"),
            false,
            true,
        ),
        (
            "the last one",
            |c| c.conf = LoaderConf::parse("default @saved"),
            false,
            true,
        ),
        ("no default", |c| c.conf = LoaderConf::default(), true, true),
        (
            "entries unknown",
            |c| c.entries = Err("no ESP".to_owned()),
            false,
            true,
        ),
        (
            "one system",
            |c| drop(c.entries.as_mut().map(|e| e.remove(1))),
            false,
            true,
        ),
        (
            "all good, tries are given",
            |c| {
                c.entries
                    .iter_mut()
                    .flatten()
                    .for_each(|e| e.tries_left = None)
            },
            true,
            true,
        ),
        (
            "no tries anywhere",
            |c| {
                c.entries
                    .iter_mut()
                    .flatten()
                    .for_each(|e| e.tries_left = None);
                c.conf = LoaderConf::parse("default nixos-*");
            },
            false,
            true,
        ),
    ];
    for (what, change, counts, one_shot) in table {
        let mut chain = counting();
        change(&mut chain);
        assert_eq!(
            chain.counting().is_ok(),
            *counts,
            "{what}: {:?}",
            chain.counting()
        );
        assert_eq!(
            chain.one_shot().is_ok(),
            *one_shot,
            "{what}: {:?}",
            chain.one_shot()
        );
    }
}

#[test]
fn only_systemd_boot_is_believed_about_the_next_boot() {
    let mut chain = counting();
    assert_eq!(chain.next_boot(), Ok(NextBoot::System(path(NEW))));
    chain.entries = Err("no file system of a boot loader".to_owned());
    assert!(chain.next_boot().is_err());
    let grub = BootChain {
        loader: Some("GRUB 2.12".to_owned()),
        ..counting()
    };
    let why = grub.next_boot().expect_err("not asked");
    assert!(why.starts_with("GRUB 2.12 cannot be asked"), "{why}");
}

/// What is done about a target that may not boot, and why nothing is.
#[test]
fn a_target_is_counted_or_tried_once_or_it_is_said_why_not() {
    type Change = fn(&mut BootChain);
    let once = || {
        Ok(Plan::Once {
            target: "nixos-bbb.conf".to_owned(),
            back: "nixos-aaa.conf".to_owned(),
        })
    };
    let table: &[(&str, Change, Result<Plan, String>)] = &[
        ("counted", |_| (), Ok(Plan::Counted { tries: 1 })),
        (
            "marked good before",
            |c| {
                c.entries
                    .iter_mut()
                    .flatten()
                    .for_each(|e| e.tries_left = None)
            },
            once(),
        ),
        ("not counted", |c| c.features = ONE_SHOT, once()),
        (
            "asked for again",
            |c| {
                c.conf = LoaderConf::parse("default nixos-bbb.conf");
                c.entries
                    .iter_mut()
                    .flatten()
                    .for_each(|e| e.is_default = false);
            },
            once(),
        ),
        (
            "chosen by hand",
            |c| c.chosen = Some("nixos-zzz.conf".to_owned()),
            Err("the default nixos-zzz.conf was chosen by hand and is not overwritten".to_owned()),
        ),
        (
            "no way back",
            |c| {
                c.features = ONE_SHOT;
                c.entries.iter_mut().flatten().for_each(|e| {
                    if e.id == "nixos-aaa.conf" {
                        e.tries_left = Some(0);
                    }
                });
            },
            Err(format!("no boot entry starts {OLD}")),
        ),
        (
            "a pattern for a name",
            |c| {
                c.features = ONE_SHOT;
                c.entries
                    .iter_mut()
                    .flatten()
                    .for_each(|e| e.id = "nixos-*".to_owned());
            },
            Err("the boot entry \"nixos-*\" has a strange name".to_owned()),
        ),
        (
            "unread",
            |c| c.entries = Err("no list".to_owned()),
            Err("no list".to_owned()),
        ),
    ];
    for (what, change, expected) in table {
        let mut chain = counting();
        change(&mut chain);
        assert_eq!(&chain.plan(&path(NEW), &path(OLD)), expected, "{what}");
    }
    let neither = BootChain {
        features: 0,
        ..counting()
    };
    assert!(neither.plan(&path(NEW), &path(OLD)).is_err());
    assert!(counting().plan(&path(OLD), &path(NEW)).is_ok());
}

#[test]
fn only_plain_names_are_arguments() {
    for (id, plain) in [
        ("nixos-generation-7.conf", true),
        ("nixos-0123abcd.conf", true),
        ("a+b~c_d.efi", true),
        ("", false),
        ("-h", false),
        ("@saved", false),
        ("nixos-[12].conf", false),
        ("a b", false),
    ] {
        let entry = Entry {
            id: id.to_owned(),
            system: None,
            tries_left: None,
            is_default: false,
        };
        assert_eq!(entry.plain_id().is_some(), plain, "{id}");
    }
}
