//! What a single attempt may need: a way back that PID 1 owns, and the machine's own hooks.

use integration_tests::fleet::{AGENT_UNIT, Failure, Fleet, SystemSpec};

use super::stage::{OVERRIDE, Stage, ok, stage};

#[test]
fn with_the_agent_dead_and_the_network_cut_the_dead_man_timer_takes_the_machine_back() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[0];
    let soon = "limits.attempt_timeout = \"30s\"";
    stage.install(&stage.system_with(node, soon));
    let before = stage.settled(node);
    let cutting = stage.system_with(node, soon).failing(Failure::Network);
    let paths = stage.prepare(&[cutting]);
    stage.execute_detached(&[node]);
    stage.eventually("the new system is active", || {
        stage.running(node) == paths[0].as_str()
    });
    // Not only stopped: the switch that may be at work still would start it again, and its start
    // may take the place of a stop that is under way.
    let die = format!(
        "mkdir -p {OVERRIDE} && printf '[Unit]\\nConditionPathExists=/none\\n' >{OVERRIDE}/dead.conf
         systemctl daemon-reload
         until systemctl stop {AGENT_UNIT}; do sleep 0.2; done"
    );
    ok(stage.fleet().run(node, &["sh", "-ec", &die]));
    assert!(
        !ok(stage.fleet().reaches_control(node)),
        "the new system has cut the network"
    );

    // Nobody does anything now but systemd.
    stage.eventually("the machine is back", || stage.running(node) == before);
    stage.eventually("and on the network", || {
        ok(stage.fleet().reaches_control(node))
    });
    assert_eq!(stage.settled(node), before);
    let fired = ["journalctl", "--boot", "--grep=nobody called it off"];
    let fired = ok(stage.fleet().exec(node, &fired));
    assert_eq!(fired.code(), 0, "{}", stage.scene());

    let live =
        format!("rm -r {OVERRIDE} && systemctl daemon-reload && systemctl start {AGENT_UNIT}");
    ok(stage.fleet().run(node, &["sh", "-ec", &live]));
    stage.await_end();
    assert_eq!(
        stage.in_rollout(node)["verdict"],
        "rolled-back",
        "{}",
        stage.scene()
    );
}

#[test]
fn a_target_that_cuts_the_network_is_left_again_though_no_check_would_see_it() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[3];
    let blind = |mut system: SystemSpec| {
        let config = system.files.get_mut("lab-agent.toml").expect("an agent");
        let (rest, check) = config
            .split_once("[[checks]]\nname = \"network\"")
            .expect("a check");
        assert!(!check.contains("[[checks]]"), "it is the last one");
        *config = rest.to_owned();
        system
    };
    stage.install(&blind(stage.system_with(node, "\n")));
    let before = stage.settled(node);
    let cutting = blind(stage.system_with(node, "\n")).failing(Failure::Network);
    stage.prepare(&[cutting]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "rolled-back", "{part:#}");
    assert!(part["reason"].to_string().contains("cut off"), "{part:#}");
    assert_eq!(stage.settled(node), before);
}

#[test]
fn a_machine_whose_bus_is_gone_is_updated_and_taken_back_all_the_same() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[2]);
    let _without = WithoutBus::begin(fleet, node);
    let paths = stage.prepare(&[stage.system(node)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());

    stage.prepare(&[stage.system(node).failing(Failure::Health)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.in_rollout(node)["verdict"], "rolled-back");
    assert_eq!(stage.settled(node), paths[0].as_str());
    let journal = fleet.journal(node, AGENT_UNIT);
    assert!(journal.contains("by another way"), "{journal}");
}

/// A machine without a bus, until the test ends in whatever way.
struct WithoutBus<'a> {
    fleet: &'a Fleet,
    node: &'a common::MachineName,
}

impl<'a> WithoutBus<'a> {
    const UNITS: [&'static str; 2] = ["dbus.socket", "dbus.service"];

    fn begin(fleet: &'a Fleet, node: &'a common::MachineName) -> Self {
        ok(fleet.run(node, &[&["systemctl", "stop"][..], &Self::UNITS].concat()));
        Self { fleet, node }
    }
}

impl Drop for WithoutBus<'_> {
    fn drop(&mut self) {
        let start = [&["systemctl", "start"][..], &Self::UNITS].concat();
        if let Err(error) = self.fleet.run(self.node, &start) {
            eprintln!("{} stays without its bus: {error}", self.node);
        }
    }
}

/// Where the hooks lie, and what they write down.
const HOOKS: &str = "/var/lib/hooks";

/// Configuration with all hooks, and a check that is a command.
const WITH_HOOKS: &str = r#"
hooks.pre_update = "/var/lib/hooks/pre"
hooks.post_update = "/var/lib/hooks/post"
hooks.rollback = "/var/lib/hooks/rollback"
hooks.backup_check = "/var/lib/hooks/backup"
[[checks]]
name = "shell"
kind = "command"
command = ["/bin/sh", "-c", "test ! -e /var/lib/hooks/ill"]
"#;

/// What the hooks have written down since the last time.
fn told(stage: &Stage, node: &common::MachineName) -> Vec<String> {
    let log = format!("{HOOKS}/log");
    let told = ok(stage.fleet().read_file(node, &log));
    ok(stage.fleet().write_file(node, &log, ""));
    told.lines().map(str::to_owned).collect()
}

/// Writes the hooks: each its name into the log, and then what `more` gives it to do.
fn write_hooks(stage: &Stage, node: &common::MachineName, more: impl Fn(&str) -> String) {
    let fleet = stage.fleet();
    ok(fleet.run(node, &["rm", "-rf", HOOKS]));
    for hook in ["pre", "post", "rollback", "backup"] {
        let text = format!("#!/bin/sh\necho {hook} >>{HOOKS}/log\n{}\n", more(hook));
        let file = format!("{HOOKS}/{hook}");
        ok(fleet.write_file(node, &file, &text));
        ok(fleet.run(node, &["chmod", "+x", &file]));
    }
    ok(fleet.write_file(node, &format!("{HOOKS}/log"), ""));
}

#[test]
fn garbage_collected_in_an_attempt_leaves_the_way_back_complete() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[1]);
    write_hooks(&stage, node, |_| String::new());
    stage.install(&stage.system_with(node, WITH_HOOKS));
    // A system that is not the booted one, and so held by nothing but its generation and us.
    let paths = stage.prepare(&[stage.system_with(node, WITH_HOOKS)]);
    assert_eq!(stage.execute(&[node], &[]).code(), 0, "{}", stage.scene());
    let before = stage.settled(node);
    assert_eq!(before, paths[0].as_str());
    assert_ne!(before, stage.link(node, "/run/booted-system"));

    // The check fails once the garbage is gone, and until the rollback hook.
    stage.prepare(&[stage.system_with(node, WITH_HOOKS)]);
    write_hooks(&stage, node, |hook| match hook {
        "post" => format!(
            "nix-collect-garbage -d || exit 1
             readlink -f /nix/var/nix/profiles/system-*-link >{HOOKS}/generations
             touch {HOOKS}/ill"
        ),
        "rollback" => format!("rm {HOOKS}/ill"),
        _ => String::new(),
    });
    let loose = ok(fleet.run(node, &["nix-store", "--add", HOOKS]));
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    assert_eq!(told(&stage, node), ["backup", "pre", "post", "rollback"]);
    let left = ok(fleet.exec(node, &["test", "-e", loose.trim()]));
    assert_ne!(left.code(), 0, "what nobody holds was collected");
    let generations = ok(fleet.read_file(node, &format!("{HOOKS}/generations")));
    assert!(!generations.contains(&before), "{generations}");

    assert_eq!(stage.settled(node), before);
    let whole = format!("nix-store --query --requisites {before} | xargs nix-store --verify-path");
    ok(fleet.run(node, &["sh", "-ec", &whole]));
}

/// Stops the fleet in this mode while a machine is past its switch, in its post-update hook. Returns
/// where it came from, where it was going, and how its part of the rollout ended.
fn stopped_after_the_switch(stage: &Stage, mode: &str) -> (String, String, String) {
    let node = &stage.nodes()[1];
    write_hooks(stage, node, |_| String::new());
    stage.install(&stage.system_with(node, WITH_HOOKS));
    let before = stage.settled(node);
    let paths = stage.prepare(&[stage.system_with(node, WITH_HOOKS)]);
    write_hooks(stage, node, |hook| match hook {
        "post" => "sleep 10".to_owned(),
        _ => String::new(),
    });
    stage.execute_detached(&[node]);
    let log = format!("{HOOKS}/log");
    stage.eventually("the machine is past its switch", || {
        ok(stage.fleet().read_file(node, &log)).contains("post")
    });
    let mode = format!("--mode={mode}");
    stage.lab_yes(&["emergency-stop", "--reason=a test", "--yes", &mode]);
    stage.eventually("its attempt is over", || {
        !stage.in_rollout(node)["verdict"]
            .as_str()
            .is_none_or(str::is_empty)
    });
    assert_eq!(stage.status()["stopped"], true);
    let verdict = stage.in_rollout(node)["verdict"].clone();
    let verdict = verdict.as_str().unwrap_or_default().to_owned();
    (before, paths[0].as_str().to_owned(), verdict)
}

#[test]
fn an_emergency_stop_lets_a_machine_past_its_switch_finish() {
    let Some(stage) = stage() else { return };
    let (_, target, verdict) = stopped_after_the_switch(&stage, "finish");
    assert_eq!(verdict, "confirmed", "{}", stage.scene());
    assert_eq!(stage.settled(&stage.nodes()[1]), target);
}

#[test]
fn an_emergency_stop_that_takes_back_makes_a_machine_past_its_switch_go_back() {
    let Some(stage) = stage() else { return };
    let (before, _, verdict) = stopped_after_the_switch(&stage, "rollback");
    assert_eq!(verdict, "rolled-back", "{}", stage.scene());
    assert_eq!(stage.settled(&stage.nodes()[1]), before);
}

#[test]
fn hooks_and_command_checks_are_run_by_systemd_and_decide() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[1]);
    write_hooks(&stage, node, |hook| {
        format!("test ! -e {HOOKS}/{hook}-fails")
    });
    stage.install(&stage.system_with(node, WITH_HOOKS));

    let paths = stage.prepare(&[stage.system_with(node, WITH_HOOKS)]);
    assert_eq!(told(&stage, node), ["backup"]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(told(&stage, node), ["backup", "pre", "post"]);
    assert_eq!(stage.settled(node), paths[0].as_str());

    // No fresh backup: not even staged.
    ok(fleet.write_file(node, &format!("{HOOKS}/backup-fails"), ""));
    let systems = [stage.system_with(node, WITH_HOOKS)];
    let refused = stage.try_prepare(&systems, &ok(fleet.publish(&systems)));
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stdout.contains("backup"), "{refused:?}");
    ok(fleet.run(node, &["rm", &format!("{HOOKS}/backup-fails")]));

    // The pre-update hook says no: nothing happens.
    ok(fleet.write_file(node, &format!("{HOOKS}/pre-fails"), ""));
    stage.prepare(&systems);
    told(&stage, node);
    let executed = stage.execute(&[node], &[]);
    assert_ne!(executed.code(), 0, "{executed:?}");
    assert_eq!(told(&stage, node), ["backup", "pre"]);
    assert_eq!(stage.settled(node), paths[0].as_str());
    ok(fleet.run(node, &["rm", &format!("{HOOKS}/pre-fails")]));

    // The post-update hook says no: back, and the rollback hook makes up for the first one.
    ok(fleet.write_file(node, &format!("{HOOKS}/post-fails"), ""));
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    let told = told(&stage, node);
    let scene = || format!("{executed:?}\n{}", stage.scene());
    let all = ["backup", "pre", "post", "rollback"];
    assert_eq!(told, all, "{}", scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
}

#[test]
fn what_a_person_switches_to_in_the_middle_of_an_attempt_stays() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[1]);
    write_hooks(&stage, node, |_| String::new());
    stage.install(&stage.system_with(node, WITH_HOOKS));
    let theirs = ok(fleet.publish(&[stage.system_with(node, WITH_HOOKS)]));
    let theirs = theirs[0].as_str();
    stage.prepare(&[stage.system_with(node, WITH_HOOKS)]);
    write_hooks(&stage, node, |hook| match hook {
        // What `nixos-rebuild switch` does; and then the attempt would go back.
        "post" => format!(
            "nix-store --realise {theirs} || exit 2
             nix-env --profile /nix/var/nix/profiles/system --set {theirs} || exit 2
             {theirs}/bin/switch-to-configuration switch || exit 2
             exit 1"
        ),
        _ => String::new(),
    });
    let executed = stage.execute(&[node], &[]);
    assert_ne!(executed.code(), 0, "{executed:?}");
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "stuck", "{part:#}");
    let reason = part["reason"].to_string();
    assert!(reason.contains("somebody else switched"), "{part:#}");
    assert!(reason.contains(theirs), "{part:#}");
    assert_eq!(told(&stage, node), ["backup", "pre", "post", "rollback"]);
    assert_eq!(stage.running(node), theirs);
    let profile = stage.link(node, "/nix/var/nix/profiles/system");
    assert_eq!(profile, theirs, "the next boot is theirs too");
}
