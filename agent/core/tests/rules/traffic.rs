//! For which orders the traffic script runs, when, and what is told of it.

use std::time::Duration;

use agent_core::{
    Answer, Directive, Done, Failure, Input, MayBegin, Note, UnitState, Work, effect::NotFollowed,
    limits::TRAFFIC_TIMEOUT_MAX,
};
use common::{Action, Epoch, Gets, StopMode, TrafficCall, TrafficDone, TrafficOrder};

use crate::{
    cleanup::clean_up,
    world::{Script, World, proceed, stage},
};

/// The order of this number and attempt. Moves with an even number take the machine's traffic.
pub(crate) fn move_traffic(number: u64, attempt: u32) -> Directive {
    Directive::MoveTraffic(call(number, attempt))
}

fn call(number: u64, attempt: u32) -> TrafficCall {
    TrafficCall {
        order: TrafficOrder {
            epoch: Epoch(1),
            group: "web".parse().expect("a name"),
            number,
            attempt,
            gets: if number.is_multiple_of(2) {
                Gets::Nothing
            } else {
                Gets::Traffic
            },
        },
        side: "blue".parse().expect("a name"),
        drain: Duration::from_secs(30),
        within: Duration::from_secs(90),
    }
}

/// A machine at rest.
fn idle() -> World {
    let mut world = World::new(Script::default());
    world.work_all();
    world
}

/// What the machine says of its traffic, in the words of the report.
fn told(world: &mut World) -> TrafficDone {
    let report = world.agent.report(world.now).expect("it is started");
    report.traffic.expect("it has a script")
}

fn done(number: u64, attempt: u32) -> TrafficDone {
    TrafficDone {
        order: Some(call(number, attempt).order),
        failure: None,
    }
}

/// Which orders the script was run for.
fn runs(world: &World) -> Vec<(u64, u32)> {
    let runs = world.traffic.iter();
    runs.map(|run| (run.order.number, run.order.attempt))
        .collect()
}

/// Why the last directives were not followed.
fn refused(world: &mut World) -> Vec<NotFollowed> {
    let notes = std::mem::take(&mut world.notes).into_iter();
    let refused = notes.filter_map(|note| match note {
        Note::NotFollowed { why } => Some(why),
        Note::Accepted { .. }
        | Note::Ended { .. }
        | Note::Stopped { .. }
        | Note::Health { .. }
        | Note::CleanedUp(_)
        | Note::TrafficMoved(_)
        | Note::Silent { .. } => None,
    });
    refused.collect()
}

#[test]
fn an_order_is_carried_out_once_and_its_answer_told_at_once() {
    let mut world = idle();
    assert_eq!(told(&mut world), TrafficDone::default());
    world.say(move_traffic(1, 1));
    assert_eq!(told(&mut world).order, None, "not before it has ended");
    let polls = world.polls.len();
    world.say(move_traffic(1, 1));
    world.work_all();
    assert_eq!(told(&mut world), done(1, 1));
    assert!(world.polls.len() > polls, "the coordinator waits for it");
    let noted = Note::TrafficMoved(done(1, 1));
    assert!(world.notes.contains(&noted), "{:?}", world.notes);
    world.say(move_traffic(1, 1));
    assert!(world.open.is_empty(), "answered already");
    // Also by the next process, and in the next boot.
    world.restart(UnitState::Absent);
    world.reboot();
    world.work_all();
    world.say(move_traffic(1, 1));
    assert!(world.open.is_empty());
    assert_eq!(told(&mut world), done(1, 1));
    world.say(move_traffic(1, 2));
    world.say(move_traffic(1, 2));
    world.work_all();
    assert_eq!(runs(&world), [(1, 1), (1, 2)]);
}

#[test]
fn a_repeated_order_is_asked_for_again_only_after_a_pause() {
    let mut world = idle();
    world.say(move_traffic(1, 1));
    let polls = world.polls.len();
    for _ in 0..3 {
        world.say(move_traffic(1, 1));
        assert_eq!(world.polls.len(), polls, "it would bring the same answer");
    }
    let began = world.now;
    world.pass_time();
    assert_eq!(world.polls.len(), polls + 1);
    assert!(world.now.since(began) >= world.limits.poll_pause);
}

#[test]
fn an_order_that_was_overtaken_is_never_carried_out() {
    let mut world = idle();
    world.say(move_traffic(2, 3));
    // While it is at work, and when it has its answer.
    for _ in 0..2 {
        for (number, attempt) in [(2, 2), (1, 9)] {
            world.say(move_traffic(number, attempt));
            assert_eq!(refused(&mut world), [NotFollowed::OldTrafficOrder]);
        }
        world.work_all();
    }
    world.restart(UnitState::Absent);
    world.work_all();
    world.say(move_traffic(1, 1));
    assert_eq!(refused(&mut world), [NotFollowed::OldTrafficOrder]);
    assert_eq!(runs(&world), [(2, 3)]);
    // After a restore from a backup numbers begin anew, in a newer epoch.
    let mut newer = call(1, 1);
    newer.order.epoch = Epoch(2);
    world.epoch = Epoch(2);
    world.say(Directive::MoveTraffic(newer));
    world.work_all();
    world.say(move_traffic(3, 1));
    assert_eq!(refused(&mut world), [NotFollowed::OldTrafficOrder]);
    // Another group counts for itself.
    let mut other = call(1, 1);
    other.order.group = "api".parse().expect("a name");
    world.say(Directive::MoveTraffic(other));
    assert_eq!(runs(&world), [(2, 3), (1, 1), (1, 1)]);
}

#[test]
fn one_order_waits_for_the_end_of_another() {
    let mut world = idle();
    world.say(move_traffic(1, 1));
    // The same once more, and of another group: of two contrary ones neither is taken back by the other.
    world.say(move_traffic(1, 2));
    let mut other = call(2, 1);
    other.order.group = "api".parse().expect("a name");
    world.say(Directive::MoveTraffic(other));
    assert_eq!(world.open.len(), 1, "one at a time");
    world.work_all();
    assert_eq!(told(&mut world), done(1, 1));
    world.say(move_traffic(1, 2));
    world.work_all();
    assert_eq!(told(&mut world), done(1, 2));
}

#[test]
fn an_order_that_is_taken_back_does_not_hold_up_the_one_that_takes_it_back() {
    let mut world = idle();
    world.say(move_traffic(2, 1));
    let out = world.open.pop().expect("begun");
    world.say(move_traffic(3, 1));
    world.work_all();
    assert_eq!(told(&mut world), done(3, 1));
    // The end of the first one says nothing any more.
    world.feed(Input::StepDone {
        step: out.step,
        answer: Answer {
            result: Ok(Done::TrafficMoved),
            output: String::new(),
        },
    });
    assert_eq!(told(&mut world), done(3, 1));
    world.say(move_traffic(2, 1));
    assert!(world.open.is_empty(), "it was overtaken");
}

#[test]
fn an_attempt_waits_for_the_script_and_the_script_for_an_attempt() {
    let mut world = World::staged(Script::default());
    world.say(move_traffic(1, 1));
    let job = world.open.pop().expect("begun");
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(refused(&mut world), [NotFollowed::MovingTraffic]);
    assert_eq!(world.disk.attempt, None);
    // Cleaning up and obtaining a target go on beside it.
    world.say(clean_up(1));
    world.say(stage(Action::Update));
    assert!(world.disk.cleaning.is_some());
    world.open.push(job);
    world.work_all();
    assert_eq!(told(&mut world), done(1, 1));
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.disk.attempt.is_some(), "the lease was not used up");
    world.say(move_traffic(2, 1));
    assert!(world.disk.moving_traffic.is_none());
    world.finish();
    world.say(move_traffic(2, 1));
    assert!(world.disk.moving_traffic.is_some());
    // An emergency stop forbids attempts; the traffic script it does not.
    world.epoch = Epoch(2);
    world.say(Directive::StandDown(agent_core::StandDown {
        epoch: Epoch(2),
        mode: StopMode::Rollback,
        reason: String::new(),
    }));
    world.work_all();
    assert_eq!(told(&mut world), done(2, 1));
    // The move was begun before the stop, and ends after it.
    world.say(move_traffic(3, 1));
    world.work_all();
    assert_eq!(told(&mut world), done(3, 1));
}

#[test]
fn a_script_that_fails_is_told_with_what_it_said() {
    let mut world = idle();
    world.script.traffic = Err(Failure::Failed("exit status 3".to_owned()));
    world.say(move_traffic(1, 1));
    world.work_all();
    let failed = TrafficDone {
        failure: Some("exit status 3".to_owned()),
        ..done(1, 1)
    };
    assert_eq!(told(&mut world), failed);
    world.say(move_traffic(1, 2));
    let job = world.open.pop().expect("begun");
    let long = format!("{}\nno\u{1b}[2J route\n", "x".repeat(4000));
    world.feed(Input::StepDone {
        step: job.step,
        answer: Answer {
            result: Err(Failure::Failed("exit status 3".to_owned())),
            output: long,
        },
    });
    let why = told(&mut world).failure.expect("it failed");
    assert_eq!(why, "exit status 3: no [2J route");
    // What it failed at is not tried again but by a new order.
    world.say(move_traffic(1, 2));
    assert!(world.open.is_empty());
}

#[test]
fn a_script_that_never_ends_has_failed_when_its_time_is_up() {
    let mut world = idle();
    world.say(move_traffic(1, 1));
    world.open.clear();
    let began = world.now;
    for _ in 0..1000 {
        if world.disk.moving_traffic.is_none() {
            break;
        }
        world.pass_time();
        world.open.clear();
    }
    let TrafficDone { order, failure } = told(&mut world);
    assert_eq!(order, done(1, 1).order);
    assert!(failure.is_some_and(|why| why.contains("in time")));
    let took = world.now.since(began);
    assert_eq!(took, call(1, 1).within + world.limits.grace);
}

#[test]
fn a_coordinator_can_ask_for_an_hour_at_most() {
    let day = Duration::from_secs(86_400);
    let cases = [
        ((day, day), (TRAFFIC_TIMEOUT_MAX, TRAFFIC_TIMEOUT_MAX)),
        (
            (Duration::from_secs(90), day),
            (Duration::from_secs(90), Duration::from_secs(90)),
        ),
        (
            (Duration::ZERO, Duration::from_secs(5)),
            (Duration::from_secs(300), Duration::from_secs(5)),
        ),
    ];
    for (number, ((within, drain), expected)) in (1..).zip(cases) {
        let mut world = idle();
        world.say(Directive::MoveTraffic(TrafficCall {
            within,
            drain,
            ..call(number, 1)
        }));
        let job = world.open.pop().expect("begun");
        let Work::MoveTraffic { call } = &job.work else {
            panic!("{job:?}");
        };
        assert_eq!((call.within, call.drain), expected);
        assert_eq!(job.within, call.within);
    }
}

#[test]
fn after_a_restart_the_unit_is_waited_for_and_never_begun_again() {
    let mut world = idle();
    world.say(move_traffic(2, 1));
    let begun = world.open[0].clone();
    assert!(world.disk.awaited_steps().contains(&begun.step));
    world.restart(UnitState::Absent);
    let again = world.open.iter().find(|job| job.step == begun.step);
    let again = again.expect("the same step is waited for");
    assert_eq!(again.may_begin, MayBegin::Never);
    assert_eq!((again.within, &again.work), (begun.within, &begun.work));
    world.say(move_traffic(2, 1));
    world.work_all();
    assert_eq!(told(&mut world), done(2, 1));
    assert_eq!(runs(&world), [(2, 1)]);
}

#[test]
fn a_script_that_is_gone_after_a_restart_or_a_boot_is_lost_until_it_is_ordered_again() {
    let leave: [fn(&mut World); 2] = [
        |world| {
            world.traffic_units.clear();
            world.restart(UnitState::Absent);
        },
        World::reboot,
    ];
    for leave in leave {
        let mut world = idle();
        world.say(move_traffic(2, 1));
        leave(&mut world);
        world.work_all();
        let TrafficDone { order, failure } = told(&mut world);
        assert_eq!(order, done(2, 1).order);
        assert!(failure.is_some_and(|why| why.contains("lost")));
        assert_eq!(runs(&world), [(2, 1)]);
        world.say(move_traffic(2, 2));
        world.work_all();
        assert_eq!(told(&mut world), done(2, 2));
    }
}

#[test]
fn a_machine_without_a_script_says_so_and_carries_out_nothing() {
    let mut world = idle();
    world.limits.has_traffic_script = false;
    world.restart(UnitState::Absent);
    world.work_all();
    let report = world.agent.report(world.now).expect("it is started");
    assert_eq!(report.traffic, None);
    world.say(move_traffic(1, 1));
    assert_eq!(refused(&mut world), [NotFollowed::NoTrafficScript]);
    assert!(world.open.is_empty() && world.disk.moving_traffic.is_none());
    // A run that was begun before the script was taken away still has its answer.
    world.limits.has_traffic_script = true;
    world.restart(UnitState::Absent);
    world.work_all();
    world.say(move_traffic(1, 1));
    world.limits.has_traffic_script = false;
    world.restart(UnitState::Absent);
    world.work_all();
    assert_eq!(world.disk.moving_traffic, None);
    assert_eq!(world.disk.traffic_done, done(1, 1));
}

#[test]
fn a_note_says_what_became_of_the_machine() {
    let said = |done: TrafficDone| Note::TrafficMoved(done).to_string();
    assert_eq!(
        said(done(1, 2)),
        "the machine gets traffic (move 1 of group web, attempt 2)"
    );
    let failed = TrafficDone {
        failure: Some("exit status 1".to_owned()),
        ..done(2, 1)
    };
    assert_eq!(
        said(failed),
        "the machine was to get no more traffic (move 2 of group web, attempt 1): exit status 1"
    );
}
