//! A whole rollout is taken back.

use common::{Action, MachineName, OutcomeKind, RolloutId, Target};
use coordinator_core::{
    Reply,
    plan::Plan,
    request::{Back, OperatorRequest, Refusal, Wish},
    rollout::RolloutState,
};
use serde_json::json;

use crate::fleet::{World, minutes, name, path, wish};

fn back(to: Back) -> Wish {
    Wish {
        action: Action::Rollback,
        back: to,
        ..wish(&[])
    }
}

fn world() -> World {
    let machines =
        json!({ "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "maxParallel": 3 });
    World::new(json!({ "web": machines }), json!({ "maxParallel": 3 }))
}

fn update(world: &mut World, machines: &[&str], version: &str) -> RolloutId {
    for machine in machines {
        world.pin(machine, version);
        world.poll(machine);
    }
    let rollout = world.begin(of(machines));
    for machine in machines {
        world.update(machine);
    }
    rollout
}

/// An update of these machines.
fn of(machines: &[&str]) -> Wish {
    let mut wish = wish(&[]);
    wish.selection.machines = machines.iter().map(|machine| name(machine)).collect();
    wish
}

fn goes_to(plan: &Plan) -> Vec<(MachineName, Target)> {
    let waves = plan.groups.iter().flat_map(|group| &group.waves);
    let machines = waves.flat_map(|wave| &wave.machines);
    machines
        .map(|m| (m.name.clone(), m.target.clone()))
        .collect()
}

#[test]
fn whoever_was_only_silent_and_is_as_it_is_to_be_is_not_taken_back() {
    let group = json!({ "machines": ["a", "b"], "updatePolicy": "aggressive", "maxParallel": 2, "maxFailures": 0 });
    let mut world = World::new(json!({ "web": group }), json!({ "maxParallel": 2 }));
    let rollout = world.execute();
    let silent = world.go("a");
    let others = world.go("b");
    world.end("b", &others, OutcomeKind::Confirmed);
    world.pass_without(minutes(20), &["a"]);
    let RolloutState::Paused(reason) = world.state(&rollout) else {
        panic!("{:?}", world.state(&rollout));
    };
    assert_eq!(reason.kind(), "budget-spent");
    world.end("a", &silent, OutcomeKind::Confirmed);
    // Nobody has failed any more, and everybody is done.
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
    assert_eq!(world.fleet.facts().rollouts.len(), 1, "no rollback");
}

#[test]
fn machines_go_back_to_what_they_ran_before_that_rollout() {
    let mut world = world();
    let first = update(&mut world, &["a", "b"], "2");
    let second = update(&mut world, &["b", "c"], "3");
    // b has moved on since the first, and is the second's.
    let plan = world
        .fleet
        .plan(&back(Back::Before(first.clone())))
        .expect("a plan");
    let to = |version: &str| Target::Closure(path(version));
    assert_eq!(goes_to(&plan), [(name("a"), to("1"))]);
    let [(machine, reason)] = &plan.excluded[..] else {
        panic!("{:?}", plan.excluded);
    };
    assert_eq!((machine, reason.kind()), (&name("b"), "moved-on"));
    let plan = world
        .fleet
        .plan(&back(Back::Before(second)))
        .expect("a plan");
    assert_eq!(goes_to(&plan), [(name("b"), to("2")), (name("c"), to("1"))]);
    // Only what was chosen of it.
    let mut only = back(Back::Before(first));
    only.selection.machines = vec![name("c")];
    assert!(world.fleet.plan(&only).expect("a plan").is_empty());
}

#[test]
fn a_later_rollout_that_never_came_to_it_changes_nothing() {
    let mut world = world();
    let first = update(&mut world, &["a"], "2");
    world.pin("a", "3");
    world.poll("a");
    let second = world.begin(of(&["a"]));
    world.done(OperatorRequest::Abort {
        rollout: Some(second),
        reason: String::new(),
    });
    let plan = world.fleet.plan(&back(Back::Before(first)));
    let to = Target::Closure(path("1"));
    assert_eq!(goes_to(&plan.expect("a plan")), [(name("a"), to)]);
}

#[test]
fn whoever_did_not_get_it_is_left_alone() {
    let mut world = world();
    for machine in ["a", "b"] {
        world.poll(machine);
    }
    let rollout = world.begin(of(&["a", "b"]));
    world.update("a");
    let grant = world.go("b");
    world.end("b", &grant, OutcomeKind::RolledBack);
    let plan = world
        .fleet
        .plan(&back(Back::Before(rollout)))
        .expect("a plan");
    assert_eq!(goes_to(&plan), [(name("a"), Target::Closure(path("1")))]);
    assert!(plan.excluded.is_empty());
}

#[test]
fn taking_back_twice_does_nothing_more() {
    let mut world = world();
    let rollout = update(&mut world, &["a"], "2");
    let again = back(Back::Before(rollout));
    world.begin(again.clone());
    world.poll("a");
    world.update("a");
    assert_eq!(world.report("a").running, Some(path("1")));
    let plan = world.fleet.plan(&again).expect("a plan");
    assert!(plan.is_empty(), "{plan:?}");
}

#[test]
fn a_rollout_that_nobody_remembers_is_not_found() {
    let world = world();
    let unknown: RolloutId = "r9".parse().expect("a name");
    let refused = world.fleet.plan(&back(Back::Before(unknown)));
    assert!(
        matches!(
            refused,
            Err(Refusal::NotFound {
                what: "rollout",
                ..
            })
        ),
        "{refused:?}"
    );
}

impl World {
    fn pin(&mut self, machine: &str, version: &str) {
        self.done(OperatorRequest::PinTargets {
            targets: vec![(name(machine), Target::Closure(path(version)))],
            reason: String::new(),
        });
    }

    fn begin(&mut self, wish: Wish) -> RolloutId {
        let asked = OperatorRequest::Execute {
            wish,
            if_plan: None,
        };
        match self.ask(asked) {
            Reply::Executed {
                rollout: Some(rollout),
                ..
            } => rollout,
            other => panic!("not begun: {other:?}"),
        }
    }
}

/// Two groups of three, of which none may fail; `c` of the first never goes back by itself.
fn strict(settings: &serde_json::Value) -> World {
    let group = |machines: [&str; 3]| json!({ "machines": machines, "updatePolicy": "aggressive", "maxFailures": 0, "maxParallel": 3 });
    let mut all = json!({ "maxParallel": 6, "staggerDelay": 0 });
    for (key, value) in settings.as_object().expect("keys") {
        all[key] = value.clone();
    }
    let mut world = World::of(&json!({
        "updateGroups": { "web": group(["a", "b", "c"]), "zoo": group(["x", "y", "z"]) },
        "updateSettings": all,
        "updateMachines": { "c": { "rollbackOnFailure": false } },
    }));
    for machine in ["a", "b", "c", "x", "y", "z"] {
        world.poll(machine);
    }
    world
}

/// The rollback that a rollout has called for.
fn undone_by(world: &World, rollout: &RolloutId) -> Vec<String> {
    let rollouts = world.fleet.facts().rollouts.values();
    let rollback = rollouts.filter(|other| other.undoes.as_ref() == Some(rollout));
    let places =
        rollback.flat_map(|rollback| rollback.places().map(|place| place.machine.to_string()));
    places.collect()
}

#[test]
fn what_a_spent_budget_leaves_behind_is_taken_back_once_nobody_is_at_work() {
    let mut world = strict(&json!({}));
    let rollout = world.execute();
    world.update("a");
    world.update("x");
    let (b, c) = (world.go("b"), world.go("c"));
    world.end("b", &b, OutcomeKind::RolledBack);
    let state = world.state(&rollout).clone();
    assert!(matches!(state, RolloutState::Paused(_)), "{state:?}");
    assert!(undone_by(&world, &rollout).is_empty(), "c is at work");
    world.end("c", &c, OutcomeKind::Confirmed);
    // c may not go back by itself, b is back, and the other group has failed nowhere.
    assert_eq!(undone_by(&world, &rollout), ["a"]);
    let state = world.state(&rollout).clone();
    let RolloutState::Aborted { by, reason } = &state else {
        panic!("{state:?}");
    };
    assert_eq!(by, "its policy (rollbackOnFailure)");
    assert!(
        reason.ends_with("rollback r2 takes back what it brought there"),
        "{reason}"
    );
    world.poll("a");
    world.update("a");
    assert_eq!(world.report("a").running, Some(path("1")));
    assert_eq!(world.report("x").running, Some(path("2")));
}

#[test]
fn who_has_left_the_fleet_keeps_nobody_from_being_taken_back() {
    let mut world = strict(&json!({}));
    let rollout = world.execute();
    world.update("a");
    world.update("b");
    let x = world.go("x");
    world.fails("c");
    assert!(undone_by(&world, &rollout).is_empty(), "x is at work");
    world.configure(&json!({
        "updateGroups": {
            "web": { "machines": ["a", "c"], "updatePolicy": "aggressive" },
            "zoo": { "machines": ["x", "y", "z"], "updatePolicy": "aggressive" },
        },
    }));
    world.end("x", &x, OutcomeKind::Confirmed);
    assert_eq!(undone_by(&world, &rollout), ["a"]);
}

#[test]
fn what_waits_for_the_next_boot_is_taken_back_too() {
    let mut world = strict(&json!({}));
    let rollout = world.begin(of(&["a", "b"]));
    let grant = world.go("a");
    world.report("a").profile = Some(path("2"));
    world.end("a", &grant, OutcomeKind::RebootRequired);
    world.fails("b");
    assert_eq!(undone_by(&world, &rollout), ["a"]);
    let grant = world.go("a");
    assert_eq!(grant.target, Target::Closure(path("1")));
}

#[test]
fn the_last_machine_that_fails_has_the_others_taken_back_too() {
    let mut world = strict(&json!({}));
    let rollout = world.begin(of(&["a", "b"]));
    world.update("a");
    world.fails("b");
    assert_eq!(undone_by(&world, &rollout), ["a"]);
}

#[test]
fn nothing_is_taken_back_where_nothing_is_to_or_somebody_goes_on() {
    // Nobody was updated: there is nothing, and the rollout stays paused.
    let mut world = strict(&json!({}));
    let rollout = world.execute();
    world.fails("a");
    assert!(matches!(world.state(&rollout), RolloutState::Paused(_)));
    assert!(undone_by(&world, &rollout).is_empty());
    // The rules do not let anybody go back by themselves.
    for keeps in [json!(false), json!("machine")] {
        let mut world = strict(&json!({ "rollbackOnFailure": keeps }));
        let rollout = world.execute();
        world.update("a");
        world.fails("b");
        assert!(matches!(world.state(&rollout), RolloutState::Paused(_)));
    }
    // Somebody accepts the failure while another machine is at work.
    let mut world = strict(&json!({}));
    let rollout = world.execute();
    world.update("a");
    let (b, c) = (world.go("b"), world.go("c"));
    world.end("b", &b, OutcomeKind::RolledBack);
    world.done(OperatorRequest::ResumeRollout {
        rollout: None,
        reason: String::new(),
    });
    world.end("c", &c, OutcomeKind::Confirmed);
    assert!(undone_by(&world, &rollout).is_empty());
    assert_eq!(*world.state(&rollout), RolloutState::Active);
}

#[test]
fn a_stop_holds_it_back() {
    let mut world = strict(&json!({}));
    let rollout = world.execute();
    world.update("a");
    let b = world.go("b");
    world.done(crate::fleet::stop(&[]));
    world.end("b", &b, OutcomeKind::RolledBack);
    assert!(undone_by(&world, &rollout).is_empty());
    world.done(OperatorRequest::Resume {
        reason: "looked at".to_owned(),
    });
    assert_eq!(undone_by(&world, &rollout), ["a"]);
}
