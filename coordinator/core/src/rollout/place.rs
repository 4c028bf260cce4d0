//! One machine's part in a rollout, and where it stands.

use common::{LeaseId, MachineName, OutcomeKind, StorePath, Target, Timestamp};
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// One machine's part in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which machine.
    pub machine: MachineName,
    /// What it is to run.
    pub target: Target,
    /// Where it stands.
    pub state: PlaceState,
    /// The machine's last word about it.
    pub reason: String,
    /// How its last attempt ended.
    pub verdict: Option<OutcomeKind>,
    /// The closure that the target came to.
    pub closure: Option<StorePath>,
    /// How often it had its turn and gave it back.
    #[serde(default)]
    pub returned: u32,
    /// How often it has failed and was to try again.
    #[serde(default)]
    pub tries: u32,
    /// Before that, it does not try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Which of its group's rules it obeys.
    #[serde(default, skip_serializing_if = "Rules::is_of_the_group")]
    pub rules: Rules,
    /// What the machine ran when the rollout was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StorePath>,
}

impl Place {
    /// Whether the machine runs what it was to, or will once somebody lets it reboot.
    pub(crate) fn has_brought_something(&self) -> bool {
        matches!(self.state, PlaceState::Updated | PlaceState::RebootRequired)
    }
}

/// Whose rules hold for a machine: everybody's, or these of those that machines have to themselves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// Those of its group.
    #[default]
    Group,
    /// Those with this index in [`RolloutGroup::own`](super::RolloutGroup::own).
    Own(usize),
}

impl Rules {
    /// What stands behind them, in a group with this policy and these others.
    pub fn among<'a>(self, group: &'a Policy, own: &'a [Policy]) -> &'a Policy {
        match self {
            Self::Group => group,
            Self::Own(index) => own.get(index).unwrap_or(group),
        }
    }

    /// Whether they are those of everybody.
    pub fn is_of_the_group(&self) -> bool {
        *self == Self::Group
    }
}

/// Turns that a machine may give back before it counts as refusing: stops, lost grants and a switch
/// lock held by somebody else are no failures, but they must not go on for ever either.
pub const RETURNS_MAX: u32 = 10;

/// Where a machine's part stands. From `Updated` on, states are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaceState {
    /// Not begun.
    Pending,
    /// Holds this lease.
    Leased(LeaseId),
    /// Its lease ran out without a result.
    Overdue(LeaseId),
    /// Runs the target, as it says itself after the (re)boot.
    Updated,
    /// Went back, healthy.
    RolledBack,
    /// Said no before anything was changed.
    Refused,
    /// Stuck, or not heard of again.
    Failed,
    /// Staged; somebody must let it reboot.
    RebootRequired,
    /// Left out on purpose, or not there in time.
    Skipped,
}

impl PlaceState {
    /// Whether nothing more happens here.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Leased(_) | Self::Overdue(_) => false,
            Self::Updated
            | Self::RolledBack
            | Self::Refused
            | Self::Failed
            | Self::RebootRequired
            | Self::Skipped => true,
        }
    }

    /// Whether this end counts against the failure budget.
    pub fn is_failure(self) -> bool {
        match self {
            Self::RolledBack | Self::Refused | Self::Failed => true,
            // An overdue machine counts already; see `RolloutGroup::spent`.
            Self::Overdue(_) => true,
            Self::Pending
            | Self::Leased(_)
            | Self::Updated
            | Self::RebootRequired
            | Self::Skipped => false,
        }
    }

    /// The lease held here, live or overdue.
    pub fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Leased(id) | Self::Overdue(id) => Some(id),
            Self::Pending
            | Self::Updated
            | Self::RolledBack
            | Self::Refused
            | Self::Failed
            | Self::RebootRequired
            | Self::Skipped => None,
        }
    }

    /// The word in the status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Leased(_) => "leased",
            Self::Overdue(_) => "overdue",
            Self::Updated => "updated",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::RebootRequired => "reboot-required",
            Self::Skipped => "skipped",
        }
    }
}
