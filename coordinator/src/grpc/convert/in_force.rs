//! What is said of a configuration that has come into force.

use coordinator_core::{Fault, request::AsBefore};
use lab_proto::operator as wire;

use super::operator::faults;

/// The revision, the rollouts that it does not change, and what may not be meant.
pub fn in_force(
    revision: u64,
    as_before: Vec<AsBefore>,
    warnings: Vec<Fault>,
) -> wire::CheckConfigReply {
    let as_before = as_before.into_iter().map(|one| wire::RolloutAsBefore {
        rollout: one.rollout.to_string(),
        groups: one.groups.iter().map(ToString::to_string).collect(),
        paused: one.paused,
    });
    wire::CheckConfigReply {
        revision,
        faults: Vec::new(),
        as_before: as_before.collect(),
        warnings: faults(warnings),
    }
}
