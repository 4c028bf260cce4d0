//! Every kind of failure on a small fleet: it ends as it should, and the demo sees it.

use super::world::{Outcome, World, small_fleet};

/// Runs the small fleet with these failures; everything must have ended as it should.
#[track_caller]
fn run(arguments: &[&str]) -> Outcome {
    let world = World::new(&small_fleet());
    let mut words = vec!["--speed", "200"];
    words.extend(arguments);
    let outcome = world.run(&words);
    let text = outcome.text();
    assert_eq!(outcome.output.status.code(), Some(0), "{text}");
    assert_eq!(outcome.report["violations"], 0, "{text}");
    assert!(world.left_behind().is_empty(), "{:?}", world.left_behind());
    outcome
}

/// The failing machine has this state and runs this version; the others are updated.
#[track_caller]
fn one_fails(kind: &str, state: &str, version: &str) -> Outcome {
    let outcome = run(&["--fail", &format!("two={kind}")]);
    let text = outcome.text();
    assert_eq!(outcome.machine("two", "state"), state, "{text}");
    assert_eq!(outcome.version("two"), version, "{text}");
    for machine in ["one", "three", "four"] {
        assert_eq!(outcome.machine(machine, "verdict"), "confirmed", "{text}");
        assert_eq!(outcome.version(machine), "2", "{text}");
        assert_eq!(outcome.machine(machine, "generation"), "2", "{text}");
    }
    assert_eq!(outcome.report["rollout"]["state"], "finished", "{text}");
    let most = outcome.report["max_away"].as_u64().expect("a number");
    assert!((1..=3).contains(&most), "{text}");
    assert_eq!(outcome.report["max_away_allowed"], 3, "{text}");
    outcome
}

#[test]
fn a_failed_health_check_rolls_back() {
    let outcome = one_fails("health", "rolled-back", "1");
    assert!(outcome.text().contains("service"), "{}", outcome.text());
}

#[test]
fn a_failed_switch_rolls_back() {
    one_fails("switch", "rolled-back", "1");
}

#[test]
fn a_failed_hook_rolls_back() {
    one_fails("hook", "rolled-back", "1");
}

#[test]
fn a_killed_agent_carries_on() {
    let outcome = one_fails("crash", "updated", "2");
    let text = outcome.text();
    assert!(text.contains("agent of two is killed"), "{text}");
}

#[test]
fn a_switch_that_hangs_is_given_up_and_rolled_back() {
    one_fails("hang", "rolled-back", "1");
}

#[test]
fn a_silent_machine_takes_its_slot_and_fails_in_the_end() {
    let outcome = run(&["--fail", "two=silent"]);
    let text = outcome.text();
    assert!(text.contains("agent of two is killed"), "{text}");
    assert_eq!(outcome.machine("two", "state"), "failed", "{text}");
    assert_eq!(outcome.machine("four", "state"), "updated", "{text}");
    assert_eq!(outcome.report["rollout"]["state"], "finished", "{text}");
}

#[test]
fn a_rebooting_machine_fails_and_boots_back() {
    let outcome = run(&["--fail", "three=health"]);
    assert_eq!(outcome.machine("three", "state"), "rolled-back");
    assert_eq!(outcome.version("three"), "1");
}

#[test]
fn more_failures_than_the_policy_takes_have_the_rollout_taken_back() {
    let outcome = run(&["--fail", "one=health", "--fail", "two=switch"]);
    let text = outcome.text();
    assert_eq!(outcome.report["rollout"]["state"], "aborted", "{text}");
    assert_eq!(outcome.version("three"), "1", "{text}");
    assert_eq!(outcome.version("four"), "1", "{text}");
    assert!(text.contains("Rollback r2 of three is finished."), "{text}");
}

#[test]
fn a_group_that_nobody_approves_waits() {
    let mut fleet = small_fleet();
    fleet["updateGroups"]["second"]["updatePolicy"] = "manual-approval".into();
    let world = World::new(&fleet);
    let outcome = world.run(&["--speed", "200", "--fail", "none", "--approve", "never"]);
    let text = outcome.text();
    assert_eq!(outcome.output.status.code(), Some(0), "{text}");
    assert_eq!(outcome.report["rollout"]["state"], "active", "{text}");
    assert_eq!(outcome.version("three"), "2", "{text}");
    assert_eq!(outcome.version("four"), "1", "{text}");
}

#[test]
fn the_documents_night_as_everybody_first_sees_it() {
    let document = include_str!("../../../docs/examples/update-config.json");
    let world = World::new(&serde_json::from_str(document).expect("JSON"));
    let outcome = world.run(&[]);
    let text = outcome.text();
    assert_eq!(outcome.output.status.code(), Some(0), "{text}");
    assert_eq!(outcome.report["violations"], 0, "{text}");
    assert_eq!(outcome.machine("dev-02", "state"), "rolled-back", "{text}");
    let machines = outcome.report["machines"].as_array().expect("machines");
    let updated = machines
        .iter()
        .filter(|machine| machine["state"] == "updated");
    assert_eq!(updated.count(), 8, "{text}");
    let seconds = outcome.report["seconds"].as_f64().expect("a number");
    assert!(seconds < 60.0, "{text}");
}

#[test]
fn bad_arguments_are_refused_with_the_reason() {
    let world = World::new(&small_fleet());
    let outcome = world.run(&["--fail", "nobody=health"]);
    assert_eq!(outcome.output.status.code(), Some(1));
    assert!(outcome.text().contains("no machine nobody"));

    let world = World::new(&serde_json::json!({ "updateGroups": {} }));
    let outcome = world.run(&[]);
    assert_eq!(outcome.output.status.code(), Some(1));
    assert!(
        outcome.text().contains("names no group"),
        "{}",
        outcome.text()
    );
}
