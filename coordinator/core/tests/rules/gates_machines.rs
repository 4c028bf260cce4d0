//! Gates that machines answer: each measurement asks for a check of its own.

use std::time::Duration;

use common::{CheckResult, OutcomeKind};
use coordinator_core::{
    Request, WaitReason,
    analysis::Finding,
    request::{Directive, OperatorRequest},
    rollout::RolloutState,
};
use serde_json::{Value, json};

use crate::{
    fleet::{World, minutes, stop},
    gates::{SECOND, paused, world},
};

/// A gate that asks for the check `web` every minute.
fn web(more: &Value) -> Value {
    let mut web = json!({ "healthCheck": "web", "interval": "1m" });
    let (map, more) = (web.as_object_mut(), more.as_object());
    map.expect("one").extend(more.expect("one").clone());
    json!({ "web": web })
}

/// What the machine will say of its check.
fn says(world: &mut World, machine: &str, passed: bool) {
    world.report(machine).health.checks = vec![CheckResult {
        name: "web".to_owned(),
        passed,
        detail: String::new(),
    }];
}

/// Takes its turn and comes out well, with a check that says this.
fn update(world: &mut World, machine: &str, passed: bool) {
    let grant = world.go(machine);
    says(world, machine, passed);
    world.end(machine, &grant, OutcomeKind::Confirmed);
}

/// The number of the question that the machine is asked.
#[track_caller]
fn question(world: &mut World, machine: &str) -> u64 {
    match world.poll(machine) {
        Directive::Check { request, .. } => request,
        other => panic!("{machine} is not asked: {other:?}"),
    }
}

/// The machine is asked for its checks, and they say this.
#[track_caller]
fn checks(world: &mut World, machine: &str, passed: bool) {
    let request = question(world, machine);
    says(world, machine, passed);
    world.report(machine).health_request = request;
    world.poll(machine);
}

fn tick(world: &mut World, time: Duration) {
    world.now = world.now + time;
    let _tick = world.handle(Request::Tick);
}

/// Passes, inconclusive ones and errors so far.
#[track_caller]
fn counts(world: &mut World) -> (u32, u32, u32) {
    match world.wait("b") {
        WaitReason::Analysing {
            passed,
            inconclusive,
            errors,
            ..
        } => (passed, inconclusive, errors),
        other => panic!("{other}"),
    }
}

#[test]
fn machines_are_asked_for_a_check_of_their_own() {
    let mut world = world(&web(&json!({ "passes": 1 })));
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::Confirmed);
    let request = question(&mut world, "a");
    assert_eq!(counts(&mut world), (0, 0, 0), "it has not answered");
    world.report("a").health_request = request;
    world.poll("a");
    assert_eq!(counts(&mut world), (0, 1, 0), "it does not know the check");
    tick(&mut world, minutes(1));
    checks(&mut world, "a", true);
    update(&mut world, "b", true);
    checks(&mut world, "b", false);
    paused(&world, &rollout, Finding::Fail);
}

#[test]
fn one_report_counts_once() {
    let mut world = world(&web(&json!({ "passes": 3 })));
    let rollout = world.execute();
    update(&mut world, "a", true);
    assert_eq!(counts(&mut world), (0, 0, 0), "what it said before");
    checks(&mut world, "a", true);
    assert_eq!(counts(&mut world), (1, 0, 0));
    for count in 2..=3 {
        tick(&mut world, minutes(1));
        // It says the same as before, and has not looked again.
        for _ in 0..3 {
            let _question = question(&mut world, "a");
            tick(&mut world, 5 * SECOND);
        }
        assert_eq!(counts(&mut world), (count - 1, 0, 0));
        checks(&mut world, "a", true);
    }
    world.go("b");
    assert_eq!(*world.state(&rollout), RolloutState::Active);
}

#[test]
fn a_machine_that_does_not_answer_in_time_is_an_error() {
    let mut world = world(&web(&json!({ "errorLimit": 1 })));
    let rollout = world.execute();
    update(&mut world, "a", true);
    let mut ticks = 0;
    // It is there all the time, and nothing becomes of its checks.
    for errors in 0..=1 {
        assert_eq!(counts(&mut world), (0, 0, errors));
        let end = world.now + minutes(6);
        while world.now < end && world.state(&rollout) == &RolloutState::Active {
            let _question = world.poll("a");
            world.now = world.fleet.next_deadline().min(end);
            let _tick = world.handle(Request::Tick);
            ticks += 1;
        }
    }
    paused(&world, &rollout, Finding::Error);
    assert!(ticks < 40, "{ticks}: the clock is asked again and again");
}

#[test]
fn a_machine_that_is_offline_is_not_waited_for() {
    let mut world = world(&web(&json!({ "passes": 2 })));
    world.execute();
    update(&mut world, "a", true);
    checks(&mut world, "a", true);
    world.pass_without(minutes(8), &["a"]);
    let before = counts(&mut world);
    world.pass_without(minutes(30), &["a"]);
    let state = world.fleet.facts().rollouts[&1].state.clone();
    assert!(matches!(state, RolloutState::Paused(_)), "{before:?}");
}

#[test]
fn an_answer_to_what_was_asked_before_a_restart_does_not_count() {
    let mut world = world(&web(&json!({ "passes": 1 })));
    world.execute();
    update(&mut world, "a", true);
    let before = question(&mut world, "a");
    world.now = world.now + SECOND;
    let facts = world.fleet.facts().clone();
    world.goes_on_from(facts);
    let _tick = world.handle(Request::Tick);
    world.report("a").health_request = before;
    assert!(question(&mut world, "a") > before);
    world.poll("b");
    assert_eq!(counts(&mut world), (0, 0, 0));
    // Nor does one of an earlier life whose clock was ahead.
    world.report("a").health_request = before + 1_000_000;
    let _question = question(&mut world, "a");
    assert_eq!(counts(&mut world), (0, 0, 0));
    checks(&mut world, "a", true);
    world.go("b");
}

#[test]
fn machines_that_an_emergency_stop_holds_are_asked_afterwards() {
    let mut world = world(&web(&json!({ "passes": 1, "errorLimit": 0 })));
    let rollout = world.execute();
    update(&mut world, "a", true);
    world.done(stop(&[]));
    world.pass(minutes(20));
    let told = world.poll("a");
    assert!(matches!(told, Directive::StandDown(_)), "{told:?}");
    world.done(OperatorRequest::Resume {
        reason: "over".to_owned(),
    });
    checks(&mut world, "a", true);
    world.go("b");
    assert_eq!(*world.state(&rollout), RolloutState::Active);
}
