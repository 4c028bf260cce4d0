//! The dead-man timer: when it goes off, and what comes of it.

use std::time::Duration;

use agent_core::{ActivationEnd, Directive, Failure, Input, Step, UnitState, Work};
use common::{LeaseId, OutcomeKind};

use crate::world::{Script, World, path, proceed};

use OutcomeKind::{Confirmed, RolledBack};

#[test]
fn the_dead_man_ends_in_a_judged_rollback() {
    for step in [Step::Activating, Step::PostHook, Step::Judging] {
        let mut world = World::staged(Script::default());
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        world.feed(Input::DeadManFired { lease: LeaseId(7) });
        let result = world.finish();
        assert_eq!(result.outcome.kind, RolledBack, "{step:?}");
        assert!(world.steps.contains(&"judging-rollback".to_owned()));
    }
    // It went off between the judgement and the verdict.
    let mut world = World::staged(Script::default());
    world.dead_man_fired = true;
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(world.finish().outcome.kind, RolledBack);
}

#[test]
fn the_dead_man_s_order_follows_the_journal() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(
        world.disk.dead_man_order(LeaseId(7)),
        None,
        "nothing changed yet"
    );
    assert!(world.work_until(&Step::Judging));
    let order = world.disk.dead_man_order(LeaseId(7)).expect("an order");
    assert_eq!((order.previous.running, order.reboot), (path("old"), false));
    assert_eq!(
        world.disk.dead_man_order(LeaseId(6)),
        None,
        "another lease's"
    );
    world.finish();
    assert_eq!(world.disk.dead_man_order(LeaseId(7)), None, "it is over");
}

#[test]
fn a_boot_in_which_no_agent_came_up_is_left_to_the_dead_man() {
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Rebooting));
    let before = world.disk.clone();
    let boot = world.boot_id();
    assert_eq!(before.left_without_agent(&boot), None, "not booted yet");
    world.work_all();
    assert_ne!(world.boot_id(), boot, "it has been booted");
    assert_eq!(
        before.left_without_agent(&world.boot_id()),
        Some(LeaseId(7))
    );
    assert_eq!(
        world.disk.left_without_agent(&world.boot_id()),
        None,
        "the agent came up"
    );
}

#[test]
fn an_agent_that_comes_up_and_dies_leaves_the_boot_to_the_dead_man() {
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Rearming));
    assert_eq!((world.boot, &world.running), (2, &path("new")));
    for _ in 0..3 {
        let left = world.disk.left_without_agent(&world.boot_id());
        assert_eq!(left, Some(LeaseId(7)), "no timer runs yet");
        world.restart(UnitState::Absent);
    }
    assert!(world.work_until(&Step::PostHook));
    assert_eq!(world.disk.left_without_agent(&world.boot_id()), None);
    assert_eq!(world.finish().outcome.kind, Confirmed);

    // A timer that does not start watches nobody.
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Rearming));
    world.script.arming = Err(Failure::Failed("no answer from D-Bus".to_owned()));
    assert!(world.work_until(&Step::Judging));
    let left = world.disk.left_without_agent(&world.boot_id());
    assert_eq!(left, Some(LeaseId(7)));
    assert_eq!(world.finish().outcome.kind, Confirmed, "the agent lives");
}

#[test]
fn where_the_way_is_a_boot_the_dead_man_never_switches_live() {
    for step in [
        Step::Activating,
        Step::Announcing,
        Step::Rebooting,
        Step::Judging,
    ] {
        let mut world = World::staged(Script {
            needs_reboot: true,
            hangs: step == Step::Announcing,
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        let order = world.disk.dead_man_order(LeaseId(7)).expect("an order");
        assert!(
            order.reboot,
            "{step:?}: the power may go now and the target come up"
        );
    }
    // Nobody has given leave to boot.
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    let mut lease = proceed(7);
    lease.allow_reboot = false;
    world.say(Directive::Proceed(lease));
    assert!(world.work_until(&Step::Activating));
    assert_eq!(world.disk.dead_man_order(LeaseId(7)), None);
}

/// A target that has broken what the agent needs to start anything.
#[test]
fn a_way_back_that_cannot_be_run_is_left_to_the_dead_man() {
    let unable = || {
        let mut world = World::staged(Script {
            healthy: vec![false],
            restore: Err(Failure::Failed("no bus".to_owned())),
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&Step::RollingBack));
        let tries = world.limits.switch_tries;
        let restores = |world: &World| world.disk.attempt.as_ref().map(|a| a.restores);
        for _ in 0..100 {
            let worked = world.work_one();
            if !worked && restores(&world) == Some(tries) {
                return world;
            }
            if !worked {
                world.pass_time();
            }
        }
        panic!("it does not try {tries} times");
    };
    let mut world = unable();
    assert!(
        world.disk.dead_man_order(LeaseId(7)).is_some(),
        "it may act"
    );
    world.script.restore = Ok(ActivationEnd::Done);
    world.feed(Input::DeadManFired { lease: LeaseId(7) });
    assert_eq!(world.finish().outcome.kind, RolledBack);

    // The agent is started anew while it waits: so does the next one.
    let mut world = unable();
    world.restart(UnitState::Absent);
    assert_eq!(
        world.disk.attempt.as_ref().map(|attempt| &attempt.step),
        Some(&Step::RollingBack)
    );
    world.script.restore = Ok(ActivationEnd::Done);
    world.feed(Input::DeadManFired { lease: LeaseId(7) });
    assert_eq!(world.finish().outcome.kind, RolledBack);

    // It does not come either.
    let result = unable().finish();
    assert_eq!(result.outcome.kind, OutcomeKind::Stuck);
    let mut world = unable();
    world.restart(UnitState::Absent);
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Stuck);
}

#[test]
fn a_dead_man_that_comes_late_changes_nothing() {
    let mut world = World::staged(Script {
        healthy: vec![false],
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::JudgingRollback));
    let before = world.disk.clone();
    world.feed(Input::DeadManFired { lease: LeaseId(7) });
    assert_eq!(world.disk, before, "the machine is back already");
    assert_eq!(world.finish().outcome.kind, RolledBack);
}

/// How long the dead-man timer waits that an attempt arms.
fn dead_man_after(limit: Option<Duration>) -> Duration {
    let mut world = World::new(Script::default());
    world.limits.attempt_timeout = limit;
    world.restart(UnitState::Absent);
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Arming));
    let Some(Work::ArmDeadMan { after, .. }) = world.open.last().map(|job| &job.work) else {
        panic!("no timer is being armed: {:?}", world.open);
    };
    *after
}

#[test]
fn the_dead_man_timer_waits_for_the_longest_attempt_unless_told_to_come_sooner() {
    let longest = dead_man_after(None);
    assert!(longest > Duration::from_secs(3600), "{longest:?}");
    let soon = Duration::from_secs(90);
    assert_eq!(dead_man_after(Some(soon)), soon);
    assert_eq!(dead_man_after(Some(longest * 2)), longest);
}
