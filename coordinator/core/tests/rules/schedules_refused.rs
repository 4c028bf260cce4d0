//! What a configuration may not say of schedules.

use coordinator_core::FleetConfig;
use serde_json::{Value, json};

use crate::schedules::{health, update};

#[test]
fn what_a_schedule_may_not_say_is_refused_with_what_to_write() {
    let table: [(Value, &str, &str); 13] = [
        (
            json!({ "cron": "0 0 30 2 *", "action": "update" }),
            "cron",
            "a day that exists",
        ),
        (
            json!({ "cron": "0 2 * *", "action": "update" }),
            "cron",
            "minute, hour, day",
        ),
        (
            json!({ "cron": 5, "action": "update" }),
            "cron",
            "in quotes",
        ),
        (json!({ "action": "update" }), "cron", "minute, hour, day"),
        (json!({ "cron": "@daily" }), "action", "health-check"),
        (
            json!({ "cron": "@daily", "action": "reboot" }),
            "action",
            "health-check",
        ),
        (
            json!({ "cron": "@daily", "action": "update", "groups": [] }),
            "groups",
            "leave it out",
        ),
        (
            json!({ "cron": "@daily", "action": "update", "groups": ["devv"] }),
            "groups[0]",
            "\"dev\"?",
        ),
        (
            json!({ "cron": "@hourly", "action": "update", "jitter": "60m" }),
            "jitter",
            "shorter",
        ),
        (
            json!({ "cron": "@daily", "action": "update", "timezone": "Oslo" }),
            "timezone",
            "Europe/",
        ),
        (
            json!({ "cron": "@daily", "action": "update", "source": {} }),
            "source",
            "keep the one",
        ),
        (
            json!({ "cron": "@daily", "action": "health-check", "source": { "flake": "." } }),
            "source",
            "leave it out",
        ),
        (
            json!({ "cron": "@daily", "action": "update", "jiter": 5 }),
            "jiter",
            "\"jitter\"?",
        ),
    ];
    for (schedule, place, hint) in table {
        let document = json!({
            "updateGroups": { "dev": { "machines": ["a"] } },
            "updateSettings": { "source": { "flake": "." } },
            "schedules": { "nightly": schedule },
        });
        let faults = FleetConfig::parse(&document).expect_err(place).0;
        let path = format!("schedules.nightly.{place}");
        let found = faults.iter().find(|fault| fault.path == path);
        let found = found.unwrap_or_else(|| panic!("{path}: {faults:#?}"));
        assert!(found.hint.contains(hint), "{found}");
    }
    let nowhere = json!({
        "updateGroups": { "dev": { "machines": ["a"] } },
        "schedules": { "nightly": update(), "No": health() },
    });
    let faults = FleetConfig::parse(&nowhere).expect_err("no source").0;
    let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["schedules.No", "schedules.nightly.source"]);
}
