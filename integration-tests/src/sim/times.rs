//! How long a seed's groups and machines are waited for, where that is not the fleet's.

use serde_json::{Map, Value, json};

/// Gives some groups, a policy and some machines keys of their own, by what was drawn before, so that this moves
/// no other draw.
pub(crate) fn of_some(document: &mut Value, machines: &[String]) {
    // Silence must be longer than a held poll, also here.
    let offline = document["updateSettings"]["offlineAfter"].as_u64();
    let longer = offline.map(|seconds| seconds + 900);
    let groups = document["updateGroups"].as_object_mut();
    for (index, group) in groups.into_iter().flat_map(Map::values_mut).enumerate() {
        match (index + machines.len()) % 3 {
            0 => add(group, of_laptops(longer)),
            1 => add(group, of_servers()),
            _ => {}
        }
        // Silence is nobody's answer, and so not somebody else's.
        if group.get("autoApproveAfter").is_some() {
            group["fourEyes"] = json!(false);
        }
    }
    document["updatePolicies"]["patient"] = json!({
        "updatePolicy": "aggressive", "maxParallel": 1, "catchUp": "36h", "leaseTime": "20m",
        "alarms": { "notUpdated": "40h" },
    });
    for (index, machine) in machines.iter().enumerate() {
        let own = &mut document["updateMachines"];
        match (index + 3 * machines.len()) % 8 {
            0 => add(&mut own[machine], of_one()),
            // Keys of its own count before those of its policy.
            3 => add(
                &mut own[machine],
                json!({ "updatePolicy": "patient", "leaseTime": "6m" }),
            ),
            _ => {}
        }
    }
}

/// Adds these keys to what may have some already.
fn add(to: &mut Value, keys: Value) {
    if to.is_null() {
        *to = json!({});
    }
    if let (Some(to), Value::Object(keys)) = (to.as_object_mut(), keys) {
        to.extend(keys);
    }
}

/// They are often away, and nobody minds.
fn of_laptops(offline_after: Option<u64>) -> Value {
    json!({
        "catchUp": "30h", "leaseTime": "25m", "graceTime": "2h", "stageTimeout": "3h",
        "offlineAfter": offline_after, "quarantineAfter": 0, "fourEyes": false,
        "alarms": { "notUpdated": "60h", "notApplied": 0 },
    })
}

/// They are there, or something is wrong.
fn of_servers() -> Value {
    json!({
        "catchUp": "2h", "leaseTime": "4m", "graceTime": "7m", "stageTimeout": "90m",
        "quarantineAfter": 4, "fourEyes": true, "alarms": { "notApplied": "3h" },
    })
}

fn of_one() -> Value {
    json!({
        "catchUp": "1h", "graceTime": "11m", "stageTimeout": "80m", "quarantineAfter": 1,
        "alarms": { "notUpdated": "5h" },
    })
}
