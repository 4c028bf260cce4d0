//! What a seed's groups and machines say of their rules, said in other words: percentages instead of numbers,
//! several windows, events instead of days, and keys that stand in policies of one's own.
//!
//! All by what was drawn before, so that this moves no other draw.

use serde_json::{Map, Value, json};

/// Keys that mean the same wherever they stand, and that nothing else in the simulator looks for in a group.
const MOVED: [&str; 10] = [
    "updatePolicy",
    "allowReboot",
    "softReboot",
    "maxFailures",
    "soak",
    "timezone",
    "retries",
    "retryAfter",
    "expectedDuration",
    "order",
];

/// Says some of it in other words.
pub(crate) fn say(document: &mut Value) {
    let groups = document["updateGroups"].as_object_mut();
    for (index, group) in groups.into_iter().flat_map(Map::values_mut).enumerate() {
        let size = group["machines"].as_array().map_or(0, Vec::len);
        let Some(keys) = group.as_object_mut() else {
            continue;
        };
        in_percent(keys, size, index);
        in_several_windows(keys, size + index);
        around_events(keys, size + index);
        comparing(keys, size + index);
    }
    document["analysis"]["trend"] = json!({
        "promql": "up", "prometheus": "http://localhost:9090", "compare": "not-higher",
        "window": "10m", "step": "1m", "interval": "2m", "passes": 2, "failureLimit": 1,
        "inconclusiveLimit": 2, "errorLimit": 2,
    });
    by_policy(document);
}

/// The canary, and the failures that are taken. Groups grow: the first wave is to be no less than the canary
/// then, too.
fn in_percent(keys: &mut Map<String, Value>, size: usize, index: usize) {
    let first = keys.get("waves").and_then(|waves| waves.get(0));
    let percent = match first {
        None => Some(json!("50%")),
        Some(end) => Some(end.clone()).filter(Value::is_string),
    };
    let by_number = keys
        .get("canary")
        .map_or(1, |canary| canary.as_u64().unwrap_or(0));
    let is_usual = keys.get("updatePolicy").is_some_and(|p| p != "aggressive");
    let has_one = by_number > 0 && size > 2 && (keys.contains_key("canary") || is_usual);
    let fits = !keys.contains_key("blueGreen") && (size + index).is_multiple_of(3);
    if let Some(percent) = percent.filter(|_| has_one && fits) {
        keys.insert("canary".to_owned(), percent);
    }
    let failures = keys.get("maxFailures").and_then(Value::as_u64);
    if let Some(failures) = failures.filter(|_| (size + index).is_multiple_of(2)) {
        let all = u64::try_from(size.max(1)).unwrap_or(1);
        let percent = (failures * 100 / all).min(100);
        keys.insert("maxFailures".to_owned(), json!(format!("{percent}%")));
    }
}

fn in_several_windows(keys: &mut Map<String, Value>, odd: usize) {
    let more = [
        json!({ "times": "22:30-01:30", "days": ["fri", "sat"] }),
        json!("12:00-14:00"),
        json!({ "times": "03:00-07:00", "days": ["sun"] }),
    ];
    if let Some(window) = keys
        .get("maintenanceWindow")
        .filter(|_| !odd.is_multiple_of(2))
    {
        let windows = json!([window, more[odd / 2 % 3]]);
        keys.insert("maintenanceWindow".to_owned(), windows);
    }
}

fn around_events(keys: &mut Map<String, Value>, odd: usize) {
    let avoided = match keys.get("avoid").and_then(Value::as_array) {
        Some(names) if names.len() == 1 && !odd.is_multiple_of(3) => names[0].clone(),
        _ => return,
    };
    let avoid = if avoided == "days" {
        json!(["events"])
    } else {
        json!([avoided, "events"])
    };
    keys.insert("avoid".to_owned(), avoid);
}

fn comparing(keys: &mut Map<String, Value>, odd: usize) {
    if let Some(gates) = keys.get_mut("gates").and_then(Value::as_array_mut)
        && odd.is_multiple_of(2)
    {
        gates.push(json!("trend"));
    }
}

/// The keys of some groups, and of some machines with keys of their own, stand in policies.
fn by_policy(document: &mut Value) {
    let mut policies = Map::new();
    let groups = document["updateGroups"].as_object_mut();
    for (index, (name, group)) in groups.into_iter().flatten().enumerate() {
        let size = group["machines"].as_array().map_or(0, Vec::len);
        let Some(keys) = group.as_object_mut() else {
            continue;
        };
        if (size + 2 * index).is_multiple_of(3) {
            let moved: Map<String, Value> = MOVED
                .into_iter()
                .filter_map(|key| Some((key.to_owned(), keys.remove(key)?)))
                .collect();
            policies.insert(format!("of-{name}"), Value::Object(moved));
            keys.insert("updatePolicy".to_owned(), json!(format!("of-{name}")));
        }
    }
    let machines = document["updateMachines"].as_object_mut();
    for (name, own) in machines.into_iter().flatten().step_by(2) {
        let policy = format!("of-{name}");
        let keys = std::mem::replace(own, json!({ "updatePolicy": policy }));
        policies.insert(policy, keys);
    }
    document["updatePolicies"] = Value::Object(policies);
}

#[cfg(test)]
mod tests {
    use coordinator_core::FleetConfig;

    use super::*;
    use crate::sim::{rng::Rng, setup::Setup};

    /// The document without policies of one's own: what they say is put where they are named.
    fn spelt_out(document: &Value) -> Value {
        let mut plain = document.clone();
        let policies = document["updatePolicies"].clone();
        for place in ["updateGroups", "updateMachines"] {
            let each = plain[place].as_object_mut();
            for keys in each.into_iter().flat_map(Map::values_mut) {
                let name = keys["updatePolicy"].as_str().unwrap_or_default().to_owned();
                let Some(policy) = policies.get(&name).and_then(Value::as_object) else {
                    continue;
                };
                let keys = keys.as_object_mut().expect("keys");
                keys.remove("updatePolicy");
                // What is about several machines a policy may say to a machine that names it, and it itself may not.
                let may_say = |key: &str| {
                    place == "updateGroups" || !["updatePolicy", "maxParallel"].contains(&key)
                };
                for (key, value) in policy.iter().filter(|(key, _)| may_say(key)) {
                    keys.entry(key).or_insert_with(|| value.clone());
                }
            }
        }
        plain["updatePolicies"] = json!({});
        plain
    }

    #[test]
    fn policies_of_ones_own_come_to_the_keys_that_they_name() {
        let (mut groups, mut machines) = (0, 0);
        for seed in 0..200 {
            let document = Setup::draw(seed, &mut Rng::new(seed)).document;
            let named = FleetConfig::parse(&document).expect("a good document");
            let plain = FleetConfig::parse(&spelt_out(&document)).expect("as good");
            assert_eq!(named.groups, plain.groups, "{seed}");
            assert_eq!(named.own, plain.own, "{seed}");
            let policies = document["updatePolicies"].as_object().expect("policies");
            groups += policies
                .keys()
                .filter(|name| name.starts_with("of-g"))
                .count();
            machines += policies
                .keys()
                .filter(|name| name.starts_with("of-m"))
                .count();
        }
        assert!(groups > 100 && machines > 100, "{groups} {machines}");
    }
}
