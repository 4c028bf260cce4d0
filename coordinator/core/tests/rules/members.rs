//! Machines that leave, join or move in the middle of a rollout.

use common::{MachineName, OutcomeKind, Target};
use coordinator_core::{request::OperatorRequest, rollout::RolloutState};
use serde_json::{Value, json};

use crate::fleet::{World, name, path};

fn groups(web: Value, db: Value) -> Value {
    let group = |machines: Value| json!({ "machines": machines, "updatePolicy": "aggressive", "maxParallel": 2 });
    json!({ "web": group(web), "db": group(db) })
}

fn world() -> World {
    let groups = groups(json!(["a", "b", "c"]), json!(["d"]));
    World::new(groups, json!({ "maxParallel": 4 }))
}

fn configure(world: &mut World, groups: &Value) {
    let document = json!({ "updateGroups": groups, "updateSettings": { "maxParallel": 4 } });
    world.configure(&document);
}

#[test]
fn whoever_leaves_does_not_begin_any_more_and_nobody_waits_for_it() {
    let mut world = world();
    let rollout = world.execute();
    configure(&mut world, &groups(json!(["a", "b"]), json!(["d"])));
    assert_eq!(world.place(&rollout, "c"), "skipped");
    world.waits_for("c", "unknown-machine");
    for machine in ["a", "b", "d"] {
        world.update(machine);
    }
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn whoever_leaves_while_it_is_away_ends_its_part_and_keeps_its_slot_until_then() {
    let mut world = world();
    let rollout = world.execute();
    let leaves = world.go("c");
    configure(&mut world, &groups(json!(["a", "b"]), json!(["d"])));
    assert_eq!(world.place(&rollout, "c"), "leased");
    world.go("a");
    world.waits_for("b", "group-limit");
    world.end("c", &leaves, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "c"), "updated");
    world.update("b");
}

#[test]
fn whoever_has_left_and_gives_its_turn_back_gets_no_other() {
    let mut world = world();
    let rollout = world.execute();
    let leaves = world.go("c");
    configure(&mut world, &groups(json!(["a", "b"]), json!(["d"])));
    world.end("c", &leaves, OutcomeKind::Abandoned);
    assert_eq!(world.place(&rollout, "c"), "skipped");
}

#[test]
fn whoever_joins_is_not_part_of_what_has_begun_and_can_be_brought_along() {
    let mut world = world();
    let rollout = world.execute();
    let report = world.report("a").clone();
    world.reports.insert(name("e"), report);
    configure(
        &mut world,
        &groups(json!(["a", "b", "c", "e"]), json!(["d"])),
    );
    world.waits_for("e", "no-target");
    world.done(OperatorRequest::PinTargets {
        targets: vec![(name("e"), Target::Closure(path("2")))],
        reason: String::new(),
    });
    world.waits_for("e", "no-rollout");
    let other = OperatorRequest::Execute {
        wish: {
            let mut wish = crate::fleet::wish(&[]);
            wish.selection.machines = vec![name("e")];
            wish
        },
        if_plan: None,
    };
    world.done(other);
    // Its group's slots are the same ones.
    let grants: Vec<MachineName> = ["a", "e"].map(name).into();
    let first = world.go(grants[0].as_str());
    world.go(grants[1].as_str());
    world.waits_for("b", "group-limit");
    world.end("a", &first, OutcomeKind::Confirmed);
    world.update("b");
    assert_eq!(world.place(&rollout, "b"), "updated");
}

#[test]
fn whoever_moves_to_another_group_ends_its_part_where_it_began() {
    let mut world = world();
    let rollout = world.execute();
    configure(&mut world, &groups(json!(["a", "b"]), json!(["d", "c"])));
    world.go("a");
    world.go("b");
    world.waits_for("c", "group-limit");
    assert_eq!(world.place(&rollout, "c"), "pending");
}
