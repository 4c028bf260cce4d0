//! Groups with two sides whose machines take and leave their traffic by scripts of their own.

use std::time::Duration;

use common::{Gets, OutcomeKind, Timestamp, TrafficCall, TrafficDone};
use coordinator_core::{
    Request, WaitReason,
    identity::{Actor, Role},
    request::{AgentRequest, Directive, OperatorRequest},
    rollout::{PauseReason, RolloutState},
    traffic::{ATTEMPTS, Traffic, UP_WITHIN},
    view::{Query, View},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, stop, wish};

const GREEN: [&str; 2] = ["green-1", "green-2"];
const BLUE: [&str; 2] = ["blue-1", "blue-2"];

/// From a move that failed to the next attempt, and a little.
const NEXT_ATTEMPT: Duration = Duration::from_secs(31);

fn document(green: &[&str]) -> Value {
    let machines: Vec<&str> = BLUE.iter().chain(green).copied().collect();
    json!({
        "updateGroups": { "web": {
            "machines": machines,
            "maxParallel": 2,
            "blueGreen": {
                "sides": { "blue": BLUE, "green": green },
                "traffic": { "hook": true },
                "watch": "10m",
                "drain": "30s",
            },
        } },
        "updateSettings": { "maxParallel": 4 },
    })
}

fn world() -> World {
    World::of(&document(&GREEN))
}

fn traffic(world: &World) -> Traffic {
    let group = "web".parse().expect("a name");
    world.fleet.traffic_of(&group).cloned().unwrap_or_default()
}

/// Attempt of the move that is under way.
#[track_caller]
fn attempt(world: &World) -> u32 {
    traffic(world).moving.expect("a move").attempt
}

/// What a machine is asked about its traffic, if anything.
fn asked(world: &mut World, machine: &str) -> Option<TrafficCall> {
    match world.poll(machine) {
        Directive::MoveTraffic(call) => Some(call),
        _ => None,
    }
}

/// The script of a machine that is asked has ended.
#[track_caller]
fn ends(world: &mut World, machine: &str, failure: Option<&str>) -> TrafficCall {
    let call = asked(world, machine).expect("it is asked");
    world.report(machine).traffic = Some(TrafficDone {
        order: Some(call.order.clone()),
        failure: failure.map(str::to_owned),
    });
    world.poll(machine);
    call
}

/// All of them take their traffic, or leave it, as they are asked.
#[track_caller]
fn all(world: &mut World, machines: [&str; 2], gets: Gets) {
    for machine in machines {
        assert_eq!(ends(world, machine, None).order.gets, gets, "{machine}");
    }
}

fn move_to(side: &str) -> OperatorRequest {
    OperatorRequest::MoveTraffic {
        group: "web".parse().expect("a name"),
        to: Some(side.parse().expect("a name")),
        reason: String::new(),
    }
}

#[test]
fn whoever_is_to_get_traffic_has_it_before_the_others_leave_theirs() {
    let mut world = world();
    let rollout = world.execute();
    // It is put where it is thought to be already.
    assert_eq!(asked(&mut world, "green-1"), None, "blue is not there yet");
    let call = ends(&mut world, "blue-1", None);
    assert_eq!((call.order.number, call.order.attempt), (1, 1));
    assert_eq!((call.side.as_str(), call.within), ("blue", UP_WITHIN));
    assert_eq!(asked(&mut world, "blue-1"), None, "it has said so");
    assert_eq!(asked(&mut world, "green-1"), None, "blue-2 has not");
    let WaitReason::TrafficMoving { machines, .. } = world.wait("green-1") else {
        panic!("{}", world.wait("green-1"));
    };
    assert_eq!(machines, [name("blue-2")]);
    ends(&mut world, "blue-2", None);
    let call = ends(&mut world, "green-1", None);
    assert_eq!(call.order.gets, Gets::Nothing);
    assert_eq!(call.within, UP_WITHIN + call.drain);
    assert!(asked(&mut world, "green-2").is_some());
    ends(&mut world, "green-2", None);
    assert!(traffic(&world).settled);
    GREEN.iter().for_each(|machine| world.update(machine));
    all(&mut world, GREEN, Gets::Traffic);
    all(&mut world, BLUE, Gets::Nothing);
    world.waits_for("blue-1", "soaking");
    world.pass(minutes(10));
    BLUE.iter().for_each(|machine| world.update(machine));
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn machines_are_told_at_once_that_they_are_asked() {
    let mut world = world();
    let begun = world.handle(Request::Operator {
        actor: actor(),
        request: move_to("green"),
    });
    assert!(
        GREEN
            .iter()
            .all(|machine| begun.wake.contains(&name(machine)))
    );
    ends(&mut world, "green-1", None);
    let call = asked(&mut world, "green-2").expect("asked");
    let report = world.report("green-2");
    report.traffic = Some(TrafficDone {
        order: Some(call.order),
        failure: None,
    });
    report.sequence += 1;
    let report = Box::new(report.clone());
    let poll = AgentRequest::Poll { report };
    let wake = world.agent("green-2", poll).wake;
    assert!(BLUE.iter().all(|machine| wake.contains(&name(machine))));
}

fn actor() -> Actor {
    Actor {
        name: "ada".parse().expect("a name"),
        role: Role::Admin,
        serial: "1".to_owned(),
    }
}

#[test]
fn a_script_that_fails_is_asked_again_and_old_answers_say_nothing() {
    let mut world = world();
    world.done(move_to("green"));
    let old = ends(&mut world, "green-1", None);
    ends(&mut world, "green-2", Some("exit status 3"));
    let (_, error) = traffic(&world)
        .moving
        .expect("a move")
        .failed
        .expect("failed");
    assert_eq!(error, "green-2: exit status 3");
    assert_eq!(asked(&mut world, "green-2"), None, "not at once");
    world.pass(NEXT_ATTEMPT);
    assert_eq!(attempt(&world), 2);
    let again = asked(&mut world, "green-1").expect("everybody is asked again");
    assert!(old.order.is_before(&again.order));
    all(&mut world, GREEN, Gets::Traffic);
    // What blue-1 said of the first attempt does not count for the second.
    let mut stale = asked(&mut world, "blue-1").expect("asked").order;
    stale.attempt = 1;
    world.report("blue-1").traffic = Some(TrafficDone {
        order: Some(stale),
        failure: None,
    });
    assert!(asked(&mut world, "blue-1").is_some());
    all(&mut world, BLUE, Gets::Nothing);
    assert!(traffic(&world).moving.is_none());
}

#[test]
fn a_move_that_fails_too_often_is_given_up_and_the_rollout_pauses() {
    let mut world = world();
    let rollout = world.execute();
    for number in 1..=ATTEMPTS {
        assert_eq!(attempt(&world), number);
        ends(&mut world, "blue-1", Some("exit status 3"));
        world.pass(NEXT_ATTEMPT);
    }
    let RolloutState::Paused(PauseReason::TrafficStuck { error, .. }) = world.state(&rollout)
    else {
        panic!("{:?}", world.state(&rollout));
    };
    assert_eq!(error, "blue-1: exit status 3");
    assert_eq!(asked(&mut world, "blue-1"), None);
}

#[test]
fn who_does_not_answer_is_named() {
    let mut world = world();
    world.done(move_to("green"));
    ends(&mut world, "green-1", None);
    // Each side has its time, the draining, and the way of the answers.
    world.now = world.now + (UP_WITHIN + minutes(1)) * 2 + Duration::from_secs(29);
    drop(world.handle(Request::Tick));
    assert!(traffic(&world).moving.expect("a move").failed.is_none());
    world.now = world.now + Duration::from_secs(1);
    drop(world.handle(Request::Tick));
    let (_, error) = traffic(&world)
        .moving
        .expect("a move")
        .failed
        .expect("failed");
    assert_eq!(error, "no answer in time from green-2");
}

#[test]
fn a_machine_without_a_script_fails_the_move_and_says_what_to_do() {
    let mut world = world();
    world.report("green-2").traffic = None;
    world.poll("green-2");
    world.done(move_to("green"));
    let moving = traffic(&world).moving.expect("a move");
    let (_, error) = moving.failed.expect("failed at once");
    assert!(error.starts_with("green-2: "), "{error}");
    assert!(error.contains("trafficScript"), "{error}");
    // The next attempt finds the script that somebody has put there.
    world.report("green-2").traffic = Some(TrafficDone::default());
    world.poll("green-2");
    world.pass(NEXT_ATTEMPT);
    all(&mut world, GREEN, Gets::Traffic);
}

#[test]
fn an_emergency_stop_does_not_hold_up_what_has_begun_to_move() {
    let mut world = world();
    world.done(stop(&[]));
    world.done(move_to("green"));
    all(&mut world, GREEN, Gets::Traffic);
    all(&mut world, BLUE, Gets::Nothing);
    assert!(matches!(world.poll("blue-1"), Directive::StandDown(_)));
    assert_eq!(traffic(&world).on, Some("green".parse().expect("a name")));
}

#[test]
fn after_a_restart_the_answers_are_told_again_and_nobody_is_asked_twice() {
    let mut world = world();
    world.done(move_to("green"));
    all(&mut world, GREEN, Gets::Traffic);
    ends(&mut world, "blue-1", None);
    world.goes_on_from(world.fleet.facts().clone());
    // Nothing is known any more, so nobody leaves its traffic for now.
    assert_eq!(asked(&mut world, "blue-2"), None);
    for machine in ["green-1", "green-2", "blue-1"] {
        assert_eq!(asked(&mut world, machine), None, "{machine} has answered");
    }
    ends(&mut world, "blue-2", None);
    assert!(traffic(&world).settled);
}

#[test]
fn after_a_restore_no_answer_from_before_counts() {
    let mut world = world();
    let backup = world.fleet.facts().clone();
    world.done(move_to("green"));
    let before = ends(&mut world, "green-1", None);
    world.goes_on_from(backup);
    world.now = world.now + minutes(1);
    world.restore();
    world.done(move_to("green"));
    let after = asked(&mut world, "green-1").expect("it is asked");
    assert_eq!(after.order.number, before.order.number);
    assert!(before.order.epoch < after.order.epoch);
}

#[test]
fn who_is_no_longer_of_the_group_is_not_waited_for() {
    let mut world = world();
    world.done(move_to("green"));
    ends(&mut world, "green-1", None);
    world.configure(&document(&["green-1"]));
    // Begun anew, with the sides as they are now.
    let again = ends(&mut world, "green-1", None);
    assert_eq!((again.order.number, again.order.attempt), (2, 1));
    all(&mut world, BLUE, Gets::Nothing);
    assert!(traffic(&world).settled);
}

#[test]
fn nobody_leaves_the_traffic_to_a_side_of_which_nobody_is_left() {
    let mut world = world();
    world.done(move_to("green"));
    ends(&mut world, "green-1", None);
    world.configure(&json!({
        "updateGroups": { "web": { "machines": BLUE } },
    }));
    world.pass(NEXT_ATTEMPT);
    assert_eq!(asked(&mut world, "blue-1"), None);
    let given_up = NEXT_ATTEMPT * ATTEMPTS;
    world.pass(given_up + minutes(10));
    let why = traffic(&world).given_up.expect("given up");
    assert_eq!(
        why,
        "no machine of side green is in the configuration any more"
    );
}

#[test]
fn who_is_in_another_group_by_now_is_asked_all_the_same() {
    let mut world = world();
    world.execute();
    let mut other = document(&["green-1"]);
    other["updateGroups"]["web"]["machines"] = json!(["blue-1", "blue-2", "green-1"]);
    other["updateGroups"]["web"]
        .as_object_mut()
        .expect("one")
        .remove("blueGreen");
    other["updateGroups"]["mail"] = json!({ "machines": ["green-2"] });
    world.configure(&other);
    all(&mut world, BLUE, Gets::Traffic);
    ends(&mut world, "green-1", None);
    world.waits_for("green-1", "traffic-moving");
    // The rollout knows it on a side of web, and is not to let it go while it has traffic.
    ends(&mut world, "green-2", None);
    world.update("green-1");
}

#[test]
fn who_has_left_the_sides_does_not_go_with_them() {
    let mut world = world();
    let rollout = world.execute();
    let mut other = document(&["green-1"]);
    other["updateGroups"]["mail"] = json!({ "machines": ["green-2"] });
    world.configure(&other);
    // No move of web's traffic asks it to leave its own.
    assert_eq!(world.place(&rollout, "green-2"), "skipped");
    all(&mut world, BLUE, Gets::Traffic);
    ends(&mut world, "green-1", None);
    world.update("green-1");
    let back_in_it = document(&GREEN);
    world.configure(&back_in_it);
    assert_eq!(world.place(&rollout, "green-2"), "skipped");
}

#[test]
fn the_time_in_which_nobody_listened_is_held_against_nobody() {
    let mut world = world();
    world.done(move_to("green"));
    all(&mut world, GREEN, Gets::Traffic);
    world.now = world.now + minutes(60);
    world.goes_on_from(world.fleet.facts().clone());
    drop(world.handle(Request::Tick));
    assert_eq!(attempt(&world), 1);
    for machine in GREEN {
        world.poll(machine);
    }
    all(&mut world, BLUE, Gets::Nothing);
    assert!(traffic(&world).settled);
}

#[test]
fn a_clock_that_is_set_back_ends_no_attempt() {
    let mut world = world();
    world.done(move_to("green"));
    ends(&mut world, "green-1", None);
    world.now = Timestamp::from_secs(world.now.as_millis() / 1000 - 86_400);
    drop(world.handle(Request::Tick));
    assert_eq!(attempt(&world), 1);
    ends(&mut world, "green-2", None);
    all(&mut world, BLUE, Gets::Nothing);
    assert!(traffic(&world).settled);
}

/// A rollout of this machine alone.
fn alone(machine: &str) -> OperatorRequest {
    let mut wish = wish(&[]);
    wish.selection.machines = vec![name(machine)];
    let if_plan = None;
    OperatorRequest::Execute { wish, if_plan }
}

#[test]
fn who_is_at_work_for_another_rollout_is_waited_for_before_it_is_asked() {
    let mut world = world();
    world.done(alone("green-1"));
    all(&mut world, BLUE, Gets::Traffic);
    all(&mut world, ["green-2", "green-1"], Gets::Nothing);
    let grant = world.go("green-1");
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: String::new(),
    });
    world.done(alone("green-2"));
    let WaitReason::SideNotReady { machines, side, .. } = world.wait("green-2") else {
        panic!("{}", world.wait("green-2"));
    };
    assert_eq!((side.as_str(), machines), ("green", vec![name("green-1")]));
    world.end("green-1", &grant, OutcomeKind::Confirmed);
    assert!(asked(&mut world, "blue-1").is_some());
}

#[test]
fn whoever_looks_sees_who_is_waited_for() {
    let mut world = world();
    world.done(move_to("green"));
    ends(&mut world, "green-2", None);
    let seen = match world.fleet.view(&Query::Traffic, world.now) {
        View::Traffic(seen) => seen,
        other => panic!("{other:?}"),
    };
    assert_eq!(seen[0].asked, [name("green-1")]);
}
