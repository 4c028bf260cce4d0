//! Machines that cannot obtain what they are to run.

use common::{Declined, DeclinedKind, Target};
use coordinator_core::{
    WaitReason,
    request::{AgentRequest, Directive, OperatorRequest, Selection},
    view::{Query, View},
};
use serde_json::json;

use super::fleet::{World, minutes, name, path};

fn world() -> World {
    World::new(
        json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive" } }),
        json!({}),
    )
}

fn pin(world: &mut World) {
    pin_to(world, "3");
}

fn pin_to(world: &mut World, system: &str) {
    let targets = vec![(name("a"), Target::Closure(path(system)))];
    world.done(OperatorRequest::PinTargets {
        targets,
        reason: String::new(),
    });
}

/// The wish of the coordinator's order to stage; polls once.
fn told_to_stage(world: &mut World) -> u64 {
    order(world).0
}

/// The coordinator's order to stage; polls once.
fn order(world: &mut World) -> (u64, Target) {
    let report = world.reports.get_mut(&name("a")).expect("a");
    report.sequence += 1;
    let report = Box::new(report.clone());
    match world.agent("a", AgentRequest::Poll { report }).reply {
        coordinator_core::Reply::Directive(Directive::Stage { wish, target, .. }) => (wish, target),
        other => panic!("not told to stage: {other:?}"),
    }
}

fn decline(world: &mut World, wish: u64, kind: DeclinedKind) {
    let report = world.reports.get_mut(&name("a")).expect("a");
    report.declined = Some(Declined {
        target: Target::Closure(path("3")),
        wish,
        kind,
        reason: "no space left".to_owned(),
    });
}

fn why(world: &World) -> Option<WaitReason> {
    match world.fleet.view(&Query::Why(name("a")), world.now) {
        View::Why(why) => why.wait,
        other => panic!("{other:?}"),
    }
}

fn no_space() -> Option<WaitReason> {
    Some(WaitReason::StagingFailed {
        reason: "no space left".to_owned(),
        ends_at: None,
        zone: String::new(),
    })
}

#[test]
fn what_a_machine_in_quarantine_cannot_stage_is_said_first() {
    let mut world = world();
    world.done(OperatorRequest::Quarantine {
        machines: vec![name("a")],
        reason: "its disk is failing".to_owned(),
    });
    pin(&mut world);
    let wish = told_to_stage(&mut world);
    assert_eq!(why(&world).map(|why| why.kind()), Some("quarantined"));
    decline(&mut world, wish, DeclinedKind::StagingFailed);
    world.poll_without_staging("a");
    assert_eq!(why(&world), no_space());
}

#[test]
fn what_a_machine_cannot_stage_is_known_and_is_no_fact() {
    let mut world = world();
    pin(&mut world);
    let wish = told_to_stage(&mut world);
    assert_eq!(why(&world), Some(WaitReason::NoRollout));
    decline(&mut world, wish, DeclinedKind::StagingFailed);
    let report = Box::new(world.reports[&name("a")].clone());
    let decision = world.agent("a", AgentRequest::Poll { report });
    assert_eq!(decision.changes, [], "a heartbeat writes nothing");
    assert_eq!(why(&world), no_space());

    world.reports.get_mut(&name("a")).expect("a").declined = None;
    told_to_stage(&mut world);
    assert_eq!(why(&world), Some(WaitReason::NoRollout), "it tries again");

    decline(&mut world, wish, DeclinedKind::BadTarget);
    told_to_stage(&mut world);
    assert_eq!(why(&world).map(|reason| reason.kind()), Some("bad-target"));

    decline(&mut world, wish, DeclinedKind::NotAllowed);
    told_to_stage(&mut world);
    let kind = why(&world).map(|reason| reason.kind());
    assert_eq!(kind, Some("target-not-allowed"));
}

#[test]
fn an_answer_to_an_earlier_wish_says_nothing_about_a_newer_one() {
    let mut world = world();
    pin(&mut world);
    let first = told_to_stage(&mut world);
    decline(&mut world, first, DeclinedKind::StagingFailed);
    told_to_stage(&mut world);
    assert_eq!(why(&world), no_space());
    world.now = world.now + minutes(1);
    pin(&mut world);
    assert_eq!(why(&world), Some(WaitReason::NoRollout));
    let second = told_to_stage(&mut world);
    assert_ne!(second, first);
    assert_eq!(why(&world), Some(WaitReason::NoRollout));
}

#[test]
fn a_machine_of_a_rollout_waits_for_the_same_reason() {
    let mut world = world();
    pin(&mut world);
    world.execute();
    assert_eq!(told_to_stage(&mut world), 0, "within a rollout");
    let until = |world: &World| why(world).and_then(|reason| reason.next());
    let staging = why(&world).expect("it waits");
    assert_eq!((staging.kind(), staging.by_itself()), ("staging", true));
    let ends_at = until(&world).expect("a time is set");
    assert_eq!(ends_at.since(world.now), minutes(60), "stageTimeout");
    decline(&mut world, 0, DeclinedKind::StagingFailed);
    told_to_stage(&mut world);
    let failed = why(&world).expect("it waits");
    assert_eq!(
        failed.to_string(),
        "could not obtain its target: no space left"
    );
    assert_eq!(until(&world), Some(ends_at), "the same time holds");
}

fn engaged(world: &World) -> bool {
    let every = Query::Machines(Selection::default());
    match world.fleet.view(&every, world.now) {
        View::Machines(machines) => machines[0].engaged.is_some(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_newer_target_is_staged_once_the_part_of_the_rollout_is_over() {
    let mut world = world();
    world.execute();
    assert!(!engaged(&world), "it is the same target");
    pin_to(&mut world, "4");
    assert_eq!(order(&mut world).1, Target::Closure(path("2")));
    assert!(engaged(&world), "the rollout comes first");
    world.update("a");
    assert_eq!(world.fleet.facts().rollouts.len(), 1);
    let (wish, target) = order(&mut world);
    assert_eq!(target, Target::Closure(path("4")));
    assert!(!engaged(&world), "its part is over, though b's is not");

    let declined = Declined {
        target,
        wish,
        kind: DeclinedKind::StagingFailed,
        reason: "no space left".to_owned(),
    };
    world.reports.get_mut(&name("a")).expect("a").declined = Some(declined);
    order(&mut world);
    assert_eq!(why(&world), no_space());
}
