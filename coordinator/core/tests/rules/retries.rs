//! Attempts that are made again: how often, when, with what, and who waits meanwhile.

use std::time::Duration;

use common::OutcomeKind;
use coordinator_core::{
    Change, FleetConfig,
    policy::Policy,
    request::{Directive, OperatorRequest, Reply},
    retry::back_off,
    rollout::{PauseReason, RolloutState},
    wait::WaitReason,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fleet::{World, minutes, wish};

fn world(keys: Value) -> World {
    let mut group = json!({
        "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "maxFailures": 0,
        "retries": 2, "retryAfter": "10m", "rollbackOnFailure": "machine",
    });
    let keys = keys.as_object().expect("keys").clone();
    group.as_object_mut().expect("an object").extend(keys);
    World::new(json!({ "web": group }), json!({ "maxParallel": 3 }))
}

#[test]
fn a_machine_that_fails_tries_again_twice_as_late_each_time_and_not_for_ever() {
    let mut world = world(json!({}));
    let rollout = world.execute();
    world.fails("a");
    assert_eq!(world.place(&rollout, "a"), "pending");
    for (tries, wait) in [(1, 10), (2, 20)] {
        world.pass(minutes(wait - 1));
        let WaitReason::Retry { tries: told, .. } = world.wait("a") else {
            panic!("it does not wait to try again");
        };
        assert_eq!(told, tries);
        world.pass(minutes(2));
        let grant = world.go("a");
        assert!(grant.force, "what failed there before is to be tried again");
        world.end("a", &grant, OutcomeKind::RolledBack);
    }
    assert_eq!(world.place(&rollout, "a"), "rolled-back");
    let state = world.state(&rollout);
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::BudgetSpent { failed: 1, .. })
    ));
}

#[test]
fn a_machine_tries_again_as_often_and_as_late_as_its_own_rules_say() {
    let groups = json!({ "web": {
        "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "maxFailures": 3, "retries": 1,
        "retryAfter": "10m", "rollbackOnFailure": "machine",
    } });
    let own = json!({ "a": { "retries": 2, "retryAfter": "1h" }, "b": { "retries": 0 } });
    let mut world = World::of(&json!({ "updateGroups": groups, "updateMachines": own }));
    let rollout = world.execute();
    world.fails("b");
    assert_eq!(world.place(&rollout, "b"), "rolled-back", "it does not");
    world.fails("c");
    world.fails("a");
    world.pass(minutes(11));
    world.fails("c");
    assert_eq!(
        world.place(&rollout, "c"),
        "rolled-back",
        "as its group does"
    );
    world.pass(minutes(40));
    world.waits_for("a", "retry");
    world.pass(minutes(10));
    world.fails("a");
    assert_eq!(world.place(&rollout, "a"), "pending");
    world.pass(minutes(119));
    world.waits_for("a", "retry");
    world.pass(minutes(2));
    world.fails("a");
    assert_eq!(world.place(&rollout, "a"), "rolled-back");
}

#[test]
fn what_succeeds_after_all_has_not_failed() {
    let mut world = world(json!({}));
    let rollout = world.execute();
    world.fails("a");
    world.pass(minutes(11));
    world.update("a");
    world.update("b");
    world.update("c");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
    let group = &world.fleet.rollout(&rollout).expect("kept").groups[0];
    assert_eq!((group.failed, group.retrying), (0, 0));
}

#[test]
fn nobody_begins_beside_it_for_whom_the_budget_has_no_room() {
    let mut tight = world(json!({}));
    tight.execute();
    tight.fails("a");
    let waits = tight.wait("b");
    assert_eq!((waits.kind(), waits.by_itself()), ("retrying", true));
    let next = waits.next().map(|at| at.since(tight.now));
    assert_eq!(next, Some(minutes(10)), "retryAfter");
    assert_eq!(waits.then().as_deref(), Some("a tries again"));
    tight.pass(minutes(11));
    let grant = tight.go("a");
    tight.waits_for("b", "retrying");
    tight.end("a", &grant, OutcomeKind::Confirmed);
    tight.update("b");
    // Where one may fail there is room beside one that has.
    let mut wide = world(json!({ "maxFailures": 1 }));
    wide.execute();
    wide.fails("a");
    wide.update("b");
}

#[test]
fn the_budget_of_the_fleet_holds_others_as_well() {
    let group = |machine: &str| {
        json!({
            "machines": [machine], "updatePolicy": "aggressive", "maxFailures": 1, "retries": 1,
            "rollbackOnFailure": "machine",
        })
    };
    let groups = json!({ "one": group("a"), "two": group("b") });
    let mut world = World::new(groups, json!({ "maxFailures": 0 }));
    world.execute();
    world.fails("a");
    world.waits_for("b", "retrying");
}

#[test]
fn who_refuses_or_declines_tries_again_and_who_is_stuck_does_not() {
    let mut world = world(json!({ "maxFailures": 3 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::Refused);
    assert_eq!(world.place(&rollout, "a"), "pending");
    let grant = world.go("b");
    world.end("b", &grant, OutcomeKind::Stuck);
    assert_eq!(world.place(&rollout, "b"), "failed");
}

#[test]
fn what_is_staged_again_is_a_new_wish_and_is_forced() {
    let mut world = world(json!({}));
    world.execute();
    world.fails("a");
    world.report("a").staged = None;
    let told = world.poll_without_staging("a");
    let Reply::Directive(Directive::Stage { wish, force, .. }) = told else {
        panic!("it is not to obtain its target again: {told:?}");
    };
    assert_eq!((wish, force), (1, true));
}

#[test]
fn a_machine_put_aside_for_it_does_not_try_again_and_counts() {
    let groups = json!({ "web": {
        "machines": ["a", "b"], "updatePolicy": "aggressive", "maxFailures": 0, "retries": 5,
        "rollbackOnFailure": "machine",
    } });
    let mut world = World::new(groups, json!({ "quarantineAfter": 2 }));
    let rollout = world.execute();
    world.fails("a");
    world.pass(minutes(11));
    world.fails("a");
    assert_eq!(world.place(&rollout, "a"), "rolled-back");
    let group = &world.fleet.rollout(&rollout).expect("kept").groups[0];
    assert_eq!((group.failed, group.retrying), (1, 0));
}

#[test]
fn a_rollout_that_is_paused_has_nobody_try_again() {
    let mut world = world(json!({}));
    let rollout = world.execute();
    let grant = world.go("a");
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    world.end("a", &grant, OutcomeKind::RolledBack);
    assert_eq!(world.place(&rollout, "a"), "rolled-back");
}

#[test]
fn a_rollout_does_not_lose_its_patience_with_who_is_to_try_again() {
    let mut world = world(json!({ "retryAfter": "20h" }));
    let rollout = world.execute();
    world.fails("a");
    world.pass(minutes(19 * 60));
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    let changes = world.pass(minutes(90));
    let paused = |change: &Change| matches!(change, Change::RolloutPaused { .. });
    assert!(!changes.iter().any(paused));
    world.update("a");
}

#[test]
fn going_back_is_not_tried_again() {
    let mut world = world(json!({}));
    world.execute();
    world.update("a");
    world.update("b");
    world.update("c");
    let back = coordinator_core::request::Wish {
        action: common::Action::Rollback,
        ..wish(&[])
    };
    let reply = world.ask(OperatorRequest::Execute {
        wish: back,
        if_plan: None,
    });
    let Reply::Executed {
        rollout: Some(rollout),
        ..
    } = reply
    else {
        panic!("{reply:?}");
    };
    world.fails("a");
    assert_eq!(world.place(&rollout, "a"), "rolled-back");
}

#[test]
fn wrong_keys_are_refused() {
    for (key, value) in [
        ("retries", json!("twice")),
        ("retryAfter", json!("0s")),
        ("retryAfter", json!(true)),
    ] {
        let document = json!({ "updateGroups": { "web": { "machines": ["a"], key: value } } });
        let faults = FleetConfig::parse(&document).expect_err("refused");
        assert_eq!(faults.0[0].path, format!("updateGroups.web.{key}"));
    }
}

fn policy(after: u64) -> Policy {
    let document = json!({ "updateGroups": { "web": {
        "machines": ["a"], "retries": 3, "retryAfter": after,
    } } });
    let config = FleetConfig::parse(&document).expect("valid");
    config.groups.into_values().next().expect("one").policy
}

proptest! {
    /// Against doubling it step by step.
    #[test]
    fn each_wait_is_twice_the_one_before_up_to_a_day(after in 1_u64..200_000, tries in 1_u32..60) {
        let day = Duration::from_secs(24 * 3600);
        let mut expected = Duration::from_secs(after);
        for _ in 1..tries {
            expected = (expected * 2).min(day);
        }
        prop_assert_eq!(back_off(&policy(after), tries), expected.min(day));
    }
}
