//! Targets that are put aside: who does it, what it holds up, and what it does not.

use common::{Action, Generation, OutcomeKind, RolloutId, Target};
use coordinator_core::{
    FleetConfig,
    request::{Back, OperatorRequest, Refusal, Reply, Wish},
    rollout::RolloutState,
    wait::WaitReason,
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path, wish};

fn world(settings: Value) -> World {
    let mut all = json!({ "maxParallel": 4, "rollbackOnFailure": "machine" });
    let settings = settings.as_object().expect("keys").clone();
    all.as_object_mut().expect("an object").extend(settings);
    let group = json!({
        "machines": ["a", "b", "c", "d"], "updatePolicy": "aggressive", "maxFailures": 4,
    });
    World::new(json!({ "web": group }), all)
}

/// What everybody is to run.
fn target() -> String {
    path("2").to_string()
}

fn aside(reason: &str) -> OperatorRequest {
    OperatorRequest::QuarantineTarget {
        target: target(),
        reason: reason.to_owned(),
    }
}

fn release() -> OperatorRequest {
    OperatorRequest::ReleaseTarget {
        target: target(),
        reason: String::new(),
    }
}

fn back() -> Wish {
    Wish {
        action: Action::Rollback,
        ..wish(&[])
    }
}

/// What the rollout leads to is put aside while `a` has its turn: it finishes, and nobody else begins.
#[track_caller]
fn put_aside_while_a_is_at_it(world: &mut World, rollout: &RolloutId) {
    let grant = world.go("a");
    world.done(aside("it breaks DNS"));
    for machine in ["b", "c", "d"] {
        assert_eq!(world.place(rollout, machine), "skipped", "{machine}");
    }
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(*world.state(rollout), RolloutState::Finished);
}

#[test]
fn nobody_begins_an_update_to_what_was_put_aside_and_who_is_at_it_finishes() {
    let mut world = world(json!({}));
    let rollout = world.execute();
    put_aside_while_a_is_at_it(&mut world, &rollout);
    let plan = world.fleet.plan(&wish(&[])).expect("a plan");
    assert!(plan.is_empty());
    let (_, why) = plan
        .excluded
        .iter()
        .find(|(m, _)| *m == name("b"))
        .expect("left out");
    let WaitReason::TargetQuarantined {
        target: of, reason, ..
    } = why
    else {
        panic!("{why}");
    };
    assert_eq!(
        (of.as_str(), reason.as_str()),
        (target().as_str(), "it breaks DNS")
    );
    world.done(release());
    world.execute();
    world.update("b");
}

#[test]
fn the_way_back_is_open_whatever_is_put_aside() {
    let mut world = world(json!({}));
    world.execute();
    world.update("a");
    let before = path("1").to_string();
    world.done(OperatorRequest::QuarantineTarget {
        target: before,
        reason: "it is old".to_owned(),
    });
    let plan = world.fleet.plan(&back()).expect("a plan");
    assert!(!plan.is_empty(), "{plan:?}");
}

fn to_generation(number: u64) -> Wish {
    Wish {
        back: Back::Generation(number),
        immediate: true,
        ..back()
    }
}

fn executes(world: &mut World, wish: Wish) -> RolloutId {
    let if_plan = None;
    match world.ask(OperatorRequest::Execute { wish, if_plan }) {
        Reply::Executed {
            rollout: Some(rollout),
            ..
        } => rollout,
        other => panic!("not executed: {other:?}"),
    }
}

/// Everybody has run the target and is back where it was before; generation 2 is the target still.
fn been_there(settings: Value) -> World {
    let mut world = world(settings);
    world.execute();
    for machine in ["a", "b", "c", "d"] {
        world.update(machine);
    }
    executes(&mut world, back());
    for machine in ["a", "b", "c", "d"] {
        world.update(machine);
        world.report(machine).generations = [1, 2]
            .map(|number| Generation {
                number,
                path: path(&number.to_string()),
            })
            .into();
        world.poll(machine);
    }
    world
}

#[test]
fn no_number_of_a_generation_leads_to_what_is_put_aside() {
    let mut world = been_there(json!({}));
    assert!(
        !world
            .fleet
            .plan(&to_generation(2))
            .expect("a plan")
            .is_empty()
    );
    world.done(aside("it breaks DNS"));
    let plan = world.fleet.plan(&to_generation(2)).expect("a plan");
    assert!(plan.is_empty(), "{plan:?}");
    let kinds = plan.excluded.iter().map(|(_, why)| why.kind());
    assert!(kinds.eq(["target-quarantined"; 4]));
    world.done(release());
    assert!(
        !world
            .fleet
            .plan(&to_generation(2))
            .expect("a plan")
            .is_empty()
    );
}

#[test]
fn a_rollback_says_why_it_leads_nowhere() {
    let mut world = been_there(json!({}));
    let reasons = |world: &World, wish: Wish| {
        let plan = world.fleet.plan(&wish).expect("a plan");
        assert!(plan.is_empty(), "{plan:?}");
        let reasons = plan.excluded.into_iter().map(|(_, why)| why);
        reasons.collect::<Vec<WaitReason>>()
    };
    let none = reasons(&world, to_generation(150));
    assert_eq!(none, vec![WaitReason::NoSuchGeneration { number: 150 }; 4]);
    assert_eq!(none[0].to_string(), "has no generation 150");
    let nothing = reasons(&world, back());
    assert_eq!(nothing, vec![WaitReason::NothingBefore; 4]);
    world.done(OperatorRequest::ForgetMachine {
        machine: name("a"),
        reason: String::new(),
    });
    let nothing = reasons(&world, back());
    assert_eq!(nothing, vec![WaitReason::NothingBefore; 4]);
}

#[test]
fn who_is_still_to_go_there_by_number_when_it_is_put_aside_is_left_out() {
    let mut world = been_there(json!({}));
    let rollout = executes(&mut world, to_generation(2));
    put_aside_while_a_is_at_it(&mut world, &rollout);
}

#[test]
fn no_number_of_a_generation_leads_to_what_failed_on_the_machine() {
    let mut world = been_there(json!({}));
    world.done(OperatorRequest::PinTargets {
        targets: vec![(name("a"), Target::Closure(path("2")))],
        reason: String::new(),
    });
    world.execute();
    world.fails("a");
    let plan = world.fleet.plan(&to_generation(2)).expect("a plan");
    let kinds: Vec<(&str, &str)> = plan
        .excluded
        .iter()
        .map(|(machine, why)| (machine.as_str(), why.kind()))
        .collect();
    assert_eq!(kinds, [("a", "bad-target")]);
    let again = Wish {
        retry_failed: true,
        ..to_generation(2)
    };
    let plan = world.fleet.plan(&again).expect("a plan");
    assert_eq!(plan.excluded, []);
}

#[test]
fn what_fails_on_too_many_machines_is_put_aside_and_counts_anew_when_it_is_released() {
    let mut world = world(json!({ "quarantineTargetAfter": 2 }));
    let rollout = world.execute();
    world.fails("a");
    assert!(world.fleet.facts().targets_aside.is_empty());
    world.fails("b");
    let aside = world.fleet.facts().targets_aside.get(&target()).cloned();
    let aside = aside.expect("put aside");
    assert_eq!(aside.reason, "it failed on a, b");
    assert_eq!(world.place(&rollout, "c"), "skipped");
    assert_eq!(*world.state(&rollout), RolloutState::Failed);
    world.done(release());
    world.execute();
    world.fails("c");
    assert!(world.fleet.facts().targets_aside.is_empty());
    // It failed on c, and then it did not.
    world.pass(minutes(1));
    let machines = world.fleet.facts().machines.values();
    assert_eq!(machines.filter(|m| m.failed_with.is_some()).count(), 1);
    world.fails("d");
    assert!(!world.fleet.facts().targets_aside.is_empty());
}

#[test]
fn who_is_at_it_and_fails_does_not_put_it_aside_again() {
    let mut world = world(json!({ "quarantineTargetAfter": 1 }));
    world.execute();
    let grant = world.go("a");
    world.done(aside("it breaks DNS"));
    world.end("a", &grant, OutcomeKind::RolledBack);
    let known = &world.fleet.facts().machines[&name("a")];
    assert_eq!(known.failed_with, None);
}

#[test]
fn who_gives_the_turn_back_is_left_out_when_it_is_heard_of_again() {
    let mut world = world(json!({}));
    let rollout = world.execute();
    let grant = world.go("a");
    world.done(aside("it breaks DNS"));
    world.end("a", &grant, OutcomeKind::Abandoned);
    assert_eq!(world.place(&rollout, "a"), "pending");
    world.waits_for("a", "target-quarantined");
    assert_eq!(world.place(&rollout, "a"), "skipped");
}

#[test]
fn who_was_updated_after_all_speaks_against_nothing() {
    let mut world = world(json!({ "quarantineTargetAfter": 2 }));
    world.execute();
    world.fails("a");
    world.update("b");
    world.update("c");
    world.update("d");
    world.execute();
    world.update("a");
    let machines = world.fleet.facts().machines.values();
    assert_eq!(machines.filter(|m| m.failed_with.is_some()).count(), 0);
}

#[test]
fn what_cannot_be_put_aside_is_refused() {
    let mut world = world(json!({}));
    let refused = world.refused(aside(" "));
    assert!(matches!(refused, Refusal::Invalid(_)), "{refused}");
    let refused = world.refused(release());
    assert!(matches!(refused, Refusal::NotNow(_)), "{refused}");
    world.done(aside("it breaks DNS"));
    let refused = world.refused(aside("it does"));
    assert!(matches!(refused, Refusal::NotNow(_)), "{refused}");
    for target in ["", "#web-01", "two words", &"x".repeat(1025)] {
        let refused = world.refused(OperatorRequest::QuarantineTarget {
            target: target.to_owned(),
            reason: "so".to_owned(),
        });
        assert!(
            matches!(refused, Refusal::Invalid(_)),
            "{target}: {refused}"
        );
    }
    // All attributes of a flake are one target.
    let reply = world.ask(OperatorRequest::QuarantineTarget {
        target: "git+https://git.example.org/fleet?rev=4e5a#web-01".to_owned(),
        reason: "so".to_owned(),
    });
    let text =
        "in quarantine: git+https://git.example.org/fleet?rev=4e5a; no machine is to run it now";
    assert_eq!(reply, Reply::Done(text.to_owned()));
}

#[test]
fn how_many_is_a_whole_number() {
    for value in [json!("two"), json!(1.5), json!(-1)] {
        let document = json!({
            "updateGroups": { "web": { "machines": ["a"] } },
            "updateSettings": { "quarantineTargetAfter": value },
        });
        let faults = FleetConfig::parse(&document).expect_err("refused");
        assert_eq!(faults.0[0].path, "updateSettings.quarantineTargetAfter");
    }
}
