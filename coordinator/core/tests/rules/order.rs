//! Order: dependencies, stagger, waves, canary, soak, approval, windows, late machines.

use std::time::Duration;

use common::{HealthState, OutcomeKind, Target};
use coordinator_core::{
    Reply,
    request::{OperatorRequest, Refusal, Wish},
    rollout::{PauseReason, RolloutState},
};
use serde_json::json;

use crate::fleet::{World, minutes, path, wish};

fn chain() -> World {
    let groups = json!({
        "dev": { "machines": ["d1", "d2"], "updatePolicy": "aggressive" },
        "prod": { "machines": ["p1"], "updatePolicy": "aggressive", "dependencies": ["dev"] },
    });
    World::new(groups, json!({ "maxParallel": 2, "staggerDelay": "30m" }))
}

#[test]
fn a_group_waits_for_those_it_depends_on_and_then_some() {
    let mut world = chain();
    let rollout = world.execute();
    world.waits_for("p1", "dependency");
    world.update("d1");
    world.waits_for("p1", "dependency");
    world.update("d2");
    world.waits_for("p1", "stagger");
    world.pass(minutes(29));
    world.waits_for("p1", "stagger");
    world.pass(minutes(1));
    world.update("p1");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn a_plan_names_the_wait_that_the_rule_makes() {
    let groups = json!({
        "dev": { "machines": ["d1"], "staggerDelay": "30m" },
        "prod": { "machines": ["p1"], "staggerDelay": "5m", "dependencies": ["dev"] },
    });
    let mut world = World::new(groups, json!({}));
    let dev = "dev".parse().expect("a name");
    let waits = |wish| world.fleet.plan(&wish).expect("a plan").groups.pop();
    let after = |wish| waits(wish).expect("prod").after;
    assert_eq!(after(wish(&[])), [(dev, minutes(30))]);
    // Also of a group that is no part of the plan, and not when nothing is waited for.
    assert_eq!(after(wish(&["prod"])), after(wish(&[])));
    let mut at_once = wish(&[]);
    at_once.immediate = true;
    assert_eq!(after(at_once)[0].1, Duration::ZERO);

    world.execute();
    world.update("d1");
    world.pass(minutes(29));
    world.waits_for("p1", "stagger");
    world.pass(minutes(1));
    world.go("p1");
}

#[test]
fn dependencies_hold_between_rollouts_too() {
    let mut world = chain();
    world.execute_some(&["dev"]);
    world.execute_some(&["prod"]);
    world.waits_for("p1", "dependency");
    world.update("d1");
    world.update("d2");
    world.waits_for("p1", "stagger");
    world.pass(minutes(30));
    world.go("p1");
}

#[test]
fn the_canary_goes_first_and_soaks() {
    let groups = json!({ "web": {
        "machines": ["a", "b", "c"], "updatePolicy": "conservative", "canarySoak": "10m" } });
    let mut world = World::new(groups, json!({ "maxParallel": 3 }));
    let rollout = world.execute();
    world.waits_for("b", "wave-not-open");
    world.update("a");
    world.waits_for("b", "soaking");
    world.pass(minutes(9));
    world.waits_for("b", "soaking");
    world.pass(minutes(1));
    world.update("b");
    world.update("c");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn an_ill_canary_holds_the_wave_and_then_pauses_the_rollout() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "conservative" } });
    let mut world = World::new(groups, json!({ "maxParallel": 2 }));
    let rollout = world.execute();
    world.update("a");
    world.health("a", HealthState::Unhealthy);
    world.pass(minutes(60));
    world.waits_for("b", "group-unhealthy");
    world.pass(minutes(180));
    let state = world.state(&rollout).clone();
    assert!(
        matches!(&state, RolloutState::Paused(PauseReason::NoProgress { .. })),
        "{state:?}"
    );
}

#[test]
fn a_group_that_stands_still_is_seen_behind_one_that_waits_for_a_person() {
    let groups = json!({
        "web": { "machines": ["a", "b"], "updatePolicy": "conservative" },
        "db": { "machines": ["c"], "updatePolicy": "manual-approval" },
    });
    let mut world = World::new(groups, json!({ "maxParallel": 2 }));
    let rollout = world.execute();
    world.update("a");
    world.health("a", HealthState::Unhealthy);
    world.waits_for("c", "approval");
    world.pass(minutes(60));
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.pass(minutes(180));
    let state = world.state(&rollout).clone();
    assert!(
        matches!(&state, RolloutState::Paused(PauseReason::NoProgress { waited_for, .. }) if waited_for.starts_with("b: ")),
        "{state:?}"
    );
}

#[test]
fn a_group_may_wait_for_a_person() {
    let groups = json!({ "db": { "machines": ["a"], "updatePolicy": "manual-approval" } });
    let mut world = World::new(groups, json!({}));
    let rollout = world.execute();
    world.waits_for("a", "approval");
    world.pass(minutes(24 * 60));
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.done(OperatorRequest::Approve {
        rollout: None,
        group: None,
        reject: false,
        comment: String::new(),
    });
    world.update("a");
}

#[test]
fn an_approval_that_nobody_gives_pauses_and_can_be_asked_again() {
    let groups = json!({ "db": { "machines": ["a"], "updatePolicy": "manual-approval" } });
    let mut world = World::new(groups, json!({ "approvalExpiry": "2h" }));
    let rollout = world.execute();
    world.pass(minutes(121));
    let state = world.state(&rollout).clone();
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::ApprovalExpired { .. })
    ));
    world.done(OperatorRequest::ResumeRollout {
        rollout: None,
        reason: String::new(),
    });
    world.pass(minutes(60));
    assert_eq!(*world.state(&rollout), RolloutState::Active);
}

#[test]
fn two_approvals_that_run_out_together_pause_once() {
    let group = |machine: &str| json!({ "machines": [machine], "updatePolicy": "manual-approval" });
    let groups = json!({ "db": group("a"), "web": group("b") });
    let mut world = World::new(groups, json!({ "approvalExpiry": "2h" }));
    let rollout = world.execute();
    // Every fact is held against the state before it.
    world.pass(minutes(121));
    let state = world.state(&rollout).clone();
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::ApprovalExpired { .. })
    ));
}

#[test]
fn a_rejection_pauses() {
    let groups = json!({ "db": { "machines": ["a"], "updatePolicy": "manual-approval" } });
    let mut world = World::new(groups, json!({}));
    let rollout = world.execute();
    world.done(OperatorRequest::Approve {
        rollout: Some(rollout.clone()),
        group: None,
        reject: true,
        comment: "not today".to_owned(),
    });
    world.waits_for("a", "paused");
}

#[test]
fn nobody_goes_outside_the_window_or_too_late_in_it() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive",
        "maintenanceWindow": "02:00-03:00", "expectedDuration": "20m" } });
    let mut world = World::new(groups, json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    world.waits_for("a", "window-closed");
    world.pass(minutes(120));
    world.update("a");
    world.pass(minutes(41));
    world.waits_for("b", "window-too-short");
    world.pass(minutes(24 * 60 - 41));
    world.update("b");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn a_clock_that_is_set_back_is_followed() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive",
        "maintenanceWindow": "02:00-03:00", "expectedDuration": "20m" } });
    let mut world = World::new(groups, json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let true_time = world.now;
    world.now = true_time + minutes(24 * 60 + 125);
    let grant = world.go("a");
    // What the wrong time made seem open is closed, and who is away keeps its slot.
    world.now = true_time;
    world.waits_for("b", "window-closed");
    world.pass(minutes(121));
    world.waits_for("b", "group-limit");
    world.end("a", &grant, OutcomeKind::Confirmed);
    world.update("b");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn a_clock_that_stumbles_stands_still_for_a_moment() {
    let groups = json!({ "web": { "machines": ["a"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({}));
    let before = world.now;
    world.now = before - Duration::from_secs(1);
    world.poll("a");
    assert_eq!(world.fleet.hearsay().now, before);
}

#[test]
fn offline_machines_do_not_hold_the_others_and_catch_up() {
    let mut world = chain();
    let rollout = world.execute();
    world.update("d1");
    world.pass_without(minutes(12), &["d2"]);
    world.waits_for("p1", "stagger");
    world.pass_without(minutes(31), &["d2"]);
    world.update("p1");
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.update("d2");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn who_never_comes_is_left_out_in_the_end() {
    let mut world = chain();
    let rollout = world.execute_some(&["dev"]);
    world.update("d1");
    world.pass_without(minutes(25 * 60), &["d2"]);
    assert_eq!(world.place(&rollout, "d2"), "skipped");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn a_canary_that_is_offline_proves_nothing() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "conservative" } });
    let mut world = World::new(groups, json!({}));
    world.execute();
    world.pass_without(minutes(60), &["a"]);
    world.waits_for("b", "wave-not-open");
}

#[test]
fn one_rollout_at_a_time_touches_a_machine() {
    let mut world = chain();
    let first = world.execute_some(&["dev"]);
    let request = OperatorRequest::Execute {
        wish: wish(&["dev"]),
        if_plan: None,
    };
    assert!(matches!(world.refused(request.clone()), Refusal::NotNow(_)));
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    world.done(request);
    // It brought nobody anywhere.
    assert_eq!(*world.state(&first), RolloutState::Failed);
}

#[test]
fn a_plan_that_no_longer_holds_is_refused() {
    let mut world = chain();
    let coordinator_core::Reply::Plan(plan, _) = world.ask(OperatorRequest::Plan(wish(&[]))) else {
        panic!("no plan")
    };
    world.execute_some(&["dev"]);
    world.update("d1");
    let if_plan = Some(plan.digest());
    let refusal = world.refused(OperatorRequest::Execute {
        wish: wish(&[]),
        if_plan,
    });
    assert!(matches!(refusal, Refusal::Changed(_)), "{refusal:?}");
}

#[test]
fn a_plan_of_another_configuration_or_with_other_flags_is_another_plan() {
    let mut world = chain();
    let shown = world.fleet.plan(&wish(&[])).expect("a plan").digest();
    let immediate = Wish {
        immediate: true,
        ..wish(&[])
    };
    let again = Wish {
        retry_failed: true,
        ..wish(&[])
    };
    for other in [immediate, again] {
        let other = world.fleet.plan(&other).expect("a plan").digest();
        assert_ne!(other, shown);
    }
    // The groups are the same, and yet nobody goes at the same time.
    let config = world.fleet.facts().config.clone().expect("configured");
    let mut document = config.document;
    document["updateSettings"]["apart"] = json!([["d1", "p1"]]);
    world.configure(&document);
    let refusal = world.refused(OperatorRequest::Execute {
        wish: wish(&[]),
        if_plan: Some(shown),
    });
    assert!(matches!(refusal, Refusal::Changed(_)), "{refusal:?}");
}

#[test]
fn a_rollback_goes_to_where_each_machine_came_from() {
    let mut world = chain();
    world.execute_some(&["dev"]);
    world.update("d1");
    world.update("d2");
    let mut back = wish(&["dev"]);
    back.action = common::Action::Rollback;
    world.done(OperatorRequest::Execute {
        wish: back.clone(),
        if_plan: None,
    });
    for machine in ["d1", "d2"] {
        let grant = world.go(machine);
        assert_eq!(grant.target.closure(), Some(&path("1")));
        world.end(machine, &grant, OutcomeKind::Confirmed);
    }
    // Back is back: a second one has nowhere to go.
    let reply = world.ask(OperatorRequest::Execute {
        wish: back,
        if_plan: None,
    });
    assert!(matches!(reply, Reply::Executed { rollout: None, .. }));
}

#[test]
fn a_rollback_undoes_the_newest_update_and_none_before_it() {
    let groups = json!({ "web": {
        "machines": ["a", "b", "c", "d", "e"], "updatePolicy": "aggressive", "maxFailures": 1,
        "rollbackOnFailure": "machine",
    } });
    let mut world = World::new(groups, json!({ "maxParallel": 3 }));
    world.execute();
    for machine in ["a", "b", "c", "d", "e"] {
        world.update(machine);
    }
    let newest = path("3");
    let machines = world.reports.keys().cloned();
    let targets = machines.map(|m| (m, Target::Closure(newest.clone())));
    world.done(OperatorRequest::PinTargets {
        targets: targets.collect(),
        reason: String::new(),
    });
    let rollout = world.execute();
    // One arrives, one goes back by itself, one waits for its next boot, one fails and is left as it
    // is, and the last one never gets its turn.
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::Confirmed);
    let grant = world.go("b");
    world.end("b", &grant, OutcomeKind::RolledBack);
    let grant = world.go("c");
    world.report("c").profile = Some(newest.clone());
    world.end("c", &grant, OutcomeKind::RebootRequired);
    let grant = world.go("d");
    world.report("d").running = Some(newest);
    world.end("d", &grant, OutcomeKind::Stuck);
    world.waits_for("e", "paused");
    assert_eq!(world.place(&rollout, "e"), "pending");

    let mut back = wish(&["web"]);
    back.action = common::Action::Rollback;
    let Reply::Plan(plan, _) = world.ask(OperatorRequest::Plan(back)) else {
        panic!("no plan");
    };
    let waves = plan.groups.iter().flat_map(|group| &group.waves);
    let goes: Vec<(&str, &Target)> = waves
        .flat_map(|wave| &wave.machines)
        .map(|machine| (machine.name.as_str(), &machine.target))
        .collect();
    let two = Target::Closure(path("2"));
    assert_eq!(goes, [("a", &two), ("c", &two), ("d", &two)], "{plan:#?}");
}
