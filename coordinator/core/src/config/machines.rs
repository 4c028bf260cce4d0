//! Machines with keys of their own (`updateMachines`): each takes the place of its group's key for that
//! machine alone. Rules about a group as a whole have no meaning for one machine and are refused.

use std::{collections::BTreeMap, time::Duration};

use common::{GroupName, MachineName};
use serde_json::{Map, Value};

use super::{
    GroupConfig, calendars,
    policies::{Policies, with_policy},
    read,
    section::{Faults, Section, fault, nearest},
    settings::Settings,
    terms, windows,
};
use crate::{
    policy::{Policy, Preset},
    terms::Terms,
};

/// Anything but nothing.
const SOME: Duration = Duration::from_secs(1);

/// Keys of groups that say something about several machines.
const OF_GROUPS: [&str; 17] = [
    "machines",
    "maxParallel",
    "maxFailures",
    "canary",
    "canarySoak",
    "waves",
    "pauseAfter",
    "order",
    "soak",
    "staggerDelay",
    "requireApproval",
    "approvalExpiry",
    "autoApproveAfter",
    "fourEyes",
    "dependencies",
    "gates",
    "blueGreen",
];

/// What machines have by keys of their own: their rules, and their terms.
type Own = (BTreeMap<MachineName, Policy>, BTreeMap<MachineName, Terms>);

/// Reads them: each machine's rules and terms, its group's where it has no keys of its own. Machines whose
/// rules come to those of their group are left out of these.
pub(super) fn read(
    value: &Value,
    groups: &BTreeMap<GroupName, GroupConfig>,
    policies: &Policies<'_>,
    settings: &Settings,
    faults: &mut Faults,
) -> Own {
    let mut own = Own::default();
    let Some(section) = Section::new(value, "updateMachines", faults) else {
        return own;
    };
    for (name, value) in section.entries() {
        let path = section.path_of(name);
        let home = groups.values().find_map(|group| {
            let machine = group.machines.iter().find(|m| m.as_str() == name)?;
            Some((machine, group))
        });
        let Some((machine, group)) = home else {
            let names = groups.values().flat_map(|group| &group.machines);
            let hint = nearest(name, names.map(MachineName::as_str), "machines");
            fault(faults, &path, format!("{name} is in no group"), hint);
            continue;
        };
        if let Some(keys) = Section::new(value, &path, faults) {
            let given = keys.map;
            let named = named(given, &path, policies, faults);
            let keys = named.as_ref().map(|named| with_policy(given, named));
            let keys = keys.as_ref().unwrap_or(given);
            let mut found = Vec::new();
            let mut s = Section::of(keys, &path);
            let terms = terms::of_both(&mut s, given, named.as_ref(), group.terms, &mut found);
            let policy = keys_of(s, &group.policy, settings, &mut found);
            // What is wrong with a key of its policy is said of the policy.
            found.retain(|fault| {
                read::is_of(fault, &path, given) || !read::is_of(fault, &path, keys)
            });
            faults.append(&mut found);
            own.1.insert(machine.clone(), terms);
            if policy != group.policy {
                own.0.insert(machine.clone(), policy);
            }
        }
    }
    own
}

/// The keys of the policy that the machine names, as far as they are about one machine.
fn named(
    own: &Map<String, Value>,
    path: &str,
    policies: &Policies<'_>,
    faults: &mut Faults,
) -> Option<Map<String, Value>> {
    let value = own.get("updatePolicy").filter(|value| !value.is_null())?;
    let name = value.as_str().unwrap_or_default();
    let path = format!("{path}.updatePolicy");
    let mut keys = match policies.0.get(name) {
        Some(keys) => (*keys).clone(),
        None if Preset::named(name).is_some() => Map::new(),
        None => {
            let hint = nearest(name, policies.0.keys().copied(), "write one of");
            fault(faults, &path, format!("{value} is not a policy"), hint);
            return None;
        }
    };
    keys.retain(|key, value| {
        key != "updatePolicy" && !OF_GROUPS.contains(&key.as_str()) && !value.is_null()
    });
    if keys.is_empty() {
        let message = format!("{name} has no key that is about one machine");
        let hint = "name it for a group, or leave it out";
        fault(faults, &path, message, hint);
    }
    Some(keys)
}

/// The group's rules with the machine's keys in their place.
fn keys_of(mut s: Section<'_>, group: &Policy, settings: &Settings, faults: &mut Faults) -> Policy {
    let mut policy = group.clone();
    // Its keys are among these already.
    s.get("updatePolicy");
    if s.get("maintenanceWindow").is_some() {
        policy.windows = windows::windows(&mut s, "maintenanceWindow", faults);
    }
    let take = |taken: &mut bool, given: Option<bool>| {
        if let Some(given) = given {
            *taken = given;
        }
    };
    take(&mut policy.allow_reboot, s.bool("allowReboot", faults));
    // Its group's soft-reboots are of no use to a machine that may not reboot at all.
    policy.soft_reboot &= policy.allow_reboot;
    take(&mut policy.soft_reboot, s.bool("softReboot", faults));
    let rollback = read::rollback(&mut s, faults);
    take(
        &mut policy.rollback_on_failure,
        rollback.map(|(own, _)| own),
    );
    take(&mut policy.takes_back, rollback.map(|(_, all)| all));
    if let Some(zone) = read::timezone(&mut s, faults) {
        policy.timezone = zone;
    }
    if let Some(avoid) = calendars::avoid(&mut s, &settings.calendars, faults) {
        policy.avoid = avoid;
    }
    if let Some(timeout) = s.duration_from("healthCheckTimeout", SOME, faults) {
        policy.health_timeout = timeout;
    }
    if let Some(expected) = s.duration("expectedDuration", faults) {
        policy.expected_duration = expected;
    }
    if let Some(retries) = read::retries(&mut s, faults) {
        policy.retries = retries;
    }
    if let Some(after) = s.duration_from("retryAfter", SOME, faults) {
        policy.retry_after = after;
    }
    for key in OF_GROUPS {
        if s.get(key).is_some() {
            let message = "is a rule for several machines, and this is one";
            let hint = "set it for its group, or give the machine a group of its own";
            fault(faults, &s.path_of(key), message, hint);
        }
    }
    s.finish_with(&OF_GROUPS, faults);
    policy
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::FleetConfig;

    fn document(machines: &Value) -> Value {
        json!({
            "updateGroups": {
                "web": {
                    "machines": ["a", "b"], "maintenanceWindow": "02:00-06:00",
                    "allowReboot": true, "softReboot": true, "avoid": ["days"], "retries": 1,
                },
                "db": { "machines": ["c"] },
            },
            "updatePolicies": {
                "patient": {
                    "updatePolicy": "aggressive", "maxParallel": 7, "soak": "1h", "retries": 5,
                    "retryAfter": "30m", "healthCheckTimeout": "20m",
                },
                "crowd": { "updatePolicy": "aggressive", "maxParallel": 7 },
            },
            "updateSettings": { "calendars": { "days": { "dates": ["2026-12-24"] } } },
            "updateMachines": machines,
        })
    }

    fn policy(machines: &Value, of: &str) -> Policy {
        let config = FleetConfig::parse(&document(machines)).expect("a good document");
        let machine = of.parse().expect("a name");
        config.policy_of(&machine).expect("of a group").clone()
    }

    #[test]
    fn a_machine_has_the_keys_of_its_group_unless_it_has_them_itself() {
        let keys = json!({ "a": {
            "maintenanceWindow": ["20:00-21:00", { "times": "04:00-05:00", "days": ["sun"] }],
            "timezone": "Europe/Berlin", "avoid": [], "healthCheckTimeout": "7m",
            "expectedDuration": "30m", "rollbackOnFailure": false, "retries": 2, "retryAfter": "1h",
        }});
        let (own, group) = (policy(&keys, "a"), policy(&keys, "b"));
        let windows: Vec<String> = own.windows.iter().map(ToString::to_string).collect();
        assert_eq!(windows, ["20:00-21:00", "Sun 04:00-05:00"]);
        let expected = Policy {
            windows: own.windows.clone(),
            timezone: "Europe/Berlin".to_owned(),
            avoid: Vec::new(),
            health_timeout: Duration::from_secs(420),
            expected_duration: Duration::from_secs(1800),
            rollback_on_failure: false,
            takes_back: false,
            retries: 2,
            retry_after: Duration::from_secs(3600),
            ..group.clone()
        };
        assert_eq!(own, expected, "and nothing else");
        assert_eq!(group.windows[0].to_string(), "02:00-06:00");
        // Always, where its group has a window.
        assert!(
            policy(&json!({ "a": { "maintenanceWindow": [] } }), "a")
                .windows
                .is_empty()
        );
        // None, where its group tries again.
        assert_eq!(policy(&json!({ "a": { "retries": 0 } }), "a").retries, 0);
        assert_eq!(group.retries, 1);
        // A machine that must not reboot does not reboot softly either.
        let stays = policy(&json!({ "a": { "allowReboot": false } }), "a");
        assert!(!stays.allow_reboot && !stays.soft_reboot);
    }

    #[test]
    fn a_machine_has_the_keys_of_a_policy_that_are_about_one_machine() {
        let keys = json!({ "a": { "updatePolicy": "patient", "retryAfter": "2h" } });
        let (own, group) = (policy(&keys, "a"), policy(&keys, "b"));
        let expected = Policy {
            retries: 5,
            retry_after: Duration::from_secs(7200),
            health_timeout: Duration::from_secs(1200),
            ..group
        };
        assert_eq!(own, expected, "and of waves and limits those of its group");
    }

    #[test]
    fn keys_that_come_to_those_of_the_group_are_no_rules_of_its_own() {
        let keys = json!({ "a": { "maintenanceWindow": "02:00-06:00" }, "b": {} });
        let config = FleetConfig::parse(&document(&keys)).expect("a good document");
        assert!(config.own.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_of_the_machine() {
        for (machines, at, says) in [
            (json!([]), "updateMachines", "an object"),
            (
                json!({ "aa": {} }),
                "updateMachines.aa",
                "in no group (did you mean \"a\"?)",
            ),
            (json!({ "a": [] }), "updateMachines.a", "an object"),
            (
                json!({ "a": { "maxParallel": 1 } }),
                "updateMachines.a.maxParallel",
                "a rule for several machines",
            ),
            (
                json!({ "a": { "retries": "twice" } }),
                "updateMachines.a.retries",
                "a whole number",
            ),
            (
                json!({ "a": { "retryAfter": "0s" } }),
                "updateMachines.a.retryAfter",
                "too short",
            ),
            (
                json!({ "a": { "retry": 1 } }),
                "updateMachines.a.retry",
                "did you mean \"retries\"?",
            ),
            (
                json!({ "a": { "updatePolicy": "patien" } }),
                "updateMachines.a.updatePolicy",
                "did you mean \"patient\"?",
            ),
            (
                json!({ "a": { "updatePolicy": 3 } }),
                "updateMachines.a.updatePolicy",
                "is not a policy",
            ),
            (
                json!({ "a": { "updatePolicy": "crowd" } }),
                "updateMachines.a.updatePolicy",
                "no key that is about one machine",
            ),
            (
                json!({ "a": { "updatePolicy": "conservative" } }),
                "updateMachines.a.updatePolicy",
                "no key that is about one machine",
            ),
            (
                json!({ "a": { "allowReboots": true } }),
                "updateMachines.a.allowReboots",
                "did you mean \"allowReboot\"?",
            ),
            (
                json!({ "a": { "maintenanceWindow": "02:00-02:05" } }),
                "updateMachines.a.maintenanceWindow",
                "shorter than the 600 s",
            ),
            (
                json!({ "a": { "expectedDuration": "4h" } }),
                "updateMachines.a.maintenanceWindow",
                "shorter than the 14400 s",
            ),
            (
                json!({ "a": { "expectedDuration": "5h" } }),
                "updateMachines.a.maintenanceWindow",
                "shorter than the 18000 s",
            ),
            (
                json!({ "c": { "softReboot": true } }),
                "updateMachines.c.softReboot",
                "allowReboot is false",
            ),
            (
                json!({ "c": { "avoid": ["nights"] } }),
                "updateMachines.c.avoid[0]",
                "nights",
            ),
        ] {
            let read = FleetConfig::parse(&document(&machines));
            let faults = read.expect_err(at).0;
            let [fault] = &faults[..] else {
                panic!("{at}: {faults:?}");
            };
            assert_eq!(fault.path, at);
            assert!(fault.to_string().contains(says), "{at}: {fault}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_not_said_of_the_machine_again() {
        let mut document = document(&json!({ "a": { "updatePolicy": "crowd", "retries": 1 } }));
        document["updatePolicies"]["crowd"]["retryAfter"] = json!("soon");
        let faults = FleetConfig::parse(&document).expect_err("refused").0;
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["updatePolicies.crowd.retryAfter"]);
    }
}
