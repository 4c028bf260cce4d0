//! What is said of one machine: that it has its turn, that it waits, that nobody knows it.

use coordinator_core::{
    WaitReason,
    request::{OperatorRequest, Refusal},
    view::{Query, View, WhyView},
};
use serde_json::json;

use super::fleet::{World, minutes, name};

fn world() -> World {
    World::new(
        json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive" } }),
        json!({ "maxParallel": 1 }),
    )
}

fn why(world: &World, machine: &str) -> WhyView {
    match world.fleet.view(&Query::Why(name(machine)), world.now) {
        View::Why(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_has_its_turn_is_told_with_its_step() {
    let mut world = world();
    world.poll("a");
    let rollout = world.execute();
    assert_eq!(
        (why(&world, "a").wait, why(&world, "a").has_turn),
        (None, false),
        "may go"
    );
    let grant = world.go("a");
    let seen = why(&world, "a");
    assert_eq!(
        (seen.wait, seen.has_turn, seen.step.as_str()),
        (None, true, "")
    );
    assert_eq!(seen.place, Some((rollout.clone(), "leased")));
    world.renew("a", &grant);
    assert_eq!(why(&world, "a").step, "activating");

    // Its lease outlives the rollout.
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: "bad".to_owned(),
    });
    assert_eq!(why(&world, "a").place, Some((rollout.clone(), "leased")));
    world.pass_without(minutes(16), &["a"]);
    let seen = why(&world, "a");
    assert!(seen.has_turn && seen.step == "activating");
    assert_eq!(seen.place, Some((rollout, "overdue")));
}

#[test]
fn whoever_nobody_has_heard_of_is_not_found() {
    let mut world = world();
    match world.fleet.view(&Query::Why(name("c")), world.now) {
        View::Refused(Refusal::NotFound { what, name }) => {
            assert_eq!((what, name.as_str()), ("machine", "c"));
        }
        other => panic!("{other:?}"),
    }
    // A machine that has reported and is in no group any more is known, and told what is missing.
    let document = json!({ "updateGroups": { "web": { "machines": ["a"] } } });
    world.configure(&document);
    assert_eq!(why(&world, "b").wait, Some(WaitReason::UnknownMachine));
}
