//! What an agent makes of each way in which a switch can end, on a real machine. Those that end well or
//! go back like any other are in `rollouts.rs`.

use common::id::MachineName;
use integration_tests::fleet::{Failure, SystemSpec};

use super::{
    rollouts::await_activation,
    stage::{Stage, ok, stage},
};

/// Updates a machine to this system, which must boot it and be confirmed.
#[track_caller]
fn is_booted(stage: &Stage, system: SystemSpec) {
    let node = system.host.clone();
    let boot = ok(stage.fleet().boot_id(&node));
    let paths = stage.prepare(&[system]);
    let executed = stage.execute(&[&node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_ne!(ok(stage.fleet().boot_id(&node)), boot, "it was booted");
    assert_eq!(stage.settled(&node), paths[0].as_str());
    assert_eq!(stage.in_rollout(&node)["verdict"], "confirmed");
}

/// The machine that these tests use.
fn node(stage: &Stage) -> &'static MachineName {
    &stage.nodes()[3]
}

#[test]
fn what_a_switch_inhibitor_forbids_is_booted() {
    let Some(stage) = stage() else { return };
    let mut other = stage.system(node(&stage));
    let key = "dbus-implementation".to_owned();
    other.inhibitors.insert(key, "dbus".to_owned());
    is_booted(&stage, other);
    // And the way back to what all other tests have.
    is_booted(&stage, stage.system(node(&stage)));
}

#[test]
fn another_interface_to_init_is_booted() {
    let Some(stage) = stage() else { return };
    let other = stage.system(node(&stage)).failing(Failure::Init);
    is_booted(&stage, other);
    is_booted(&stage, stage.system(node(&stage)));
}

#[test]
fn a_switch_waits_for_another_one_that_holds_the_lock() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), node(&stage));
    let paths = stage.prepare(&[stage.system(node)]);
    let lock = "/run/nixos/switch-to-configuration.lock";
    let hold = ["systemd-run", "flock", lock, "sleep", "10"];
    ok(fleet.run(node, &hold));
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
    let journal = fleet.journal(node, "lab-updater-activate-*");
    assert!(journal.contains("Could not acquire lock"), "{journal}");
}

#[test]
fn a_switch_that_is_killed_goes_back() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), node(&stage));
    let before = stage.settled(node);
    let paths = stage.prepare(&[stage.system(node).failing(Failure::Hang)]);
    stage.execute_detached(&[node]);
    await_activation(&stage, node, &paths[0]);
    let units = "lab-updater-activate-*.service";
    ok(fleet.run(node, &["systemctl", "kill", "--signal=KILL", units]));
    stage.await_end();
    assert_eq!(stage.settled(node), before, "{}", stage.scene());
    assert_eq!(stage.in_rollout(node)["verdict"], "rolled-back");
}
