//! Machines with keys of their own, among others of their group.

use common::{OutcomeKind, Timestamp};
use coordinator_core::{Change, WaitReason, rollout::RolloutState};
use serde_json::{Value, json};

use crate::fleet::{MONDAY, World, minutes, name, wish};

fn at(hours: u64, more: u64) -> Timestamp {
    MONDAY + minutes(hours * 60 + more)
}

/// A group that goes at night, of which `b` has these keys.
fn world(group: &Value, own: &Value) -> World {
    let mut web = json!({
        "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "maxParallel": 3,
        "maintenanceWindow": "01:00-03:00", "allowReboot": true,
    });
    for (key, value) in group.as_object().expect("keys") {
        web[key] = value.clone();
    }
    let mut world = World::of(&json!({
        "updateGroups": { "web": web },
        "updateSettings": { "maxParallel": 3, "noProgressAfter": "3h", "offlineAfter": "720h" },
        "updateMachines": { "b": own },
    }));
    for machine in ["a", "b", "c"] {
        world.poll(machine);
    }
    world
}

fn until(world: &mut World, end: Timestamp) -> Vec<Change> {
    world.pass(end.since(world.now))
}

#[test]
fn a_machine_goes_in_its_own_window_and_not_in_that_of_its_group() {
    let own = json!({ "maintenanceWindow": "05:00-06:00", "timezone": "Europe/Berlin" });
    let mut world = world(&json!({}), &own);
    let rollout = world.execute();
    let opens = |world: &mut World, machine: &str| match world.wait(machine) {
        WaitReason::WindowClosed { opens_at, zone } => (opens_at.expect("some day"), zone),
        other => panic!("{machine}: {other}"),
    };
    assert_eq!(opens(&mut world, "a"), (at(1, 0), "UTC".to_owned()));
    let berlin = (at(4, 0), "Europe/Berlin".to_owned());
    assert_eq!(opens(&mut world, "b"), berlin);
    until(&mut world, at(1, 0));
    assert_eq!(opens(&mut world, "b"), berlin, "its group's is open");
    world.update("a");
    until(&mut world, at(4, 0));
    let reason = world.wait("c");
    assert!(
        matches!(reason, WaitReason::WindowClosed { .. }),
        "{reason}"
    );
    world.update("b");
    assert_eq!(world.place(&rollout, "b"), "updated");
    assert_eq!(world.place(&rollout, "c"), "pending");
}

#[test]
fn a_wave_opens_when_any_of_it_may_go_and_waits_for_all_of_it() {
    // b alone is the canary, and nobody else may go before it.
    let group = json!({ "canary": ["b"], "canarySoak": 0 });
    let mut world = world(&group, &json!({ "maintenanceWindow": "05:00-06:00" }));
    let rollout = world.execute();
    until(&mut world, at(1, 30));
    let reason = world.wait("a");
    assert!(matches!(reason, WaitReason::WaveNotOpen { .. }), "{reason}");
    // The group's own window passes by, for b as well; that is waiting, not standing still.
    until(&mut world, at(5, 0));
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.update("b");
    until(&mut world, at(25, 0));
    world.update("a");
    world.update("c");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn waiting_for_its_window_is_no_standing_still() {
    let own = json!({ "maintenanceWindow": { "times": "05:00-06:00", "days": ["fri"] } });
    let mut world = world(&json!({ "maintenanceWindow": [] }), &own);
    let rollout = world.execute();
    world.update("a");
    world.update("c");
    until(&mut world, at(4 * 24 + 5, 0));
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.update("b");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn a_window_of_its_own_that_is_missed_is_told_for_it_alone() {
    let mut world = world(&json!({}), &json!({ "maintenanceWindow": "05:00-06:00" }));
    world.execute();
    let missed = |changes: Vec<Change>| -> Vec<(u32, Timestamp, u32, Option<Timestamp>)> {
        let told = changes.into_iter().filter_map(|change| match change {
            Change::WindowMissed {
                windows,
                shut_at,
                left,
                opens_at,
                ..
            } => Some((windows, shut_at, left, opens_at)),
            _ => None,
        });
        told.collect()
    };
    until(&mut world, at(1, 0));
    world.update("a");
    let told = missed(until(&mut world, at(4, 0)));
    assert_eq!(told, [(1, at(3, 0), 1, Some(at(25, 0)))], "c alone");
    let told = missed(until(&mut world, at(7, 0)));
    assert_eq!(told, [(1, at(6, 0), 1, Some(at(29, 0)))], "b alone");
}

#[test]
fn a_grant_says_what_holds_for_the_machine() {
    let own = json!({
        "allowReboot": false, "healthCheckTimeout": "9m", "rollbackOnFailure": false,
        "maintenanceWindow": [],
    });
    let mut world = world(&json!({ "maintenanceWindow": [] }), &own);
    world.execute();
    let (a, b) = (world.go("a"), world.go("b"));
    assert!(a.allow_reboot && a.rollback_on_failure);
    assert!(!b.allow_reboot && !b.rollback_on_failure);
    assert_eq!(
        (a.health_timeout, b.health_timeout),
        (minutes(5), minutes(9))
    );
    // A lost grant is given again, and is the same.
    assert_eq!(world.go("b").health_timeout, minutes(9));
    world.end("b", &b, OutcomeKind::Confirmed);
}

#[test]
fn what_it_is_expected_to_take_is_its_own() {
    let mut world = world(&json!({}), &json!({ "expectedDuration": "90m" }));
    world.execute();
    until(&mut world, at(1, 31));
    let reason = world.wait("b");
    let WaitReason::WindowTooShort { needs, left, .. } = reason else {
        panic!("{reason}");
    };
    assert_eq!((needs, left), (minutes(90), minutes(89)));
    world.update("a");
}

#[test]
fn a_rollout_keeps_the_rules_it_began_with() {
    let mut world = world(&json!({}), &json!({ "maintenanceWindow": "05:00-06:00" }));
    let plan = world.fleet.plan(&wish(&[])).expect("a plan");
    assert_eq!(plan.groups[0].own.len(), 1);
    world.execute();
    let document = json!({ "updateGroups": { "web": { "machines": ["a", "b", "c"] } } });
    world.configure(&document);
    let reason = world.wait("b");
    let WaitReason::WindowClosed { opens_at, .. } = reason else {
        panic!("{reason}");
    };
    assert_eq!(opens_at, Some(at(5, 0)));
    let facts = world.fleet.facts().clone();
    assert!(facts.machines.contains_key(&name("b")));
}
