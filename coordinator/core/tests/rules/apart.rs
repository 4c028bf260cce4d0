//! Machines that must not be away together.

use common::{HealthState, OutcomeKind};
use coordinator_core::{FleetConfig, WaitReason};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name};

/// Two groups, and a set over both: `a`, `b` and `d` are kept apart.
fn world() -> World {
    let groups = json!({
        "one": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "maxParallel": 3, "maxFailures": 3 },
        "two": { "machines": ["d"], "updatePolicy": "aggressive" },
    });
    let settings = json!({ "maxParallel": 4, "apart": [["a", "b"], ["a", "d"], ["b", "d"]] });
    World::new(groups, settings)
}

fn waits_for_machines(world: &mut World, machine: &str, expected: &[&str]) {
    let WaitReason::Apart { machines } = world.wait(machine) else {
        panic!("{machine}: {}", world.wait(machine));
    };
    let expected: Vec<_> = expected.iter().map(|machine| name(machine)).collect();
    assert_eq!(machines, expected, "{machine}");
}

#[test]
fn one_of_a_set_is_away_at_a_time_in_whatever_groups_they_are() {
    let mut world = world();
    world.execute();
    let grant = world.go("a");
    waits_for_machines(&mut world, "b", &["a"]);
    waits_for_machines(&mut world, "d", &["a"]);
    world.go("c");
    world.end("a", &grant, OutcomeKind::Confirmed);
    let grant = world.go("d");
    waits_for_machines(&mut world, "b", &["d"]);
    world.end("d", &grant, OutcomeKind::Confirmed);
    world.go("b");
}

#[test]
fn a_machine_that_fell_silent_holds_the_others_of_its_set() {
    let mut world = world();
    world.execute();
    world.go("a");
    for _ in 0..2 {
        // First its lease has run out, then it counts as failed.
        world.pass_without(minutes(20), &["a"]);
        waits_for_machines(&mut world, "d", &["a"]);
    }
}

#[test]
fn an_ill_machine_holds_the_others_of_its_set_and_is_not_held_by_them() {
    let mut world = world();
    world.health("d", HealthState::Unhealthy);
    world.execute_some(&["one"]);
    waits_for_machines(&mut world, "a", &["d"]);
    waits_for_machines(&mut world, "b", &["d"]);
    world.go("c");
    world.health("d", HealthState::Healthy);
    world.go("a");
}

#[test]
fn a_machine_that_is_not_heard_of_holds_the_others_of_its_set() {
    let mut world = world();
    world.pass_without(minutes(30), &["d"]);
    world.execute_some(&["one"]);
    waits_for_machines(&mut world, "a", &["d"]);
    world.poll("d");
    world.go("a");
}

#[test]
fn what_is_wrong_with_a_set_is_told() {
    for (apart, at, says) in [
        (json!("a"), "updateSettings.apart", "a list"),
        (json!(["a"]), "updateSettings.apart[0]", "no list"),
        (json!([["a", 1]]), "updateSettings.apart[0]", "no list"),
        (json!([["a"]]), "updateSettings.apart[0]", "two or more"),
        (
            json!([["a", "b", "a"]]),
            "updateSettings.apart[0]",
            "two or more",
        ),
        (
            json!([["db-1", "db-3"]]),
            "updateSettings.apart",
            "did you mean \"db-1\"?",
        ),
    ] {
        let document: Value = json!({
            "updateGroups": { "web": { "machines": ["a", "b", "db-1", "db-2"] } },
            "updateSettings": { "apart": apart },
        });
        let faults = FleetConfig::parse(&document).expect_err("a fault").0;
        let [fault] = &faults[..] else {
            panic!("{apart}: {faults:?}");
        };
        assert_eq!(fault.path, at, "{apart}");
        assert!(fault.to_string().contains(says), "{fault}");
    }
}

#[test]
fn every_machine_of_a_set_that_is_in_no_group_is_named() {
    let document = json!({
        "updateGroups": { "web": { "machines": ["a", "b"] } },
        "updateSettings": { "apart": [["a", "x"], ["b", "y"]] },
    });
    let faults = FleetConfig::parse(&document).expect_err("faults").0;
    let named = |machine: &str| {
        faults
            .iter()
            .any(|fault| fault.message.starts_with(machine))
    };
    assert!(
        faults.len() == 2 && named("x ") && named("y "),
        "{faults:?}"
    );
}
