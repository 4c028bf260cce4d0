//! Schedules: begin, are missed, skipped, run by hand, and end.

use std::time::Duration;

use common::{Declined, DeclinedKind, HealthState, OutcomeKind, Target, Timestamp};
use coordinator_core::{
    Change, Reply, Request,
    history::Entry,
    request::{Directive, OperatorRequest, Refusal},
    rollout::RolloutState,
    schedule::{How, Past, ScheduleStep, Stage},
    view::{Query, View},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path, stop};

pub(crate) fn hours(n: u64) -> Duration {
    minutes(n * 60)
}

/// Two groups, and one schedule on every day at 02:00. It is Monday, 00:00.
pub(crate) fn world(schedule: Value) -> World {
    let mut world = World::new(
        json!({
            "dev": { "machines": ["a", "b"], "updatePolicy": "aggressive", "maxParallel": 2 },
            "db": { "machines": ["c"], "updatePolicy": "aggressive" },
        }),
        json!({ "maxParallel": 3, "staggerDelay": 0, "source": { "targets": "/targets.json" } }),
    );
    world.schedule(json!({ "nightly": schedule }));
    world
}

pub(crate) fn update() -> Value {
    json!({ "cron": "0 2 * * *", "action": "update", "reason": "every night" })
}

pub(crate) fn health() -> Value {
    json!({ "cron": "0 2 * * *", "action": "health-check" })
}

pub(crate) fn run(world: &mut World) -> Reply {
    let (schedule, reason) = ("nightly".parse().expect("name"), String::new());
    world.ask(OperatorRequest::RunSchedule { schedule, reason })
}

fn skip(world: &mut World) -> Reply {
    let (schedule, reason) = ("nightly".parse().expect("name"), "guests".to_owned());
    world.ask(OperatorRequest::SkipSchedule { schedule, reason })
}

/// What came of an answer.
pub(crate) struct Answered {
    pub(crate) changes: Vec<Change>,
    pub(crate) history: Vec<Entry>,
}

/// The source answers with this version for these machines.
pub(crate) fn resolve(world: &mut World, machines: &[&str], version: &str) -> Answered {
    let targets = machines
        .iter()
        .map(|m| (name(m), Target::Closure(path(version))));
    let targets = Ok(targets.collect());
    answer(world, targets)
}

fn answer(
    world: &mut World,
    targets: Result<Vec<(common::MachineName, Target)>, String>,
) -> Answered {
    let unresolved = world.fleet.unresolved();
    assert_eq!(unresolved.len(), 1, "{unresolved:?}");
    let schedule = unresolved[0].schedule.clone();
    let run = unresolved[0].run;
    let decision = world.handle(Request::ScheduleResolved {
        schedule,
        run,
        targets,
    });
    Answered {
        changes: decision.changes,
        history: decision.history,
    }
}

pub(crate) fn course(world: &World) -> coordinator_core::schedule::Course {
    let name = "nightly".parse().expect("name");
    world.fleet.facts().courses[&name].clone()
}

#[track_caller]
pub(crate) fn last(world: &World, how: How, says: &str) -> Past {
    let past = course(world).last.expect("something has happened");
    assert_eq!(past.how, how, "{past:?}");
    assert!(past.text.contains(says), "{past:?}");
    past
}

/// Everybody takes its turn.
pub(crate) fn all_go(world: &mut World, machines: &[&str]) {
    for machine in machines {
        world.update(machine);
    }
}

#[test]
fn an_update_finds_its_targets_and_is_a_rollout_of_the_schedule() {
    let mut world = world(update());
    world.pass(minutes(119));
    assert_eq!(course(&world).run, None);
    world.pass(minutes(1));
    assert_eq!(course(&world).run.expect("begun").stage, Stage::Resolving);
    let waits = world.fleet.unresolved();
    assert_eq!(waits[0].source, Some(json!({ "targets": "/targets.json" })));
    assert_eq!(waits[0].machines.len(), 3);
    // Pinned and executed in one decision.
    let decision = resolve(&mut world, &["a", "b", "c"], "3");
    let kinds = |change: &Change| match change {
        Change::Pinned { by, .. } => format!("pinned by {by}"),
        Change::RolloutCreated { rollout, .. } => {
            format!("created by {}: {}", rollout.created_by, rollout.reason)
        }
        Change::Schedule {
            step: ScheduleStep::Executed { rollout, .. },
            ..
        } => format!("executed {rollout}"),
        _ => String::new(),
    };
    let told: Vec<String> = decision
        .changes
        .iter()
        .map(kinds)
        .filter(|k| !k.is_empty())
        .collect();
    assert_eq!(
        told,
        [
            "pinned by schedule:nightly",
            "created by schedule:nightly: every night",
            "executed r1"
        ]
    );
    all_go(&mut world, &["a", "b", "c"]);
    let past = last(&world, How::Finished, "rollout r1 finished");
    assert_eq!(past.rollout, Some("r1".parse().expect("id")));
    // And the next night again, when there is nothing to do.
    world.pass(hours(24));
    resolve(&mut world, &["a", "b", "c"], "3");
    last(
        &world,
        How::Finished,
        "nothing to do: every machine runs its target",
    );
    // Nor where everybody is left out.
    world.done(OperatorRequest::Quarantine {
        machines: vec![name("a"), name("b")],
        reason: "their disks are failing".to_owned(),
    });
    world.pass(hours(24));
    resolve(&mut world, &["a", "b"], "4");
    let says = "nothing to do; left out: a (quarantined), b (quarantined)";
    last(&world, How::Finished, says);
}

#[test]
fn who_remembers_the_target_as_bad_spoils_no_night() {
    let mut world = world(update());
    world.pass(hours(2));
    resolve(&mut world, &["a", "b"], "3");
    world.update("a");
    world.fails("b");
    // The one that failed says that it remembers. Somebody new is to run the same.
    world.report("b").declined = Some(Declined {
        target: Target::Closure(path("3")),
        wish: 1,
        kind: DeclinedKind::BadTarget,
        reason: "its switch failed".to_owned(),
    });
    world.report("b").staged = None;
    world.pass_staging_nothing(hours(24), "b");
    resolve(&mut world, &["a", "b", "c"], "3");
    let rollout = "r2".parse().expect("id");
    let places = world.fleet.rollout(&rollout).expect("created").places();
    let places: Vec<&str> = places.map(|place| place.machine.as_str()).collect();
    assert_eq!(places, ["c"]);
    world.update("c");
    last(&world, How::Finished, "rollout r2 finished");
    // The night after that there is nothing to do for anybody.
    world.pass_staging_nothing(hours(24), "b");
    resolve(&mut world, &["a", "b", "c"], "3");
    let says = "nothing to do; left out: b (bad-target)";
    last(&world, How::Finished, says);
}

#[test]
fn only_the_machines_of_its_groups_that_the_source_names() {
    let mut schedule = update();
    schedule["groups"] = json!(["dev"]);
    schedule["source"] = json!({ "targets": "/security.json" });
    let mut world = world(schedule);
    world.pass(hours(2));
    let waits = world.fleet.unresolved();
    assert_eq!(
        waits[0].source,
        Some(json!({ "targets": "/security.json" }))
    );
    assert_eq!(waits[0].machines, [name("a"), name("b")]);
    resolve(&mut world, &["a", "c"], "3");
    let rollout = world
        .fleet
        .rollout(&"r1".parse().expect("id"))
        .expect("created");
    let places: Vec<&str> = rollout
        .places()
        .map(|place| place.machine.as_str())
        .collect();
    assert_eq!(places, ["a"]);
}

#[test]
fn a_source_that_gives_nothing_is_told() {
    let mut world = world(update());
    world.pass(hours(2));
    let decision = answer(&mut world, Err("no such file".to_owned()));
    last(&world, How::Failed, "no such file");
    let entry = &decision.history[0];
    assert_eq!(
        (entry.kind.as_str(), entry.by.as_str()),
        ("schedule-failed", "schedule:nightly")
    );
    // Nobody answers at all.
    world.pass(hours(24 + 3));
    assert!(course(&world).run.is_some());
    world.pass(hours(2));
    last(&world, How::Failed, "no targets within 4 h");
    // An answer that comes late is not taken.
    let reply = world.handle(Request::ScheduleResolved {
        schedule: "nightly".parse().expect("name"),
        run: 2,
        targets: Ok(vec![(name("a"), Target::Closure(path("3")))]),
    });
    assert!(matches!(reply.reply, Reply::Refused(Refusal::Changed(_))));
    assert!(world.fleet.facts().rollouts.is_empty());
}

/// The coordinator is away until so long after 02:00.
fn away_until(world: &mut World, after: Duration) {
    let facts = world.fleet.facts().clone();
    world.now = world.now + hours(2) + after;
    world.goes_on_from(facts);
    let _tick = world.handle(Request::Tick);
}

#[test]
fn a_run_that_was_missed_begins_once_within_a_bounded_lateness() {
    let mut late = world(update());
    away_until(&mut late, hours(5));
    let run = course(&late).run.expect("begun late");
    assert_eq!(run.planned, Some(late.now - hours(5)));
    // Not a second time after the next restart, nor when the clock is set back an hour.
    answer(&mut late, Err("x".to_owned()));
    let facts = late.fleet.facts().clone();
    late.goes_on_from(facts);
    let _told = late.handle(Request::Tick);
    assert_eq!(course(&late).run, None);
    late.now = late.now - hours(6);
    late.pass(hours(3));
    assert_eq!(course(&late).run, None);

    let mut too_late = world(update());
    away_until(&mut too_late, hours(7));
    assert_eq!(course(&too_late).run, None);
    last(&too_late, How::Missed, "7 h late");

    // Of three nights the last alone.
    let mut days = world(update());
    away_until(&mut days, hours(48 + 1));
    assert_eq!(
        course(&days).run.expect("begun").planned,
        Some(days.now - hours(1))
    );
    let past = last(&days, How::Missed, "a later one");
    assert_eq!(past.planned, Some(days.now - hours(25)));
}

#[test]
fn a_run_that_may_not_be_late_begins_all_the_same() {
    let mut schedule = update();
    schedule["catchUpWithin"] = json!(0);
    // Nobody looks at the clock at the very instant.
    for late in [Duration::ZERO, Duration::from_millis(3), minutes(1)] {
        let mut world = world(schedule.clone());
        away_until(&mut world, late);
        assert!(course(&world).run.is_some(), "{late:?}");
    }
    let mut world = world(schedule);
    away_until(&mut world, minutes(1) + Duration::from_millis(1));
    last(&world, How::Missed, "1 min late is more than catchUpWithin");
}

#[test]
fn a_run_that_is_not_finished_keeps_the_next_from_beginning() {
    let mut world = world(update());
    world.pass(hours(2));
    resolve(&mut world, &["a", "b", "c"], "3");
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    world.pass(hours(24));
    let past = last(&world, How::Skipped, "run 1 is not finished: rollout r1");
    assert_eq!(past.planned, Some(world.now));
    assert!(matches!(
        run(&mut world),
        Reply::Refused(Refusal::NotNow(_))
    ));
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: String::new(),
    });
    last(&world, How::Failed, "aborted by ada");
    world.pass(hours(24));
    assert!(course(&world).run.is_some());
}

#[test]
fn a_rollout_that_waits_for_a_person_is_not_taken_over() {
    let mut world = world(update());
    let mine = world.execute();
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    world.pass(hours(2));
    let told = resolve(&mut world, &["a", "b", "c"], "3").history;
    let says = "nobody is free; left out: a (in rollout r1), b (in rollout r1), c (in rollout r1)";
    last(&world, How::Skipped, says);
    let kinds: Vec<&str> = told.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["schedule-skipped"]);
    assert!(matches!(world.state(&mine), RolloutState::Paused(_)));
    let pin = world.fleet.facts().machines[&name("a")].pin.as_ref();
    assert!(pin.is_some_and(|pin| pin.by == "ada"));
    // The schedule itself is free for its next run.
    world.pass(hours(24));
    assert!(course(&world).run.is_some());
}

#[test]
fn skip_leaves_out_exactly_the_next_planned_run() {
    let mut world = world(update());
    assert!(matches!(skip(&mut world), Reply::Done(text) if text.contains("2026-03-02T02:00:00Z")));
    assert!(matches!(
        skip(&mut world),
        Reply::Refused(Refusal::NotNow(_))
    ));
    // One that is asked for is another matter.
    assert!(matches!(run(&mut world), Reply::Done(_)));
    answer(&mut world, Err("x".to_owned()));
    world.pass(hours(2));
    last(&world, How::Skipped, "left out, as ada wished: guests");
    assert_eq!(course(&world).skip, None);
    world.pass(hours(24));
    assert!(course(&world).run.is_some());
}

#[test]
fn run_begins_at_once_and_leaves_the_plan_alone() {
    let mut world = world(update());
    world.pass(minutes(10));
    assert_eq!(
        run(&mut world),
        Reply::Done("nightly runs: run 1".to_owned())
    );
    let begun = course(&world).run.expect("begun");
    assert_eq!((begun.planned, begun.by.as_str()), (None, "ada"));
    resolve(&mut world, &["a"], "3");
    all_go(&mut world, &["a"]);
    last(&world, How::Finished, "r1");
    world.pass(hours(2) - minutes(10));
    assert!(course(&world).run.is_some());
    let schedule = "weekly".parse().expect("name");
    let reason = String::new();
    let unknown = world.ask(OperatorRequest::RunSchedule { schedule, reason });
    assert!(matches!(unknown, Reply::Refused(Refusal::NotFound { .. })));
}

#[test]
fn nothing_begins_while_a_stop_holds() {
    let mut world = world(update());
    world.done(stop(&["db"]));
    world.pass(hours(2));
    last(&world, How::Skipped, "an emergency stop holds");
    assert!(matches!(
        run(&mut world),
        Reply::Refused(Refusal::Forbidden(_))
    ));
    world.done(OperatorRequest::Resume {
        reason: "calm".to_owned(),
    });
    // It comes while targets are found out: what they come to is not begun.
    assert!(matches!(run(&mut world), Reply::Done(_)));
    world.done(stop(&[]));
    resolve(&mut world, &["a"], "3");
    last(&world, How::Failed, "an emergency stop holds");
    assert!(world.fleet.facts().rollouts.is_empty());
    // A stop of other groups does not touch it.
    let mut schedule = update();
    schedule["groups"] = json!(["dev"]);
    world.done(OperatorRequest::Resume {
        reason: "calm".to_owned(),
    });
    world.schedule(json!({ "nightly": schedule }));
    world.done(stop(&["db"]));
    assert!(matches!(run(&mut world), Reply::Done(_)));
}

#[test]
fn a_clock_that_was_days_ahead_does_not_silence_a_schedule() {
    let mut world = world(update());
    let monday = world.now;
    world.now = monday + hours(24 * 30);
    let _ahead = world.handle(Request::Tick);
    last(&world, How::Missed, "late");
    world.now = monday + hours(1);
    let _back = world.handle(Request::Tick);
    assert_eq!(course(&world).dealt_with, world.now);
    world.pass(hours(1));
    assert!(course(&world).run.is_some());
}

/// Answers the question for its health.
fn checks(world: &mut World, machine: &str, state: HealthState) {
    let Directive::Check { request, .. } = world.poll(machine) else {
        panic!("{machine} is not asked");
    };
    let report = world.report(machine);
    report.health_request = request;
    report.health.state = state;
    world.poll(machine);
}

#[test]
fn a_health_check_tells_who_is_ill_and_who_is_silent() {
    let mut world = world(health());
    world.now = world.now + hours(2);
    let _tick = world.handle(Request::Tick);
    for machine in ["a", "b", "c"] {
        assert_eq!(course(&world).last, None);
        checks(&mut world, machine, HealthState::Healthy);
    }
    last(&world, How::Finished, "3 machines, all healthy");
    world.now = world.now + hours(24);
    let _tick = world.handle(Request::Tick);
    checks(&mut world, "a", HealthState::Unhealthy);
    checks(&mut world, "b", HealthState::Healthy);
    assert!(course(&world).run.is_some());
    // It begins anew with a restart, and ends all the same.
    let facts = world.fleet.facts().clone();
    world.goes_on_from(facts);
    let _tick = world.handle(Request::Tick);
    checks(&mut world, "b", HealthState::Healthy);
    checks(&mut world, "a", HealthState::Unhealthy);
    world.pass_without(minutes(11), &["c"]);
    last(&world, How::Failed, "not healthy: a; silent: c");
}

#[test]
fn what_is_shown() {
    let mut schedule = update();
    schedule["timezone"] = json!("Europe/Oslo");
    schedule["jitter"] = json!("30m");
    let mut world = world(schedule);
    let _ = skip(&mut world);
    let View::Schedules(all) = world.fleet.view(&Query::Schedules, world.now) else {
        panic!("no schedules");
    };
    let seen = &all[0];
    assert_eq!(seen.name.as_str(), "nightly");
    assert_eq!(
        (seen.action, seen.timezone.as_str()),
        ("update", "Europe/Oslo")
    );
    let next = seen.next.expect("planned");
    assert_eq!(next.at, world.now + hours(1));
    assert!(next.due >= next.at && next.due <= next.at + minutes(30));
    assert!(seen.skip.is_some() && seen.run.is_none() && seen.last.is_none());
}

#[test]
fn other_times_begin_now_and_what_is_gone_is_forgotten() {
    let mut world = world(update());
    world.pass(hours(3));
    answer(&mut world, Err("x".to_owned()));
    // 02:30 of today was never planned.
    let mut schedule = update();
    schedule["cron"] = json!("30 2 * * *");
    world.schedule(json!({ "nightly": schedule.clone() }));
    assert_eq!(course(&world).run, None);
    // Another jitter or reason is no other time.
    let dealt_with = course(&world).dealt_with;
    schedule["jitter"] = json!(60);
    world.pass(minutes(10));
    world.schedule(json!({ "nightly": schedule }));
    assert_eq!(course(&world).dealt_with, dealt_with);
    world.schedule(json!({}));
    assert!(world.fleet.facts().courses.is_empty());
    world.pass(hours(30));
    assert_eq!(world.fleet.facts().schedule_runs, 1);
}

#[test]
fn a_rollout_that_fails_is_a_run_that_failed() {
    let mut world = world(update());
    world.pass(hours(2));
    resolve(&mut world, &["c"], "3");
    let grant = world.go("c");
    world.end("c", &grant, OutcomeKind::RolledBack);
    world.pass(minutes(5));
    let past = last(&world, How::Failed, "r1");
    assert!(past.at > Timestamp(0));
}
