//! Obtaining a target without a lease: how often it is tried, and how it is said that it fails.

use crate::world::{Script, World, proceed, stage, target};
use agent_core::{Directive, Failure, Work};
use common::{Action, Declined, DeclinedKind, LeaseId, OutcomeKind};

/// What `lab update prepare` comes to on a machine.
fn prepare(wish: u64) -> Directive {
    Directive::Stage {
        rollout: None,
        target: target("new"),
        action: Action::Update,
        force: false,
        wish,
    }
}

/// A machine that cannot obtain anything.
fn unable() -> World {
    World::new(Script {
        stage: Err(Failure::Failed("no space\u{1b}[2J left".to_owned())),
        ..Script::default()
    })
}

fn declined(world: &World) -> Option<Declined> {
    world.agent.clone().report(world.now)?.declined
}

/// Whether a staging has been begun and not ended.
fn at_work(world: &World) -> bool {
    let is_staging = |work: &Work| matches!(work, Work::Stage { .. });
    world.open.iter().any(|job| is_staging(&job.work))
}

/// Until the machine says that it does not stage its target.
fn until_declined(world: &mut World) -> Declined {
    for _ in 0..100 {
        if let Some(declined) = declined(world) {
            return declined;
        }
        if !world.work_one() {
            world.pass_time();
        }
    }
    panic!("it never says so");
}

#[test]
fn staging_is_tried_a_few_times_and_then_refused_without_a_lease() {
    let mut world = World::new(Script {
        stage: Err(Failure::Failed("no space\u{1b}[2J left".to_owned())),
        ..Script::default()
    });
    world.say(stage(Action::Update));
    let result = world.finish();
    assert_eq!(
        (result.lease, result.outcome.kind),
        (LeaseId(0), OutcomeKind::Refused)
    );
    assert_eq!(result.outcome.reason, "staging failed: no space [2J left");
    // Asked again at once it does not begin again.
    let before = world.disk.clone();
    world.say(stage(Action::Update));
    assert_eq!(world.disk, before);
}

#[test]
fn a_machine_that_is_not_ready_gives_its_turn_back_and_asks_anew_when_it_is() {
    let mut world = World::staged(Script {
        snapshot: Err(Failure::NotReady("no backup".to_owned())),
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::Abandoned);
    assert_eq!(result.outcome.reason, "not ready for an update: no backup");
    assert_eq!(world.disk.bad_targets, []);
    assert_eq!(world.disk.staged, None, "it does not ask for its turn");
    assert!(world.hooks.is_empty() && world.activations == 0);
    world.say(stage(Action::Update));
    assert!(at_work(&world), "it looks again");
    world.work_all();
    assert!(world.disk.staged.is_some());
}

#[test]
fn what_it_is_staged_for_is_told_and_remembered() {
    let mut world = World::new(Script::default());
    world.say(stage(Action::Rollback));
    let for_rollback = |world: &World| {
        let mut works = world.open.iter().map(|job| &job.work);
        works.any(|work| {
            matches!(
                work,
                Work::Stage {
                    action: Action::Rollback,
                    ..
                }
            )
        })
    };
    assert!(for_rollback(&world));
    world.restart(agent_core::UnitState::Running);
    assert!(for_rollback(&world));
}

#[test]
fn ahead_of_a_rollout_the_reports_say_it_for_as_long_as_it_is_not_tried_again() {
    let mut world = unable();
    world.say(prepare(7));
    assert_eq!(declined(&world), None, "it is being tried");
    let polls = world.polls.len();
    let said = until_declined(&mut world);
    assert_eq!(
        said,
        Declined {
            target: target("new"),
            wish: 7,
            kind: DeclinedKind::StagingFailed,
            reason: "no space [2J left".to_owned(),
        }
    );
    assert!(world.polls.len() > polls, "it is said at once");
    assert!(world.reports.is_empty(), "there is no rollout to answer");

    world.say(prepare(7));
    assert!(!at_work(&world), "asked again it does not begin again");
    world.now = world.now + world.limits.backoff_max;
    assert_eq!(declined(&world), None);
    world.say(prepare(7));
    assert!(at_work(&world), "after a while it tries again");
}

#[test]
fn what_the_machine_does_not_allow_is_tried_once() {
    let mut world = World::new(Script {
        stage: Err(Failure::NotAllowed("no flakes here".to_owned())),
        ..Script::default()
    });
    world.say(prepare(7));
    assert!(at_work(&world));
    while at_work(&world) {
        world.work_one();
    }
    let said = declined(&world).expect("said after the first try");
    assert_eq!(said.kind, DeclinedKind::NotAllowed);
    assert_eq!(said.reason, "no flakes here");
}

#[test]
fn a_new_wish_is_tried_at_once() {
    let mut world = unable();
    world.say(prepare(7));
    until_declined(&mut world);
    world.script.stage = Ok(());
    world.say(prepare(8));
    world.work_all();
    assert!(world.disk.staged.is_some());

    // Also in the pause between two tries.
    let mut world = unable();
    world.say(prepare(7));
    world.work_all();
    assert!(!at_work(&world) && declined(&world).is_none());
    world.say(prepare(7));
    assert!(!at_work(&world), "the same wish waits for its time");
    world.say(prepare(8));
    assert!(at_work(&world));
    assert_eq!(until_declined(&mut world).wish, 8);
}

#[test]
fn a_target_that_failed_before_is_named_as_such() {
    let mut world = World::staged(Script {
        healthy: vec![false],
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(world.finish().outcome.kind, OutcomeKind::RolledBack);
    world.say(prepare(7));
    let said = declined(&world).expect("it is known");
    assert_eq!(said.kind, DeclinedKind::BadTarget);
    assert!(said.reason.contains("web.service"), "{said:?}");
}
