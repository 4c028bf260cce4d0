//! What becomes of gates when somebody goes on with a rollout that one of them has paused.

use coordinator_core::{
    Change, WaitReason,
    analysis::{Finding, Measurement, Resumption},
    request::{OperatorRequest, Refusal},
    rollout::{PauseReason, RolloutState},
};
use serde_json::json;

use crate::{
    fleet::{World, minutes},
    gates::{answer, asked, pass, paused, resume, site, update, world},
};

fn measure_again() -> OperatorRequest {
    OperatorRequest::MeasureAgain {
        rollout: None,
        reason: String::new(),
    }
}

fn words(world: &World) -> String {
    let rollout = &world.fleet.facts().rollouts[&1];
    match &rollout.state {
        RolloutState::Paused(reason) => reason.way_out(&rollout.id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn gates_that_could_not_be_measured_are_measured_again() {
    let mut world = world(&site(&json!({ "errorLimit": 0 })));
    let rollout = world.execute();
    let wanted = update(&mut world, "a");
    answer(&mut world, &wanted[0], Finding::Pass);
    world.now = world.now + minutes(1);
    let wanted = asked(&mut world);
    answer(&mut world, &wanted[0], Finding::Error);
    paused(&world, &rollout, Finding::Error);
    assert!(words(&world).starts_with("`lab update resume r1 --measure-again`"));
    world.now = world.now + minutes(10);
    world.wanted.clear();
    world.done(measure_again());
    let WaitReason::Analysing { passed, errors, .. } = world.wait("b") else {
        panic!("{}", world.wait("b"));
    };
    assert_eq!((passed, errors), (0, 0), "all of it is measured anew");
    let wanted = std::mem::take(&mut world.wanted);
    answer(&mut world, &wanted[0], Finding::Pass);
    pass(&mut world, minutes(2), Finding::Pass);
    let wanted = update(&mut world, "b");
    // Nobody has accepted anything.
    answer(&mut world, &wanted[0], Finding::Error);
    paused(&world, &rollout, Finding::Error);
}

#[test]
fn who_goes_on_without_a_gate_does_not_go_on_without_the_others() {
    let analysis = json!({
        "backend": { "tcp": "example.org:1", "interval": "1m", "passes": 5 },
        "site": { "http": "https://example.org", "interval": "1m", "passes": 2 },
    });
    let mut world = world(&analysis);
    let rollout = world.execute();
    let wanted = update(&mut world, "a");
    for Measurement { id, gate, .. } in &wanted {
        let finding = if gate.name == "site" {
            Finding::Fail
        } else {
            Finding::Pass
        };
        let detail = "seen".to_owned();
        let _decided = world.handle(coordinator_core::Request::Measured {
            id: *id,
            finding,
            detail,
        });
    }
    paused(&world, &rollout, Finding::Fail);
    assert!(words(&world).starts_with("`lab update resume r1` goes on without this gate"));
    world.done(resume());
    let WaitReason::Analysing { gate, .. } = world.wait("b") else {
        panic!("{}", world.wait("b"));
    };
    assert_eq!(gate, "backend");
    pass(&mut world, minutes(6), Finding::Pass);
    world.go("b");
}

#[test]
fn nothing_is_measured_again_that_no_gate_has_paused() {
    let mut world = world(&site(&json!({})));
    world.execute();
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    let refusal = world.refused(measure_again());
    assert!(matches!(refusal, Refusal::NotNow(_)), "{refusal:?}");
}

#[test]
fn a_journal_that_does_not_say_which_gates_means_all() {
    let written = Change::RolloutResumed {
        rollout: "r1".parse().expect("a name"),
        by: "ada".to_owned(),
        reason: String::new(),
        gates: Resumption::AcceptsAll,
    };
    let value = serde_json::to_value(&written).expect("serializes");
    assert!(value.get("gates").is_none(), "{value}");
    let read: Change = serde_json::from_value(value).expect("reads");
    assert_eq!(read, written);
}

#[test]
fn only_what_nothing_speaks_against_is_offered_to_be_measured_again() {
    let reason = |finding| PauseReason::AnalysisFailed {
        group: "web".parse().expect("a name"),
        gate: "site".to_owned(),
        finding,
        count: 1,
        allowed: 0,
        detail: String::new(),
    };
    let id = "r7".parse().expect("a name");
    for finding in [Finding::Error, Finding::Inconclusive] {
        assert!(reason(finding).way_out(&id).contains("r7 --measure-again"));
    }
    assert!(
        !reason(Finding::Fail)
            .way_out(&id)
            .contains("--measure-again")
    );
}
