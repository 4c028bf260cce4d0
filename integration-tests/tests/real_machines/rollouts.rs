//! Rollouts on real machines: what goes well, what goes back, and what is cut in the middle.

use std::{thread, time::Duration};

use common::{closure::StorePath, id::MachineName};
use integration_tests::fleet::{AGENT_UNIT, COORDINATOR_UNIT, Failure};
use serde_json::{Value, json};

use super::stage::{PARALLEL, Stage, ok, stage, text};

/// Machines that hold a lease now.
fn leased(stage: &Stage) -> Vec<MachineName> {
    let holds = |node: &&MachineName| stage.in_rollout(node)["state"] == json!("leased");
    stage.nodes().iter().filter(holds).cloned().collect()
}

#[test]
fn a_rollout_updates_four_machines_and_never_takes_more_than_allowed() {
    let Some(stage) = stage() else { return };
    let nodes = stage.nodes();
    let systems: Vec<_> = nodes.iter().map(|node| stage.system(node)).collect();
    let paths = stage.prepare(&systems);
    stage.execute_detached(&nodes.iter().collect::<Vec<_>>());
    let mut most = 0;
    while stage.rollout()["state"] == json!("active") {
        let away = stage.status()["away"].as_u64().expect("a number");
        most = most.max(away);
        assert!(away <= PARALLEL as u64, "{away} machines are away");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(most > 0, "somebody was away");
    assert_eq!(stage.rollout()["state"], "finished", "{}", stage.scene());
    for (node, path) in nodes.iter().zip(&paths) {
        assert_eq!(stage.settled(node), path.as_str(), "{node}");
        assert_eq!(stage.in_rollout(node)["verdict"], "confirmed");
        let web = ok(stage.fleet().run(
            node,
            &["systemctl", "show", "-P", "Environment", "web.service"],
        ));
        assert_eq!(
            web.trim(),
            format!(
                "VERSION={}",
                path.name().rsplit('-').next().expect("a version")
            )
        );
    }
    stage.lab_yes(&["update", "verify", "--group=nodes", "--timeout=60"]);
    one_turn_is_found_in_both_journals(&stage, &nodes[0]);
}

/// As `docs/recovery.md` says: by the lease alone.
#[track_caller]
fn one_turn_is_found_in_both_journals(stage: &Stage, node: &MachineName) {
    let entries = |machine: &MachineName, unit: &str, field: &str| -> Vec<Value> {
        let words = ["journalctl", "--output=json", "--unit", unit, field];
        let text = ok(stage.fleet().run(machine, &words));
        let entries = text.lines().map(serde_json::from_str);
        entries.collect::<Result<_, _>>().expect("JSON")
    };
    let control = stage.fleet().control();
    let rollout = text(&stage.rollout()["id"]).to_owned();
    let of_rollout = entries(&control, COORDINATOR_UNIT, &format!("ROLLOUT={rollout}"));
    let of_machine = |entry: &&Value| entry["MACHINE"] == node.as_str();
    let leases = of_rollout.iter().filter(of_machine);
    let lease = leases.filter_map(|entry| entry["LEASE"].as_str()).next();
    let lease = lease.unwrap_or_else(|| panic!("no lease: {of_rollout:#?}"));
    let turn = entries(&control, COORDINATOR_UNIT, &format!("LEASE={lease}"));
    assert!(turn.len() >= 2, "a grant and a result: {turn:#?}");
    assert!(
        turn.iter().all(|entry| entry["MACHINE"] == node.as_str()),
        "{turn:#?}"
    );
    let there = entries(node, AGENT_UNIT, &format!("LEASE={lease}"));
    assert!(!there.is_empty(), "the agent's side of lease {lease}");
}

#[test]
fn another_kernel_is_booted() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[0];
    let boot = ok(stage.fleet().boot_id(node));
    let paths = stage.prepare(&[stage.system(node).kernel("6.13.0")]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_ne!(ok(stage.fleet().boot_id(node)), boot);
    assert_eq!(stage.settled(node), paths[0].as_str());
    assert_eq!(stage.link(node, "/run/booted-system"), paths[0].as_str());
}

#[test]
fn a_boot_without_an_agent_is_gone_back_from() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[1];
    let before = stage.settled(node);
    let boots = ok(stage.fleet().status_of(node)).boots;
    let no_agent = "[Service]\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n";
    let system = stage
        .system(node)
        .kernel("6.13.1")
        .unit(AGENT_UNIT, no_agent);
    let paths = stage.prepare(&[system]);
    stage.execute_detached(&[node]);
    ok(stage.fleet().await_boot(node, boots));
    assert_eq!(
        stage.running(node),
        paths[0].as_str(),
        "the new system is booted first"
    );
    assert_ne!(stage.await_end(), "finished");
    assert_eq!(stage.settled(node), before);
    assert_eq!(
        stage.in_rollout(node)["verdict"],
        "rolled-back",
        "{}",
        stage.scene()
    );
}

/// Runs an update that must go back; the machine is then where it came from.
#[track_caller]
fn goes_back(failure: Failure) {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[1];
    let before = stage.settled(node);
    stage.prepare(&[stage.system(node).failing(failure)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), before);
    assert_eq!(stage.in_rollout(node)["verdict"], "rolled-back");
    let failed = ok(stage.fleet().run(
        node,
        &["systemctl", "list-units", "--state=failed", "--no-legend"],
    ));
    assert_eq!(failed.trim(), "", "nothing is left failed");
}

#[test]
fn a_system_that_is_not_healthy_goes_back() {
    goes_back(Failure::Health);
}

#[test]
fn a_system_with_a_unit_that_fails_goes_back() {
    goes_back(Failure::Units);
}

#[test]
fn a_boot_loader_that_cannot_be_installed_goes_back() {
    goes_back(Failure::Bootloader);
}

#[test]
fn a_pre_switch_check_that_refuses_goes_back() {
    goes_back(Failure::Precheck);
}

#[test]
fn an_activation_that_complains_and_leaves_a_healthy_machine_is_confirmed() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[1];
    let paths = stage.prepare(&[stage.system(node).failing(Failure::Activate)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
}

#[test]
fn a_system_that_cuts_the_network_goes_back() {
    goes_back(Failure::Network);
}

#[test]
fn a_system_whose_activation_never_ends_goes_back() {
    goes_back(Failure::Hang);
}

#[test]
fn an_agent_that_its_own_switch_changed_is_the_new_one_afterwards() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[2];
    let command = |node| {
        let pid = ok(stage
            .fleet()
            .run(node, &["systemctl", "show", "-P", "MainPID", AGENT_UNIT]));
        let file = format!("/proc/{}/cmdline", pid.trim());
        stage
            .fleet()
            .exec(node, &["cat", &file])
            .map(|read| read.stdout)
            .unwrap_or_default()
    };
    let old = command(node);
    let begin = ok(stage.fleet().run(node, &["date", "+@%s"]));
    let paths = stage.prepare(&[stage.system_with(node, "check_interval = \"3m\"")]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
    let unit = ok(stage
        .fleet()
        .run(node, &["cat", &format!("/etc/systemd/system/{AGENT_UNIT}")]));
    let started = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .expect("a command");
    let started = started.replace(' ', "\0") + "\0";
    assert_ne!(started, old, "the unit has changed");
    stage.eventually("the agent runs as its new unit says", || {
        command(node) == started
    });
    // By its own leave, and only when the attempt was over.
    let journal = stage.fleet().journal(node, AGENT_UNIT);
    assert!(
        journal.contains("the service has been changed: starting anew"),
        "{journal}"
    );
    // A unit that ended badly and waits for its restart fails whatever switch looks at it then.
    let badly = "--grep=Main process exited";
    let badly = [
        "journalctl",
        "--unit",
        AGENT_UNIT,
        "--since",
        begin.trim(),
        badly,
    ];
    let badly = ok(stage.fleet().exec(node, &badly));
    assert_ne!(badly.code(), 0, "{}", badly.stdout);
    assert_eq!(
        stage.in_rollout(node)["verdict"],
        "confirmed",
        "{}",
        stage.scene()
    );

    // The same command in a unit that says something else.
    let process = || {
        let shown = [
            "systemctl",
            "show",
            "--value",
            "--property=MainPID",
            AGENT_UNIT,
        ];
        ok(stage.fleet().run(node, &shown))
    };
    let before = process();
    stage.prepare(&[stage.system_with_unit(node, "Nice=1\n", "check_interval = \"3m\"")]);
    assert_eq!(stage.execute(&[node], &[]).code(), 0, "{}", stage.scene());
    stage.eventually("the agent starts anew", || process() != before);
}

#[test]
fn a_target_without_the_agent_is_still_judged_and_reported() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[2];
    // Marked as altered: the next scenario gives the agent back.
    let mut bare = stage.system_with(node, "\n");
    bare.units
        .retain(|name, _| !name.starts_with("lab-updater"));
    bare.files.remove("lab-agent.toml");
    let paths = stage.prepare(&[bare]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "confirmed", "{part:#}");
    let unit = format!("/etc/systemd/system/{AGENT_UNIT}");
    let there = ok(stage.fleet().exec(node, &["test", "-e", &unit]));
    assert_ne!(there.code(), 0, "the system has no agent");
    // Nothing of ours is left that would take the machine back.
    let timers = [
        "systemctl",
        "list-units",
        "--no-legend",
        "lab-updater*.timer",
    ];
    let timers = ok(stage.fleet().run(node, &timers));
    assert_eq!(timers.trim(), "", "{timers}");
}

/// Waits until the activation of this system is at work on the machine.
pub(crate) fn await_activation(stage: &Stage, node: &MachineName, path: &StorePath) {
    let line = format!("switch {path}");
    stage.eventually("the switch is at work", || {
        let log = stage.fleet().exec(node, &["cat", "/run/nixos/toy.log"]);
        log.is_ok_and(|log| log.stdout.lines().any(|l| l == line))
    });
    // Its units are stopped next; then it hangs.
    thread::sleep(Duration::from_millis(500));
}

#[test]
fn a_power_cut_in_the_middle_of_a_switch_ends_in_one_system_or_the_other() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[3];
    let before = stage.settled(node);
    let paths = stage.prepare(&[stage.system(node).failing(Failure::Hang)]);
    stage.execute_detached(&[node]);
    await_activation(&stage, node, &paths[0]);
    ok(stage.fleet().power_cut(node));
    thread::sleep(Duration::from_secs(1));
    ok(stage.fleet().power_on(node));

    stage.await_end();
    let running = stage.settled(node);
    assert!(
        [before.as_str(), paths[0].as_str()].contains(&running.as_str()),
        "{running}"
    );
    let part = stage.in_rollout(node);
    let verdict = if running == before {
        "rolled-back"
    } else {
        "confirmed"
    };
    assert_eq!(
        text(&part["verdict"]),
        verdict,
        "{part:#}\n{}",
        stage.scene()
    );
    assert_eq!(text(&part["running"]), running);
}

#[test]
fn a_coordinator_killed_in_the_middle_goes_on_with_the_rollout() {
    let Some(stage) = stage() else { return };
    let nodes = stage.nodes();
    let systems: Vec<_> = nodes.iter().map(|node| stage.system(node)).collect();
    let paths = stage.prepare(&systems);
    stage.execute_detached(&nodes.iter().collect::<Vec<_>>());
    stage.eventually("somebody has a lease", || !leased(&stage).is_empty());
    let control = stage.fleet().control();
    for _ in 0..3 {
        ok(stage.fleet().run(
            &control,
            &["systemctl", "kill", "--signal=KILL", COORDINATOR_UNIT],
        ));
        stage.eventually("the coordinator answers again", || {
            stage.lab(&["update", "status"]).code() == 0
        });
        let away = stage.status()["away"].as_u64().expect("a number");
        assert!(away <= PARALLEL as u64, "{away} machines are away");
    }
    assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
    for (node, path) in nodes.iter().zip(&paths) {
        assert_eq!(stage.settled(node), path.as_str(), "{node}");
    }
}

#[test]
fn an_emergency_stop_in_the_middle_of_a_wave_keeps_the_others_where_they_are() {
    let Some(stage) = stage() else { return };
    let nodes = stage.nodes();
    let before: Vec<String> = nodes.iter().map(|node| stage.settled(node)).collect();
    let systems: Vec<_> = nodes.iter().map(|node| stage.system(node)).collect();
    let paths = stage.prepare(&systems);
    stage.execute_detached(&nodes.iter().collect::<Vec<_>>());
    stage.eventually("somebody has a lease", || !leased(&stage).is_empty());
    stage.lab_yes(&["emergency-stop", "--reason=a test", "--yes"]);
    let epoch = stage.status()["epoch"].as_u64();
    assert_eq!(stage.status()["stopped"], true);
    stage.eventually("nobody is under way", || leased(&stage).is_empty());

    thread::sleep(Duration::from_secs(3));
    assert!(leased(&stage).is_empty(), "nobody begins under a stop");
    let moved = nodes
        .iter()
        .zip(&before)
        .filter(|(node, before)| stage.running(node) != **before);
    assert!(
        moved.count() <= PARALLEL,
        "only those under way may have moved"
    );

    stage.lab_yes(&["resume", "--reason=the test goes on", "--yes"]);
    assert!(
        stage.status()["epoch"].as_u64() >= epoch,
        "the epoch never falls"
    );
    // What had begun and undone it goes again like those that never began.
    assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
    for (node, path) in nodes.iter().zip(&paths) {
        assert_eq!(stage.settled(node), path.as_str(), "{node}");
        let part = stage.in_rollout(node);
        assert_eq!(part["verdict"], "confirmed", "{part:#}");
    }
}
