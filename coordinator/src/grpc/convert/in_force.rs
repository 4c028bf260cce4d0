//! What is said of a configuration that has come into force.

use coordinator_core::request::AsBefore;
use lab_proto::operator as wire;

/// The revision, and the rollouts that it does not change.
pub fn in_force(revision: u64, as_before: Vec<AsBefore>) -> wire::CheckConfigReply {
    let as_before = as_before.into_iter().map(|one| wire::RolloutAsBefore {
        rollout: one.rollout.to_string(),
        groups: one.groups.iter().map(ToString::to_string).collect(),
        paused: one.paused,
    });
    wire::CheckConfigReply {
        revision,
        faults: Vec::new(),
        as_before: as_before.collect(),
    }
}
