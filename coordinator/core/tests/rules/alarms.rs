//! What is told of machines that are left behind: when, once, and again when it begins anew.

use coordinator_core::{
    Change, FleetConfig,
    alarm::{Alarm, text},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path};

const DAY: u64 = 24 * 60;

fn world(alarms: Value) -> World {
    let groups = json!({ "web": { "machines": ["a", "b"] } });
    World::new(groups, json!({ "alarms": alarms, "staggerDelay": 0 }))
}

fn told(changes: &[Change]) -> Vec<(Alarm, Vec<String>)> {
    let alarmed = changes.iter().filter_map(|change| match change {
        Change::Alarmed {
            alarm, machines, ..
        } => {
            let names = machines.iter().map(|(machine, _)| machine.to_string());
            Some((*alarm, names.collect()))
        }
        _ => None,
    });
    alarmed.collect()
}

fn both(alarm: Alarm) -> (Alarm, Vec<String>) {
    (alarm, vec!["a".to_owned(), "b".to_owned()])
}

#[test]
fn a_machine_that_runs_the_same_for_too_long_is_told_once() {
    let mut world = world(json!({ "notUpdated": "48h", "notApplied": "0s" }));
    assert_eq!(told(&world.pass(minutes(2 * DAY - 5))), []);
    assert_eq!(told(&world.pass(minutes(10))), [both(Alarm::NotUpdated)]);
    assert_eq!(told(&world.pass(minutes(5 * DAY))), []);
    // It is updated, and left behind again.
    world.execute();
    world.update("a");
    assert!(world.fleet.alarms_of(&name("a"), world.now).is_empty());
    let since = world.fleet.alarms_of(&name("b"), world.now);
    assert_eq!(since.len(), 1);
    let again = told(&world.pass(minutes(2 * DAY + 10)));
    assert_eq!(again, [(Alarm::NotUpdated, vec!["a".to_owned()])]);
}

#[test]
fn what_is_staged_and_not_applied_is_told_and_ends_when_it_is_applied() {
    let mut world = world(json!({ "notUpdated": 0, "notApplied": "24h" }));
    // Both were told to obtain what they are to run, and nobody begins a rollout.
    assert_eq!(told(&world.pass(minutes(DAY - 5))), []);
    assert_eq!(told(&world.pass(minutes(10))), [both(Alarm::NotApplied)]);
    world.execute();
    world.update("a");
    let holds = |world: &World, machine: &str| world.fleet.alarms_of(&name(machine), world.now);
    assert!(holds(&world, "a").is_empty());
    assert_eq!(holds(&world, "b").len(), 1);
}

#[test]
fn what_the_next_boot_would_start_counts_as_staged() {
    let mut world = world(json!({ "notUpdated": 0, "notApplied": "24h" }));
    world.execute();
    world.update("a");
    world.pass(minutes(60));
    world.update("b");
    world.report("a").profile = Some(path("3"));
    world.poll("a");
    let told = told(&world.pass(minutes(DAY + 10)));
    assert_eq!(told, [(Alarm::NotApplied, vec!["a".to_owned()])]);
}

#[test]
fn machines_that_leave_the_configuration_are_told_of_no_more() {
    let mut world = world(json!({ "notUpdated": "48h", "notApplied": 0 }));
    world.configure(&json!({
        "updateGroups": { "web": { "machines": ["b"] } },
        "updateSettings": { "alarms": { "notUpdated": "24h", "notApplied": 0 } },
    }));
    let told = told(&world.pass(minutes(2 * DAY)));
    assert_eq!(told, [(Alarm::NotUpdated, vec!["b".to_owned()])]);
    assert!(world.fleet.alarms_of(&name("a"), world.now).is_empty());
}

#[test]
fn the_text_names_a_few_and_counts_the_rest() {
    let world = world(json!({}));
    let machines = |count: usize| {
        let names = (0..count).map(|n| (name(&format!("m{n}")), world.now));
        names.collect::<Vec<_>>()
    };
    let at = world.now + minutes(9 * DAY);
    let many = text(Alarm::NotUpdated, &machines(7), at);
    assert!(
        many.starts_with("m0, m1, m2, m3, m4 and 2 more: not updated for 9 days"),
        "{many}"
    );
    let five = text(Alarm::NotApplied, &machines(5), at);
    assert!(
        five.starts_with("m0, m1, m2, m3, m4: staged, not applied"),
        "{five}"
    );
}

#[test]
fn what_is_no_time_is_refused() {
    for (key, value) in [("notUpdated", json!("often")), ("notSeen", json!("1h"))] {
        let document = json!({
            "updateGroups": { "web": { "machines": ["a"] } },
            "updateSettings": { "alarms": { key: value } },
        });
        let faults = FleetConfig::parse(&document).expect_err("refused");
        assert_eq!(faults.0[0].path, format!("updateSettings.alarms.{key}"));
    }
}
