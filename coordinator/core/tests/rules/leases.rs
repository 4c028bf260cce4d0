//! Leases: limits, renewal, silence, repetition.

use common::{HealthState, LeaseId, OutcomeKind};
use coordinator_core::{
    Reply,
    request::{AgentRequest, Decision, Directive, Grant, Refusal, Renewal},
};
use serde_json::json;

use crate::fleet::{World, minutes, name, path};

fn three(settings: serde_json::Value) -> World {
    let group = json!({ "web": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive" } });
    World::new(group, settings)
}

#[test]
fn no_more_than_the_limit_are_away() {
    let mut world = three(json!({ "maxParallel": 2 }));
    world.execute();
    let grant = world.go("a");
    world.go("b");
    world.waits_for("c", "group-limit");
    world.end("a", &grant, OutcomeKind::Confirmed);
    world.go("c");
}

#[test]
fn the_fleets_limit_holds_across_groups() {
    let groups = json!({
        "one": { "machines": ["a", "b"], "updatePolicy": "aggressive" },
        "two": { "machines": ["c", "d"], "updatePolicy": "aggressive" },
    });
    let mut world = World::new(groups, json!({ "maxParallel": 3 }));
    world.execute();
    world.go("a");
    world.go("b");
    world.go("c");
    world.waits_for("d", "fleet-limit");
}

#[test]
fn asking_twice_gives_the_same_lease() {
    let mut world = three(json!({ "maxParallel": 1 }));
    world.execute();
    let first = world.go("a");
    world.now = world.now + minutes(1);
    let second = world.go("a");
    assert_eq!((first.lease, first.epoch), (second.lease, second.epoch));
}

#[test]
fn a_grant_that_never_arrived_is_not_given_late() {
    let groups = json!({ "web": {
        "machines": ["a"], "updatePolicy": "aggressive", "maintenanceWindow": "00:00-01:00" } });
    let mut world = World::new(groups, json!({}));
    let rollout = world.execute();
    world.go("a");
    world.now = world.now + minutes(55);
    world.waits_for("a", "window-too-short");
    assert_eq!(world.place(&rollout, "a"), "pending");
}

#[test]
fn a_poll_that_comes_twice_does_not_give_a_turn_back() {
    let groups = json!({ "web": {
        "machines": ["a"], "updatePolicy": "aggressive", "maintenanceWindow": "00:00-01:00" } });
    let mut world = World::new(groups, json!({}));
    world.execute();
    world.go("a");
    let asked = Box::new(world.reports[&name("a")].clone());
    world.now = world.now + minutes(55);
    let report = asked.clone();
    let again = world.agent("a", AgentRequest::Poll { report }).reply;
    assert!(
        matches!(again, Reply::Directive(Directive::Wait(_))),
        "{again:?}"
    );
    let mut overtaken = asked;
    overtaken.sequence -= 1;
    let report = overtaken;
    let older = world.agent("a", AgentRequest::Poll { report }).reply;
    assert!(
        matches!(older, Reply::Refused(Refusal::Changed(_))),
        "{older:?}"
    );
    assert!(world.fleet.lease_of(&name("a")).is_some(), "not given back");
}

#[test]
fn a_silent_holder_keeps_its_slot_and_counts_as_failed() {
    let mut world = three(json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    world.go("a");
    world.pass_without(minutes(16), &["a"]);
    assert_eq!(world.place(&rollout, "a"), "overdue");
    world.waits_for("b", "group-limit");
    world.pass_without(minutes(20), &["a"]);
    assert_eq!(world.place(&rollout, "a"), "failed");
    world.waits_for("b", "group-limit");
}

#[test]
fn an_overdue_holder_comes_back_by_its_own_word() {
    let mut world = three(json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.pass_without(minutes(16), &["a"]);
    assert!(matches!(world.renew("a", &grant), Renewal::Valid(_)));
    assert_eq!(world.place(&rollout, "a"), "leased");
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "a"), "updated");
    world.go("b");
}

#[test]
fn a_failed_machine_frees_its_slot_when_it_is_healthy_again() {
    let mut world = three(json!({ "maxParallel": 1 }));
    world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::Stuck);
    world.waits_for("b", "group-limit");
    world.health("a", HealthState::Healthy);
    world.go("b");
}

#[test]
fn renewal_keeps_a_lease_but_not_for_ever() {
    let mut world = three(json!({ "maxParallel": 1 }));
    world.execute();
    let grant = world.go("a");
    for _ in 0..35 {
        world.now = world.now + minutes(10);
        assert!(matches!(world.renew("a", &grant), Renewal::Valid(_)));
    }
    world.now = world.now + minutes(11);
    assert!(matches!(world.renew("a", &grant), Renewal::NotHeld(_)));
}

#[test]
fn a_result_counts_once() {
    let mut world = three(json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let grant = world.go("a");
    world.end("a", &grant, OutcomeKind::RolledBack);
    world.end("a", &grant, OutcomeKind::RolledBack);
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "a"), "rolled-back");
    let group = &world.fleet.rollout(&rollout).expect("kept").groups[0];
    assert_eq!(group.failed, 1);
}

#[test]
fn nobody_can_use_the_lease_of_another() {
    let mut world = three(json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let grant = world.go("a");
    assert!(matches!(world.renew("b", &grant), Renewal::NotHeld(_)));
    world.end("b", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "a"), "leased");
}

#[test]
fn updated_is_who_runs_the_target() {
    let mut world = three(json!({ "maxParallel": 1 }));
    let rollout = world.execute();
    let mut grant = world.go("a");
    grant.target = common::Target::Closure(path("1"));
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "a"), "failed");
}

#[test]
fn an_older_report_changes_nothing() {
    let mut world = three(json!({ "maxParallel": 1 }));
    let mut old = world.reports[&name("a")].clone();
    world.reports.get_mut(&name("a")).expect("a").running = Some(path("3"));
    world.poll("a");
    old.sequence = 1;
    let _polled = world.agent(
        "a",
        AgentRequest::Poll {
            report: Box::new(old),
        },
    );
    assert_eq!(
        world.fleet.facts().machines[&name("a")].running(),
        Some(&path("3"))
    );
}

#[test]
fn lease_numbers_only_rise() {
    let mut world = three(json!({ "maxParallel": 3 }));
    world.execute();
    let leases: Vec<LeaseId> = ["a", "b", "c"]
        .map(|machine| world.go(machine).lease)
        .to_vec();
    assert_eq!(leases, [LeaseId(1), LeaseId(2), LeaseId(3)]);
}

#[test]
fn a_stranger_is_told_so_and_leaves_no_trace() {
    let mut world = three(json!({}));
    let report = Box::new(world.reports[&name("a")].clone());
    let facts = world.fleet.facts().clone();
    let decision = world.agent("stranger", AgentRequest::Poll { report });
    let reason = match decision.reply {
        coordinator_core::Reply::Directive(Directive::Wait(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason.kind(), "unknown-machine");
    assert_eq!(*world.fleet.facts(), facts);
}

#[test]
fn a_poll_that_changes_nothing_writes_nothing() {
    let mut world = three(json!({}));
    world.poll("a");
    let report = Box::new(world.reports[&name("a")].clone());
    assert!(
        world
            .agent("a", AgentRequest::Poll { report })
            .changes
            .is_empty()
    );
}

/// The machine's attempt ends well; what comes of it.
fn ended(world: &mut World, machine: &str, grant: &Grant) -> Decision {
    let mut report = world.reports[&name(machine)].clone();
    report.sequence += 1;
    report.last_lease = grant.lease;
    report.running = Some(path("2"));
    world.reports.insert(name(machine), report.clone());
    let outcome = common::Outcome {
        kind: OutcomeKind::Confirmed,
        reason: String::new(),
    };
    let result = AgentRequest::Result {
        rollout: grant.rollout.clone(),
        lease: grant.lease,
        outcome,
        took: minutes(1),
        report: Box::new(report),
    };
    world.agent(machine, result)
}

#[test]
fn a_freed_slot_wakes_exactly_the_next() {
    let mut world = three(json!({ "maxParallel": 1 }));
    world.execute();
    let grant = world.go("a");
    for machine in ["b", "c"] {
        world.waits_for(machine, "group-limit");
    }
    assert_eq!(ended(&mut world, "a", &grant).wake, [name("b")]);
}

#[test]
fn a_machine_is_told_once_that_it_is_its_turn() {
    let mut world = three(json!({ "maxParallel": 2 }));
    world.execute();
    let (first, second) = (world.go("a"), world.go("b"));
    world.waits_for("c", "group-limit");
    assert_eq!(ended(&mut world, "a", &first).wake, [name("c")]);
    // Another slot, and nobody else for it.
    assert_eq!(ended(&mut world, "b", &second).wake, []);
    // It did not come; at the next event it is told again.
    world.now = world.now + minutes(1);
    let mut news = world.reports[&name("a")].clone();
    news.sequence += 1;
    news.generation += 1;
    let report = Box::new(news);
    let decision = world.agent("a", AgentRequest::Poll { report });
    assert_eq!(decision.wake, [name("c")]);
    world.go("c");
}

#[test]
fn a_machine_that_was_overtaken_is_told_again() {
    let mut world = three(json!({ "maxParallel": 1 }));
    world.execute();
    let first = world.go("a");
    for machine in ["b", "c"] {
        world.waits_for(machine, "group-limit");
    }
    assert_eq!(ended(&mut world, "a", &first).wake, [name("b")]);
    let overtaking = world.go("c");
    assert_eq!(ended(&mut world, "c", &overtaking).wake, [name("b")]);
}
