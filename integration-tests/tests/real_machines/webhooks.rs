//! A webhook is told what happened, late if it must be, and nothing waits for it.

use serde_json::{Value, json};

use super::stage::{Stage, ok, stage};

/// Where the webhook writes down what it is sent.
const POSTS: &str = "/var/lib/posts";

/// What the webhook was sent.
fn posts(stage: &Stage) -> Vec<Value> {
    let fleet = stage.fleet();
    let read = fleet.read_file(&fleet.control(), POSTS).unwrap_or_default();
    let lines = read.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a JSON document"))
        .collect()
}

#[test]
fn a_webhook_that_is_down_holds_up_nothing_and_is_told_when_it_is_back() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[0]);
    let mut config = stage.config();
    config["updateSettings"]["channels"] =
        json!({ "ops": { "webhook": "http://127.0.0.1:8099/hook" } });
    ok(fleet.import_config(&config));
    stage.prepare(&[stage.system(node)]);
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    let id = stage.rollout()["id"].clone();

    let serve = "exec fleet take-posts --listen 127.0.0.1:8099 --into";
    let serve = format!("{serve} {POSTS}");
    let run = ["systemd-run", "--unit=webhook", "sh", "-c", &serve];
    ok(fleet.run(&fleet.control(), &run));
    stage.eventually("it is told of the rollout's end", || {
        !posts(&stage).is_empty()
    });
    let told = posts(&stage);
    assert_eq!(told.len(), 1, "once: {told:#?}");
    let told = &told[0];
    assert_eq!(told["level"], "info", "{told:#}");
    assert_eq!(told["kind"], "rollout-finished", "{told:#}");
    assert_eq!(told["event"]["rollout"], id, "{told:#}");
    assert_eq!(told["text"], told["content"], "{told:#}");

    let say = ["notify", "--level=warning", "--message=look at this"];
    stage.lab_yes(&say);
    stage.eventually("it is told", || posts(&stage).len() == 2);
    let said = &posts(&stage)[1];
    let expected = json!({ "level": "warning", "kind": "notice",
        "text": "look at this", "content": "look at this" });
    assert_eq!(*said, expected);
    ok(fleet.run(&fleet.control(), &["systemctl", "stop", "webhook"]));
}
