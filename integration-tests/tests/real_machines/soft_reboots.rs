//! Soft-reboots on a real machine: user space is started anew under the kernel that runs, and in
//! between the target is taken up.

use common::id::MachineName;
use integration_tests::fleet::{AGENT_UNIT, Failure, SystemSpec};
use serde_json::json;

use super::stage::{Stage, ok, stage};

/// The machine that these tests use.
fn node(stage: &Stage) -> &'static MachineName {
    &stage.nodes()[2]
}

/// The stage, where the policy says that soft-reboots will do; none on machines whose systemd has no
/// soft-reboots, which only those of another suite than the usual may have.
fn soft_stage() -> Option<Stage> {
    let stage = stage()?;
    let show = ["systemctl", "show", "--property=LoadState", "--value"];
    let show = [&show[..], &["soft-reboot.target"]].concat();
    let state = ok(stage.fleet().run(node(&stage), &show));
    if state.trim() != "loaded" {
        assert!(
            std::env::var_os("LAB_FLEET_SUITE").is_some(),
            "soft-reboot.target is {state}"
        );
        eprintln!("skipped: the machines' systemd has no soft-reboots");
        return None;
    }
    let mut config = stage.config();
    config["updateGroups"]["nodes"]["softReboot"] = json!(true);
    ok(stage.fleet().import_config(&config));
    Some(stage)
}

/// A system that the one that runs cannot be switched to live.
fn inhibited(stage: &Stage) -> SystemSpec {
    let node = node(stage);
    let (_, other) = ok(stage.fleet().dbus(node));
    stage.system(node).dbus(other)
}

/// How many soft-reboots PID 1 counts since the kernel was booted.
fn soft_reboots(stage: &Stage) -> u32 {
    let show = [
        "systemctl",
        "show",
        "--property=SoftRebootsCount",
        "--value",
    ];
    // While user space is between two boots nobody answers.
    let count = stage.fleet().run(node(stage), &show).unwrap_or_default();
    count.trim().parse().unwrap_or(0)
}

/// What tells one boot of the kernel from the next, and the system that it was.
fn kernel(stage: &Stage) -> (String, String) {
    let node = node(stage);
    let boot = ok(stage.fleet().boot_id(node)).to_string();
    (boot, stage.link(node, "/run/booted-system"))
}

#[test]
fn what_a_switch_inhibitor_forbids_is_soft_rebooted_where_policy_says_so() {
    let Some(stage) = soft_stage() else { return };
    let node = node(&stage);
    for _ in 0..2 {
        let (kernel_before, soft) = (kernel(&stage), soft_reboots(&stage));
        let boot = stage.machine(node)["boot_id"].clone();
        let paths = stage.prepare(&[inhibited(&stage)]);
        stage.eventually("it says that a soft-reboot is enough", || {
            stage.machine(node)["soft_reboot"] == json!(true)
        });
        let executed = stage.execute(&[node], &[]);
        assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
        assert_eq!(stage.in_rollout(node)["verdict"], "confirmed");
        assert_eq!(stage.settled(node), paths[0].as_str());
        assert_eq!(kernel(&stage), kernel_before, "the kernel runs on");
        assert_eq!(soft_reboots(&stage), soft + 1);
        assert_ne!(
            stage.machine(node)["boot_id"],
            boot,
            "another boot of user space"
        );
        let profile = stage.link(node, "/nix/var/nix/profiles/system");
        assert_eq!(
            profile,
            paths[0].as_str(),
            "and the next boot starts it too"
        );
    }
}

#[test]
fn another_kernel_is_booted_whatever_policy_says_of_soft_reboots() {
    let Some(stage) = soft_stage() else { return };
    let node = node(&stage);
    let before = kernel(&stage);
    let paths = stage.prepare(&[inhibited(&stage).kernel("6.15.2")]);
    stage.eventually("it says that it takes a reboot", || {
        stage.machine(node)["needs_reboot"] == json!(true)
    });
    assert_eq!(stage.machine(node)["soft_reboot"], json!(false));
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
    let after = kernel(&stage);
    assert_ne!(after.0, before.0, "the machine was booted");
    assert_eq!(after.1, paths[0].as_str());
}

/// Brings the machine to a target by a soft-reboot that is gone back from, by a boot of the machine.
fn is_booted_back(stage: &Stage, system: SystemSpec) {
    let node = node(stage);
    let (before, soft) = (stage.settled(node), soft_reboots(stage) + 1);
    let boots = ok(stage.fleet().status_of(node)).boots;
    let paths = stage.prepare(&[system]);
    stage.execute_detached(&[node]);
    stage.eventually("the target runs", || {
        stage.running(node) == paths[0].as_str()
    });
    stage.eventually("by soft-reboot", || soft_reboots(stage) == soft);
    assert_ne!(stage.await_end(), "finished", "{}", stage.scene());
    assert_eq!(stage.settled(node), before, "{}", stage.scene());
    assert_eq!(stage.in_rollout(node)["verdict"], "rolled-back");
    let after = ok(stage.fleet().status_of(node)).boots;
    assert_eq!(after, boots + 1, "{}", stage.scene());
    assert_eq!(soft_reboots(stage), 0, "since it was booted");
}

#[test]
fn a_target_that_is_not_healthy_after_a_soft_reboot_is_booted_back_from() {
    let Some(stage) = soft_stage() else { return };
    is_booted_back(&stage, inhibited(&stage).failing(Failure::Health));
}

/// The timer of the machine's own counts from the soft-reboot, not from the boot of the kernel.
#[test]
fn a_soft_reboot_without_an_agent_is_booted_back_from() {
    let Some(stage) = soft_stage() else { return };
    let no_agent = "[Service]\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n";
    is_booted_back(&stage, inhibited(&stage).unit(AGENT_UNIT, no_agent));
}

#[test]
fn without_the_service_that_takes_up_the_target_the_machine_is_booted() {
    let Some(stage) = soft_stage() else { return };
    let (fleet, node) = (stage.fleet(), node(&stage));
    let before = kernel(&stage);
    let stop = ["systemctl", "stop", "lab-updater-soft-reboot.service"];
    ok(fleet.run(node, &stop));
    assert_eq!(kernel(&stage), before, "stopping it alone changes nothing");
    let paths = stage.prepare(&[inhibited(&stage)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
    assert_ne!(kernel(&stage).0, before.0, "the machine was booted");
}
