//! Policies of one's own (`updatePolicies`): keys of groups under a name. A group that names one has its
//! keys, unless it has them itself.

use std::collections::{BTreeMap, BTreeSet};

use common::GroupName;
use serde_json::{Map, Value};

use super::{
    read::{policy, preset},
    section::{Faults, Section, fault},
    settings::Settings,
    terms::terms,
};
use crate::policy::{Policy, Preset};

/// Percentages of a policy are of the machines of each group that names it; alone it is read as if
/// there were so many.
const ANY_SIZE: usize = 100;

/// The keys of each policy, by name.
#[derive(Default)]
pub(super) struct Policies<'a>(pub(super) BTreeMap<&'a str, &'a Map<String, Value>>);

/// A policy by itself, as it is where a group has no keys of its own.
pub(super) struct Alone<'a> {
    pub(super) path: String,
    pub(super) keys: &'a Map<String, Value>,
    pub(super) policy: Policy,
}

impl<'a> Policies<'a> {
    /// Reads them; what is wrong with one is said of it, and not of every group that names it. With those
    /// that none of these groups names.
    pub(super) fn read(
        value: &'a Value,
        groups: &Value,
        settings: &Settings,
        faults: &mut Faults,
    ) -> (Self, Vec<Alone<'a>>) {
        let (mut found, mut alone) = (Self::default(), Vec::new());
        let Some(section) = Section::new(value, "updatePolicies", faults) else {
            return (found, alone);
        };
        let groups = groups.as_object().into_iter().flat_map(Map::values);
        let named = groups.filter_map(|group| group.get("updatePolicy")?.as_str());
        let named: BTreeSet<&str> = named.collect();
        for (name, value) in section.entries() {
            let path = section.path_of(name);
            if Preset::named(name).is_some() {
                let message = "is a policy that is there already";
                fault(faults, &path, message, "give it another name");
            } else if let Err(error) = name.parse::<GroupName>() {
                fault(faults, &path, error.to_string(), "give it another name");
            }
            let Some(mut keys) = Section::new(value, &path, faults) else {
                continue;
            };
            found.0.insert(name, keys.map);
            // Of presets only: a policy that builds on one that builds on it would have no end.
            let preset = preset(&mut keys, &Self::default(), faults);
            let policy = policy(&mut keys, preset, ANY_SIZE, settings, faults);
            terms(&mut keys, settings.terms, faults);
            keys.bool("fourEyes", faults);
            if !named.contains(name.as_str()) {
                let (path, keys) = (path, keys.map);
                alone.push(Alone { path, keys, policy });
            }
            keys.finish(faults);
        }
        (found, alone)
    }
}

/// The keys of a group, and those of its policy that it does not have itself: null is none.
pub(super) fn with_policy(
    group: &Map<String, Value>,
    policy: &Map<String, Value>,
) -> Map<String, Value> {
    let mut keys = policy.clone();
    let own = group.iter().filter(|(key, value)| {
        *key != "updatePolicy" && (!value.is_null() || !policy.contains_key(*key))
    });
    keys.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    keys
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::config::{Fault, FleetConfig};

    fn machines(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("m-{number}")).collect()
    }

    fn document(group: &Value, policies: &Value) -> Value {
        let mut group = group.clone();
        group["machines"] = json!(["m-0", "m-1"]);
        json!({ "updateGroups": { "web": group }, "updatePolicies": policies })
    }

    /// The faults, each as its path and the rest.
    fn faults(document: &Value) -> Vec<(String, String)> {
        let read = FleetConfig::parse(document);
        let faults = read.err().map(|faults| faults.0).unwrap_or_default();
        let said = |fault: Fault| (fault.path, format!("{} {}", fault.message, fault.hint));
        faults.into_iter().map(said).collect()
    }

    fn policy_of(document: &Value) -> crate::policy::Policy {
        let config = FleetConfig::parse(document).expect("a good document");
        let web = "web".parse::<GroupName>().expect("a name");
        config.groups[&web].policy.clone()
    }

    #[test]
    fn a_group_has_the_keys_of_its_policy_unless_it_has_them_itself() {
        let policies = json!({
            "databases": {
                "updatePolicy": "manual-approval", "maxParallel": 1, "soak": "1h",
                "allowReboot": true, "softReboot": true,
            },
        });
        let group = json!({ "updatePolicy": "databases", "soak": "5m" });
        let policy = policy_of(&document(&group, &policies));
        assert_eq!(policy.preset, Preset::ManualApproval);
        assert!(policy.needs_approval && policy.allow_reboot && policy.soft_reboot);
        assert_eq!(policy.soak, Duration::from_secs(300), "its own");
        assert_eq!(policy.max_parallel, 1);
        let none = policy_of(&document(&json!({}), &policies));
        assert_eq!(none.preset, Preset::Conservative, "it names none");
        assert!(!none.allow_reboot);
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_once_and_of_it() {
        let bad = json!({ "databases": { "maxParallel": 0, "canry": 1, "machines": ["x"] } });
        let group = json!({ "updatePolicy": "databases", "canary": "many" });
        let mut found = faults(&document(&group, &bad));
        found.sort();
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        let expected = [
            "updateGroups.web.canary",
            "updatePolicies.databases.canry",
            "updatePolicies.databases.machines",
            "updatePolicies.databases.maxParallel",
        ];
        assert_eq!(paths, expected, "{found:?}");
    }

    #[test]
    fn a_policy_has_a_name_of_its_own_and_begins_with_a_preset() {
        for (policies, group, at, says) in [
            (
                json!({ "aggressive": {} }),
                json!({}),
                "updatePolicies.aggressive",
                "another name",
            ),
            (
                json!({ "Not a name": {} }),
                json!({}),
                "updatePolicies.Not a name",
                "another name",
            ),
            (json!([]), json!({}), "updatePolicies", "an object"),
            (
                json!({ "a": { "updatePolicy": "b" }, "b": {} }),
                json!({}),
                "updatePolicies.a.updatePolicy",
                "manual-approval",
            ),
            (
                json!({ "databases": {} }),
                json!({ "updatePolicy": "database" }),
                "updateGroups.web.updatePolicy",
                "\"databases\"?",
            ),
            (
                json!({ "soft": { "softReboot": true } }),
                json!({ "updatePolicy": "soft" }),
                "updateGroups.web.softReboot",
                "allowReboot",
            ),
        ] {
            let found = faults(&document(&group, &policies));
            let [(path, text)] = &found[..] else {
                panic!("{at}: {found:?}");
            };
            assert_eq!(path, at);
            assert!(text.contains(says), "{at}: {text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_also_while_no_group_names_it() {
        for (policy, at, says) in [
            (
                json!({ "maintenanceWindow": "02:00-02:05" }),
                "maintenanceWindow",
                "shorter than the 600 s",
            ),
            (
                json!({ "maintenanceWindow": "02:00-03:00", "expectedDuration": "1h" }),
                "maintenanceWindow",
                "and the 60 s in which it may begin",
            ),
            (
                json!({ "maintenanceWindow": "02:00-06:00", "expectedDuration": "5h" }),
                "maintenanceWindow",
                "shorter than the 18000 s",
            ),
            (
                json!({ "maintenanceWindow": "02:00-06:00", "avoid": ["nights"] }),
                "avoid",
                "nights never leave the 600 s",
            ),
            (json!({ "avoid": ["days"] }), "avoid[0]", "days"),
            (json!({ "gates": ["none"] }), "gates[0]", "none"),
            (
                json!({ "dependencies": ["wb"] }),
                "dependencies[0]",
                "\"web\"?",
            ),
            (
                json!({ "softReboot": true, "allowReboot": false }),
                "softReboot",
                "allowReboot is false",
            ),
            (
                json!({ "autoApproveAfter": "1h", "requireApproval": false }),
                "autoApproveAfter",
                "no approval is asked for",
            ),
            (
                json!({ "autoApproveAfter": "8h", "approvalExpiry": "1h", "requireApproval": true }),
                "autoApproveAfter",
                "never comes",
            ),
            (
                json!({ "updatePolicy": "aggressive", "pauseAfter": "canary" }),
                "pauseAfter",
                "no canary",
            ),
        ] {
            let mut document = document(&json!({}), &json!({ "spare": policy }));
            document["updateSettings"]["calendars"]["nights"]["hours"] = json!("01:00-07:00");
            let found = faults(&document);
            let [(path, text)] = &found[..] else {
                panic!("{at}: {found:?}");
            };
            assert_eq!(*path, format!("updatePolicies.spare.{at}"));
            assert!(text.contains(says), "{at}: {text}");
        }
        // What it leaves to groups is theirs to say.
        for policy in [
            json!({ "softReboot": true }),
            json!({ "autoApproveAfter": "1h" }),
            json!({ "canary": "50%", "waves": [150], "maxFailures": 300 }),
            json!({ "dependencies": ["web"] }),
        ] {
            let found = faults(&document(&json!({}), &json!({ "spare": policy })));
            assert!(found.is_empty(), "{found:?}");
        }
        // Of one that a group names it is said there, with what the group has of its own.
        let short = json!({ "short": { "maintenanceWindow": "02:00-02:05" } });
        let group = |more| json!({ "updatePolicy": "short", "expectedDuration": more });
        assert!(faults(&document(&group("4m"), &short)).is_empty());
        let found = faults(&document(&group("241s"), &short));
        assert_eq!(
            found[0].0, "updateGroups.web.maintenanceWindow",
            "{found:?}"
        );
    }

    #[test]
    fn percentages_are_of_the_groups_machines_and_of_the_fleets() {
        // Machines, percentage, and what it comes to for maxParallel, maxFailures and canary.
        for (size, percent, parallel, failures, canary) in [
            (1, "25%", 1, 0, 1),
            (7, "1%", 1, 0, 1),
            (7, "25%", 1, 1, 2),
            (8, "25%", 2, 2, 2),
            (10, "33%", 3, 3, 4),
            (10, "100%", 10, 10, 10),
        ] {
            let document = json!({
                "updateGroups": {
                    "web": {
                        "machines": machines(size), "updatePolicy": "shares",
                    },
                    "others": { "machines": ["x", "y"] },
                },
                "updatePolicies": {
                    "shares": { "maxParallel": percent, "maxFailures": percent, "canary": percent },
                },
                "updateSettings": { "maxParallel": percent },
            });
            let config = FleetConfig::parse(&document).expect("a good document");
            let web = "web".parse::<GroupName>().expect("a name");
            let policy = &config.groups[&web].policy;
            let found = (policy.max_parallel, policy.max_failures, policy.canary);
            assert_eq!(found, (parallel, failures, canary), "{percent} of {size}");
            let fleet = u32::try_from(size + 2).expect("few");
            let percent: u32 = percent.trim_end_matches('%').parse().expect("a number");
            assert_eq!(config.max_parallel, (fleet * percent / 100).max(1));
        }
        for odd in ["101%", "-1%", "2.5%", "%", "25", " 5%", "5 %"] {
            let group = json!({ "maxParallel": odd });
            let found = faults(&document(&group, &json!({})));
            assert_eq!(
                found[0].0, "updateGroups.web.maxParallel",
                "{odd}: {found:?}"
            );
        }
    }
}
