//! The failure budget.

use common::OutcomeKind;
use coordinator_core::{
    request::OperatorRequest,
    rollout::{PauseReason, RolloutState},
};
use serde_json::json;

use crate::fleet::{World, minutes};

fn four(allowed: u32) -> World {
    let groups = json!({ "web": { "machines": ["a", "b", "c", "d"],
        "updatePolicy": "aggressive", "maxFailures": allowed } });
    World::new(groups, json!({ "maxParallel": 2 }))
}

fn fail(world: &mut World, machine: &str, how: OutcomeKind) {
    let grant = world.go(machine);
    world.end(machine, &grant, how);
}

#[test]
fn failures_up_to_the_budget_are_taken() {
    let mut world = four(1);
    let rollout = world.execute();
    fail(&mut world, "a", OutcomeKind::RolledBack);
    for machine in ["b", "c", "d"] {
        world.update(machine);
    }
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn one_more_pauses_at_once() {
    let mut world = four(0);
    let rollout = world.execute();
    fail(&mut world, "a", OutcomeKind::RolledBack);
    let state = world.state(&rollout).clone();
    let spent = matches!(
        &state,
        RolloutState::Paused(PauseReason::BudgetSpent {
            failed: 1,
            allowed: 0,
            ..
        })
    );
    assert!(spent, "{state:?}");
    world.waits_for("b", "paused");
    // Resuming accepts what happened; the next failure counts anew.
    world.done(OperatorRequest::ResumeRollout {
        rollout: None,
        reason: "known".to_owned(),
    });
    world.update("b");
    fail(&mut world, "c", OutcomeKind::RolledBack);
    world.waits_for("d", "paused");
}

#[test]
fn silence_counts() {
    let mut world = four(0);
    world.execute();
    world.go("a");
    world.pass_without(minutes(16), &["a"]);
    world.waits_for("b", "paused");
}

#[test]
fn refusing_counts_and_changes_nothing() {
    let mut world = four(0);
    let rollout = world.execute();
    fail(&mut world, "a", OutcomeKind::Refused);
    assert_eq!(world.place(&rollout, "a"), "refused");
    assert_eq!(world.fleet.index().away_total, 0);
    world.waits_for("b", "paused");
}

#[test]
fn when_nobody_succeeded_the_rollout_failed() {
    let groups = json!({ "web": { "machines": ["a"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({}));
    let rollout = world.execute();
    fail(&mut world, "a", OutcomeKind::RolledBack);
    assert_eq!(*world.state(&rollout), RolloutState::Failed);
}

#[test]
fn a_turn_cannot_be_given_back_for_ever() {
    let mut world = four(0);
    let rollout = world.execute();
    for _ in 0..coordinator_core::rollout::RETURNS_MAX {
        fail(&mut world, "a", OutcomeKind::Abandoned);
        assert_eq!(world.place(&rollout, "a"), "pending");
    }
    fail(&mut world, "a", OutcomeKind::Abandoned);
    assert_eq!(world.place(&rollout, "a"), "refused");
    world.waits_for("b", "paused");
}
