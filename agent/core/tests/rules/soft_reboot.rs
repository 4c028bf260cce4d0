//! Reboots of user space alone: when one is asked for, what shows that it has happened, and how a
//! machine goes back from it.

use agent_core::{Directive, Durable, Proceed, RebootKind, Step, UnitState};
use common::{Action, OutcomeKind};

use crate::world::{Script, World, path, proceed};

use OutcomeKind::{Confirmed, RebootRequired, RolledBack};

/// A lease of a group where a soft-reboot will do.
fn soft(lease: u64) -> Proceed {
    Proceed {
        allow_soft_reboot: true,
        ..proceed(lease)
    }
}

fn script() -> Script {
    Script {
        needs_reboot: true,
        soft: true,
        ..Script::default()
    }
}

fn kind(state: &Durable) -> Option<RebootKind> {
    state.attempt.as_ref().map(|attempt| attempt.reboot_kind)
}

#[test]
fn a_soft_reboot_is_asked_for_only_where_it_does_and_may() {
    let reboot = Proceed {
        action: Action::Reboot,
        ..soft(7)
    };
    let kernel = Script {
        soft: false,
        ..script()
    };
    let (user_space, machine) = (RebootKind::UserSpace, RebootKind::Machine);
    for (case, script, lease, expected) in [
        ("policy and target", script(), soft(7), user_space),
        ("policy says no", script(), proceed(7), machine),
        ("another kernel", kernel, soft(7), machine),
        ("a person asked for a reboot", script(), reboot, machine),
    ] {
        let mut world = World::staged(script);
        world.say(Directive::Proceed(lease));
        assert!(world.work_until(&Step::Rebooting), "{case}");
        assert_eq!(kind(&world.disk), Some(expected), "{case}");
        let target = world.disk.soft_reboot_target(&world.boot_id());
        let taken_up = (expected == user_space).then(|| path("new"));
        assert_eq!(target, taken_up.as_ref(), "{case}");
        let other: common::BootId = "another".parse().expect("a boot");
        assert_eq!(world.disk.soft_reboot_target(&other), None, "{case}");
        assert_eq!(world.finish().outcome.kind, Confirmed, "{case}");
        let booted = if expected == user_space { "old" } else { "new" };
        assert_eq!(world.booted, path(booted), "{case}");
        assert_eq!(world.boot, 2, "{case}");
    }
}

#[test]
fn nothing_is_taken_up_before_the_reboot_is_asked_for_nor_after_it() {
    let mut world = World::staged(script());
    world.say(Directive::Proceed(soft(7)));
    assert!(world.work_until(&Step::Activating));
    assert_eq!(world.disk.soft_reboot_target(&world.boot_id()), None);
    assert!(world.work_until(&Step::Judging));
    assert_eq!(world.disk.soft_reboot_target(&world.boot_id()), None);
}

#[test]
fn without_leave_to_reboot_there_is_no_soft_one() {
    let mut world = World::staged(script());
    let lease = Proceed {
        allow_reboot: false,
        ..soft(7)
    };
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, RebootRequired);
    assert_eq!(world.boot, 1);
}

#[test]
fn a_soft_reboot_that_brings_the_old_system_again_is_gone_back_from() {
    let mut world = World::staged(Script {
        boots: vec!["old"],
        ..script()
    });
    world.say(Directive::Proceed(soft(7)));
    let result = world.finish();
    assert_eq!(result.outcome.kind, RolledBack, "{result:?}");
}

/// What is wrong may be what a soft-reboot keeps.
#[test]
fn the_way_back_is_a_reboot_of_the_machine() {
    let mut world = World::staged(Script {
        healthy: vec![false],
        ..script()
    });
    world.say(Directive::Proceed(soft(7)));
    assert!(world.work_until(&Step::RebootingBack));
    assert_eq!(world.booted, path("old"), "still the first boot's kernel");
    world.booted = path("third");
    assert_eq!(world.finish().outcome.kind, RolledBack);
    assert_eq!((world.boot, world.booted), (3, path("old")));
}

#[test]
fn the_power_goes_and_the_target_is_booted_by_the_boot_loader() {
    let mut world = World::staged(script());
    world.script.reboots = false;
    world.say(Directive::Proceed(soft(7)));
    assert!(world.work_until(&Step::Rebooting));
    world.script.reboots = true;
    world.reboot();
    assert_eq!(world.booted, path("new"));
    assert_eq!(world.finish().outcome.kind, Confirmed);
}

#[test]
fn a_soft_reboot_that_does_not_happen_is_asked_for_again_and_given_up() {
    let mut world = World::staged(Script {
        reboots: false,
        ..script()
    });
    world.say(Directive::Proceed(soft(7)));
    assert!(world.work_until(&Step::Rebooting));
    world.restart(UnitState::Absent);
    assert_eq!(kind(&world.disk), Some(RebootKind::UserSpace));
    assert_eq!(world.finish().outcome.kind, RolledBack);
    assert_eq!(world.boot, 1);
}
