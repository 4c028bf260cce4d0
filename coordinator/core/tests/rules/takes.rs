//! What an attempt is expected to take where it is known to reboot the machine.

use std::time::Duration;

use common::{Action, OutcomeKind, Target};
use coordinator_core::request::{OperatorRequest, Wish};
use serde_json::json;

use crate::fleet::{World, minutes, name, path, wish};

fn world() -> World {
    let groups = json!({ "web": {
        "machines": ["a", "b"], "updatePolicy": "aggressive", "maxParallel": 1, "order": ["longest-first"],
        "allowReboot": true, "softReboot": true, "maintenanceWindow": "00:00-23:00", "expectedDuration": "30m",
    } });
    let mut world = World::new(groups, json!({}));
    for machine in ["a", "b"] {
        world.poll(machine);
    }
    world
}

/// What `a` is expected to take for going to what is pinned.
fn needs(world: &World, action: Action) -> Duration {
    let config = world.fleet.facts().config.as_ref().expect("one");
    let policy = &config.groups.values().next().expect("a group").policy;
    let target = Target::Closure(path("2"));
    world.fleet.needs(&name("a"), action, &target, policy)
}

fn takes_a_reboot(world: &mut World, reboot: bool, soft: bool) {
    let staged = world.report("a").staged.as_mut().expect("staged");
    (staged.needs_reboot, staged.soft_reboot) = (reboot, soft);
    world.poll("a");
}

/// An attempt of `a` that takes so long and ends in this boot, or else in the one before. Then `a` is where it was before.
fn attempt(world: &mut World, took: u64, boot: Option<&str>) {
    world.execute();
    let grant = world.go("a");
    let end = world.now + minutes(took);
    while world.now < end {
        world.now = (world.now + minutes(5)).min(end);
        world.renew("a", &grant);
    }
    if let Some(boot) = boot {
        world.report("a").boot_id = boot.parse().expect("a boot");
    }
    world.end("a", &grant, OutcomeKind::Confirmed);
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: String::new(),
    });
    let report = world.report("a");
    report.running = Some(path("1"));
    report.profile.clone_from(&report.running);
    world.poll("a");
}

#[test]
fn a_reboot_is_expected_to_take_what_those_before_it_took() {
    let mut world = world();
    for _ in 0..5 {
        attempt(&mut world, 2, None);
    }
    assert_eq!(needs(&world, Action::Update), minutes(2), "a switch");
    assert_eq!(needs(&world, Action::Reboot), minutes(30));
    takes_a_reboot(&mut world, true, false);
    assert_eq!(needs(&world, Action::Update), minutes(30), "no reboot yet");
    // How long each takes that boots, and what is expected of the next one.
    for (boot, took, next) in [(2, 12, 30), (3, 10, 30), (4, 8, 12)] {
        attempt(&mut world, took, Some(&format!("b{boot}")));
        assert_eq!(needs(&world, Action::Update), minutes(next), "boot {boot}");
    }
    // One of user space is none of the machine, and does not count for it.
    takes_a_reboot(&mut world, true, true);
    for count in 1..=5 {
        attempt(&mut world, 3, Some(&format!("b4.{count}")));
    }
    assert_eq!(needs(&world, Action::Update), minutes(3), "a soft-reboot");
    assert_eq!(needs(&world, Action::Reboot), minutes(12));
    takes_a_reboot(&mut world, true, false);
    assert_eq!(needs(&world, Action::Update), minutes(12));
}

/// With few reboots what it took otherwise counts as well.
#[test]
fn a_slow_machine_is_not_expected_to_reboot_quicker_than_it_switches() {
    let mut world = world();
    attempt(&mut world, 45, None);
    takes_a_reboot(&mut world, true, false);
    assert_eq!(needs(&world, Action::Update), minutes(45));
}

#[test]
fn a_reboot_does_not_begin_in_the_last_minutes_in_which_a_switch_would() {
    let mut world = world();
    for _ in 0..3 {
        attempt(&mut world, 2, None);
    }
    takes_a_reboot(&mut world, true, false);
    world.pass(minutes(22 * 60 + 50 - 6));
    world.execute();
    world.waits_for("a", "window-too-short");
    takes_a_reboot(&mut world, false, false);
    world.go("a");
}

/// Of two alike machines the one that is to reboot is expected to take longer.
#[test]
fn who_reboots_goes_before_who_is_quicker() {
    let mut world = world();
    for _ in 0..3 {
        attempt(&mut world, 2, None);
    }
    let first = |world: &World, action: Action| {
        let plan = world.fleet.plan(&Wish {
            action,
            ..wish(&[])
        });
        let plan = plan.expect("a plan");
        plan.groups[0].waves[0].machines[0].name.clone()
    };
    assert_eq!(first(&world, Action::Update), name("b"));
    takes_a_reboot(&mut world, true, false);
    // As long as the other one, and named before it.
    assert_eq!(first(&world, Action::Update), name("a"));
}
