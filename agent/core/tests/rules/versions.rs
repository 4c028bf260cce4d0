//! What another version of the agent left on disk. The files of `fixtures` are what agents in the
//! field have written: they are never changed, and must be readable for ever. Those that begin with
//! `future-` are what a newer one might write.

use agent_core::{Cause, Durable, Hook, Step, UnitState, state::HookState};
use common::{LeaseId, OutcomeKind};

use crate::world::{Script, World, path};

/// The files by name.
macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("fixtures/", $name, ".json")))),*]
    };
}

const FIXTURES: [(&str, &str); 27] = fixtures![
    "staging",
    "pre-hook",
    "activating",
    "announcing",
    "rebooting",
    "soft-rebooting",
    "rearming",
    "judging-a-switch",
    "judging-a-boot",
    "rolling-back",
    "rebooting-back",
    "judging-rollback",
    "confirming",
    "unreported",
    "idle",
    "moving-traffic",
    "future-fields",
    "future-step",
    "future-step-after-a-boot",
    "future-cause",
    "future-hook",
    "future-mode",
    "future-mode-at-the-end",
    "future-verdict",
    "future-result",
    "future-staging",
    "future-traffic",
];

fn fixture(name: &str) -> Durable {
    let found = FIXTURES.iter().find(|(known, _)| *known == name);
    let (_, text) = found.expect("a fixture");
    let state: Durable = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    state
        .checked()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A machine on which an agent of this version finds the file: it runs `runs`, and was booted into
/// it where the attempt had booted.
fn machine(name: &str, runs: &str, boot: u32) -> World {
    let mut world = World::new(Script::default());
    world.disk = fixture(name);
    world.boot = boot;
    world.running = path(runs);
    world.profile = path(if name == "announcing" { "new" } else { runs });
    if boot > 1 && !name.starts_with("soft-") {
        world.booted = path(runs);
    }
    world.restart(UnitState::Absent);
    world
}

#[test]
fn every_file_that_was_ever_written_is_read_and_leads_to_an_end() {
    let files = [
        ("pre-hook", "old", 1, OutcomeKind::Refused),
        ("activating", "new", 1, OutcomeKind::Confirmed),
        ("announcing", "old", 1, OutcomeKind::Confirmed),
        ("rebooting", "new", 2, OutcomeKind::Confirmed),
        ("soft-rebooting", "new", 2, OutcomeKind::Confirmed),
        ("soft-rebooting", "old", 2, OutcomeKind::RolledBack),
        ("rearming", "new", 2, OutcomeKind::Confirmed),
        ("judging-a-switch", "new", 1, OutcomeKind::Confirmed),
        ("judging-a-boot", "new", 2, OutcomeKind::Confirmed),
        ("rolling-back", "new", 1, OutcomeKind::RolledBack),
        ("rebooting-back", "old", 3, OutcomeKind::RolledBack),
        ("judging-rollback", "old", 1, OutcomeKind::RolledBack),
        ("confirming", "new", 1, OutcomeKind::Confirmed),
        ("unreported", "new", 1, OutcomeKind::Confirmed),
    ];
    for (name, runs, boot, expected) in files {
        let result = machine(name, runs, boot).finish();
        assert_eq!(result.outcome.kind, expected, "{name}: {result:?}");
        assert_eq!(result.lease, LeaseId(7), "{name}");
    }
    assert_eq!(fixture("idle").bad_targets.len(), 1);
    assert!(fixture("staging").staging.is_some());
}

#[test]
fn fields_of_a_newer_agent_are_passed_over() {
    assert_eq!(fixture("future-fields"), fixture("judging-a-switch"));
    let result = machine("future-fields", "new", 1).finish();
    assert_eq!(result.outcome.kind, OutcomeKind::Confirmed);
}

#[test]
fn a_step_of_a_newer_agent_leads_back() {
    let state = fixture("future-step");
    let order = state.dead_man_order(LeaseId(7)).expect("a way back");
    assert_eq!((order.previous.running, order.reboot), (path("old"), false));

    let mut world = machine("future-step", "new", 1);
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::RolledBack);
    assert!(result.outcome.reason.contains("warming-up"), "{result:?}");
    assert_eq!(world.running, path("old"));
    assert!(world.ran(Hook::Rollback) && !world.ran(Hook::Post));
    assert_eq!(world.disk.bad_targets, [], "nobody knows that it is bad");
}

#[test]
fn a_step_of_a_newer_agent_leads_back_by_a_boot_where_there_was_one() {
    let state = fixture("future-step-after-a-boot");
    let attempt = state.attempt.clone().expect("an attempt");
    assert_eq!(attempt.step, Step::Unknown("measuring".to_owned()));
    assert_eq!(attempt.hooks.post, HookState::Unknown);
    assert!(state.dead_man_order(LeaseId(7)).expect("a way back").reboot);

    let mut world = machine("future-step-after-a-boot", "new", 2);
    world.script.boots = vec!["old"];
    assert_eq!(world.finish().outcome.kind, OutcomeKind::RolledBack);
    assert_eq!((world.boot, world.booted), (3, path("old")));

    // The boot into the older system has been made already, by whoever made it.
    let mut world = machine("future-step-after-a-boot", "old", 3);
    assert_eq!(world.finish().outcome.kind, OutcomeKind::RolledBack);
    assert_eq!(world.boot, 3);
}

#[test]
fn a_cause_of_a_newer_agent_is_kept_as_text() {
    let state = fixture("future-cause");
    let attempt = state.attempt.clone().expect("an attempt");
    let cause = Cause::Other("too-hot: 92 degrees".to_owned());
    assert_eq!(attempt.cause, Some(cause));
    assert!(!attempt.foreign, "everything else is understood");
    assert!(state.dead_man_order(LeaseId(7)).is_some());

    let mut world = machine("future-cause", "new", 1);
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::RolledBack);
    assert_eq!(result.outcome.reason, "too-hot: 92 degrees");
    assert_eq!(world.disk.bad_targets, []);
}

#[test]
fn a_mode_of_a_newer_agent_leads_back() {
    let result = machine("future-mode", "old", 1).finish();
    assert_eq!(result.outcome.kind, OutcomeKind::RolledBack);
    assert!(result.outcome.reason.contains("activating"), "{result:?}");
}

#[test]
fn how_a_hook_ended_for_a_newer_agent_leads_back_and_is_made_up_for() {
    let state = fixture("future-hook");
    let attempt = state.attempt.clone().expect("an attempt");
    assert_eq!(attempt.hooks.pre, HookState::Unknown);
    let mut world = machine("future-hook", "new", 1);
    assert_eq!(world.finish().outcome.kind, OutcomeKind::RolledBack);
    assert!(world.ran(Hook::Rollback));
}

#[test]
fn a_verdict_that_is_written_stays_whatever_else_is_not_understood() {
    let state = fixture("future-mode-at-the-end");
    assert_eq!(state.dead_man_order(LeaseId(7)), None);
    let mut world = machine("future-mode-at-the-end", "new", 1);
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Confirmed);
    assert_eq!(world.running, path("new"));
}

#[test]
fn a_verdict_of_a_newer_agent_stays_and_asks_for_a_person() {
    for name in ["future-verdict", "future-result"] {
        let state = fixture(name);
        assert_eq!(state.dead_man_order(LeaseId(7)), None, "{name}: it is over");
        let mut world = machine(name, "new", 1);
        let result = world.finish();
        assert_eq!(result.outcome.kind, OutcomeKind::Stuck, "{name}");
        assert!(
            result.outcome.reason.contains("half-confirmed"),
            "{name}: {result:?}"
        );
        assert_eq!(world.running, path("new"), "{name}");
    }
}

#[test]
fn what_a_newer_agent_was_staging_is_forgotten() {
    let state = fixture("future-staging");
    assert_eq!((state.staging, state.staged), (None, None));
}

#[test]
fn a_traffic_script_that_was_at_work_has_its_answer() {
    let mut world = machine("moving-traffic", "old", 1);
    let order = fixture("moving-traffic")
        .moving_traffic
        .map(|m| m.call.order);
    assert!(order.is_some());
    world.work_all();
    assert_eq!(world.disk.moving_traffic, None);
    assert_eq!(world.disk.traffic_done.order, order);
    assert!(world.disk.traffic_done.failure.is_some());
}

#[test]
fn what_a_newer_agent_did_with_the_traffic_is_forgotten_and_what_it_answered_is_not() {
    let (state, known) = (fixture("future-traffic"), fixture("moving-traffic"));
    assert_eq!(state.moving_traffic, None);
    assert_eq!(state.traffic_done, known.traffic_done);
}

#[test]
fn a_machine_without_orders_about_traffic_writes_what_it_always_did() {
    let text = serde_json::to_string(&fixture("idle")).expect("written");
    assert!(!text.contains("traffic"), "{text}");
}
