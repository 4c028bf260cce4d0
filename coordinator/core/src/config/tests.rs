//! Documents that are read as they stand, and the faults of those that are not.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// The document's own configuration.
fn document() -> Value {
    json!({
      "updateGroups": {
        "dev": {
          "machines": ["dev-01", "dev-02", "test-env"],
          "updatePolicy": "aggressive",
          "maintenanceWindow": "02:00-06:00",
          "allowReboot": true
        },
        "infrastructure": {
          "machines": ["monitor-01", "log-server", "backup-01"],
          "updatePolicy": "conservative",
          "maintenanceWindow": "03:00-05:00",
          "allowReboot": true,
          "dependencies": ["dev"]
        },
        "critical": {
          "machines": ["db-primary", "web-01", "web-02"],
          "updatePolicy": "manual-approval",
          "maintenanceWindow": "04:00-05:00",
          "allowReboot": false,
          "dependencies": ["infrastructure"]
        }
      },
      "updateSettings": {
        "maxParallel": 3,
        "healthCheckTimeout": 300,
        "rollbackOnFailure": true,
        "notificationChannels": ["email", "discord"]
      }
    })
}

#[test]
fn the_documents_configuration_is_read_as_it_stands() {
    let config = FleetConfig::parse(&document()).expect("valid");
    assert_eq!(config.group_of.len(), 9);
    assert_eq!(config.max_parallel, 3);
    let critical = &config.groups[&"critical".parse::<GroupName>().expect("name")];
    assert!(critical.policy.needs_approval && !critical.policy.allow_reboot);
    assert_eq!(critical.policy.health_timeout, Duration::from_secs(300));
    assert_eq!(critical.policy.stagger, Duration::from_secs(1800));
    assert_eq!(critical.policy.canary, 1);
}

#[test]
fn what_is_stored_is_read_back() {
    let config = FleetConfig::parse(&document()).expect("valid");
    let text = serde_json::to_string(&config).expect("JSON");
    assert_eq!(
        serde_json::from_str::<FleetConfig>(&text).expect("valid"),
        config
    );
}

#[track_caller]
/// Whatever is null is not set, wherever it stands: the document means what it means without it.
#[test]
fn null_is_not_set() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document = json!({
            "updateGroups": {
                "web": { "machines": ["a", "b"], "maintenanceWindow": "02:00-06:00", "retries": 3 },
                "db": { "machines": ["c"], "updatePolicy": "nightly" },
            },
            "updateMachines": { "a": { "allowReboot": true } },
            "updatePolicies": {
                "nightly": { "maintenanceWindow": "01:00-03:00", "avoid": ["days"], "retries": 2 },
            },
            "updateSettings": {
                "calendars": { "days": { "dates": ["12-24"] } },
                "maxParallel": 4, "channels": { "ops": { "webhook": "https://ops.example" } },
            },
            "schedules": { "checks": { "cron": "@daily", "action": "health-check" } },
            "analysis": { "page": { "http": "https://web.example" } },
        });
        change(&mut document);
        let read = FleetConfig::parse(&document).expect("a good document");
        (document, read)
    };
    let (plain, expected) = with(&|_| {});
    assert_eq!(expected.document, plain);
    for at in [
        "/updateMachines/a/maintenanceWindow",
        "/updateMachines/a/updatePolicy",
        "/updateMachines/a/retries",
        "/updateMachines/a/avoid",
        "/updateMachines/a/softReboot",
        "/updateMachines/a/canary",
        "/updateMachines/b",
        "/updateGroups/db/maintenanceWindow",
        "/updateGroups/db/avoid",
        "/updateGroups/db/retries",
        "/updateGroups/web/updatePolicy",
        "/updateGroups/web/canary",
        "/updateGroups/web/waves",
        "/updateGroups/web/order",
        "/updateGroups/web/blueGreen",
        "/updateGroups/gone",
        "/updatePolicies/nightly/timezone",
        "/updatePolicies/nightly/updatePolicy",
        "/updatePolicies/gone",
        "/updateSettings/timezone",
        "/updateSettings/apart",
        "/updateSettings/alarms",
        "/updateSettings/source",
        "/updateSettings/calendars/gone",
        "/updateSettings/calendars/days/hours",
        "/updateSettings/calendars/days/icsFile",
        "/updateSettings/channels/gone",
        "/updateSettings/channels/ops/webhook",
        "/schedules/gone",
        "/schedules/checks/source",
        "/schedules/checks/keep",
        "/analysis/gone",
        "/analysis/page/tcp",
    ] {
        let (parent, key) = at.rsplit_once('/').expect("a path");
        let without = with(&|document| {
            let map = document.pointer_mut(parent).and_then(Value::as_object_mut);
            map.expect("an object").remove(key);
        });
        let (document, mut read) = with(&|document| {
            document.pointer_mut(parent).expect("an object")[key] = Value::Null;
        });
        assert_eq!(read.document, document, "{at}: kept as it was written");
        read.document = without.1.document.clone();
        assert_eq!(read, without.1, "{at}");
    }
    // A word that is no key is none whatever its value.
    for at in ["updateGroups", "updateMachines", "updateSettings"] {
        let key = match at {
            "updateGroups" => "db",
            "updateMachines" => "a",
            _ => "alarms",
        };
        let mut document = plain.clone();
        document[at][key]["retires"] = Value::Null;
        let refused = FleetConfig::parse(&document).expect_err("refused").0;
        assert_eq!(refused[0].path, format!("{at}.{key}.retires"));
        assert_eq!(refused.len(), 1, "{refused:?}");
    }
    // What must be there is missing where it is null.
    for (at, missing) in [
        ("/updateGroups/web/machines", "updateGroups.web.machines"),
        ("/schedules/checks/cron", "schedules.checks.cron"),
        ("/schedules/checks/action", "schedules.checks.action"),
        ("/updateGroups", "updateGroups"),
    ] {
        let mut document = plain.clone();
        *document.pointer_mut(at).expect("is there") = Value::Null;
        let refused = FleetConfig::parse(&document).expect_err("refused").0;
        let of_it = refused.iter().find(|fault| fault.path == missing);
        let says = of_it.map(|fault| fault.message.as_str());
        assert_eq!(says, Some("is missing"), "{at}: {refused:?}");
    }
}

fn faults(change: impl FnOnce(&mut Value)) -> BTreeSet<String> {
    let mut document = document();
    change(&mut document);
    match FleetConfig::parse(&document) {
        Ok(_) => BTreeSet::new(),
        Err(Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_fault_is_found_at_once() {
    let found = faults(|d| {
        d["updateGroups"]["dev"]["machines"] = json!(["dev-01", "dev-01", "../x"]);
        d["updateGroups"]["dev"]["maintenanceWindow"] = json!("6-2");
        d["updateGroups"]["dev"]["maxParalel"] = json!(2);
        d["updateGroups"]["dev"]["updatePolicy"] = json!("agressive");
        d["updateGroups"]["infrastructure"]["dependencies"] = json!(["devv"]);
        d["updateSettings"]["maxParallel"] = json!(0);
        d["updateSettings"]["staggerDelay"] = json!("-5m");
        d["updateSettings"]["timezone"] = json!("Mars/Olympus");
    });
    let paths: Vec<&str> = found
        .iter()
        .filter_map(|fault| fault.split(": ").next())
        .collect();
    assert_eq!(
        paths,
        [
            "updateGroups.dev.machines[1]",
            "updateGroups.dev.machines[2]",
            "updateGroups.dev.maintenanceWindow",
            "updateGroups.dev.maxParalel",
            "updateGroups.dev.updatePolicy",
            "updateGroups.infrastructure.dependencies[0]",
            "updateSettings.maxParallel",
            "updateSettings.staggerDelay",
            "updateSettings.timezone",
        ],
        "{found:#?}"
    );
}

/// What is wrong, where, and what to write instead, for every kind of value.
#[test]
fn every_fault_says_what_to_write() {
    type Place = &'static [&'static str];
    const DEV: [&str; 2] = ["updateGroups", "dev"];
    let dev = |key: &'static str| [DEV[0], DEV[1], key].to_vec();
    let set = |key: &'static str| ["updateSettings", key].to_vec();
    let whole: Place = &["updateSettings"];
    let table = [
        (set("maxParallel"), json!(0), "maxParallel", "from 1 to"),
        (set("maxParallel"), json!("0%"), "maxParallel", "from 1 to"),
        (dev("maxParallel"), json!("00%"), "maxParallel", "from 1 to"),
        (dev("waves"), json!(["0%"]), "waves[0]", ""),
        (set("staggerDelay"), json!("30"), "staggerDelay", "\"30m\""),
        (
            set("timezone"),
            json!("Berlin"),
            "timezone",
            "Europe/Berlin",
        ),
        (
            set("notificationChannels"),
            json!("email"),
            "notificationChannels",
            "a list",
        ),
        (
            set("notificationChannels"),
            json!([1]),
            "notificationChannels[0]",
            "in quotes",
        ),
        (
            set("rollbackOnFailure"),
            json!("true"),
            "rollbackOnFailure",
            "without quotes",
        ),
        (
            set("channels"),
            json!({"a": {"webhook": "x"}}),
            "channels.a.webhook",
            "https://",
        ),
        (set("source"), json!({}), "source", "keep the one"),
        (set("leaseTime"), json!(5), "leaseTime", "longer"),
        (whole.to_vec(), json!([]), "updateSettings", "{ }"),
        (
            dev("updatePolicy"),
            json!("brave"),
            "updatePolicy",
            "aggressive",
        ),
        (dev("allowReboot"), json!(1), "allowReboot", "true or false"),
        (
            vec!["updateGroups", "critical", "softReboot"],
            json!(true),
            "critical.softReboot",
            "allowReboot",
        ),
        (dev("canary"), json!(9), "canary", "smaller"),
        (
            dev("dependencies"),
            json!(["critcal"]),
            "dependencies[0]",
            "\"critical\"?",
        ),
        (
            dev("dependencies"),
            json!(["x"]),
            "dependencies[0]",
            "infrastructure",
        ),
        (
            dev("dependencies"),
            json!(["dev"]),
            "dependencies[0]",
            "remove it",
        ),
        (
            dev("maintenanceWindow"),
            json!("22:00-24:30"),
            "maintenanceWindow",
            "00:00",
        ),
        (
            dev("maintenanceWindow"),
            json!(5),
            "maintenanceWindow",
            "{ }",
        ),
        (dev("machines"), json!("dev-01"), "machines", "a list"),
    ];
    for (path, value, place, hint) in table {
        let mut document = document();
        let key = path.iter().fold(&mut document, |at, key| &mut at[*key]);
        *key = value;
        let Faults(faults) = FleetConfig::parse(&document).expect_err(place);
        let found = faults.iter().find(|fault| fault.path.ends_with(place));
        let found = found.unwrap_or_else(|| panic!("{place}: {faults:?}"));
        assert!(
            found.hint.contains(hint),
            "{place}: {hint:?} not in {found}"
        );
    }
}

#[test]
fn settings_of_the_wrong_kind_hide_no_fault_of_a_group() {
    let found = faults(|d| {
        d["updateSettings"] = json!("fast");
        d["updateGroups"]["dev"]["canary"] = json!("one");
    });
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn every_fault_of_a_window_is_named() {
    let found = faults(|d| {
        d["updateGroups"]["dev"]["maintenanceWindow"] =
            json!([{ "times": "2-6", "days": ["mon", "mon-fri", "monkey", 3] }, { "day": [] }]);
    });
    let window = "updateGroups.dev.maintenanceWindow";
    let paths: Vec<&str> = found
        .iter()
        .filter_map(|fault| fault.split(": ").next())
        .collect();
    let expected = [
        "[0].days[1]",
        "[0].days[2]",
        "[0].days[3]",
        "[0].times",
        "[1].day",
        "[1].times",
    ];
    assert_eq!(
        paths,
        expected.map(|end| format!("{window}{end}")),
        "{found:#?}"
    );
}

/// Values that mean nothing, or something that nobody can want.
const IMPOSSIBLE: [(&str, u64); 5] = [
    ("offlineAfter", 60),
    ("stageTimeout", 0),
    ("noProgressAfter", 0),
    ("approvalExpiry", 0),
    ("healthCheckTimeout", 0),
];

/// An update that fills a window to its last second never begins in it.
#[test]
fn a_window_leaves_a_minute_to_begin_in() {
    for (window, expected, holds) in [
        ("02:00-02:10", json!(null), false),
        ("02:00-02:11", json!(null), true),
        ("02:00-03:00", json!("1h"), false),
        ("02:00-03:00", json!("59m1s"), false),
        ("02:00-03:00", json!("59m"), true),
        ("23:30-00:30", json!("1h"), false),
        ("23:30-00:31", json!("1h"), true),
        ("00:00-00:01", json!(0), true),
    ] {
        let found = faults(|d| {
            d["updateGroups"]["dev"]["maintenanceWindow"] = json!([window, "04:00-09:00"]);
            d["updateGroups"]["dev"]["expectedDuration"] = expected.clone();
        });
        let place = format!("updateGroups.dev.maintenanceWindow: the window {window} is shorter");
        let said = found.iter().any(|fault| fault.starts_with(&place));
        assert_eq!(!said, holds, "{window}, {expected}: {found:#?}");
        assert!(found.len() < 2, "{found:#?}");
    }
}

#[test]
fn impossible_times_are_refused() {
    for (key, value) in IMPOSSIBLE {
        let found = faults(|d| d["updateSettings"][key] = json!(value));
        let place = format!("updateSettings.{key}");
        assert!(
            found.iter().all(|fault| fault.starts_with(&place)),
            "{found:#?}"
        );
        assert_eq!(found.len(), 1, "{key}");
    }
    let found = faults(|d| d["updateGroups"]["dev"]["healthCheckTimeout"] = json!(0));
    assert_eq!(found.len(), 1, "{found:#?}");
    let found = faults(|d| d["updateSettings"]["offlineAfter"] = json!("2m"));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_was_in_force_once_is_read_as_it_was_whatever_the_rules_are_now() {
    let mut old = document();
    for (key, value) in IMPOSSIBLE {
        old["updateSettings"][key] = json!(value);
    }
    old["updateSettings"]["leaseTime"] = json!(7);
    old["updateSettings"]["maxParallel"] = json!("0%");
    old["updateGroups"]["dev"]["maxParallel"] = json!("0%");
    old["updateGroups"]["dev"]["maintenanceWindow"] =
        json!({ "times": "02:00-06:00", "days": ["mon-fri", "tuesday"] });
    old["updateGroups"]["dev"]["aKeyOfThen"] = json!(true);
    assert!(FleetConfig::parse(&old).is_err());
    let stored: FleetConfig = serde_json::from_value(old.clone()).expect("read");
    assert_eq!(stored.terms.offline_after, Duration::from_secs(60));
    assert_eq!(stored.terms.stage, Duration::ZERO);
    assert_eq!(stored.no_progress, Duration::ZERO);
    assert_eq!(stored.terms.lease, Duration::from_secs(7));
    assert_eq!(stored.max_parallel, 1);
    let dev = &stored.groups[&"dev".parse::<GroupName>().expect("name")].policy;
    assert_eq!(dev.max_parallel, 1);
    assert_eq!(dev.approval_expiry, Duration::ZERO);
    assert_eq!(dev.health_timeout, Duration::ZERO);
    assert_eq!(dev.windows[0].to_string(), "Mon Tue 02:00-06:00");
    assert_eq!(stored.document, old);
    // What is no configuration at all was never in force.
    assert!(serde_json::from_value::<FleetConfig>(json!([])).is_err());
}

#[track_caller]
fn one(fault: &str, change: impl FnOnce(&mut Value)) {
    let found = faults(change);
    assert!(
        found.iter().any(|f| f.contains(fault)),
        "{fault:?} not in {found:#?}"
    );
}

#[test]
fn no_machine_is_a_share_only_where_none_will_do() {
    let found = faults(|d| {
        d["updateSettings"]["maxFailures"] = json!("0%");
        d["updateGroups"]["dev"]["maxFailures"] = json!("0%");
        d["updateGroups"]["dev"]["canary"] = json!("0%");
        // However little it is of few machines: it is not nobody.
        d["updateGroups"]["dev"]["maxParallel"] = json!("1%");
    });
    assert!(found.is_empty(), "{found:#?}");
    for section in ["updateSettings", "updateGroups.dev"] {
        let key = format!("/{}", section.replace('.', "/"));
        let found = faults(|d| d.pointer_mut(&key).expect("there")["maxParallel"] = json!("0%"));
        let says = format!("{section}.maxParallel: 0% is nobody");
        let found: Vec<String> = found.into_iter().collect();
        assert!(
            matches!(&found[..], [one] if one.starts_with(&says)),
            "{found:#?}"
        );
    }
}

#[test]
fn contradictions_are_refused() {
    one("did you mean \"maxParallel\"", |d| {
        d["updateSettings"]["maxparallel"] = json!(3)
    });
    one("is in group critical already", |d| {
        d["updateGroups"]["critical"]["machines"] = json!(["dev-01"]);
    });
    let itself = faults(|d| d["updateGroups"]["dev"]["dependencies"] = json!(["dev"]));
    let said: Vec<&str> = itself.iter().map(String::as_str).collect();
    let expected = "updateGroups.dev.dependencies[0]: a group cannot depend on itself (remove it)";
    assert_eq!(said, [expected], "once is enough");
    one("depend on each other: critical, dev, infrastructure", |d| {
        d["updateGroups"]["dev"]["dependencies"] = json!(["infrastructure"]);
    });
    one(
        "no machines, and others depend on it: infrastructure",
        |d| {
            d["updateGroups"]["dev"]["machines"] = json!([]);
        },
    );
    one("is shorter than", |d| {
        d["updateGroups"]["dev"]["maintenanceWindow"] = json!("02:00-02:05");
    });
    one("bigger than its group", |d| {
        d["updateGroups"]["dev"]["canary"] = json!(4)
    });
    one("not a whole number", |d| {
        d["updateSettings"]["maxParallel"] = json!("110%")
    });
    one("not a duration", |d| {
        d["updateSettings"]["staggerDelay"] = json!("1e309s")
    });
    one("must be true or false", |d| {
        d["updateGroups"]["dev"]["allowReboot"] = json!("yes")
    });
    one("an object is expected", |d| *d = json!([]));
    one("updateGroups: is missing", |d| *d = json!({}));
    one("must have passed before", |d| {
        d["updateSettings"]["leaseTime"] = json!(5)
    });
}
