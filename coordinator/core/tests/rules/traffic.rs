//! Groups with two sides: who may go because of where the traffic is, and when it moves.

mod gates;
mod stays;
mod together;

use std::time::Duration;

use common::{Action, HealthState, OutcomeKind, RolloutId, SideName};
use coordinator_core::{
    Request, WaitReason,
    analysis::Measurement,
    request::{Back, OperatorRequest, Refusal, Reply, Wish},
    rollout::{PauseReason, RolloutState},
    traffic::{ATTEMPTS, Answered, Traffic, Wanted},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, stop, wish};

const GREEN: [&str; 2] = ["green-1", "green-2"];
const BLUE: [&str; 2] = ["blue-1", "blue-2"];

fn world_with(more: &Value, analysis: &Value) -> World {
    let mut web = json!({
        "machines": ["blue-1", "blue-2", "green-1", "green-2"],
        "maxParallel": 2,
        "blueGreen": {
            "sides": { "blue": BLUE, "green": GREEN },
            "traffic": { "haproxy": { "socket": "/run/haproxy.sock", "backend": "web" } },
            "watch": "10m",
        },
    });
    let map = web.as_object_mut().expect("one");
    map.extend(more.as_object().expect("one").clone());
    World::of(&json!({
        "analysis": analysis,
        "updateGroups": { "web": web },
        "updateSettings": { "maxParallel": 4, "rollbackOnFailure": "machine" },
    }))
}

fn world() -> World {
    world_with(&json!({}), &json!({}))
}

fn side(name: &str) -> SideName {
    name.parse().expect(name)
}

fn traffic(world: &World) -> Traffic {
    let group = "web".parse().expect("a name");
    world.fleet.traffic_of(&group).cloned().unwrap_or_default()
}

/// Where the traffic is wanted now.
#[track_caller]
fn wanted(world: &World) -> Wanted {
    let wanted = world.fleet.wanted_moves();
    let [one] = &wanted[..] else {
        panic!("not one move: {wanted:?}");
    };
    one.clone()
}

fn answer(world: &mut World, wanted: &Wanted, result: Result<&str, &str>) -> Vec<Measurement> {
    let answered = Answered {
        group: wanted.group.clone(),
        number: wanted.number,
        attempt: wanted.attempt,
        result: result.map(str::to_owned).map_err(str::to_owned),
    };
    world.handle(Request::TrafficMoved(answered)).measure
}

/// The move that is wanted goes to this side, and is done; what is to be measured then.
#[track_caller]
fn moves_to(world: &mut World, to: &str) -> Vec<Measurement> {
    let wanted = wanted(world);
    assert_eq!(wanted.to, side(to));
    answer(world, &wanted, Ok(""))
}

/// A rollout of which the idle side has been updated.
fn half_done(world: &mut World) -> RolloutId {
    let rollout = world.execute();
    moves_to(world, "blue");
    GREEN.iter().for_each(|machine| world.update(machine));
    rollout
}

fn paused<'a>(world: &'a World, id: &RolloutId) -> &'a PauseReason {
    match world.state(id) {
        RolloutState::Paused(reason) => reason,
        other => panic!("not paused: {other:?}"),
    }
}

fn move_to(to: Option<&str>) -> OperatorRequest {
    OperatorRequest::MoveTraffic {
        group: "web".parse().expect("a name"),
        to: to.map(side),
        reason: String::new(),
    }
}

fn resume() -> OperatorRequest {
    OperatorRequest::ResumeRollout {
        rollout: None,
        reason: String::new(),
    }
}

#[test]
fn the_idle_side_goes_first_and_the_other_one_when_the_traffic_has_moved() {
    let mut world = world();
    let first = world.execute();
    // Nobody goes before it is said where the traffic is.
    world.waits_for("green-1", "traffic-moving");
    world.waits_for("blue-1", "traffic-moving");
    moves_to(&mut world, "blue");
    world.waits_for("blue-1", "wave-not-open");
    world.update("green-1");
    assert!(world.fleet.wanted_moves().is_empty(), "green-2 is left");
    world.update("green-2");
    world.waits_for("blue-1", "traffic-moving");
    moves_to(&mut world, "green");
    world.waits_for("blue-1", "soaking");
    world.pass(minutes(9));
    world.waits_for("blue-1", "soaking");
    world.pass(minutes(1));
    BLUE.iter().for_each(|machine| world.update(machine));
    assert_eq!(*world.state(&first), RolloutState::Finished);
    let now = traffic(&world);
    assert_eq!(
        (now.on, now.before),
        (Some(side("green")), Some(side("blue")))
    );
    // The next one begins on the other side, and not before that is said again.
    world.pin_all("3");
    let second = world.execute();
    world.waits_for("blue-1", "traffic-moving");
    moves_to(&mut world, "green");
    BLUE.iter().for_each(|machine| world.update(machine));
    moves_to(&mut world, "blue");
    world.pass(minutes(10));
    GREEN.iter().for_each(|machine| world.update(machine));
    assert_eq!(*world.state(&second), RolloutState::Finished);
}

#[test]
fn the_traffic_follows_what_was_updated_within_the_window_only() {
    for (immediate, freeze) in [(false, false), (false, true), (true, false)] {
        let mut rules = json!({ "maintenanceWindow": "00:00-00:20", "maxFailures": 9 });
        if freeze {
            rules["maintenanceWindow"] = json!([]);
        }
        let mut world = world_with(&rules, &json!({}));
        let mut document = world.fleet.facts().config.clone().expect("one").document;
        let hours = json!({ "hours": ["00:20-23:50"] });
        document["updateSettings"]["calendars"] = json!({ "feast": hours });
        if freeze {
            document["updateGroups"]["web"]["avoid"] = json!(["feast"]);
        }
        world.configure(&document);
        let wish = Wish {
            immediate,
            ..wish(&[])
        };
        world.done(OperatorRequest::Execute {
            wish,
            if_plan: None,
        });
        moves_to(&mut world, "blue");
        world.update("green-1");
        let late = world.go("green-2");
        world.pass(minutes(22));
        world.end("green-2", &late, OutcomeKind::Confirmed);
        if !immediate {
            assert_eq!(world.fleet.wanted_moves(), [], "it waits for the night");
            let held = if freeze { "frozen" } else { "window-closed" };
            world.waits_for("blue-1", held);
            world.pass(minutes(24 * 60 - 21));
        }
        moves_to(&mut world, "green");
        assert_eq!(traffic(&world).on, Some(side("green")));
    }
}

#[test]
fn traffic_does_not_move_to_a_side_of_which_somebody_failed() {
    let mut world = world_with(&json!({ "maxFailures": 9 }), &json!({}));
    let rollout = world.execute();
    moves_to(&mut world, "blue");
    world.update("green-1");
    let grant = world.go("green-2");
    world.end("green-2", &grant, OutcomeKind::RolledBack);
    assert!(world.fleet.wanted_moves().is_empty());
    let PauseReason::TrafficBlocked { machines, .. } = paused(&world, &rollout) else {
        panic!("{:?}", paused(&world, &rollout));
    };
    assert_eq!(*machines, [name("green-2")]);
    world.done(resume());
    assert_eq!(paused(&world, &rollout).kind(), "traffic-blocked");
    assert!(world.fleet.wanted_moves().is_empty());
}

#[test]
fn whoever_of_the_side_is_silent_or_ill_holds_the_traffic_back() {
    let mut silent = world();
    silent.execute();
    moves_to(&mut silent, "blue");
    silent.update("green-1");
    silent.pass_without(minutes(15), &["green-2"]);
    assert!(silent.fleet.wanted_moves().is_empty());
    let WaitReason::SideNotReady { machines, .. } = silent.wait("blue-1") else {
        panic!("{}", silent.wait("blue-1"));
    };
    assert_eq!(machines, [name("green-2")]);
    silent.update("green-2");
    assert_eq!(wanted(&silent).to, side("green"));

    let mut ill = world();
    ill.execute();
    moves_to(&mut ill, "blue");
    ill.update("green-1");
    ill.health("green-1", HealthState::Unhealthy);
    ill.pass(minutes(1));
    ill.health("green-1", HealthState::Healthy);
    ill.update("green-2");
    assert_eq!(wanted(&ill).to, side("green"));
}

#[test]
fn what_must_not_wait_waits_for_the_traffic_all_the_same() {
    let mut world = world();
    let wish = Wish {
        immediate: true,
        ..wish(&[])
    };
    world.done(OperatorRequest::Execute {
        wish,
        if_plan: None,
    });
    world.waits_for("blue-1", "traffic-moving");
    moves_to(&mut world, "blue");
    world.waits_for("blue-1", "wave-not-open");
    GREEN.iter().for_each(|machine| world.update(machine));
    world.waits_for("blue-1", "traffic-moving");
    moves_to(&mut world, "green");
    // Past the watch.
    world.update("blue-1");
}

#[test]
fn the_way_back_from_the_first_move_leads_to_the_side_that_counted_as_the_one_with_the_traffic() {
    let mut world = world();
    world.refused(move_to(None));
    world.done(move_to(Some("green")));
    moves_to(&mut world, "green");
    world.done(move_to(None));
    moves_to(&mut world, "blue");
    // Where it was put where it was thought to be, there is nothing to go back from.
    let mut same = self::world();
    same.done(move_to(Some("blue")));
    moves_to(&mut same, "blue");
    same.refused(move_to(None));
}

/// The same group with these sides.
fn with_sides(blue: &[&str], green: &[&str]) -> Value {
    let mut document = world().fleet.facts().config.clone().expect("one").document;
    document["updateGroups"]["web"]["blueGreen"]["sides"] = json!({ "blue": blue, "green": green });
    document
}

#[test]
fn nobody_goes_on_the_strength_of_sides_that_are_others_by_now() {
    let mut world = world();
    half_done(&mut world);
    moves_to(&mut world, "green");
    // blue-2 gets traffic from now on, whatever side it was on when the rollout began.
    world.configure(&with_sides(&["blue-1"], &["blue-2", "green-1", "green-2"]));
    world.pass(minutes(11));
    let again = wanted(&world);
    assert_eq!(again.to, side("green"));
    assert!(
        again
            .sides
            .side_of(&name("blue-2"))
            .is_some_and(|s| s.name == side("green"))
    );
    answer(&mut world, &again, Ok(""));
    world.pass(minutes(11));
    world.waits_for("blue-2", "live-side");
    world.update("blue-1");
    world.waits_for("blue-2", "live-side");
    let waits = world.wait("blue-2");
    let told = "on side green of group web by now, and on side blue when its rollout began, which leaves it \
                as it is";
    assert_eq!(
        (waits.to_string(), waits.by_itself()),
        (told.to_owned(), false)
    );
}

#[test]
fn who_is_on_the_other_side_by_now_does_not_keep_the_traffic_from_a_side() {
    let mut world = world_with(&json!({ "maxFailures": 9 }), &json!({}));
    let rollout = world.execute();
    moves_to(&mut world, "blue");
    world.update("green-1");
    let grant = world.go("green-2");
    world.end("green-2", &grant, OutcomeKind::RolledBack);
    assert_eq!(paused(&world, &rollout).kind(), "traffic-blocked");
    let mut document = with_sides(&["blue-1", "blue-2", "green-2"], &["green-1"]);
    document["updateGroups"]["web"]["maxFailures"] = json!(9);
    world.configure(&document);
    world.done(resume());
    moves_to(&mut world, "green");
    world.waits_for("blue-1", "soaking");
}

#[test]
fn a_move_begins_anew_when_the_sides_change_under_it() {
    let mut world = world();
    world.done(move_to(Some("green")));
    let old = wanted(&world);
    world.configure(&with_sides(&["blue-1"], &["blue-2", "green-1", "green-2"]));
    let new = wanted(&world);
    assert_ne!(old.number, new.number);
    answer(&mut world, &old, Ok(""));
    assert!(traffic(&world).moving.is_some(), "that was another one");
    answer(&mut world, &new, Ok(""));
    assert_eq!(traffic(&world).on, Some(side("green")));
    // To a side that is no more it is given up.
    world.done(move_to(Some("blue")));
    let mut document = with_sides(&["blue-1"], &["blue-2", "green-1", "green-2"]);
    document["updateGroups"]["web"]["blueGreen"]["sides"] =
        json!({ "red": ["blue-1"], "green": ["blue-2", "green-1", "green-2"] });
    world.configure(&document);
    let why = traffic(&world).given_up.expect("given up");
    assert_eq!(why, "the sides of the group have been changed");
}

#[test]
fn traffic_is_put_on_no_side_that_is_not_ready_while_it_is_not_known_where_it_is() {
    let mut world = world();
    world.health("blue-1", HealthState::Unhealthy);
    world.execute();
    let WaitReason::SideNotReady { machines, .. } = world.wait("green-1") else {
        panic!("{}", world.wait("green-1"));
    };
    assert_eq!(machines, [name("blue-1")]);
    assert!(world.fleet.wanted_moves().is_empty());
    world.health("blue-1", HealthState::Healthy);
    moves_to(&mut world, "blue");
    world.update("green-1");
}

#[test]
fn machines_of_the_live_side_alone_go_only_when_the_other_one_is_not_behind() {
    let mut world = world();
    let mut alone = wish(&[]);
    alone.selection.machines = vec![name("blue-1"), name("green-1")];
    let plan = world.fleet.plan(&alone).expect("a plan");
    let left_out: Vec<_> = plan
        .excluded
        .iter()
        .map(|(m, why)| (m.as_str(), why.kind()))
        .collect();
    assert_eq!(left_out, [("blue-1", "live-side")]);
    let sides: Vec<_> = plan.groups[0]
        .waves
        .iter()
        .map(|wave| wave.side.clone())
        .collect();
    assert_eq!(sides, [Some(side("green"))]);
    half_done(&mut world);
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: String::new(),
    });
    let wanted = wanted(&world);
    answer(&mut world, &wanted, Ok(""));
    world.done(move_to(Some("blue")));
    moves_to(&mut world, "blue");
    // The traffic leaves for the side that is up to date.
    alone.selection.machines = vec![name("blue-1")];
    world.done(OperatorRequest::Execute {
        wish: alone,
        if_plan: None,
    });
    world.waits_for("blue-1", "traffic-moving");
    moves_to(&mut world, "green");
    world.update("blue-1");
    world.waits_for("blue-2", "no-rollout");
}

#[test]
fn a_move_that_fails_is_tried_again_until_it_is_given_up() {
    let mut world = world();
    let rollout = half_done(&mut world);
    for attempt in 1..=ATTEMPTS {
        let wanted = wanted(&world);
        assert_eq!(wanted.attempt, attempt);
        answer(&mut world, &wanted, Err("web/green-2 is not up"));
        // Said too late, or twice.
        answer(&mut world, &wanted, Ok(""));
        assert!(world.fleet.wanted_moves().is_empty());
        if attempt < ATTEMPTS {
            let WaitReason::TrafficMoving { error, .. } = world.wait("blue-1") else {
                panic!("{}", world.wait("blue-1"));
            };
            assert_eq!(error.as_deref(), Some("web/green-2 is not up"));
            world.pass(Duration::from_secs(30));
        }
    }
    let PauseReason::TrafficStuck { error, .. } = paused(&world, &rollout) else {
        panic!("{:?}", paused(&world, &rollout));
    };
    assert_eq!(error, "web/green-2 is not up");
    assert_eq!(traffic(&world).on, Some(side("blue")));
    assert!(traffic(&world).may_be_on(&side("green")), "nobody knows");
    world.done(resume());
    moves_to(&mut world, "green");
    world.waits_for("blue-1", "soaking");
}

#[test]
fn an_answer_that_does_not_come_counts_as_a_failure() {
    let mut world = world();
    half_done(&mut world);
    let first = wanted(&world);
    world.pass(minutes(3));
    assert_eq!(wanted(&world).attempt, first.attempt, "it may take so long");
    world.pass(minutes(2));
    assert_eq!(wanted(&world).attempt, first.attempt + 1);
    answer(&mut world, &first, Ok(""));
    world.waits_for("blue-1", "traffic-moving");
}

#[test]
fn a_restart_goes_on_from_what_was_begun() {
    let mut world = world();
    half_done(&mut world);
    let before = wanted(&world);
    let facts = world.fleet.facts().clone();
    world.goes_on_from(facts);
    assert_eq!(wanted(&world), before);
    BLUE.iter().chain(&GREEN).for_each(|m| drop(world.poll(m)));
    moves_to(&mut world, "green");
    world.waits_for("blue-1", "soaking");
}

#[test]
fn an_operator_moves_it_and_takes_it_back_in_one_command() {
    let mut world = world();
    let error = world.refused(move_to(None));
    assert!(matches!(error, Refusal::NotNow(_)), "{error}");
    let error = world.refused(move_to(Some("red")));
    assert!(matches!(error, Refusal::NotFound { .. }), "{error}");
    let rollout = half_done(&mut world);
    moves_to(&mut world, "green");
    world.waits_for("blue-1", "soaking");
    world.done(move_to(None));
    assert_eq!(paused(&world, &rollout).kind(), "operator");
    moves_to(&mut world, "blue");
    assert_eq!(traffic(&world).by, "ada");
    world.done(resume());
    moves_to(&mut world, "green");
    world.pass(minutes(10));
    // One of the other side is at work.
    let grant = world.go("blue-1");
    let error = world.refused(move_to(None));
    assert!(error.to_string().contains("blue-1"), "{error}");
    world.end("blue-1", &grant, OutcomeKind::Confirmed);
    world.done(move_to(None));
    world.waits_for("blue-2", "paused");
    moves_to(&mut world, "blue");
    world.done(resume());
    world.waits_for("blue-2", "traffic-moving");
    moves_to(&mut world, "green");
    world.update("blue-2");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn who_failed_and_came_to_the_side_with_the_traffic_gets_none_by_hand() {
    let mut world = world();
    world.execute();
    moves_to(&mut world, "blue");
    let grant = world.go("green-1");
    world.end("green-1", &grant, OutcomeKind::Stuck);
    world.done(move_to(Some("blue")));
    moves_to(&mut world, "blue");
    world.configure(&with_sides(&["blue-1", "blue-2", "green-1"], &["green-2"]));
    let error = world.refused(move_to(Some("blue")));
    assert!(error.to_string().contains("green-1"), "{error}");
}

#[test]
fn back_is_also_back_from_a_move_that_is_under_way() {
    let mut world = world();
    half_done(&mut world);
    assert_eq!(wanted(&world).to, side("green"));
    let late = wanted(&world);
    match world.ask(move_to(None)) {
        Reply::Moves { to, .. } => assert_eq!(to, side("blue"), "whoever waits is told"),
        other => panic!("{other:?}"),
    }
    assert_eq!(wanted(&world).to, side("blue"));
    answer(&mut world, &late, Ok(""));
    assert_eq!(wanted(&world).to, side("blue"), "nobody waits for that");
    moves_to(&mut world, "blue");
    assert!(!traffic(&world).may_be_on(&side("green")));
}

#[test]
fn a_rollback_goes_the_same_way() {
    let mut world = world();
    half_done(&mut world);
    moves_to(&mut world, "green");
    world.pass(minutes(10));
    BLUE.iter().for_each(|machine| world.update(machine));
    world.done(OperatorRequest::Execute {
        wish: Wish {
            action: Action::Rollback,
            back: Back::Previous,
            ..wish(&[])
        },
        if_plan: None,
    });
    world.waits_for("green-1", "traffic-moving");
    moves_to(&mut world, "green");
    world.waits_for("green-1", "wave-not-open");
    BLUE.iter().for_each(|machine| world.update(machine));
    moves_to(&mut world, "blue");
    world.pass(minutes(10));
    GREEN.iter().for_each(|machine| world.update(machine));
}

#[test]
fn nothing_is_moved_for_a_rollout_under_a_stop() {
    let mut world = world();
    world.execute();
    moves_to(&mut world, "blue");
    world.update("green-1");
    let grant = world.go("green-2");
    world.done(stop(&[]));
    world.end("green-2", &grant, OutcomeKind::Confirmed);
    assert!(world.fleet.wanted_moves().is_empty());
    world.done(OperatorRequest::Resume {
        reason: "false alarm".to_owned(),
    });
    moves_to(&mut world, "green");
}
