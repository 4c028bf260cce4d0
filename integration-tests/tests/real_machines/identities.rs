//! Certificates over time: renewed unattended, refused when they have ended, and the way back.

use std::collections::BTreeSet;

use common::MachineName;
use integration_tests::fleet::{AGENT_UNIT, COORDINATOR_UNIT};
use serde_json::Value;

use super::stage::{Stage, ok, stage, text};

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
    ok(fleet.configure_coordinator("certificates.machine = 30"));
    // Enrolled anew, for a short life.
    agent("stop");
    ok(fleet.run(node, &["rm", "/var/lib/lab-updater/identity.pem"]));
    ok(fleet.give_token(node));
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
        "an ended certificate is not renewed"
    );

    // The way back that the handbook gives.
    ok(fleet.configure_coordinator(""));
    ok(fleet.give_token(node));
    agent("restart");
    stage.eventually("it has a good one", || {
        new().iter().any(|(_, state)| state == "valid")
    });
    await_word(&stage, node);
    stage.eventually("the machine is healthy", || is_healthy(&stage, node));
}
