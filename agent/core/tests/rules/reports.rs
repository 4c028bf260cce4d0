//! What a machine says of itself: results, health, notes.

use std::time::Duration;

use agent_core::{Directive, Note, Step};
use common::{HealthState, LeaseId, OutcomeKind};

use crate::{
    attempt::{run, said_no},
    world::{Script, World, proceed},
};

use OutcomeKind::{Confirmed, Stuck};

#[test]
fn a_result_is_sent_until_it_is_acknowledged_and_always_the_same() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    world.script.connected = false;
    let first = world.finish();
    for _ in 0..60 {
        world.pass_time();
        world.work_all();
    }
    world.restart(agent_core::UnitState::Absent);
    assert!(world.reports.len() > 5, "{}", world.reports.len());
    assert!(world.reports.iter().all(|report| *report == first));
    assert!(world.disk.unreported.is_some());
    world.script.connected = true;
    for _ in 0..10 {
        world.pass_time();
    }
    assert_eq!(world.disk.unreported, None);
}

#[test]
fn a_new_lease_waits_until_the_last_result_is_known() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    world.script.connected = false;
    world.finish();
    world.say(Directive::Proceed(proceed(8)));
    assert_eq!(world.disk.attempt, None);
    assert_eq!(world.disk.lease, LeaseId(7), "lease 8 can still be used");
}

#[test]
fn health_is_checked_when_asked_and_once_per_request() {
    let mut world = World::new(Script::default());
    world.work_all();
    let check = Directive::Check {
        request: 3,
        timeout: Duration::from_secs(10),
    };
    world.say(check.clone());
    world.work_all();
    let report = world
        .agent
        .report(world.now)
        .expect("a started agent reports");
    assert_eq!(report.health_request, 3);
    assert_eq!(report.health.state, HealthState::Healthy);
    world.say(check);
    assert!(world.open.is_empty(), "already answered");
}

#[test]
fn what_was_healthy_before_says_nothing_of_what_runs_now() {
    let script = Script {
        post: Ok(said_no()),
        ..Script::default()
    };
    let mut world = World::staged(script);
    assert_eq!(health(&mut world), HealthState::Healthy);
    let mut lease = proceed(7);
    lease.rollback_on_failure = false;
    world.say(Directive::Proceed(lease));
    let result = world.finish();
    assert_eq!(result.outcome.kind, Stuck, "and nobody has judged it");
    assert_eq!(health(&mut world), HealthState::Unknown);
    world.work_all();
    assert_eq!(
        health(&mut world),
        HealthState::Healthy,
        "by a check of its own"
    );
}

fn health(world: &mut World) -> HealthState {
    let report = world.agent.report(world.now);
    report.expect("a started agent reports").health.state
}

#[test]
fn what_had_failed_before_is_told_with_a_confirmation() {
    let script = Script {
        no_better: vec!["web fails, as before: status 500".to_owned()],
        ..Script::default()
    };
    let (_, kind, reason) = run(script, proceed(7));
    assert_eq!(kind, Confirmed);
    assert_eq!(reason, "web fails, as before: status 500");
}

#[test]
fn notes_say_what_happened() {
    let (world, ..) = run(Script::default(), proceed(7));
    let ended = world.notes.iter().any(|note| {
        matches!(
            note,
            Note::Ended {
                lease: LeaseId(7),
                outcome: Confirmed,
                ..
            }
        )
    });
    assert!(ended, "{:?}", world.notes);
}
