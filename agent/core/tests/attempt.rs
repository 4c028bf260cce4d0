//! An attempt from its lease to its verdict, with each thing going wrong once.

mod world;

use std::time::Duration;

use agent_core::{
    ActivationEnd, Directive, Failure, Hook, HookEnd, Input, Note, Step, UnitState, Work,
};
use common::{Action, HealthState, LeaseId, OutcomeKind};
use world::{Script, World, path, proceed, rollout, target};

use OutcomeKind::{Abandoned, Confirmed, RebootRequired, Refused, RolledBack, Stuck};

fn run(script: Script, lease: agent_core::Proceed) -> (World, OutcomeKind, String) {
    let mut world = World::staged(script);
    world.say(Directive::Proceed(lease));
    let result = world.finish();
    (world, result.outcome.kind, result.outcome.reason)
}

fn said_no() -> HookEnd {
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
fn without_leave_to_reboot_the_target_waits_for_the_next_boot() {
    let script = Script {
        needs_reboot: true,
        ..Script::default()
    };
    let mut lease = proceed(7);
    lease.allow_reboot = false;
    let (mut world, kind, _) = run(script, lease);
    assert_eq!(kind, RebootRequired);
    assert_eq!(
        world.steps,
        ["snapshot", "activating"],
        "nobody is disturbed"
    );
    assert_eq!(world.hooks, []);

    // Later somebody grants the reboot.
    world.reports.clear();
    let mut lease = proceed(8);
    lease.action = Action::Reboot;
    lease.target = None;
    lease.allow_reboot = false;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert_eq!(world.boot, 2);
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
fn where_policy_says_so_a_failing_target_stays() {
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let mut lease = proceed(7);
    lease.rollback_on_failure = false;
    let (world, kind, _) = run(script, lease);
    assert_eq!(kind, Stuck);
    assert_eq!(world.running, path("new"));
    assert!(!world.ran(Hook::Rollback));
}

#[test]
fn a_target_that_failed_is_not_tried_again_unasked() {
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let (mut world, kind, _) = run(script, proceed(7));
    assert_eq!(kind, RolledBack);
    world.reports.clear();
    let stage = |force| Directive::Stage {
        rollout: Some(rollout("r2")),
        target: target("new"),
        force,
        wish: 0,
    };
    world.say(stage(false));
    let refused = world.finish();
    assert_eq!((refused.lease, refused.outcome.kind), (LeaseId(0), Refused));
    assert!(
        refused.outcome.reason.contains("web.service"),
        "{refused:?}"
    );

    // Under a lease as well.
    world.reports.clear();
    world.activations = 0;
    world.say(Directive::Proceed(proceed(8)));
    assert_eq!(world.finish().outcome.kind, Refused);

    // By force it goes, and when it works it is forgiven.
    world.reports.clear();
    world.say(stage(true));
    let mut lease = proceed(9);
    lease.force = true;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert_eq!(world.disk.bad_targets, []);
}

#[test]
fn a_rollback_names_its_target_and_needs_no_force() {
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let (mut world, _, _) = run(script, proceed(7));
    assert_eq!(world.disk.bad_targets.len(), 1);
    world.reports.clear();
    world.activations = 0;
    let mut lease = proceed(8);
    lease.action = Action::Rollback;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert!(
        world.steps.contains(&"staging".to_owned()),
        "obtained under the lease"
    );
}

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
fn a_result_is_sent_until_it_is_acknowledged_and_always_the_same() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    world.script.connected = false;
    let first = world.finish();
    for _ in 0..60 {
        world.pass_time();
        world.work_all();
    }
    world.restart(agent_core::UnitState::Absent);
    assert!(world.reports.len() > 5, "{}", world.reports.len());
    assert!(world.reports.iter().all(|report| *report == first));
    assert!(world.disk.unreported.is_some());
    world.script.connected = true;
    for _ in 0..10 {
        world.pass_time();
    }
    assert_eq!(world.disk.unreported, None);
}

#[test]
fn a_new_lease_waits_until_the_last_result_is_known() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    world.script.connected = false;
    world.finish();
    world.say(Directive::Proceed(proceed(8)));
    assert_eq!(world.disk.attempt, None);
    assert_eq!(world.disk.lease, LeaseId(7), "lease 8 can still be used");
}

#[test]
fn health_is_checked_when_asked_and_once_per_request() {
    let mut world = World::new(Script::default());
    world.work_all();
    let check = Directive::Check {
        request: 3,
        timeout: Duration::from_secs(10),
    };
    world.say(check.clone());
    world.work_all();
    let report = world
        .agent
        .report(world.now)
        .expect("a started agent reports");
    assert_eq!(report.health_request, 3);
    assert_eq!(report.health.state, HealthState::Healthy);
    world.say(check);
    assert!(world.open.is_empty(), "already answered");
}

#[test]
fn what_was_healthy_before_says_nothing_of_what_runs_now() {
    let script = Script {
        post: Ok(said_no()),
        ..Script::default()
    };
    let mut world = World::staged(script);
    assert_eq!(health(&mut world), HealthState::Healthy);
    let mut lease = proceed(7);
    lease.rollback_on_failure = false;
    world.say(Directive::Proceed(lease));
    let result = world.finish();
    assert_eq!(result.outcome.kind, Stuck, "and nobody has judged it");
    assert_eq!(health(&mut world), HealthState::Unknown);
    world.work_all();
    assert_eq!(
        health(&mut world),
        HealthState::Healthy,
        "by a check of its own"
    );
}

fn health(world: &mut World) -> HealthState {
    let report = world.agent.report(world.now);
    report.expect("a started agent reports").health.state
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
fn notes_say_what_happened() {
    let (world, ..) = run(Script::default(), proceed(7));
    let ended = world.notes.iter().any(|note| {
        matches!(
            note,
            Note::Ended {
                lease: LeaseId(7),
                outcome: Confirmed,
                ..
            }
        )
    });
    assert!(ended, "{:?}", world.notes);
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

#[test]
fn running_the_target_is_not_enough_when_it_was_to_be_booted() {
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    world.booted = path("third");
    assert_eq!(world.finish().outcome.kind, RolledBack);
}

#[test]
fn back_is_only_who_boots_back_as_well() {
    let mut world = World::staged(Script {
        healthy: vec![false],
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::JudgingRollback));
    world.profile = path("new");
    let result = world.finish();
    assert_eq!(result.outcome.kind, Stuck);
    assert!(
        result.outcome.reason.contains("the next boot"),
        "{result:?}"
    );
}

#[test]
fn booting_the_same_system_again_blames_nothing_and_keeps_the_way_back() {
    let (mut world, ..) = run(Script::default(), proceed(7));
    assert_eq!(world.disk.kept, [path("old")]);
    world.reports.clear();
    world.script.healthy = vec![false, false];
    let mut lease = proceed(8);
    lease.action = Action::Reboot;
    lease.target = None;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Stuck);
    assert_eq!(world.boot, 2);
    assert_eq!(world.disk.bad_targets, []);
    assert_eq!(world.disk.kept, [path("old")]);
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
