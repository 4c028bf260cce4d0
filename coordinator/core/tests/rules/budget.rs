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
    World::new(
        groups,
        json!({ "maxParallel": 2, "rollbackOnFailure": "machine" }),
    )
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

fn two_groups(allowed: serde_json::Value) -> World {
    let group = |machines: [&str; 3]| json!({ "machines": machines, "updatePolicy": "aggressive", "maxFailures": 2, "maxParallel": 3 });
    let groups = json!({ "a": group(["a1", "a2", "a3"]), "b": group(["b1", "b2", "b3"]) });
    World::new(
        groups,
        json!({ "maxParallel": 6, "maxFailures": allowed, "rollbackOnFailure": "machine" }),
    )
}

#[test]
fn failures_of_all_groups_count_together() {
    for allowed in [json!(1), json!("30%")] {
        let mut world = two_groups(allowed);
        let rollout = world.execute();
        fail(&mut world, "a1", OutcomeKind::RolledBack);
        world.update("a2");
        fail(&mut world, "b1", OutcomeKind::RolledBack);
        let expected = RolloutState::Paused(PauseReason::FleetBudgetSpent {
            failed: 2,
            allowed: 1,
        });
        assert_eq!(*world.state(&rollout), expected);
        world.waits_for("a3", "paused");
        // Who resumes takes these failures, and the counting begins anew.
        world.done(OperatorRequest::ResumeRollout {
            rollout: None,
            reason: String::new(),
        });
        fail(&mut world, "a3", OutcomeKind::RolledBack);
        world.update("b2");
        fail(&mut world, "b3", OutcomeKind::RolledBack);
    }
}

#[test]
fn without_a_limit_of_the_fleet_each_group_counts_for_itself() {
    let mut world = two_groups(json!(null));
    let rollout = world.execute();
    for machine in ["a1", "a2", "b1", "b2"] {
        fail(&mut world, machine, OutcomeKind::RolledBack);
    }
    assert_eq!(*world.state(&rollout), RolloutState::Active);
}
