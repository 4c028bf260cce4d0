//! What an agent makes of each way in which a switch can end, on a real machine. Those that end well or
//! go back like any other are in `rollouts.rs`.

use common::id::MachineName;
use integration_tests::fleet::{AGENT_UNIT, Failure, SystemSpec};

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
    is_booted(&stage, stage.system(node(&stage)).dbus("dbus"));
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

/// Lets a unit of this name run until it is stopped, with these properties and this program.
fn keep_running(stage: &Stage, name: &str, properties: &[&str], program: &[&str]) {
    let unit = format!("--unit={name}");
    let command = [&["systemd-run", &unit][..], properties, program].concat();
    ok(stage.fleet().run(node(stage), &command));
}

#[test]
fn a_reboot_waits_for_programs_and_people_and_not_for_ever() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), node(&stage));
    let says = |text: &str| fleet.journal(node, AGENT_UNIT).contains(text);
    let patient = "limits.reboot_wait = \"10m\"";
    stage.install(&stage.system_with(node, patient));
    let boot = ok(fleet.boot_id(node));

    // Something writes a tape, and then somebody is logged in.
    let tape = [
        "systemd-inhibit",
        "--what=shutdown",
        "--who=backup",
        "--why=a tape",
    ];
    let tape = [&tape[..], &["sleep", "infinity"]].concat();
    keep_running(&stage, "tape", &[], &tape);
    let session = [
        "--property=PAMName=login",
        // Without it systemd 252 asks no PAM.
        "--property=User=root",
        "--setenv=XDG_SESSION_CLASS=user",
        "--setenv=XDG_SESSION_TYPE=tty",
    ];
    let paths = stage.prepare(&[stage.system_with(node, patient).kernel("6.14.0")]);
    stage.execute_detached(&[node]);
    stage.eventually("it waits for the tape", || {
        says("the reboot waits: backup asks for time: a tape")
    });
    keep_running(&stage, "person", &session, &["sleep", "infinity"]);
    ok(fleet.run(node, &["systemctl", "stop", "tape"]));
    stage.eventually("it waits for the person", || {
        says("the reboot waits: root is logged in")
    });
    assert_eq!(ok(fleet.boot_id(node)), boot, "not yet");
    assert_eq!(stage.in_rollout(node)["state"], "leased");
    ok(fleet.run(node, &["systemctl", "stop", "person"]));
    assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
    assert_ne!(ok(fleet.boot_id(node)), boot);
    assert_eq!(stage.settled(node), paths[0].as_str());

    // One who never logs out, and a machine that waits for a second.
    let hasty = "limits.reboot_wait = \"1s\"";
    stage.install(&stage.system_with(node, hasty));
    keep_running(&stage, "person", &session, &["sleep", "infinity"]);
    is_booted(&stage, stage.system_with(node, hasty).kernel("6.14.1"));
    assert!(says("the reboot waits no longer: root is logged in"));
}
