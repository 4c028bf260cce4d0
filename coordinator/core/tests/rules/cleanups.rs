//! Schedules that clean up: who is asked and when, and what is told of it.

use std::time::Duration;

use common::{CleanedUp, OutcomeKind};
use coordinator_core::{
    FleetConfig, Reply, Request,
    request::{AgentRequest, Directive, OperatorRequest},
    schedule::{Course, How, ScheduledAction, Stage},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, stop};

/// A group of three, and one cleanup a day, at 01:00. It is Monday, 00:00.
fn world() -> World {
    let mut world = World::new(
        json!({ "dev": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "maxParallel": 3 } }),
        json!({ "maxParallel": 3, "staggerDelay": 0 }),
    );
    world.schedule(json!({ "tidy": tidy() }));
    world
}

fn tidy() -> Value {
    json!({ "cron": "0 1 * * *", "action": "cleanup", "keep": 3, "keepFor": "48h" })
}

fn run(world: &mut World, schedule: &str) -> Reply {
    let (schedule, reason) = (schedule.parse().expect("name"), String::new());
    world.ask(OperatorRequest::RunSchedule { schedule, reason })
}

fn course(world: &World, schedule: &str) -> Course {
    world.fleet.facts().courses[&schedule.parse().expect("name")].clone()
}

#[track_caller]
fn last(world: &World, how: How, says: &str) {
    let past = course(world, "tidy").last.expect("something has happened");
    assert_eq!((past.how, past.text.as_str()), (how, says));
}

/// The number that a machine is asked for, if it is.
fn asked(world: &mut World, machine: &str) -> Option<u64> {
    match world.poll(machine) {
        Directive::CleanUp { request, .. } => Some(request),
        _ => None,
    }
}

/// A machine that is asked says what came of it.
#[track_caller]
fn cleans(world: &mut World, machine: &str, removed: u32, failure: Option<&str>) {
    let request = asked(world, machine).expect("it is asked");
    world.report(machine).cleaned_up = Some(CleanedUp {
        request,
        removed,
        freed_bytes: u64::from(removed) << 29,
        failure: failure.map(str::to_owned),
    });
    world.poll(machine);
}

#[test]
fn all_that_are_there_are_asked_and_the_run_ends_with_the_last_answer() {
    let mut world = world();
    world.pass(minutes(59));
    world.now = world.now + minutes(1);
    let tick = world.handle(Request::Tick);
    assert_eq!(tick.wake.len(), 3, "they are told at once");
    let Directive::CleanUp { request, cleanup } = world.poll("a") else {
        panic!("a is not asked");
    };
    assert_eq!((cleanup.generations, cleanup.younger_s), (3, 48 * 3600));
    assert!(cleanup.collect);
    assert_eq!(asked(&mut world, "a"), Some(request), "until it answers");
    cleans(&mut world, "a", 4, None);
    assert_eq!(asked(&mut world, "a"), None);
    cleans(&mut world, "b", 0, None);
    assert!(course(&world, "tidy").run.is_some());
    cleans(&mut world, "c", 1, None);
    let text = "cleaned up 3 machines, 5 generations removed, 2.5 GiB freed";
    last(&world, How::Finished, text);
    // The next day it has another number.
    world.pass(minutes(24 * 60));
    assert!(asked(&mut world, "a").is_some_and(|next| next > request));
}

#[test]
fn who_fails_or_is_silent_is_told_and_who_is_offline_is_left_out() {
    let mut world = world();
    world.pass_without(minutes(59), &["c"]);
    world.pass_without(minutes(2), &["c"]);
    cleans(&mut world, "a", 1, Some("the profile is locked"));
    world.pass_without(minutes(60), &["c"]);
    assert!(course(&world, "tidy").run.is_some(), "b has its time");
    assert_eq!(
        asked(&mut world, "c"),
        None,
        "it came too late for this one"
    );
    world.pass_without(minutes(40), &["c"]);
    let text = "cleaned up 0 machines, 1 generation removed, 512.0 MiB freed; failed: a (the \
                profile is locked); silent: b; offline: c";
    last(&world, How::Failed, text);
    assert_eq!(asked(&mut world, "b"), None, "nobody waits for it any more");
    // Being offline is no failure.
    world.pass_without(minutes(1340), &["c"]);
    cleans(&mut world, "a", 0, None);
    cleans(&mut world, "b", 0, None);
    let text = "cleaned up 2 machines, 0 generations removed, 0 B freed; offline: c";
    last(&world, How::Finished, text);
}

#[test]
fn an_agent_that_cannot_is_not_asked() {
    let mut world = world();
    world.report("b").cleaned_up = None;
    world.pass(minutes(61));
    assert_eq!(asked(&mut world, "b"), None);
    cleans(&mut world, "a", 0, None);
    cleans(&mut world, "c", 0, None);
    let text = "cleaned up 2 machines, 0 generations removed, 0 B freed; its agent cannot clean \
                up: b";
    last(&world, How::Failed, text);
}

#[test]
fn a_machine_that_could_not_go_anyhow_is_told_what_it_waits_for() {
    let mut world = world();
    world.execute();
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    let waits = |world: &World| {
        let may_go = world.fleet.permission(&name("a"), world.now);
        may_go.expect_err("it waits")
    };
    let cleans = waits(&world);
    assert_eq!((cleans.kind(), cleans.by_itself()), ("cleaning-up", true));
    assert!(cleans.next().is_some_and(|until| until > world.now));
    world.pass_without(minutes(20), &["a"]);
    assert_eq!(waits(&world).kind(), "offline");
}

#[test]
fn it_waits_for_a_lease_and_a_lease_waits_for_it() {
    let mut world = world();
    world.execute();
    let grant = world.go("a");
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    assert_eq!(asked(&mut world, "a"), None, "it is away");
    // The others were to go, and clean up first.
    let request = asked(&mut world, "b").expect("asked");
    let waits = world.fleet.permission(&name("b"), world.now);
    assert_eq!(waits.map_err(|why| why.kind()), Err("cleaning-up"));
    cleans(&mut world, "b", 2, None);
    world.go("b");
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(asked(&mut world, "a"), Some(request), "once it is back");
}

#[test]
fn what_must_not_wait_does_not_wait_for_it() {
    let mut world = world();
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    let mut wish = crate::fleet::wish(&[]);
    wish.immediate = true;
    world.done(OperatorRequest::Execute {
        wish,
        if_plan: None,
    });
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert!(asked(&mut world, "a").is_some(), "afterwards it is asked");
}

#[test]
fn what_failed_is_left_as_it_is_until_somebody_has_looked() {
    let mut world = world();
    world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::Stuck);
    assert!(world.fleet.facts().machines[&name("a")].failed.is_some());
    world.report("a").health.state = common::HealthState::Unhealthy;
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    assert_eq!(asked(&mut world, "a"), None);
    assert!(asked(&mut world, "b").is_some());
}

#[test]
fn a_stop_ends_it_and_nobody_is_asked_under_one() {
    let mut world = world();
    world.done(stop(&[]));
    world.pass(minutes(61));
    assert_eq!(
        course(&world, "tidy").last.map(|past| past.how),
        Some(How::Skipped)
    );
    world.done(OperatorRequest::Resume {
        reason: "calm".to_owned(),
    });
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    assert!(asked(&mut world, "a").is_some());
    world.done(stop(&[]));
    let _tick = world.handle(Request::Tick);
    last(&world, How::Failed, "an emergency stop holds");
    world.done(OperatorRequest::Resume {
        reason: "calm".to_owned(),
    });
    for machine in ["a", "b", "c"] {
        assert_eq!(asked(&mut world, machine), None);
    }
}

#[test]
fn after_a_restart_the_same_number_is_asked_for_and_old_answers_count() {
    let mut world = world();
    world.pass(minutes(61));
    let request = asked(&mut world, "a").expect("asked");
    cleans(&mut world, "a", 3, None);
    let facts = world.fleet.facts().clone();
    let run = course(&world, "tidy").run.expect("it runs");
    assert!(matches!(run.stage, Stage::Cleaning(cleanup) if cleanup.generations == 3));
    world.goes_on_from(facts);
    let _tick = world.handle(Request::Tick);
    assert_eq!(asked(&mut world, "b"), Some(request));
    assert_eq!(asked(&mut world, "a"), None, "what it did before counts");
    cleans(&mut world, "b", 0, None);
    cleans(&mut world, "c", 0, None);
    let text = "cleaned up 3 machines, 3 generations removed, 1.5 GiB freed";
    last(&world, How::Finished, text);
}

#[test]
fn two_of_them_take_turns_on_a_machine() {
    let mut world = world();
    let other = json!({ "cron": "0 5 * * *", "action": "cleanup", "keep": 9 });
    world.schedule(json!({ "tidy": tidy(), "other": other }));
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    assert!(matches!(run(&mut world, "other"), Reply::Done(_)));
    for machine in ["a", "b", "c"] {
        let first = asked(&mut world, machine).expect("asked");
        cleans(&mut world, machine, 1, None);
        assert_eq!(asked(&mut world, machine), Some(first + 1));
        cleans(&mut world, machine, 2, None);
    }
    let text = "cleaned up 3 machines, 3 generations removed, 1.5 GiB freed";
    last(&world, How::Finished, text);
    let past = course(&world, "other").last.expect("it has ended");
    assert!(past.text.contains("6 generations removed"), "{past:?}");
}

#[test]
fn a_schedule_that_is_taken_out_holds_nobody_up() {
    let mut world = world();
    world.execute();
    assert!(matches!(run(&mut world, "tidy"), Reply::Done(_)));
    assert!(asked(&mut world, "a").is_some());
    world.schedule(json!({}));
    let _tick = world.handle(Request::Tick);
    world.go("a");
    world.pass(minutes(100));
}

#[test]
fn an_old_answer_is_none() {
    let mut world = world();
    world.pass(minutes(61));
    world.report("a").cleaned_up = Some(CleanedUp {
        request: 77,
        ..CleanedUp::default()
    });
    assert!(asked(&mut world, "a").is_some_and(|request| request != 77));
    // A result is a report too.
    let report = Box::new(world.report("a").clone());
    let _poll = world.agent("a", AgentRequest::Poll { report });
    assert!(course(&world, "tidy").run.is_some());
}

#[test]
fn what_it_may_say() {
    let parse = |schedule: Value| {
        let document = json!({
            "updateGroups": { "dev": { "machines": ["a"] } },
            "schedules": { "tidy": schedule },
        });
        FleetConfig::parse(&document)
    };
    let config = parse(json!({ "cron": "@daily", "action": "cleanup" })).expect("valid");
    let schedule = config.schedules.values().next().expect("one");
    let ScheduledAction::CleanUp(usual) = schedule.action else {
        panic!("{schedule:?}");
    };
    let fortnight = Duration::from_secs(14 * 24 * 3600);
    assert_eq!(
        (usual.generations, usual.age(), usual.collect),
        (5, fortnight, true)
    );
    let table = [
        (json!({ "keep": 1 }), "keep", "at least 2"),
        (json!({ "keep": "5" }), "keep", "whole number"),
        (
            json!({ "keepFor": "two weeks" }),
            "keepFor",
            "whole seconds",
        ),
        (
            json!({ "collectGarbage": "no" }),
            "collectGarbage",
            "true or false",
        ),
        (json!({ "keepfor": 5 }), "keepfor", "\"keepFor\"?"),
        (
            json!({ "source": { "flake": "." } }),
            "source",
            "leave it out",
        ),
        (
            json!({ "action": "health-check", "keep": 5 }),
            "keep",
            "leave it out",
        ),
    ];
    for (more, place, hint) in table {
        let mut schedule = json!({ "cron": "@daily", "action": "cleanup" });
        for (key, value) in more.as_object().expect("an object") {
            schedule[key.as_str()] = value.clone();
        }
        let faults = parse(schedule).expect_err(place).0;
        let path = format!("schedules.tidy.{place}");
        let found = faults.iter().find(|fault| fault.path == path);
        let found = found.unwrap_or_else(|| panic!("{path}: {faults:#?}"));
        assert!(found.hint.contains(hint), "{found}");
    }
}
