//! Why somebody let a rollout go on, or changed the configuration: the history keeps it.

use coordinator_core::request::{OperatorRequest, Promotion};
use serde_json::json;

use crate::fleet::World;

/// What the history says of the newest event of this kind: who, and why.
fn told(world: &World, kind: &str) -> (String, String) {
    let entry = world.history.iter().rev().find(|entry| entry.kind == kind);
    let entry = entry.expect(kind);
    (entry.by.clone(), entry.text.clone())
}

fn by_ada(text: &str) -> (String, String) {
    ("ada".to_owned(), text.to_owned())
}

fn promote(reason: &str) -> OperatorRequest {
    OperatorRequest::Promote {
        promotion: Promotion {
            rollout: None,
            group: None,
            full: false,
        },
        reason: reason.to_owned(),
    }
}

#[test]
fn why_a_group_goes_on_is_kept() {
    let group = json!({
        "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "waves": [1, 2],
        "pauseAfter": "each-wave",
    });
    let mut world = World::new(json!({ "web": group }), json!({}));
    world.execute();
    world.update("a");
    world.waits_for("b", "held");
    world.done(promote("the graphs are flat"));
    assert_eq!(told(&world, "promoted"), by_ada("the graphs are flat"));
    world.update("b");
    world.waits_for("c", "held");
    world.done(promote(""));
    assert_eq!(told(&world, "promoted"), by_ada(""));
}

#[test]
fn why_failures_are_accepted_is_kept() {
    let mut world = World::new(json!({ "web": { "machines": ["a"] } }), json!({}));
    world.execute();
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    world.done(OperatorRequest::ResumeRollout {
        rollout: None,
        reason: "that disk was full before".to_owned(),
    });
    let says = by_ada("that disk was full before");
    assert_eq!(told(&world, "rollout-resumed"), says);
}

#[test]
fn why_the_configuration_is_another_is_kept() {
    let mut world = World::new(json!({ "web": { "machines": ["a"] } }), json!({}));
    assert_eq!(told(&world, "config"), by_ada("revision 1"));
    let document = json!({ "updateGroups": { "web": { "machines": ["a", "b"] } } });
    let config = coordinator_core::FleetConfig::parse(&document).expect("valid");
    world.done(OperatorRequest::SetConfig {
        config: Box::new(config),
        if_revision: None,
        reason: "b is new".to_owned(),
    });
    assert_eq!(told(&world, "config"), by_ada("revision 2: b is new"));
}
