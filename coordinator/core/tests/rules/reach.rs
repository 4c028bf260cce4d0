//! Machines that cannot be reached, come back late, or are ill as a whole; a coordinator that was
//! away itself.

use common::{Action, HealthState, OutcomeKind};
use coordinator_core::{
    Request,
    request::{OperatorRequest, Reply},
    rollout::{PauseReason, RolloutState},
};
use serde_json::json;

use crate::fleet::{World, minutes, wish};

fn resume(world: &mut World) {
    world.done(OperatorRequest::ResumeRollout {
        rollout: None,
        reason: "seen".to_owned(),
    });
}

fn two_groups() -> World {
    let groups = json!({
        "dev": { "machines": ["d1", "d2"], "updatePolicy": "aggressive" },
        "prod": { "machines": ["p1"], "updatePolicy": "aggressive", "dependencies": ["dev"] },
    });
    World::new(groups, json!({ "maxParallel": 2, "staggerDelay": 0 }))
}

#[test]
fn a_group_that_is_ill_as_a_whole_can_be_taken_back() {
    let groups = json!({ "web": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({ "maxParallel": 1 }));
    world.execute();
    for machine in ["a", "b", "c"] {
        world.update(machine);
    }
    for machine in ["a", "b", "c"] {
        world.health(machine, HealthState::Unhealthy);
    }
    let mut back = wish(&[]);
    back.action = Action::Rollback;
    let reply = world.ask(OperatorRequest::Execute {
        wish: back,
        if_plan: None,
    });
    assert!(matches!(reply, Reply::Executed { .. }), "{reply:?}");
    let grant = world.go("a");
    // One at a time all the same.
    world.waits_for("b", "group-limit");
    let known = world.reports.get_mut(&crate::fleet::name("a")).expect("a");
    known.health.state = HealthState::Healthy;
    world.end("a", &grant, OutcomeKind::Confirmed);
    world.go("b");
}

#[test]
fn whoever_is_well_waits_for_those_who_are_ill() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({ "maxParallel": 1 }));
    world.health("a", HealthState::Unhealthy);
    world.execute();
    world.waits_for("b", "group-limit");
}

#[test]
fn nobody_goes_on_the_strength_of_a_group_that_cannot_be_reached() {
    let mut world = two_groups();
    let rollout = world.execute();
    world.pass_without(minutes(60), &["d1", "d2"]);
    world.waits_for("p1", "dependency");
    world.pass_without(minutes(180), &["d1", "d2"]);
    let state = world.state(&rollout).clone();
    assert!(
        matches!(state, RolloutState::Paused(PauseReason::NoProgress { .. })),
        "{state:?}"
    );
    resume(&mut world);
    world.pass_without(minutes(10), &["d1", "d2"]);
    world.update("p1");
    world.update("d1");
    world.update("d2");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn one_machine_that_was_updated_speaks_for_a_group_whose_others_are_away() {
    let mut world = two_groups();
    world.execute();
    world.update("d1");
    world.pass_without(minutes(15), &["d2"]);
    world.update("p1");
}

#[test]
fn a_rollout_that_reached_nobody_has_failed() {
    let groups = json!({ "lone": { "machines": ["a"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({ "catchUp": "2h" }));
    let rollout = world.execute();
    world.pass_without(minutes(150), &["a"]);
    assert_eq!(world.place(&rollout, "a"), "skipped");
    assert_eq!(*world.state(&rollout), RolloutState::Failed);
    assert_eq!(
        told_at_the_end(&world),
        ("rollout-failed", "1 not reached in time (a)")
    );
}

/// The last entry of the history: its kind, and what it says.
fn told_at_the_end(world: &World) -> (&str, &str) {
    let last = world.history.last().expect("an entry");
    (&last.kind, &last.text)
}

#[test]
fn who_is_told_of_the_end_is_told_what_has_come_of_it() {
    let groups = json!({ "web": { "updatePolicy": "aggressive", "canary": 0, "maxFailures": 3,
        "machines": ["a", "b", "c", "d", "e", "f", "g", "h", "i"] } });
    let mut world = World::new(groups, json!({ "maxParallel": 9, "catchUp": "2h" }));
    world.execute();
    world.update("a");
    world.update("c");
    for (machine, outcome) in [
        ("b", OutcomeKind::RolledBack),
        ("d", OutcomeKind::RebootRequired),
    ] {
        let grant = world.go(machine);
        world.end(machine, &grant, outcome);
    }
    world.pass_without(minutes(150), &["e", "f", "g", "h", "i"]);
    assert_eq!(
        told_at_the_end(&world),
        (
            "rollout-finished",
            "2 updated, 1 rolled back (b), 1 to be rebooted (d), \
             5 not reached in time (e, f, g, h and 1 more)"
        )
    );
}

#[test]
fn a_canary_that_failed_within_the_budget_shows_nothing() {
    let groups = json!({ "web": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive",
        "canary": 1, "canarySoak": 0, "maxFailures": 1 } });
    let mut world = World::new(groups, json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::RolledBack);
    let state = world.state(&rollout).clone();
    assert!(
        matches!(
            state,
            RolloutState::Paused(PauseReason::CanaryFailed { .. })
        ),
        "{state:?}"
    );
    world.waits_for("b", "paused");
    resume(&mut world);
    world.update("b");
    world.update("c");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn who_accepts_a_failed_canary_is_asked_once() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "conservative",
        "canarySoak": 0 } });
    let mut world = World::new(groups, json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::RolledBack);
    let state = world.state(&rollout).clone();
    assert!(
        matches!(state, RolloutState::Paused(PauseReason::BudgetSpent { .. })),
        "{state:?}"
    );
    resume(&mut world);
    world.update("b");
}

#[test]
fn who_accepts_what_failed_in_one_group_does_not_accept_the_canary_of_another() {
    let groups = json!({
        "one": { "machines": ["a"], "updatePolicy": "aggressive", "maxFailures": 0 },
        "two": { "machines": ["b", "c"], "updatePolicy": "aggressive", "canary": 1, "canarySoak": 0 },
    });
    let settings = json!({ "maxParallel": 1, "rollbackOnFailure": "machine" });
    let mut world = World::new(groups, settings);
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::RolledBack);
    resume(&mut world);
    let grant = world.go("b");
    world.end("b", &grant, OutcomeKind::RolledBack);
    let state = world.state(&rollout).clone();
    assert!(
        matches!(
            state,
            RolloutState::Paused(PauseReason::CanaryFailed { .. })
        ),
        "{state:?}"
    );
}

#[test]
fn a_machine_that_comes_back_late_has_its_time_to_obtain_the_target() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "conservative" } });
    let mut world = World::new(groups, json!({ "maxParallel": 1, "stageTimeout": "30m" }));
    // It went away before it was told what to obtain, and comes back in another boot.
    let known = world.reports.get_mut(&crate::fleet::name("a")).expect("a");
    known.staged = None;
    known.boot_id = "boot-2".parse().expect("boot");
    world.poll_without_staging("a");
    world.pass_without(minutes(20), &["a"]);
    let rollout = world.execute();
    world.pass_without(minutes(90), &["a"]);
    world.poll_without_staging("a");
    assert_eq!(world.place(&rollout, "a"), "pending");
    world.pass_staging_nothing(minutes(20), "a");
    assert_eq!(world.place(&rollout, "a"), "pending");
    world.pass_staging_nothing(minutes(20), "a");
    assert_eq!(world.place(&rollout, "a"), "refused");
}

#[test]
fn a_late_machine_at_work_when_its_time_is_over_leaves_nothing_due() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({ "maxParallel": 1, "catchUp": "1h" }));
    let rollout = world.execute();
    world.update("a");
    world.pass_without(minutes(15), &["b"]);
    let grant = world.go("b");
    // Every decision from here on looks whether a deadline lies in the past.
    for _ in 0..24 {
        world.pass(minutes(5));
        world.renew("b", &grant);
    }
    world.end("b", &grant, OutcomeKind::Confirmed);
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn nobody_is_blamed_for_the_time_in_which_the_coordinator_was_away() {
    let groups = json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive" } });
    let mut world = World::new(groups, json!({ "maxParallel": 2, "leaseTime": "10m" }));
    let rollout = world.execute();
    let grant = world.go("a");
    // It stood still for an hour, or its clock was set forward.
    world.now = world.now + minutes(60);
    let _ticked = world.handle(Request::Tick);
    assert_eq!(world.place(&rollout, "a"), "leased");
    assert!(!world.fleet.is_offline(&crate::fleet::name("b"), world.now));
    // From now on silence counts as ever.
    world.pass(minutes(11));
    assert_eq!(world.place(&rollout, "a"), "overdue");
    world.renew("a", &grant);
    assert_eq!(world.place(&rollout, "a"), "leased");
}

#[test]
fn an_approval_that_runs_out_under_a_stop_leaves_nothing_due() {
    let groups = json!({ "db": { "machines": ["a"], "updatePolicy": "manual-approval" } });
    let mut world = World::new(groups, json!({ "approvalExpiry": "1h" }));
    world.execute();
    world.waits_for("a", "approval");
    world.done(crate::fleet::stop(&[]));
    world.pass(minutes(90));
    let _ticked = world.handle(Request::Tick);
    assert!(world.fleet.next_deadline() > world.now + minutes(1));
}
