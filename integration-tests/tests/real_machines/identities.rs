//! Certificates over time: renewed unattended, refused when they have ended, and the ways back; and a
//! clock by which they have not begun.

use std::collections::BTreeSet;

use common::MachineName;
use integration_tests::fleet::{AGENT_UNIT, COORDINATOR_UNIT};
use serde_json::Value;

use super::stage::{OVERRIDE, Stage, ok, stage, text};

/// Where the clock of an agent is told, as libfaketime reads it.
const CLOCK: &str = "/srv/agent-clock";

/// The certificates of a machine: serial number and state.
fn certificates(stage: &Stage, node: &MachineName) -> Vec<(String, String)> {
    let list = stage.lab_json(&["identity", "list"]);
    let all = list["identities"].as_array().cloned().unwrap_or_default();
    let own = all.iter().filter(|one| text(&one["name"]) == node.as_str());
    let word = |one: &Value, key: &str| text(&one[key]).to_owned();
    own.map(|one| (word(one, "serial"), word(one, "state")))
        .collect()
}

fn is_healthy(stage: &Stage, node: &MachineName) -> bool {
    stage.machine(node)["state"] == "healthy"
}

/// Enrols the machine anew, while certificates of machines live for half a minute.
fn enrol_for_a_short_life(stage: &Stage, node: &MachineName) {
    let fleet = stage.fleet();
    ok(fleet.configure_coordinator("certificates.machine = 30"));
    ok(fleet.run(node, &["systemctl", "stop", AGENT_UNIT]));
    ok(fleet.run(node, &["rm", "/var/lib/lab-updater/identity.pem"]));
    ok(fleet.give_token(node));
}

/// Waits until the machine has been heard of once more.
#[track_caller]
fn await_word(stage: &Stage, node: &MachineName) {
    let before = stage.machine(node)["last_seen"].clone();
    stage.eventually("the machine is heard of", || {
        stage.machine(node)["last_seen"] != before
    });
}

#[test]
fn a_machine_keeps_its_certificate_fresh_and_comes_back_when_it_has_ended() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[3]);
    let control = fleet.control();
    let agent = |verb| ok(fleet.run(node, &["systemctl", verb, AGENT_UNIT]));
    enrol_for_a_short_life(&stage, node);
    let earlier: BTreeSet<_> = certificates(&stage, node).into_iter().collect();
    agent("start");
    let new = || {
        let all = certificates(&stage, node).into_iter();
        all.filter(|one| !earlier.contains(one)).collect::<Vec<_>>()
    };

    stage.eventually("it is enrolled", || !new().is_empty());
    stage.eventually("it has renewed", || new().len() >= 2);
    ok(fleet.run(&control, &["systemctl", "restart", COORDINATOR_UNIT]));
    stage.eventually("and again, with the next coordinator", || new().len() >= 4);
    stage.eventually("the first one has ended", || {
        new().iter().any(|(_, state)| state == "expired")
    });
    await_word(&stage, node);
    assert!(is_healthy(&stage, node), "{}", stage.scene());

    // It is away for longer than its certificate lives.
    agent("stop");
    stage.eventually("the last one has ended", || {
        new().iter().all(|(_, state)| state != "valid")
    });
    agent("start");
    stage.eventually("the agent says what is wrong", || {
        let journal = fleet.journal(node, AGENT_UNIT);
        journal.contains("expired") && journal.contains("lab token create")
    });
    assert!(
        new().iter().all(|(_, state)| state != "valid"),
        "an ended certificate is not renewed unasked"
    );

    // The way back with a token, though nobody has answered what it asked.
    ok(fleet.configure_coordinator(""));
    ok(fleet.give_token(node));
    agent("restart");
    stage.eventually("it has a good one", || {
        new().iter().any(|(_, state)| state == "valid")
    });
    await_word(&stage, node);
    stage.eventually("the machine is healthy", || is_healthy(&stage, node));
}

#[test]
fn a_machine_that_was_off_for_too_long_is_let_back_without_a_token_and_catches_up() {
    let Some(stage) = stage() else { return };
    let (fleet, other, node) = (stage.fleet(), &stage.nodes()[0], &stage.nodes()[2]);
    let serials = || -> BTreeSet<String> {
        let all = certificates(&stage, node).into_iter();
        all.map(|(serial, _)| serial).collect()
    };
    enrol_for_a_short_life(&stage, node);
    let earlier = serials();
    ok(fleet.run(node, &["systemctl", "start", AGENT_UNIT]));
    stage.eventually("it is enrolled", || serials() != earlier);
    await_word(&stage, node);
    let old = stage.settled(node);

    // It is off while the fleet goes on to a newer target, and its certificate ends.
    let systems = [stage.system(other), stage.system(node)];
    ok(fleet.run(node, &["systemctl", "stop", AGENT_UNIT]));
    ok(fleet.power_cut(node));
    let paths = ok(fleet.publish(&systems));
    stage.try_prepare(&systems, &paths);
    stage.execute_detached(&[other, node]);
    stage.eventually("the other one is updated", || {
        stage.in_rollout(other)["state"] == "updated"
    });
    stage.eventually("its certificates have ended", || {
        let all = certificates(&stage, node);
        let new = |serial: &str| !earlier.contains(serial);
        all.iter()
            .all(|(serial, state)| !new(serial) || state == "expired")
    });
    ok(fleet.power_on(node));
    let state = || {
        let all = certificates(&stage, node);
        all.first().map(|(_, state)| state.clone())
    };
    stage.eventually("it asks to return", || {
        state().as_deref() == Some("asks-to-return")
    });
    let command = format!("lab identity approve {node}");
    stage.eventually("its journal says what it waits for", || {
        fleet.journal(node, AGENT_UNIT).contains(&command)
    });
    let told = fleet.journal(&fleet.control(), COORDINATOR_UNIT);
    assert!(told.contains(&command), "people are told: {told}");
    let asked = serials();
    assert_eq!(stage.running(node), old, "nothing was done meanwhile");
    let boot = ok(fleet.boot_id(node));
    let pid = main_pid(&stage, node);

    stage.lab_yes(&["identity", "approve", node.as_str(), "--yes"]);
    stage.eventually("it has a certificate", || serials() != asked);
    assert_eq!(main_pid(&stage, node), pid, "without a restart");
    stage.eventually("it has caught up with the fleet", || {
        stage.in_rollout(node)["state"] == "updated"
    });
    assert_eq!(stage.settled(node), paths[1].as_str());
    assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
    assert_eq!(ok(fleet.boot_id(node)), boot, "and nobody has rebooted it");

    // For a longer life, for those who come after.
    ok(fleet.configure_coordinator(""));
    let short = serials();
    stage.eventually("it has renewed", || serials() != short);
    await_word(&stage, node);
}

fn main_pid(stage: &Stage, node: &MachineName) -> String {
    let show = ["systemctl", "show", "-P", "MainPID", AGENT_UNIT];
    ok(stage.fleet().run(node, &show)).trim().to_owned()
}

/// An agent with a wall clock of its own, until it is dropped.
struct OwnClock<'a> {
    stage: &'a Stage,
    node: &'a MachineName,
}

impl<'a> OwnClock<'a> {
    /// Starts the agent with a clock that is off by so much, as libfaketime has it.
    fn begin(stage: &'a Stage, node: &'a MachineName, off: &str) -> Self {
        let own = Self { stage, node };
        own.set(off);
        let script = format!(
            "mkdir -p {OVERRIDE} && printf '%s\\n' '[Service]' \
             Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 \
             Environment=FAKETIME_TIMESTAMP_FILE={CLOCK} Environment=FAKETIME_NO_CACHE=1 \
             Environment=FAKETIME_DONT_FAKE_MONOTONIC=1 >{OVERRIDE}/clock.conf &&
             systemctl daemon-reload && systemctl restart {AGENT_UNIT}"
        );
        ok(stage.fleet().run(node, &["sh", "-ec", &script]));
        own
    }

    fn set(&self, off: &str) {
        let script = format!("echo '{off}' >{CLOCK}.new && mv {CLOCK}.new {CLOCK}");
        ok(self.stage.fleet().run(self.node, &["sh", "-ec", &script]));
    }
}

impl Drop for OwnClock<'_> {
    fn drop(&mut self) {
        let script = format!(
            "rm -rf {OVERRIDE} {CLOCK} && systemctl daemon-reload && systemctl restart {AGENT_UNIT}"
        );
        // Whatever made the test fail is told already.
        self.stage
            .fleet()
            .run(self.node, &["sh", "-ec", &script])
            .ok();
    }
}

#[test]
fn an_agent_that_starts_before_its_certificate_begins_waits_until_the_clock_is_right() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[1]);
    let identity = || ok(fleet.read_file(node, "/var/lib/lab-updater/identity.pem"));
    let (running, before) = (stage.settled(node), identity());
    let listed = certificates(&stage, node);

    // The first days of 1970, as after a boot without a clock.
    let clock = OwnClock::begin(&stage, node, "-20770d");
    let pid = main_pid(&stage, node);
    let silent = stage.machine(node)["last_seen"].clone();
    stage.eventually("the agent says what is wrong, again and again", || {
        let journal = fleet.journal(node, AGENT_UNIT);
        journal.matches("clock is wrong").count() >= 3
    });
    assert_eq!(stage.machine(node)["last_seen"], silent, "it is not heard");
    assert_eq!(main_pid(&stage, node), pid, "it goes on trying");
    assert_eq!(stage.settled(node), running, "and does nothing");
    assert_eq!(identity(), before);

    clock.set("+0");
    await_word(&stage, node);
    assert_eq!(main_pid(&stage, node), pid, "without a restart");
    assert_eq!(
        certificates(&stage, node),
        listed,
        "and without asking for anything"
    );
    drop(clock);
    await_word(&stage, node);
    stage.eventually("the machine is healthy", || is_healthy(&stage, node));
}
