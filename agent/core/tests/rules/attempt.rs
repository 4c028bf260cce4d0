//! An attempt from its lease to its verdict, with each thing going wrong once.

use std::time::Duration;

use agent_core::{ActivationEnd, Directive, Failure, Hook, HookEnd, Input, Step};
use common::{LeaseId, OutcomeKind};

use crate::world::{Script, World, path, proceed};

use OutcomeKind::{Abandoned, Confirmed, RebootRequired, Refused, RolledBack, Stuck};

pub(crate) fn run(script: Script, lease: agent_core::Proceed) -> (World, OutcomeKind, String) {
    let mut world = World::staged(script);
    world.say(Directive::Proceed(lease));
    let result = world.finish();
    (world, result.outcome.kind, result.outcome.reason)
}

pub(crate) fn said_no() -> HookEnd {
    HookEnd::Failed {
        status: "exit status 1".to_owned(),
    }
}

#[test]
fn an_update_without_a_reboot_goes_step_by_step() {
    let (world, kind, reason) = run(Script::default(), proceed(7));
    assert_eq!((kind, reason.as_str()), (Confirmed, ""));
    let steps = [
        "snapshot",
        "arming",
        "pre-hook",
        "activating",
        "post-hook",
        "judging",
        "confirming",
    ];
    assert_eq!(world.steps, steps);
    assert_eq!(world.disk.last_lease, LeaseId(7));
    assert_eq!(world.disk.kept, [path("old")], "the way back stays rooted");
    assert_eq!(world.disk.staged, None);
}

#[test]
fn an_update_with_a_reboot_is_confirmed_after_the_boot() {
    let script = Script {
        needs_reboot: true,
        ..Script::default()
    };
    let (world, kind, _) = run(script, proceed(7));
    assert_eq!(kind, Confirmed);
    let steps = [
        "snapshot",
        "arming",
        "pre-hook",
        "activating",
        "rebooting",
        "arming",
        "post-hook",
        "judging",
        "confirming",
    ];
    assert_eq!(world.steps, steps);
    assert_eq!(world.boot, 2);
    assert!(
        world.silences.contains(&world.limits.boot_timeout),
        "the silence was announced"
    );
}

#[test]
fn what_takes_a_reboot_by_now_is_booted_though_it_did_not_when_it_was_staged() {
    let mut world = World::staged(Script::default());
    world.script.needs_reboot = true;
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert_eq!(world.boot, 2);
}

#[test]
fn one_thing_goes_wrong() {
    let ok = Script::default;
    let late = Failure::TimedOut;
    let boot = || Script {
        needs_reboot: true,
        ..Script::default()
    };
    let cases: Vec<(&str, Script, OutcomeKind, &[Hook])> = vec![
        (
            "no snapshot",
            Script {
                snapshot: Err(late.clone()),
                ..ok()
            },
            Refused,
            &[],
        ),
        (
            "not ready",
            Script {
                snapshot: Err(Failure::NotReady("no backup".to_owned())),
                ..ok()
            },
            Abandoned,
            &[],
        ),
        (
            "no timer",
            Script {
                arming: Err(late.clone()),
                ..ok()
            },
            Refused,
            &[],
        ),
        (
            "pre says no",
            Script {
                pre: Ok(said_no()),
                ..ok()
            },
            Refused,
            &[Hook::Pre],
        ),
        (
            "pre hangs",
            Script {
                pre: Err(late.clone()),
                ..ok()
            },
            Refused,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "no hooks",
            Script {
                pre: Ok(HookEnd::NotConfigured),
                ..ok()
            },
            Confirmed,
            &[Hook::Pre, Hook::Post],
        ),
        (
            "degraded",
            Script {
                activation: Ok(ActivationEnd::Degraded),
                ..ok()
            },
            Confirmed,
            &[Hook::Pre, Hook::Post],
        ),
        (
            "switch fails",
            Script {
                activation: Ok(ActivationEnd::Failed { status: "1".into() }),
                ..ok()
            },
            RolledBack,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "switch hangs",
            Script {
                activation: Err(late.clone()),
                ..ok()
            },
            RolledBack,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "always busy",
            Script {
                activation: Ok(ActivationEnd::Busy),
                ..ok()
            },
            Abandoned,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "takes a reboot after all",
            Script {
                activation: Ok(ActivationEnd::RebootNeeded),
                ..ok()
            },
            Confirmed,
            &[Hook::Pre, Hook::Post],
        ),
        (
            "post says no",
            Script {
                post: Ok(said_no()),
                ..ok()
            },
            RolledBack,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
        (
            "unhealthy",
            Script {
                healthy: vec![false],
                ..ok()
            },
            RolledBack,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
        (
            "unhealthy twice",
            Script {
                healthy: vec![false, false],
                ..ok()
            },
            Stuck,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
        (
            "rollback hook says no",
            Script {
                healthy: vec![false],
                rollback: Ok(said_no()),
                ..ok()
            },
            RolledBack,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
        (
            "no way back",
            Script {
                healthy: vec![false],
                restore: Err(late),
                ..ok()
            },
            Stuck,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
        (
            "unhealthy after the boot",
            Script {
                healthy: vec![false],
                ..boot()
            },
            RolledBack,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
        (
            "boot loader falls back",
            Script {
                boots: vec!["old"],
                ..boot()
            },
            RolledBack,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "boots a third system",
            Script {
                boots: vec!["third"],
                ..boot()
            },
            RolledBack,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "reboot never happens",
            Script {
                reboots: false,
                ..boot()
            },
            RolledBack,
            &[Hook::Pre, Hook::Rollback],
        ),
        (
            "cannot boot back",
            Script {
                healthy: vec![false],
                boots: vec!["new", "new"],
                ..boot()
            },
            Stuck,
            &[Hook::Pre, Hook::Post, Hook::Rollback],
        ),
    ];
    for (what, script, expected, hooks) in cases {
        let (world, kind, reason) = run(script, proceed(7));
        assert_eq!(kind, expected, "{what}: {reason}");
        let ran: Vec<Hook> = world.hooks.iter().map(|(_, hook)| *hook).collect();
        assert_eq!(ran, hooks, "{what}");
        assert_eq!(reason.is_empty(), kind == Confirmed, "{what}: {reason}");
    }
}

#[test]
fn the_rollback_hook_s_complaint_is_reported() {
    let script = Script {
        healthy: vec![false],
        rollback: Ok(said_no()),
        ..Script::default()
    };
    let (_, kind, reason) = run(script, proceed(7));
    assert_eq!(kind, RolledBack);
    assert_eq!(
        reason,
        "unhealthy: unit web.service failed; the rollback hook failed: exit status 1"
    );
}

#[test]
fn a_live_switch_that_turns_out_to_need_a_reboot_undoes_its_pre_hook() {
    let script = Script {
        activation: Ok(ActivationEnd::RebootNeeded),
        ..Script::default()
    };
    let mut lease = proceed(7);
    lease.allow_reboot = false;
    let (world, kind, _) = run(script, lease);
    assert_eq!(kind, RebootRequired);
    assert!(world.ran(Hook::Rollback));
    assert!(!world.ran(Hook::Post));
}

#[test]
fn a_late_answer_of_an_earlier_step_changes_nothing() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    let snapshot = world.open[world.open.len() - 1].clone();
    assert!(world.work_until(&Step::PreHook));
    let before = world.disk.clone();
    let answer = world.perform(&snapshot);
    world.feed(Input::StepDone {
        step: snapshot.step,
        answer,
    });
    assert_eq!(world.disk, before);
}

#[test]
fn a_step_that_never_answers_is_given_up() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::PostHook));
    world.open.clear();
    let began = world.now;
    while world.disk.attempt.as_ref().map(|a| &a.step) == Some(&Step::PostHook) {
        world.pass_time();
    }
    let waited = world.now.since(began);
    assert_eq!(waited, world.limits.hook_timeout + world.limits.grace);
    assert_eq!(world.finish().outcome.kind, RolledBack);
}

#[test]
fn a_network_that_is_still_gone_after_going_back_is_waited_for() {
    for (healthy, cut_off, expected, says) in [
        // It comes back, and all is well.
        (vec![false; 3], vec![true; 3], RolledBack, "unhealthy: "),
        // It comes back, and something else is not.
        (vec![false; 4], vec![true; 3], Stuck, "after going back: "),
        // The switch cut it off, and going back mended that.
        (vec![false], vec![true], RolledBack, "unhealthy: "),
        // It never does: the attempt ends all the same.
        (
            vec![false; 999],
            vec![true; 999],
            Stuck,
            "did not come to an end",
        ),
    ] {
        let script = Script {
            healthy,
            cut_off,
            ..Script::default()
        };
        let (world, kind, reason) = run(script, proceed(7));
        assert_eq!(kind, expected, "{reason}");
        assert!(reason.contains(says), "{reason}");
        assert_eq!(world.running, path("old"));
        let ran: Vec<Hook> = world.hooks.iter().map(|(_, hook)| *hook).collect();
        assert_eq!(ran, [Hook::Pre, Hook::Post, Hook::Rollback]);
    }
}

#[test]
fn an_agent_that_was_stopped_hears_what_came_of_its_work_meanwhile() {
    for step in [Step::PostHook, Step::Judging] {
        let stopped = || {
            let mut world = World::staged(Script::default());
            world.say(Directive::Proceed(proceed(7)));
            assert!(world.work_until(&step));
            world.now = world.now + Duration::from_secs(3600);
            world.feed(Input::Tick);
            world
        };
        let result = stopped().finish();
        assert_eq!(result.outcome.kind, Confirmed, "{step:?}: {result:?}");
        // Nothing came of it: it is given up all the same.
        let mut world = stopped();
        world.open.clear();
        let result = world.finish();
        assert_eq!(result.outcome.kind, RolledBack, "{step:?}: {result:?}");
    }
}
