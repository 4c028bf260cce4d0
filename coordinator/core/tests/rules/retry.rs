//! Targets that failed on a machine before: it remembers them, and tries them again only when told.

use common::{Action, Declined, DeclinedKind, OutcomeKind, Target};
use coordinator_core::{
    Reply,
    request::{AgentRequest, Directive, Grant, OperatorRequest, Wish},
};
use serde_json::json;

use super::fleet::{World, minutes, name, path, wish};

fn world() -> World {
    World::new(
        json!({ "web": {
            "machines": ["a", "b"], "updatePolicy": "aggressive", "maxFailures": 2,
        } }),
        json!({ "maxParallel": 2, "stageTimeout": "30m" }),
    )
}

fn execute(world: &mut World, wish: Wish) -> common::RolloutId {
    match world.ask(OperatorRequest::Execute {
        wish,
        if_plan: None,
    }) {
        Reply::Executed {
            rollout: Some(rollout),
            ..
        } => rollout,
        other => panic!("not executed: {other:?}"),
    }
}

/// Polls once as a machine that remembers what it is to run as bad: it says so and stages nothing,
/// unless it is told to try all the same.
fn poll_remembering(world: &mut World, machine: &str) -> bool {
    let report = world.report(machine);
    report.sequence += 1;
    let report = Box::new(report.clone());
    let reply = world.agent(machine, AgentRequest::Poll { report }).reply;
    let Reply::Directive(Directive::Stage { force, wish, .. }) = reply else {
        panic!("not told to stage: {reply:?}");
    };
    world.report(machine).declined = (!force).then(|| Declined {
        target: Target::Closure(path("2")),
        wish,
        kind: DeclinedKind::BadTarget,
        reason: "its switch failed".to_owned(),
    });
    force
}

fn go(world: &mut World, machine: &str) -> Grant {
    world.report(machine).declined = None;
    world.go(machine)
}

#[test]
fn a_target_that_failed_before_is_refused_unless_it_is_to_be_tried_again() {
    let mut world = world();
    let first = execute(&mut world, wish(&[]));
    assert!(!poll_remembering(&mut world, "a"), "nobody said so");
    world.poll_without_staging("a");
    let grant = go(&mut world, "b");
    assert!(!grant.force, "the machine itself may still say no");
    world.end("b", &grant, OutcomeKind::Refused);
    let why = world.fleet.permission(&name("a"), world.now);
    assert_eq!(why.expect_err("bad").kind(), "bad-target");
    world.pass_staging_nothing(minutes(60), "a");
    for machine in ["a", "b"] {
        assert_eq!(world.place(&first, machine), "refused", "{machine}");
    }

    let again = Wish {
        retry_failed: true,
        ..wish(&[])
    };
    let second = execute(&mut world, again);
    // What it had staged for the first rollout is gone.
    world.report("b").staged = None;
    for machine in ["a", "b"] {
        assert!(poll_remembering(&mut world, machine), "{machine}");
        let grant = go(&mut world, machine);
        assert!(grant.force, "{machine}");
        world.end(machine, &grant, OutcomeKind::Confirmed);
        assert_eq!(world.place(&second, machine), "updated", "{machine}");
    }
}

/// Says at its next poll that it does not stage this.
fn declines(world: &mut World, machine: &str, kind: DeclinedKind) {
    world.report(machine).declined = Some(Declined {
        target: Target::Closure(path("2")),
        wish: 1,
        kind,
        reason: "its switch failed".to_owned(),
    });
    world.poll_without_staging(machine);
}

/// Why a machine is left out of what this wish comes to.
fn left_out(world: &World, machine: &str, wish: &Wish) -> Option<&'static str> {
    let plan = world.fleet.plan(wish).expect("a plan");
    let mut excluded = plan.excluded.iter();
    let found = excluded.find(|(left, _)| *left == name(machine));
    found.map(|(_, why)| why.kind())
}

#[test]
fn who_is_known_to_refuse_is_left_out_of_the_plan_unless_it_is_to_be_tried_again() {
    let mut world = world();
    let again = Wish {
        retry_failed: true,
        ..wish(&[])
    };
    // What it could not obtain it may well obtain the next time.
    for (kind, out) in [
        (DeclinedKind::BadTarget, Some("bad-target")),
        (DeclinedKind::NotAllowed, Some("target-not-allowed")),
        (DeclinedKind::StagingFailed, None),
    ] {
        declines(&mut world, "a", kind);
        assert_eq!(left_out(&world, "a", &wish(&[])), out, "{kind:?}");
        assert_eq!(left_out(&world, "a", &again), None, "{kind:?}");
        assert_eq!(left_out(&world, "b", &wish(&[])), None);
    }
    // Another target is another matter.
    declines(&mut world, "a", DeclinedKind::BadTarget);
    world.done(OperatorRequest::PinTargets {
        targets: vec![(name("a"), Target::Closure(path("3")))],
        reason: String::new(),
    });
    assert_eq!(left_out(&world, "a", &wish(&[])), None);
}

#[test]
fn the_way_back_is_tried_whatever_failed_there_before() {
    let mut world = world();
    world.execute();
    world.update("a");
    world.update("b");
    let back = Wish {
        action: Action::Rollback,
        ..wish(&[])
    };
    execute(&mut world, back);
    assert!(world.go("a").force);
}
