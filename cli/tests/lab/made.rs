//! Answers that the unit tests and the tests of the program make alike.

use lab_proto::operator::{Rollout, RolloutGroup, RolloutMachine, Wave};

/// A rollout of one group with one wave: machines and their states.
pub(crate) fn rollout(id: &str, state: &str, machines: &[(&str, &str)]) -> Rollout {
    let machines = machines.iter().map(|(name, state)| RolloutMachine {
        name: (*name).into(),
        state: (*state).into(),
        ..RolloutMachine::default()
    });
    let wave = Wave {
        machines: machines.collect(),
        ..Wave::default()
    };
    let group = RolloutGroup {
        name: "dev".into(),
        state: "open".into(),
        waves: vec![wave],
        ..RolloutGroup::default()
    };
    Rollout {
        id: id.into(),
        kind: "update".into(),
        state: state.into(),
        groups: vec![group],
        ..Rollout::default()
    }
}
