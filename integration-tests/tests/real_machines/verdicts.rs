//! What is held against a target, and what is not: units that fail for a moment, or failed before; and
//! where a machine goes back to that has never been updated. `docs/comparison.md` says what others do.

use common::id::MachineName;
use integration_tests::fleet::{AGENT_UNIT, Failure, SystemSpec};

use super::stage::{Stage, ok, stage};

/// A service that fails at every start, wanted by every boot and switch.
const ALWAYS_FAILS: &str = "\
[Service]
Type=oneshot
ExecStart=/bin/false

[Install]
WantedBy=multi-user.target
";

/// One that fails at its first start in a boot, and is started again by systemd some seconds later.
const FAILS_ONCE: &str = "\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'test -e /run/fails-once || { touch /run/fails-once; exit 1; }'
Restart=on-failure
RestartSec=4

[Install]
WantedBy=multi-user.target
";

/// One that dies a second after each start, and is well at almost any moment.
const LOOPS: &str = "\
[Unit]
StartLimitIntervalSec=0

[Service]
ExecStart=/bin/sh -c 'sleep 1; exit 1'
Restart=always
RestartSec=50ms

[Install]
WantedBy=multi-user.target
";

/// One that says something critical once, and is well.
const ALARMS: &str = "\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/echo '<2>the battery is low'

[Install]
WantedBy=multi-user.target
";

/// The machine that these tests use.
fn node(stage: &Stage) -> &'static MachineName {
    &stage.nodes()[0]
}

/// Switches to a system by hand, which says that a unit failed.
#[track_caller]
fn switch_by_hand(stage: &Stage, system: &SystemSpec) -> String {
    let paths = ok(stage.fleet().publish(std::slice::from_ref(system)));
    let path = paths[0].as_str().to_owned();
    let script = format!(
        "nix-store --realise {path}
         nix-env --profile /nix/var/nix/profiles/system --set {path}
         status=0; {path}/bin/switch-to-configuration switch || status=$?
         test $status = 4"
    );
    ok(stage.fleet().run(&system.host, &["sh", "-ec", &script]));
    // It looks anew when it starts.
    let agent = ["systemctl", "restart", AGENT_UNIT];
    ok(stage.fleet().run(&system.host, &agent));
    stage.eventually("the machine says what it runs", || {
        stage.machine(&system.host)["running"] == path.as_str()
    });
    path
}

/// The last status with which a switch of the machine ended.
fn last_status(stage: &Stage) -> String {
    let log = ok(stage
        .fleet()
        .run(node(stage), &["cat", "/run/nixos/toy.log"]));
    let last = log.lines().rfind(|line| line.contains(" status "));
    last.and_then(|line| line.rsplit(' ').next())
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_unit_that_failed_before_and_still_does_is_told_and_held_against_nobody() {
    let Some(stage) = stage() else { return };
    let node = node(&stage);
    let system = || {
        let system = stage.system_with(node, "\n");
        system.unit("fails-always.service", ALWAYS_FAILS)
    };
    switch_by_hand(&stage, &system());
    let paths = stage.prepare(&[system()]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(last_status(&stage), "4", "the switch itself complained");
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "confirmed", "{part:#}");
    let reason = part["reason"].to_string();
    assert!(
        reason.contains("fails-always.service failed, as before"),
        "{part:#}"
    );
    assert_eq!(stage.settled(node), paths[0].as_str());

    // A second one is new, and the first is still held against nobody.
    let worse = system().unit("fails-too.service", ALWAYS_FAILS);
    stage.prepare(&[worse]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "rolled-back", "{part:#}");
    let reason = part["reason"].to_string();
    assert!(reason.contains("fails-too.service failed"), "{part:#}");
    assert!(!reason.contains("fails-always"), "{part:#}");
    assert_eq!(stage.settled(node), paths[0].as_str());
}

#[test]
fn a_unit_that_fails_for_a_moment_is_waited_for() {
    let Some(stage) = stage() else { return };
    let node = node(&stage);
    ok(stage.fleet().run(node, &["rm", "-f", "/run/fails-once"]));
    let system = stage.system_with(node, "\n");
    let paths = stage.prepare(&[system.unit("fails-once.service", FAILS_ONCE)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "confirmed", "{part:#}");
    assert_eq!(stage.settled(node), paths[0].as_str());
    let shown = ["systemctl", "show", "--value", "--property"];
    let shown = [&shown[..], &["NRestarts,ActiveState", "fails-once.service"]].concat();
    let shown = ok(stage.fleet().run(node, &shown));
    let mut shown: Vec<&str> = shown.split_whitespace().collect();
    shown.sort_unstable();
    assert_eq!(shown, ["1", "active"], "it failed, and is well by now");
}

#[test]
fn a_unit_that_keeps_being_started_again_is_found_out() {
    let Some(stage) = stage() else { return };
    let node = node(&stage);
    let settle = "limits.settle = \"8s\"";
    stage.install(&stage.system_with(node, settle));
    let before = stage.settled(node);
    let system = stage.system_with(node, settle);
    stage.prepare(&[system.unit("loops.service", LOOPS)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "rolled-back", "{part:#}");
    let reason = part["reason"].to_string();
    let says = "loops.service keeps being started again";
    assert!(reason.contains(says), "{part:#}");
    assert_eq!(stage.settled(node), before);
}

#[test]
fn what_is_critical_in_the_journal_is_told_and_decides_nothing() {
    let Some(stage) = stage() else { return };
    let node = node(&stage);
    let system = stage.system_with(node, "\n");
    let paths = stage.prepare(&[system.unit("alarms.service", ALARMS)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "confirmed", "{part:#}");
    let reason = part["reason"].to_string();
    let says = "critical in the journal: echo: the battery is low";
    assert!(reason.contains(says), "{part:#}");
    assert_eq!(stage.settled(node), paths[0].as_str());
}

#[test]
fn a_machine_with_one_generation_goes_back_to_what_it_ran() {
    let Some(stage) = stage() else { return };
    let node = node(&stage);
    let before = stage.settled(node);
    let forget = ["nix-env", "--profile", "/nix/var/nix/profiles/system"];
    let forget = [&forget[..], &["--delete-generations", "old"]].concat();
    ok(stage.fleet().run(node, &forget));
    stage.prepare(&[stage.system(node).failing(Failure::Health)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 9, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.in_rollout(node)["verdict"], "rolled-back");
    assert_eq!(stage.settled(node), before);
}
