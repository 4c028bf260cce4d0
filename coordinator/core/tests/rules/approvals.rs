//! Who may approve, and what becomes of a question that nobody answers.

use coordinator_core::{
    FleetConfig, Request,
    identity::{Actor, Role},
    request::{OperatorRequest, Refusal},
    rollout::{PauseReason, RolloutState},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes};

fn world(keys: Value, settings: Value) -> World {
    let mut group = json!({ "machines": ["a"], "updatePolicy": "manual-approval" });
    let keys = keys.as_object().expect("keys").clone();
    group.as_object_mut().expect("an object").extend(keys);
    World::new(json!({ "db": group }), settings)
}

fn answer(world: &mut World, name: &str, reject: bool) -> Option<Refusal> {
    let actor = Actor {
        name: name.parse().expect("a name"),
        role: Role::Admin,
        serial: "2".to_owned(),
    };
    let request = OperatorRequest::Approve {
        rollout: None,
        group: None,
        reject,
        comment: String::new(),
    };
    let decision = world.handle(Request::Operator { actor, request });
    decision.reply.refusal().cloned()
}

#[test]
fn nobody_approves_their_own_rollout_where_the_settings_say_so() {
    let mut world = world(json!({}), json!({ "fourEyes": true }));
    world.execute();
    let refusal = answer(&mut world, "ada", false).expect("it is hers");
    assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
    world.waits_for("a", "approval");
    assert_eq!(answer(&mut world, "bob", false), None);
    world.update("a");
}

#[test]
fn everybody_may_say_no_to_their_own() {
    let mut world = world(json!({}), json!({ "fourEyes": true }));
    let rollout = world.execute();
    assert_eq!(answer(&mut world, "ada", true), None);
    let state = world.state(&rollout);
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::Rejected { .. })
    ));
}

#[test]
fn without_that_setting_one_person_will_do() {
    let mut world = world(json!({}), json!({}));
    world.execute();
    assert_eq!(answer(&mut world, "ada", false), None);
    world.update("a");
}

#[test]
fn silence_is_consent_only_where_the_policy_says_so_and_only_after_its_time() {
    let keys = json!({ "autoApproveAfter": "2h", "approvalExpiry": "3h" });
    let mut asked = world(keys, json!({}));
    asked.execute();
    asked.pass(minutes(119));
    asked.waits_for("a", "approval");
    asked.pass(minutes(2));
    asked.update("a");
    let mut other = world(json!({ "approvalExpiry": "3h" }), json!({}));
    let rollout = other.execute();
    other.pass(minutes(181));
    let state = other.state(&rollout);
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::ApprovalExpired { .. })
    ));
}

#[test]
fn an_answer_that_never_comes_is_refused() {
    for (keys, says) in [
        (json!({ "autoApproveAfter": "200h" }), "never comes"),
        (
            json!({ "autoApproveAfter": "3h", "approvalExpiry": "3h" }),
            "never comes",
        ),
        (
            json!({ "autoApproveAfter": "1h", "requireApproval": false }),
            "means nothing",
        ),
        (json!({ "autoApproveAfter": 0 }), "too short"),
    ] {
        let mut group = json!({ "machines": ["a"], "updatePolicy": "manual-approval" });
        let own = keys.as_object().expect("keys").clone();
        group.as_object_mut().expect("an object").extend(own);
        let document = json!({ "updateGroups": { "db": group } });
        let faults = FleetConfig::parse(&document).expect_err("refused");
        let found = faults.0.iter().find(|fault| {
            fault.path == "updateGroups.db.autoApproveAfter" && fault.message.contains(says)
        });
        assert!(found.is_some(), "{keys}: {faults:?}");
    }
}
