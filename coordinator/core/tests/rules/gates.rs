//! Gates: what is measured when, and what the answers come to.

use std::time::Duration;

use common::{HealthState, OutcomeKind};
use coordinator_core::{
    FleetConfig, Request, WaitReason,
    analysis::{Finding, Measurement},
    request::{Directive, OperatorRequest},
    rollout::{PauseReason, RolloutState},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, stop};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// One group of `a`, a canary, and `b`; with these gates.
pub(crate) fn world(analysis: &Value) -> World {
    let names: Vec<&String> = analysis.as_object().expect("an object").keys().collect();
    let document = json!({
        "analysis": analysis,
        "updateGroups": {
            "web": { "machines": ["a", "b"], "updatePolicy": "conservative", "canarySoak": 0, "gates": names },
        },
        "updateSettings": { "rollbackOnFailure": "machine" },
    });
    World::of(&document)
}

pub(crate) fn site(more: &Value) -> Value {
    let mut site = json!({ "http": "https://example.org", "interval": "1m", "passes": 2 });
    let (site_map, more) = (
        site.as_object_mut().expect("one"),
        more.as_object().expect("one"),
    );
    site_map.extend(more.clone());
    json!({ "site": site })
}

/// What is asked for now.
pub(crate) fn asked(world: &mut World) -> Vec<Measurement> {
    world.handle(Request::Tick).measure
}

pub(crate) fn answer(
    world: &mut World,
    measurement: &Measurement,
    finding: Finding,
) -> Vec<Measurement> {
    let (id, detail) = (measurement.id, "seen".to_owned());
    let request = Request::Measured {
        id,
        finding,
        detail,
    };
    world.handle(request).measure
}

/// The machine takes its turn and comes out well; what is asked for then.
pub(crate) fn update(world: &mut World, machine: &str) -> Vec<Measurement> {
    let grant = world.go(machine);
    world.end_measuring(machine, &grant, OutcomeKind::Confirmed)
}

/// Every measurement that comes is answered with this, for so long.
pub(crate) fn pass(world: &mut World, time: Duration, finding: Finding) {
    let end = world.now + time;
    let mut wanted = asked(world);
    while world.now < end {
        for measurement in std::mem::take(&mut wanted) {
            wanted.extend(answer(world, &measurement, finding));
        }
        world.now = world.fleet.next_deadline().min(end).max(world.now + SECOND);
        wanted.extend(asked(world));
    }
}

#[track_caller]
pub(crate) fn paused(world: &World, id: &common::RolloutId, finding: Finding) {
    let state = world.state(id);
    let RolloutState::Paused(PauseReason::AnalysisFailed { finding: found, .. }) = state else {
        panic!("{state:?}");
    };
    assert_eq!(*found, finding);
}

pub(crate) fn resume() -> OperatorRequest {
    OperatorRequest::ResumeRollout {
        rollout: None,
        reason: String::new(),
    }
}

#[test]
fn a_wave_closes_when_its_gate_has_passed_as_often_as_it_must() {
    let mut world = world(&site(&json!({ "initialDelay": "30s" })));
    let rollout = world.execute();
    assert!(update(&mut world, "a").is_empty(), "the delay is not over");
    world.waits_for("b", "analysing");
    world.now = world.now + 30 * SECOND;
    let first = asked(&mut world);
    assert_eq!(first.len(), 1);
    assert!(asked(&mut world).is_empty(), "it is asked for once");
    world.now = world.now + 5 * SECOND;
    assert!(answer(&mut world, &first[0], Finding::Pass).is_empty());
    let WaitReason::Analysing { passed, until, .. } = world.wait("b") else {
        panic!("{}", world.wait("b"));
    };
    assert_eq!((passed, until), (1, Some(world.now + minutes(1))));
    world.now = world.now + minutes(1);
    let second = asked(&mut world);
    answer(&mut world, &second[0], Finding::Pass);
    let wanted = update(&mut world, "b");
    assert!(wanted.is_empty(), "the delay of the second wave");
    assert_eq!(
        *world.state(&rollout),
        RolloutState::Active,
        "its gate is left"
    );
    pass(&mut world, minutes(5), Finding::Pass);
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn each_finding_has_its_own_limit() {
    for (finding, limit) in [
        (Finding::Fail, "failureLimit"),
        (Finding::Inconclusive, "inconclusiveLimit"),
        (Finding::Error, "errorLimit"),
    ] {
        let mut world = world(&site(&json!({ limit: 2 })));
        let rollout = world.execute();
        let mut wanted = update(&mut world, "a");
        for _ in 0..2 {
            wanted = answer(&mut world, &wanted[0], finding);
            assert!(wanted.is_empty());
            assert_eq!(*world.state(&rollout), RolloutState::Active, "{limit}");
            world.now = world.now + minutes(1);
            wanted = asked(&mut world);
        }
        answer(&mut world, &wanted[0], finding);
        paused(&world, &rollout, finding);
        world.done(resume());
        world.update("b");
    }
}

#[test]
fn an_answer_that_does_not_come_is_an_error() {
    let mut world = world(&site(&json!({ "timeout": "10s", "errorLimit": 0 })));
    let rollout = world.execute();
    let wanted = update(&mut world, "a");
    world.now = world.now + 29 * SECOND;
    asked(&mut world);
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.now = world.now + SECOND;
    asked(&mut world);
    paused(&world, &rollout, Finding::Error);
    // One that comes after that says nothing any more.
    answer(&mut world, &wanted[0], Finding::Pass);
    paused(&world, &rollout, Finding::Error);
}

#[test]
fn a_restart_keeps_what_was_found_and_asks_again() {
    let mut world = world(&site(&json!({})));
    world.execute();
    let wanted = update(&mut world, "a");
    answer(&mut world, &wanted[0], Finding::Pass);
    world.now = world.now + minutes(1);
    let lost = asked(&mut world);
    assert_eq!(lost.len(), 1);
    let facts = world.fleet.facts().clone();
    world.goes_on_from(facts);
    let again = asked(&mut world);
    assert_eq!(again.len(), 1);
    answer(&mut world, &again[0], Finding::Pass);
    world.poll("a");
    world.go("b");
}

#[test]
fn what_was_found_before_a_late_machine_went_does_not_count() {
    let analysis = site(&json!({ "passes": 3 }));
    let document = json!({
        "analysis": analysis,
        "updateGroups": {
            "web": {
                "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "canary": 2, "gates": ["site"],
            },
        },
        "updateSettings": {},
    });
    let mut world = World::of(&document);
    world.execute();
    world.pass_without(minutes(30), &["b"]);
    let wanted = update(&mut world, "a");
    answer(&mut world, &wanted[0], Finding::Pass);
    world.now = world.now + minutes(1);
    let wanted = asked(&mut world);
    // It comes back in between, and goes.
    let grant = world.go("b");
    answer(&mut world, &wanted[0], Finding::Pass);
    world.waits_for("c", "wave-not-open");
    world.end("b", &grant, OutcomeKind::Confirmed);
    let WaitReason::Analysing { passed, .. } = world.wait("c") else {
        panic!("{}", world.wait("c"));
    };
    assert_eq!(passed, 0);
    pass(&mut world, minutes(5), Finding::Pass);
    world.poll("c");
}

#[test]
fn an_emergency_stop_does_not_lose_what_is_measured() {
    let mut world = world(&site(&json!({})));
    let rollout = world.execute();
    let wanted = update(&mut world, "a");
    world.done(stop(&[]));
    answer(&mut world, &wanted[0], Finding::Pass);
    let told = world.poll("b");
    assert!(matches!(told, Directive::StandDown(_)), "{told:?}");
    world.done(OperatorRequest::Resume {
        reason: "over".to_owned(),
    });
    pass(&mut world, minutes(2), Finding::Pass);
    world.update("b");
    assert_eq!(*world.state(&rollout), RolloutState::Active);
}

#[test]
fn a_machine_that_falls_ill_while_its_wave_is_measured_holds_it() {
    let mut world = world(&site(&json!({ "passes": 1 })));
    world.execute();
    let wanted = update(&mut world, "a");
    world.health("a", HealthState::Unhealthy);
    answer(&mut world, &wanted[0], Finding::Pass);
    world.waits_for("b", "group-unhealthy");
    world.health("a", HealthState::Healthy);
    world.go("b");
}

#[test]
fn gates_that_name_nothing_are_refused() {
    let http = json!({ "http": "https://example.org" });
    let with = |key: &str, value: Value| {
        let mut analysis = http.clone();
        analysis[key] = value;
        json!({ "site": analysis })
    };
    let promql = |more: Value| {
        let mut query = json!({ "promql": "up", "prometheus": "http://localhost:9090" });
        let map = query.as_object_mut().expect("an object");
        map.extend(more.as_object().expect("an object").clone());
        json!({ "q": query })
    };
    let gates = json!(["site"]);
    for (analysis, gates, at, says) in [
        (
            json!({ "site": http }),
            json!(["sit"]),
            "updateGroups.web.gates[0]",
            "\"site\"?",
        ),
        (
            json!({}),
            gates.clone(),
            "updateGroups.web.gates[0]",
            "analysis.site",
        ),
        (
            json!({ "site": http }),
            json!(["site", "site"]),
            "updateGroups.web.gates[1]",
            "twice",
        ),
        (
            json!({ "site": {} }),
            gates.clone(),
            "analysis.site",
            "exactly one of http",
        ),
        (
            json!({ "a b": http }),
            json!([]),
            "analysis.a b",
            "another name",
        ),
        (
            with("tcp", json!("a:1")),
            gates.clone(),
            "analysis.site",
            "2 things",
        ),
        (
            json!({ "site": { "http": "" } }),
            gates.clone(),
            "analysis.site.http",
            "https://",
        ),
        (
            json!({ "site": { "http": "https:///x" } }),
            gates.clone(),
            "analysis.site.http",
            "https://",
        ),
        (
            json!({ "site": { "tcp": "example.org" } }),
            gates.clone(),
            "analysis.site.tcp",
            "a port",
        ),
        (
            json!({ "site": { "tcp": ":80" } }),
            gates.clone(),
            "analysis.site.tcp",
            "a port",
        ),
        (
            json!({ "site": { "tcp": "a:0" } }),
            gates.clone(),
            "analysis.site.tcp",
            "a port",
        ),
        (
            json!({ "site": { "dns": "a..b" } }),
            gates.clone(),
            "analysis.site.dns",
            "a name",
        ),
        (
            json!({ "site": { "certificate": "a" } }),
            gates.clone(),
            "analysis.site.certificate",
            "a port",
        ),
        (
            json!({ "site": { "healthCheck": " " } }),
            gates.clone(),
            "analysis.site.healthCheck",
            "nothing",
        ),
        (
            with("status", json!(20)),
            gates.clone(),
            "analysis.site.status",
            "status",
        ),
        (
            with("within", json!(0)),
            gates.clone(),
            "analysis.site.within",
            "no time",
        ),
        (
            with("passes", json!(0)),
            gates.clone(),
            "analysis.site.passes",
            "from 1",
        ),
        (
            with("failureLimit", json!(-1)),
            gates.clone(),
            "analysis.site.failureLimit",
            "from 0",
        ),
        (
            with("errorLimit", json!(1001)),
            gates.clone(),
            "analysis.site.errorLimit",
            "to 1000",
        ),
        (
            with("interval", json!(0)),
            gates.clone(),
            "analysis.site.interval",
            "too short",
        ),
        (
            with("timeout", json!(0)),
            gates.clone(),
            "analysis.site.timeout",
            "too short",
        ),
        (
            with("timeout", json!("1h")),
            gates.clone(),
            "analysis.site.timeout",
            "too long",
        ),
        (
            with("atMost", json!(1)),
            gates.clone(),
            "analysis.site.atMost",
            "not a key",
        ),
        (
            json!({ "q": { "promql": "up", "atMost": 1 } }),
            json!([]),
            "analysis.q.prometheus",
            "updateSettings",
        ),
        (
            promql(json!({ "promql": "", "atMost": 1 })),
            json!([]),
            "analysis.q.promql",
            "nothing",
        ),
        (promql(json!({})), json!([]), "analysis.q", "atLeast"),
        (
            promql(json!({ "atMost": "1" })),
            json!([]),
            "analysis.q.atMost",
            "not a number",
        ),
        (
            promql(json!({ "atMost": 1, "atLeast": 2 })),
            json!([]),
            "analysis.q.atLeast",
            "at least 2",
        ),
        (
            promql(json!({ "atMost": 1, "compare": "not-higher" })),
            json!([]),
            "analysis.q",
            "two things",
        ),
        (
            promql(json!({ "compare": "higher" })),
            json!([]),
            "analysis.q.compare",
            "not-lower",
        ),
        (
            promql(json!({ "compare": "not-higher", "significance": 1 })),
            json!([]),
            "analysis.q.significance",
            "between 0 and 1",
        ),
        (
            promql(json!({ "compare": "not-higher", "window": "1m" })),
            json!([]),
            "analysis.q.window",
            "no room",
        ),
        (
            promql(json!({ "compare": "not-higher", "window": "10h" })),
            json!([]),
            "analysis.q.window",
            "more than",
        ),
        (
            promql(json!({ "compare": "not-higher", "initialDelay": 0 })),
            json!([]),
            "analysis.q.initialDelay",
            "less time",
        ),
    ] {
        let document = json!({
            "analysis": analysis,
            "updateGroups": { "web": { "machines": ["a"], "gates": gates } },
        });
        let faults = FleetConfig::parse(&document).expect_err(at).0;
        let [fault] = &faults[..] else {
            panic!("{analysis} {gates}: {faults:?}");
        };
        assert_eq!(fault.path, at, "{fault}");
        assert!(fault.to_string().contains(says), "{says:?} not in {fault}");
        // Was it in force once, it is read as far as it is understood.
        assert!(FleetConfig::try_from(document).is_ok(), "{at}");
    }
}

#[test]
fn gates_are_part_of_a_policy_and_measured_as_they_were_when_the_rollout_began() {
    let document = |passes: u32| {
        json!({
            "analysis": { "up": { "promql": "up", "atLeast": 1, "passes": passes } },
            "updatePolicies": { "watched": { "gates": ["up"], "canarySoak": 0 } },
            "updateGroups": { "web": { "machines": ["a", "b"], "updatePolicy": "watched" } },
            "updateSettings": { "prometheus": "http://localhost:9090" },
        })
    };
    let mut world = World::of(&document(1));
    world.execute();
    world.configure(&document(5));
    let wanted = update(&mut world, "a");
    answer(&mut world, &wanted[0], Finding::Pass);
    world.go("b");
}
