//! Machines that are put aside, by a person or for failing too often in a row.

use common::{OutcomeKind, Target};
use coordinator_core::{
    Change, FleetConfig, WaitReason,
    plan::Plan,
    request::{OperatorRequest, Refusal},
    wait::Whom,
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path, wish};

fn world(settings: Value) -> World {
    let groups = json!({
        "one": {
            "machines": ["a", "b"], "updatePolicy": "aggressive", "waves": [1], "maxFailures": 9,
        },
    });
    World::new(groups, settings)
}

fn put_aside(machines: &[&str], reason: &str) -> OperatorRequest {
    OperatorRequest::Quarantine {
        machines: machines.iter().map(|machine| name(machine)).collect(),
        reason: reason.to_owned(),
    }
}

fn release(machines: &[&str]) -> OperatorRequest {
    OperatorRequest::Release {
        machines: machines.iter().map(|machine| name(machine)).collect(),
        reason: String::new(),
    }
}

fn plan(world: &World) -> Plan {
    world.fleet.plan(&wish(&[])).expect("a plan")
}

/// One rollout to this version, in which `a` is told to end so.
fn attempt(world: &mut World, version: usize, outcome: OutcomeKind) {
    let target = Target::Closure(path(&format!("{}", version + 10)));
    world.done(OperatorRequest::PinTargets {
        targets: vec![(name("a"), target)],
        reason: String::new(),
    });
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, outcome);
    world.ask(OperatorRequest::Abort {
        rollout: Some(rollout),
        reason: "enough".to_owned(),
    });
}

fn is_aside(world: &World, machine: &str) -> bool {
    world.fleet.quarantine_of(&name(machine)).is_some()
}

#[test]
fn whoever_is_put_aside_does_not_begin_and_holds_nobody_up() {
    let mut world = world(json!({ "maxParallel": 2 }));
    let rollout = world.execute();
    world.waits_for("b", "wave-not-open");
    world.done(put_aside(&["a"], "its disk is failing"));
    assert_eq!(world.place(&rollout, "a"), "skipped");
    let WaitReason::Quarantined { by, reason, .. } = world.wait("a") else {
        panic!("{}", world.wait("a"));
    };
    assert_eq!(
        (by.as_str(), reason.as_str()),
        ("ada", "its disk is failing")
    );
    let hint = world.wait("a").hint(Whom::default());
    assert_eq!(hint.as_deref(), Some("lab machines release a"));
    world.update("b");
}

#[test]
fn whoever_is_away_ends_its_part() {
    let mut world = world(json!({ "maxParallel": 2 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.done(put_aside(&["a"], "its disk is failing"));
    assert_eq!(world.place(&rollout, "a"), "leased");
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "a"), "updated");
    world.update("b");
}

#[test]
fn who_gives_its_turn_back_does_not_get_another_one() {
    let mut world = world(json!({ "maxParallel": 2 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.done(put_aside(&["a"], "its disk is failing"));
    world.end("a", &grant, OutcomeKind::Abandoned);
    assert_eq!(world.place(&rollout, "a"), "skipped");
}

#[test]
fn a_plan_leaves_it_out_until_it_is_released() {
    let mut world = world(json!({}));
    world.done(put_aside(&["a"], "its disk is failing"));
    let planned = plan(&world);
    let excluded = planned.excluded.iter();
    let kinds: Vec<_> = excluded.map(|(m, why)| (m.as_str(), why.kind())).collect();
    assert_eq!(kinds, [("a", "quarantined")]);
    world.done(release(&["a"]));
    assert!(plan(&world).excluded.is_empty());
    world.execute();
    world.update("a");
}

#[test]
fn it_outlives_a_restart_and_being_forgotten() {
    let mut world = world(json!({}));
    world.done(put_aside(&["a"], "its disk is failing"));
    world.done(OperatorRequest::ForgetMachine {
        machine: name("a"),
        reason: "it is being rebuilt".to_owned(),
    });
    let stored = serde_json::to_string(world.fleet.facts()).expect("JSON");
    world.goes_on_from(serde_json::from_str(&stored).expect("facts"));
    assert!(is_aside(&world, "a"));
    world.waits_for("a", "quarantined");
}

#[test]
fn what_cannot_be_is_refused() {
    let mut world = world(json!({}));
    for (request, says) in [
        (put_aside(&["a"], " "), "a reason"),
        (put_aside(&[], "why not"), "no machine"),
        (put_aside(&["nobody"], "why not"), "nobody"),
        (release(&["a"]), "a is not in quarantine"),
        (release(&[]), "no machine"),
    ] {
        let refusal: Refusal = world.refused(request);
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    assert!(world.fleet.facts().quarantined.is_empty());
}

#[test]
fn too_many_failures_in_a_row_put_it_aside() {
    use OutcomeKind::{Abandoned, Confirmed, Refused, RolledBack, Stuck};
    for (settings, outcomes, expected) in [
        (
            json!({ "quarantineAfter": 3 }),
            [RolledBack, RolledBack, RolledBack].as_slice(),
            true,
        ),
        (
            json!({ "quarantineAfter": 3 }),
            &[RolledBack, RolledBack],
            false,
        ),
        (
            json!({ "quarantineAfter": 3 }),
            &[RolledBack, RolledBack, Confirmed, RolledBack],
            false,
        ),
        // Neither says that the machine works, nor that it does not.
        (
            json!({ "quarantineAfter": 3 }),
            &[RolledBack, Refused, RolledBack, RolledBack],
            true,
        ),
        (
            json!({ "quarantineAfter": 3 }),
            &[Refused, Refused, Refused],
            false,
        ),
        (
            json!({ "quarantineAfter": 3 }),
            &[Abandoned, RolledBack, RolledBack],
            false,
        ),
        (json!({ "quarantineAfter": 1 }), &[Stuck], true),
        (json!({ "quarantineAfter": 0 }), &[RolledBack; 5], false),
        (json!({}), &[RolledBack; 5], false),
    ] {
        let mut world = world(settings.clone());
        for (version, outcome) in outcomes.iter().enumerate() {
            attempt(&mut world, version, *outcome);
        }
        assert_eq!(is_aside(&world, "a"), expected, "{settings} {outcomes:?}");
    }
}

#[test]
fn silence_counts_as_a_failure_and_a_release_begins_anew() {
    let mut world = world(json!({ "quarantineAfter": 1 }));
    world.execute();
    world.go("a");
    let mut told = world.pass_without(minutes(60), &["a"]);
    told.retain(|change| matches!(change, Change::Quarantined { .. }));
    let [Change::Quarantined { by, reason, .. }] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert!(by.contains("quarantineAfter"), "{by}");
    assert_eq!(reason, "1 attempts in a row failed");
    world.done(release(&["a"]));
    assert!(!is_aside(&world, "a"));
    world.pass(minutes(5));
    assert!(!is_aside(&world, "a"));
}

#[test]
fn a_count_that_is_none_is_a_fault() {
    for value in [json!(-1), json!("3"), json!(1.5)] {
        let document = json!({
            "updateGroups": { "one": { "machines": ["a"] } },
            "updateSettings": { "quarantineAfter": value },
        });
        let faults = FleetConfig::parse(&document).expect_err("refused").0;
        assert_eq!(faults[0].path, "updateSettings.quarantineAfter", "{value}");
    }
}
