//! What the boot loader says of the next boot, beside what the profile names.

use agent_core::{Directive, NextBoot, Step, Trial, Work};
use common::{Action, OutcomeKind};

use crate::world::{Script, World, path, proceed};

use OutcomeKind::{Confirmed, RolledBack};

/// A machine whose profile names what no boot loader was told of.
fn halfway(script: Script) -> World {
    let mut world = World::staged(script);
    world.profile = path("never-installed");
    world.next_boot = NextBoot::System(path("old"));
    world
}

fn by_reboot() -> Script {
    Script {
        needs_reboot: true,
        ..Script::default()
    }
}

#[test]
fn going_back_is_to_what_the_boot_loader_would_have_started() {
    let mut world = halfway(Script {
        healthy: vec![false],
        ..by_reboot()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    let attempt = world.disk.attempt.as_ref().expect("an attempt");
    let previous = attempt.previous.as_ref().expect("it is recorded");
    assert_eq!(previous.boot_default, path("old"));
    assert_eq!(previous.profile, Some(path("never-installed")));
    assert_eq!(world.finish().outcome.kind, RolledBack);
    assert_eq!(world.profile, path("old"));
    assert_eq!(world.next_boot, NextBoot::System(path("old")));
}

#[test]
fn without_its_word_the_profile_is_believed() {
    let mut world = halfway(by_reboot());
    world.next_boot = NextBoot::Unknown;
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    let attempt = world.disk.attempt.as_ref().expect("an attempt");
    let previous = attempt.previous.as_ref().expect("it is recorded");
    assert_eq!(previous.boot_default, path("never-installed"));
    assert_eq!(previous.profile, None);
    assert_eq!(world.finish().outcome.kind, Confirmed);
}

#[test]
fn nothing_is_rebooted_that_would_boot_something_else() {
    let foreign = NextBoot::Other("windows.conf".to_owned());
    for (next_boot, named) in [
        (NextBoot::System(path("old")), path("old").to_string()),
        (foreign, "windows.conf".to_owned()),
    ] {
        let mut world = World::staged(by_reboot());
        world.next_boot = next_boot.clone();
        world.stubborn = true;
        world.say(Directive::Proceed(proceed(7)));
        let outcome = world.finish().outcome;
        assert_eq!(outcome.kind, RolledBack, "{outcome:?}");
        assert!(outcome.reason.contains(&named), "{outcome:?}");
        assert_eq!(world.boot, 1, "{next_boot:?}");
        assert_eq!(world.profile, path("old"), "{next_boot:?}");
        assert_eq!(world.disk.bad_targets, [], "{next_boot:?}");
    }
}

#[test]
fn a_switch_does_not_ask_what_boots_next() {
    let mut world = World::staged(Script::default());
    world.next_boot = NextBoot::Other("windows.conf".to_owned());
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(world.finish().outcome.kind, Confirmed);
}

#[test]
fn back_is_only_who_boots_back_by_the_boot_loader_too() {
    let mut world = World::staged(Script {
        healthy: vec![false],
        ..Script::default()
    });
    world.next_boot = NextBoot::System(path("old"));
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::JudgingRollback));
    world.next_boot = NextBoot::System(path("new"));
    let outcome = world.finish().outcome;
    assert_eq!(outcome.kind, OutcomeKind::Stuck, "{outcome:?}");
    assert!(outcome.reason.contains("the next boot"), "{outcome:?}");
}

#[test]
fn a_reboot_is_into_what_the_boot_loader_starts() {
    let mut world = halfway(Script::default());
    world.work_all();
    let mut lease = proceed(7);
    lease.action = Action::Reboot;
    lease.target = None;
    world.restart(agent_core::UnitState::Absent);
    world.say(Directive::Proceed(lease));
    let path_of = world.disk.attempt.as_ref().and_then(|a| a.path.clone());
    assert_eq!(path_of, Some(path("old")));
}

#[test]
fn only_the_reboot_to_the_target_is_a_trial() {
    let mut world = halfway(Script {
        healthy: vec![false],
        ..by_reboot()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Rebooting));
    let trial = Trial {
        target: path("new"),
        back: path("old"),
    };
    let asked = |world: &World| {
        let work = &world.open.last().expect("a job").work;
        let Work::Reboot { trial, .. } = work else {
            panic!("{work:?}");
        };
        trial.clone()
    };
    assert_eq!(asked(&world), Some(trial));
    assert!(world.work_until(&Step::RebootingBack));
    assert_eq!(asked(&world), None);
}
