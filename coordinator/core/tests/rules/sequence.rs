//! The order of the machines inside a group.

use common::{OutcomeKind, Target};
use coordinator_core::{Change, invariants, request::OperatorRequest};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path, wish};

fn world(order: Value) -> World {
    let groups = json!({ "web": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive",
        "maxFailures": 3, "order": order } });
    World::new(groups, json!({ "maxParallel": 1 }))
}

fn fail(world: &mut World, machine: &str, how: OutcomeKind) {
    let grant = world.go(machine);
    world.end(machine, &grant, how);
}

fn prepare(world: &mut World, version: &str) {
    let targets = ["a", "b", "c"].map(|m| (name(m), Target::Closure(path(version))));
    world.done(OperatorRequest::PinTargets {
        targets: targets.into(),
        reason: String::new(),
    });
}

fn order(world: &World) -> Vec<String> {
    let plan = world.fleet.plan(&wish(&[])).expect("a plan");
    let waves = plan.groups.iter().flat_map(|group| &group.waves);
    let machines = waves.flat_map(|wave| &wave.machines);
    machines.map(|machine| machine.name.to_string()).collect()
}

#[test]
fn what_failed_last_goes_last_where_the_policy_says_so() {
    let mut world = world(json!("failed-last"));
    world.execute();
    fail(&mut world, "a", OutcomeKind::RolledBack);
    fail(&mut world, "b", OutcomeKind::RolledBack);
    world.update("c");
    assert_eq!(order(&world), ["a", "b"]);
    // Only the last attempt counts, and only as far as machines differ in it.
    let mut again = wish(&[]);
    again.retry_failed = true;
    world.done(OperatorRequest::Execute {
        wish: again,
        if_plan: None,
    });
    world.update("a");
    fail(&mut world, "b", OutcomeKind::RolledBack);
    prepare(&mut world, "3");
    assert_eq!(order(&world), ["a", "c", "b"]);
}

/// What each machine's update of version 2 took.
fn taken(order: Value) -> World {
    let mut world = world(order);
    world.execute();
    for (machine, took) in [("a", 5), ("b", 14), ("c", 12)] {
        let grant = world.go(machine);
        for _ in 0..took {
            world.pass_without(minutes(1), &[machine]);
            world.renew(machine, &grant);
        }
        world.end(machine, &grant, OutcomeKind::Confirmed);
    }
    prepare(&mut world, "3");
    world
}

#[test]
fn what_takes_longest_goes_first_where_the_policy_says_so() {
    assert_eq!(order(&taken(json!("given"))), ["a", "b", "c"]);
    assert_eq!(order(&taken(json!("longest-first"))), ["b", "c", "a"]);
}

#[test]
fn of_two_orders_the_first_counts_most() {
    for (given, expected) in [
        (["failed-last", "longest-first"], ["c", "a", "b"]),
        (["longest-first", "failed-last"], ["b", "c", "a"]),
    ] {
        let mut world = taken(json!(given));
        world.execute();
        fail(&mut world, "b", OutcomeKind::Refused);
        world.done(OperatorRequest::Abort {
            rollout: None,
            reason: String::new(),
        });
        assert_eq!(order(&world), expected, "{given:?}");
    }
}

/// A rollout whose machines do not have that order does not follow.
#[test]
fn an_order_that_the_policy_does_not_say_is_seen() {
    let documents = [json!("given"), json!("longest-first")];
    for (order, expected) in documents
        .into_iter()
        .zip([["a", "b", "c"], ["b", "c", "a"]])
    {
        let mut world = taken(order);
        let before = world.fleet.clone();
        let id = world.execute();
        let rollout = world.fleet.rollout(&id).expect("just created").clone();
        let places = rollout.groups[0].waves[0].places.iter();
        let machines: Vec<&str> = places.map(|place| place.machine.as_str()).collect();
        assert_eq!(machines, expected);
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            let mut rollout = rollout.clone();
            rollout.groups[0].waves[0].places.swap(one, other);
            let created = Change::RolloutCreated {
                rollout: Box::new(rollout),
                undoes_to_now: true,
            };
            let wrong = invariants::follows(&before, &created);
            assert!(wrong.is_some(), "{one} and {other} in each other's place");
        }
    }
}

/// Of one machine: what its update took, in minutes, and whether it failed.
type Shown = (u64, bool);

/// The order by the handbook: again and again the first of those before whom nobody has to go.
fn by_the_handbook(order: &[&str], shown: &[Shown]) -> Vec<String> {
    let before = |one: usize, other: usize| {
        for rule in order {
            let (first, last) = match *rule {
                "failed-last" => (
                    !shown[one].1 && shown[other].1,
                    shown[one].1 && !shown[other].1,
                ),
                _ => {
                    // Less than three have been seen, so that none counts for less than what is expected.
                    let took = |machine: usize| shown[machine].0.max(10);
                    (took(one) > took(other), took(one) < took(other))
                }
            };
            if first || last {
                return first;
            }
        }
        one < other
    };
    let mut left: Vec<usize> = (0..shown.len()).collect();
    let mut found = Vec::new();
    while let Some(at) = left.iter().position(|one| {
        left.iter()
            .all(|other| one == other || before(*one, *other))
    }) {
        found.push(format!("m{}", left.remove(at)));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn machines_go_in_the_order_of_the_handbook(
        shown in proptest::collection::vec((1_u64..30, any::<bool>()), 1..7),
        order in prop::sample::select(vec![
            vec![], vec!["failed-last"], vec!["longest-first"],
            vec!["failed-last", "longest-first"], vec!["longest-first", "failed-last"],
        ]),
    ) {
        let machines: Vec<String> = (0..shown.len()).map(|m| format!("m{m}")).collect();
        let group = json!({ "machines": machines, "updatePolicy": "aggressive", "order": order,
            "maxFailures": shown.len() });
        let settings = json!({ "maxParallel": 1, "rollbackOnFailure": "machine" });
        let mut world = World::new(json!({ "web": group }), settings);
        world.execute();
        for (machine, (took, failed)) in machines.iter().zip(&shown) {
            let grant = world.go(machine);
            for _ in 0..*took {
                world.pass_without(minutes(1), &[machine]);
                world.renew(machine, &grant);
            }
            let how = if *failed { OutcomeKind::RolledBack } else { OutcomeKind::Confirmed };
            world.end(machine, &grant, how);
        }
        let targets = machines.iter().map(|m| (name(m), Target::Closure(path("3"))));
        world.done(OperatorRequest::PinTargets { targets: targets.collect(), reason: String::new() });
        prop_assert_eq!(crate::sequence::order(&world), by_the_handbook(&order, &shown));
    }
}
