//! What a restart finds, in every step: always exactly one verdict, and one that fits the machine.

use std::time::Duration;

use crate::world::{Script, World, proceed};
use agent_core::{Directive, Hook, Step, UnitState};
use common::OutcomeKind;

/// What the agent finds when it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finds {
    /// Same boot; the open step was never begun.
    Nothing,
    /// Same boot; its unit did its work and is gone.
    WorkDone,
    /// Same boot; its unit still runs.
    Running,
    /// Same boot; its unit has ended.
    Ended,
    /// Same boot; the dead-man timer has gone off, and its program went back.
    DeadMan,
    /// A power cut; this came up.
    Boot(&'static str),
}

const FINDS: [Finds; 8] = [
    Finds::Nothing,
    Finds::WorkDone,
    Finds::Running,
    Finds::Ended,
    Finds::DeadMan,
    Finds::Boot("new"),
    Finds::Boot("old"),
    Finds::Boot("third"),
];

const STEPS: [Step; 14] = [
    Step::Staging,
    Step::Snapshot,
    Step::Arming,
    Step::PreHook,
    Step::Activating,
    Step::Announcing,
    Step::Rebooting,
    Step::Rearming,
    Step::PostHook,
    Step::Judging,
    Step::RollingBack,
    Step::RebootingBack,
    Step::RollbackHook,
    Step::JudgingRollback,
];

/// A machine in the middle of this step, or `None` when such an attempt does not come to it.
fn in_step(step: &Step, needs_reboot: bool, fails: bool) -> Option<World> {
    let script = Script {
        needs_reboot,
        healthy: if fails { vec![false] } else { Vec::new() },
        // The world stops before a reboot happens; the finding says what came of it.
        reboots: *step != Step::Rebooting && *step != Step::RebootingBack,
        ..Script::default()
    };
    let mut world = if *step == Step::Staging {
        World::new(script)
    } else {
        World::staged(script)
    };
    if *step == Step::RebootingBack {
        world.script.reboots = true;
        world.say(Directive::Proceed(proceed(7)));
        if !world.work_until(&Step::RollingBack) {
            return None;
        }
        world.script.reboots = false;
    } else {
        // Announcing lasts until the call has come to something.
        world.script.hangs = *step == Step::Announcing;
        world.say(Directive::Proceed(proceed(7)));
    }
    world.work_until(step).then_some(world)
}

fn restart(world: &mut World, finds: Finds) {
    let open = world.disk.open_step();
    let job = world
        .open
        .iter()
        .find(|job| Some(job.step) == open)
        .cloned();
    world.script.reboots = true;
    world.script.hangs = false;
    match finds {
        Finds::Nothing => world.restart(UnitState::Absent),
        Finds::WorkDone => {
            if let Some(job) = job {
                world.perform(&job);
            }
            world.restart(UnitState::Absent);
        }
        Finds::Running => world.restart(match job {
            Some(_) => UnitState::Running,
            None => UnitState::Absent,
        }),
        Finds::Ended => {
            let unit = match job {
                Some(job) => UnitState::Ended(Box::new(world.perform(&job))),
                None => UnitState::Absent,
            };
            world.restart(unit);
        }
        Finds::DeadMan => {
            let lease = world.disk.lease;
            if let Some(order) = world.disk.dead_man_order(lease) {
                world.dead_man_fired = true;
                world.profile = order.previous.boot_default;
                if order.reboot && world.running != order.previous.running {
                    world.script.boots.insert(0, "old");
                    world.reboot();
                    return;
                }
                world.running = order.previous.running;
            }
            world.restart(UnitState::Absent);
        }
        Finds::Boot(system) => {
            world.script.boots.insert(0, system);
            world.reboot();
        }
    }
}

#[test]
fn every_step_and_every_finding_has_one_verdict() {
    let mut seen = 0;
    for step in &STEPS {
        for needs_reboot in [false, true] {
            for fails in [false, true] {
                for finds in FINDS {
                    let Some(mut world) = in_step(step, needs_reboot, fails) else {
                        continue;
                    };
                    restart(&mut world, finds);
                    let result = world.finish();
                    seen += 1;
                    check(step, needs_reboot, finds, &world, result.outcome.kind);
                }
            }
        }
    }
    assert!(seen > 300, "only {seen} cases");
}

/// What is known of the verdict beyond that it fits the machine (which the world has checked).
fn check(step: &Step, needs_reboot: bool, finds: Finds, world: &World, kind: OutcomeKind) {
    let case = format!("{step:?} reboot={needs_reboot} {finds:?}: {kind}");
    if world.ran(Hook::Post) || world.ran(Hook::Rollback) {
        assert!(world.ran(Hook::Pre), "{case}");
    }
    let going_back = match step {
        Step::RollingBack | Step::RebootingBack | Step::RollbackHook | Step::JudgingRollback => {
            true
        }
        Step::Staging
        | Step::Snapshot
        | Step::Arming
        | Step::PreHook
        | Step::Activating
        | Step::Announcing
        | Step::Rebooting
        | Step::Rearming
        | Step::PostHook
        | Step::Judging
        | Step::Closing { .. }
        | Step::Unknown(_) => false,
    };
    if going_back {
        assert_ne!(kind, OutcomeKind::Confirmed, "{case}");
    }
    match finds {
        Finds::DeadMan => {
            let disturbed = match step {
                Step::Staging | Step::Snapshot | Step::Arming | Step::PreHook => false,
                Step::Activating
                | Step::Announcing
                | Step::Rebooting
                | Step::Rearming
                | Step::PostHook
                | Step::Judging
                | Step::RollingBack
                | Step::RebootingBack
                | Step::RollbackHook
                | Step::JudgingRollback
                | Step::Closing { .. }
                | Step::Unknown(_) => true,
            };
            if disturbed {
                assert_ne!(kind, OutcomeKind::Confirmed, "{case}");
            }
        }
        Finds::Boot("old" | "third") => assert_ne!(kind, OutcomeKind::Confirmed, "{case}"),
        Finds::Nothing | Finds::WorkDone => match step {
            Step::PreHook => {
                assert_eq!(kind, OutcomeKind::Refused, "{case}");
                assert!(world.ran(Hook::Rollback), "{case}");
            }
            Step::PostHook => assert_ne!(kind, OutcomeKind::Confirmed, "{case}"),
            Step::Staging
            | Step::Snapshot
            | Step::Arming
            | Step::Activating
            | Step::Announcing
            | Step::Rebooting
            | Step::Rearming
            | Step::Judging
            | Step::RollingBack
            | Step::RebootingBack
            | Step::RollbackHook
            | Step::JudgingRollback
            | Step::Closing { .. }
            | Step::Unknown(_) => {}
        },
        Finds::Running | Finds::Ended | Finds::Boot(_) => {}
    }
}

#[test]
fn a_machine_that_died_before_it_was_changed_abandons() {
    for step in [Step::Snapshot, Step::Arming] {
        let mut world = in_step(&step, false, false).expect("a step of every attempt");
        restart(&mut world, Finds::Boot("old"));
        assert_eq!(world.finish().outcome.kind, OutcomeKind::Abandoned);
        assert_eq!(world.hooks, []);
    }
}

#[test]
fn a_reboot_that_did_not_happen_is_asked_for_again_and_then_undone() {
    let mut world = in_step(&Step::Rebooting, true, false).expect("a reboot");
    for _ in 0..5 {
        world.restart(UnitState::Absent);
        world.work_all();
    }
    world.script.reboots = false;
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::RolledBack);
    assert_eq!(result.outcome.reason, "the reboot did not happen");
    let asked = world
        .steps
        .iter()
        .filter(|step| *step == "rebooting")
        .count();
    assert_eq!(asked, 3);
}

#[test]
fn an_agent_that_dies_over_and_over_still_ends() {
    let cases = [
        (Step::Snapshot, false, false, OutcomeKind::Refused),
        (Step::Judging, false, false, OutcomeKind::RolledBack),
        (Step::Rearming, true, false, OutcomeKind::RolledBack),
        (Step::Judging, true, false, OutcomeKind::RolledBack),
        (Step::JudgingRollback, false, true, OutcomeKind::Stuck),
    ];
    for (step, needs_reboot, fails, expected) in cases {
        let mut world = in_step(&step, needs_reboot, fails).expect("a step of such an attempt");
        let dies_on_target = !fails;
        for _ in 0..200 {
            world.now = world.now + Duration::from_secs(1);
            world.restart(UnitState::Absent);
            let attempt = world.disk.attempt.as_ref();
            // The agent of the system before does not die.
            if attempt.is_none_or(|a| dies_on_target && a.cause.is_some()) {
                break;
            }
        }
        let result = world.finish();
        let case = format!("{step:?} {needs_reboot}: {result:?}");
        assert_eq!(result.outcome.kind, expected, "{case}");
        assert!(
            result.outcome.reason.contains("did not come to an end"),
            "{case}"
        );
        let blamed = step != Step::Snapshot;
        assert_eq!(!world.disk.bad_targets.is_empty(), blamed, "{case}");
    }
}

#[test]
fn the_lease_does_not_survive_a_boot() {
    // The switch was begun, the power went, the old system came up: nothing is begun again.
    let mut world = in_step(&Step::Activating, false, false).expect("an activation");
    let before = world.activations;
    restart(&mut world, Finds::Boot("old"));
    assert_eq!(world.finish().outcome.kind, OutcomeKind::RolledBack);
    assert_eq!(world.activations, before);
}

#[test]
fn a_power_cut_gives_no_leave_to_reboot() {
    // The target is only staged for the next boot, and the power goes at the wrong moment.
    for healthy in [true, false] {
        let mut world = World::staged(Script {
            needs_reboot: true,
            healthy: vec![healthy],
            ..Script::default()
        });
        let mut lease = proceed(7);
        lease.allow_reboot = false;
        world.say(Directive::Proceed(lease));
        assert!(world.work_until(&Step::Activating));
        restart(&mut world, Finds::Boot("new"));
        let kind = world.finish().outcome.kind;
        let expected = if healthy {
            OutcomeKind::Confirmed
        } else {
            OutcomeKind::Stuck
        };
        assert_eq!(kind, expected);
        assert_eq!(world.boot, 2);
        assert_eq!(world.hooks, [], "there was no pre-update hook to answer");
    }
}
