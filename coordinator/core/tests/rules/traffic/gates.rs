//! Gates beside traffic that moves: what is measured before, and while the moved traffic is watched.

use std::time::Duration;

use common::{Epoch, LeaseId, OutcomeKind, RolloutId};
use coordinator_core::{
    Request,
    analysis::{Finding, Measurement, Probe, Test},
    request::AgentRequest,
};
use serde_json::json;

use super::{BLUE, GREEN, moves_to, paused, resume, side, traffic, wanted, world_with};
use crate::fleet::{World, minutes};

fn gated() -> World {
    let site = json!({ "http": "https://example.org", "interval": "1m", "passes": 2 });
    world_with(&json!({ "gates": ["site"] }), &json!({ "site": site }))
}

/// These measurements are answered with this; what is to be measured then.
fn answer_all(world: &mut World, wanted: Vec<Measurement>, finding: Finding) -> Vec<Measurement> {
    let mut more = Vec::new();
    for Measurement { id, .. } in wanted {
        let detail = "seen".to_owned();
        let measured = Request::Measured {
            id,
            finding,
            detail,
        };
        more.extend(world.handle(measured).measure);
    }
    more
}

/// Every measurement is answered with this, for so long; how many there were.
fn measure(world: &mut World, time: Duration, finding: Finding) -> usize {
    let end = world.now + time;
    let mut count = 0;
    loop {
        let mut wanted = world.handle(Request::Tick).measure;
        // They are there all the time.
        for machine in BLUE.iter().chain(&GREEN) {
            let sign = AgentRequest::Renew {
                lease: LeaseId::default(),
                epoch: Epoch::FIRST,
                attempt: None,
                silence: Duration::ZERO,
            };
            wanted.extend(world.agent(machine, sign).measure);
        }
        while !wanted.is_empty() {
            count += wanted.len();
            wanted = answer_all(world, wanted, finding);
        }
        if world.now >= end {
            return count;
        }
        world.now = (world.now + Duration::from_secs(15)).min(end);
    }
}

/// The idle side has been updated, and the first measurement has passed.
fn measured_once(world: &mut World) -> RolloutId {
    let rollout = world.execute();
    moves_to(world, "blue");
    world.update("green-1");
    let grant = world.go("green-2");
    let first = world.end_measuring("green-2", &grant, OutcomeKind::Confirmed);
    assert_eq!(answer_all(world, first, Finding::Pass), []);
    rollout
}

#[test]
fn gates_are_measured_before_the_move_and_for_all_of_the_watch() {
    let mut world = gated();
    measured_once(&mut world);
    assert!(world.fleet.wanted_moves().is_empty(), "it must pass twice");
    assert_eq!(measure(&mut world, minutes(1), Finding::Pass), 1);
    let first = moves_to(&mut world, "green");
    answer_all(&mut world, first, Finding::Pass);
    let watched = measure(&mut world, minutes(10), Finding::Pass);
    assert!((9..=10).contains(&watched), "{watched}");
    world.update("blue-1");
}

#[test]
fn traffic_goes_back_when_a_gate_fails_under_it() {
    let mut world = gated();
    let rollout = measured_once(&mut world);
    measure(&mut world, minutes(1), Finding::Pass);
    let first = moves_to(&mut world, "green");
    answer_all(&mut world, first, Finding::Fail);
    assert_eq!(paused(&world, &rollout).kind(), "analysis-failed");
    let back = wanted(&world);
    assert_eq!(back.to, side("blue"));
    assert!(
        traffic(&world)
            .moving
            .expect("one")
            .by
            .contains("gate site")
    );
    moves_to(&mut world, "blue");
    assert_eq!(traffic(&world).on, Some(side("blue")));
    // Whoever resumes accepts what the gate found, and the traffic is watched once more.
    world.done(resume());
    world.waits_for("blue-1", "traffic-moving");
    world.pass(minutes(20));
    moves_to(&mut world, "green");
    world.waits_for("blue-1", "soaking");
    world.pass(minutes(10));
    world.update("blue-1");
}

/// Measurements of a comparison in one wave whose traffic is watched for so long, by when they were asked for;
/// and the significance of each.
fn compared(watch: &str, time: Duration) -> Vec<(Duration, f64)> {
    let latency = json!({
        "promql": "latency", "prometheus": "http://localhost:9090", "compare": "not-higher", "window": "10m",
    });
    let own = json!({
        "gates": ["latency"],
        "blueGreen": {
            "sides": { "blue": BLUE, "green": GREEN },
            "traffic": { "haproxy": { "socket": "/run/haproxy.sock", "backend": "web" } },
            "watch": watch,
        },
    });
    let mut world = world_with(&own, &json!({ "latency": latency }));
    world.execute();
    moves_to(&mut world, "blue");
    world.update("green-1");
    world.update("green-2");
    let began = world.now;
    measure(&mut world, minutes(11), Finding::Pass);
    let wanted = moves_to(&mut world, "green");
    answer_all(&mut world, wanted, Finding::Pass);
    measure(&mut world, time, Finding::Pass);
    let wanted = std::mem::take(&mut world.wanted).into_iter();
    wanted
        .map(|measurement| match measurement.gate.probe {
            Probe::Promql {
                test: Test::NotWorse { significance, .. },
                ..
            } => (measurement.at.since(began), significance.get()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn what_is_compared_under_moved_traffic_is_compared_once_and_shares_its_significance() {
    let looks = compared("60m", minutes(62));
    assert_eq!(looks.len(), 1 + 5, "{looks:?}");
    let apart = looks.windows(2).map(|two| two[1].0 - two[0].0);
    assert!(apart.min() >= Some(minutes(10)), "{looks:?}");
    let together: f64 = looks.iter().map(|(_, significance)| significance).sum();
    assert!(together <= 0.05 + 1e-9, "{together}");
}

#[test]
fn a_watch_shorter_than_the_window_lasts_until_there_is_something_to_compare() {
    let looks = compared("4m", minutes(30));
    assert_eq!(looks.len(), 2, "{looks:?}");
    let significance: Vec<f64> = looks
        .iter()
        .map(|(_, significance)| *significance)
        .collect();
    assert_eq!(significance, [0.025, 0.025]);
}
