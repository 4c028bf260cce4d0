//! A lease: the right of one machine to be disruptive, for one rollout, for a bounded time.

use std::time::Duration;

use common::{
    Action, BootId, Epoch, GroupName, LeaseId, MachineName, RolloutId, StorePath, Timestamp,
};
use serde::{Deserialize, Serialize};

/// Longest life of a lease, however often it is renewed: no attempt takes a working day, and one
/// that seems to has lost its way.
pub const LEASE_LIFE_MAX: Duration = Duration::from_secs(6 * 3600);

/// Longest announced silence (a reboot) that is believed.
pub const SILENCE_MAX: Duration = Duration::from_secs(3600);

/// A live lease. Its end is not a fact: heartbeats move it, and after a restart of the coordinator
/// every holder gets a full term, because a slot held too long is safe and one freed too early is
/// not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Rises for the life of the fleet.
    pub id: LeaseId,
    /// Who holds it.
    pub machine: MachineName,
    /// The group whose limit it counts against.
    pub group: GroupName,
    /// What for.
    pub rollout: RolloutId,
    /// The epoch it was issued under, or carried over to by a stop of other groups.
    pub epoch: Epoch,
    /// What the machine may do.
    pub action: Action,
    /// What the machine ran when it was granted.
    pub from: Option<StorePath>,
    /// The boot that the machine was in then. Not known of leases from before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// Whether it ran out without a result; the slot stays taken.
    pub overdue_since: Option<Timestamp>,
}
