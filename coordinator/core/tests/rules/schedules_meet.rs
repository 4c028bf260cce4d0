//! Schedules whose machines take part in another rollout: who goes on without whom, and who is told.

use coordinator_core::{request::OperatorRequest, schedule::How};
use serde_json::json;

use crate::{
    fleet::{World, name},
    schedules::{all_go, course, hours, last, resolve, update, world},
};

/// Who said what this machine is to run.
fn pinned_by(world: &World, machine: &str) -> String {
    let known = &world.fleet.facts().machines[&name(machine)];
    known.pin.as_ref().map(|pin| pin.by.clone()).expect("a pin")
}

/// Somebody's rollout to `dev` alone, which is paused.
fn paused_in_dev(world: &mut World) {
    world.execute_some(&["dev"]);
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
}

#[test]
fn machines_of_another_rollout_are_left_out_and_the_rest_goes_on() {
    let mut world = world(update());
    paused_in_dev(&mut world);
    world.pass(hours(2));
    let told = resolve(&mut world, &["a", "b", "c"], "3").history;
    let says = "left out: a (in rollout r1), b (in rollout r1)";
    let entry = told.iter().find(|entry| entry.kind == "schedule-left-out");
    let entry = entry.expect("told at once");
    assert_eq!(entry.text, format!("nightly: {says}"));
    assert_eq!(entry.rollout, Some("r2".parse().expect("id")));
    let run = course(&world).run.expect("goes on");
    assert_eq!(run.to_string(), format!("rollout r2; {says}"));
    // It survives a restart, and whoever is left out is to run what it was to run before.
    let facts = serde_json::to_value(world.fleet.facts()).expect("JSON");
    world.goes_on_from(serde_json::from_value(facts).expect("facts"));
    assert_eq!(pinned_by(&world, "a"), "ada");
    assert_eq!(pinned_by(&world, "c"), "schedule:nightly");
    all_go(&mut world, &["c"]);
    last(
        &world,
        How::Finished,
        &format!("rollout r2 finished; {says}"),
    );
}

#[test]
fn where_those_that_are_free_have_nothing_to_do_the_others_are_told() {
    let mut world = world(update());
    paused_in_dev(&mut world);
    world.done(OperatorRequest::Quarantine {
        machines: vec![name("c")],
        reason: "its disk is failing".to_owned(),
    });
    world.pass(hours(2));
    resolve(&mut world, &["b", "c"], "3");
    let says = "nothing to do; left out: c (quarantined), b (in rollout r1)";
    last(&world, How::Finished, says);
}

#[test]
fn what_depends_on_those_that_are_left_out_waits_for_their_rollout() {
    let mut world = World::new(
        json!({
            "dev": { "machines": ["a", "b"], "updatePolicy": "aggressive", "maxParallel": 2 },
            "db": { "machines": ["c"], "updatePolicy": "aggressive", "dependencies": ["dev"] },
        }),
        json!({ "maxParallel": 3, "staggerDelay": 0, "source": { "targets": "/targets.json" } }),
    );
    world.schedule(json!({ "nightly": update() }));
    paused_in_dev(&mut world);
    world.pass(hours(2));
    resolve(&mut world, &["a", "b", "c"], "3");
    world.waits_for("c", "dependency");
    world.done(OperatorRequest::ResumeRollout {
        rollout: Some("r1".parse().expect("id")),
        reason: String::new(),
    });
    all_go(&mut world, &["a", "b", "c"]);
    last(&world, How::Finished, "left out: a");
}
