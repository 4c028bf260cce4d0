//! Gates beside traffic that moves: what is measured before, and while the moved traffic is watched.

use std::time::Duration;

use common::{Epoch, LeaseId, OutcomeKind, RolloutId};
use coordinator_core::{
    Request,
    analysis::{Finding, Measurement},
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
