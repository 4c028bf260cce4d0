//! Why a rollout is paused, in words, and the way out.

use std::fmt;

use common::{GroupName, MachineName, RolloutId, SideName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::analysis::Finding;

/// Why a rollout is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PauseReason {
    /// Somebody said so.
    Operator {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// More machines failed than the policy takes.
    BudgetSpent {
        /// In which group.
        group: GroupName,
        /// How many failed.
        failed: u32,
        /// How many may.
        allowed: u32,
    },
    /// More machines of all groups together failed than the fleet's settings take.
    FleetBudgetSpent {
        /// How many failed.
        failed: u32,
        /// How many may.
        allowed: u32,
    },
    /// Every machine of the canary has ended its part, and none as it should.
    CanaryFailed {
        /// In which group.
        group: GroupName,
    },
    /// It could go on and did not.
    NoProgress {
        /// Since when.
        since: Timestamp,
        /// What it waited for.
        waited_for: String,
    },
    /// An approval was refused.
    Rejected {
        /// For which group.
        group: GroupName,
        /// By whom.
        by: String,
        /// Why.
        comment: String,
    },
    /// Nobody approved in time.
    ApprovalExpired {
        /// Which group.
        group: GroupName,
    },
    /// A gate found more of something than it accepts.
    AnalysisFailed {
        /// Of which group.
        group: GroupName,
        /// Which gate.
        gate: String,
        /// Of what.
        finding: Finding,
        /// How many.
        count: u32,
        /// How many are accepted.
        allowed: u32,
        /// What the newest measurement saw.
        detail: String,
    },
    /// Traffic cannot move to a side, because somebody of it is not as it was to be and never will be in
    /// this rollout.
    TrafficBlocked {
        /// Of which group.
        group: GroupName,
        /// To which side.
        side: SideName,
        /// Who.
        machines: Vec<MachineName>,
    },
    /// Traffic was to be moved, and that failed as often as it may.
    TrafficStuck {
        /// Of which group.
        group: GroupName,
        /// To which side.
        side: SideName,
        /// Why it failed at last.
        error: String,
    },
}

impl PauseReason {
    /// The kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Operator { .. } => "operator",
            Self::BudgetSpent { .. } => "budget-spent",
            Self::FleetBudgetSpent { .. } => "fleet-budget-spent",
            Self::CanaryFailed { .. } => "canary-failed",
            Self::NoProgress { .. } => "no-progress",
            Self::Rejected { .. } => "rejected",
            Self::ApprovalExpired { .. } => "approval-expired",
            Self::AnalysisFailed { .. } => "analysis-failed",
            Self::TrafficBlocked { .. } => "traffic-blocked",
            Self::TrafficStuck { .. } => "traffic-stuck",
        }
    }

    /// Whether a gate has paused it that nothing speaks against: it could not be measured, or said neither.
    fn measured_nothing(&self) -> bool {
        match self {
            Self::AnalysisFailed { finding, .. } => *finding != Finding::Fail,
            Self::Operator { .. }
            | Self::BudgetSpent { .. }
            | Self::FleetBudgetSpent { .. }
            | Self::CanaryFailed { .. }
            | Self::NoProgress { .. }
            | Self::Rejected { .. }
            | Self::ApprovalExpired { .. }
            | Self::TrafficBlocked { .. }
            | Self::TrafficStuck { .. } => false,
        }
    }

    /// Whether resuming asks for the approval again that was not given.
    pub fn asks_again(&self) -> bool {
        match self {
            Self::Rejected { .. } | Self::ApprovalExpired { .. } => true,
            Self::Operator { .. }
            | Self::BudgetSpent { .. }
            | Self::FleetBudgetSpent { .. }
            | Self::CanaryFailed { .. }
            | Self::NoProgress { .. }
            | Self::AnalysisFailed { .. }
            | Self::TrafficBlocked { .. }
            | Self::TrafficStuck { .. } => false,
        }
    }

    /// What an operator can do, in a sentence with commands.
    pub fn way_out(&self, rollout: &RolloutId) -> String {
        let again = if self.measured_nothing() {
            format!("`lab update resume {rollout} --measure-again` measures the gates anew, ")
        } else {
            String::new()
        };
        let go_on = match self {
            Self::BudgetSpent { .. } | Self::FleetBudgetSpent { .. } => {
                "accepts these failures and goes on"
            }
            Self::CanaryFailed { .. } => "accepts that and goes on",
            Self::NoProgress { .. } => "goes on, without machines that cannot be reached",
            Self::AnalysisFailed { .. } => "goes on without this gate",
            Self::TrafficBlocked { .. } => "looks again",
            Self::TrafficStuck { .. } => "tries again",
            Self::Rejected { .. } | Self::ApprovalExpired { .. } => "asks again",
            Self::Operator { .. } => "goes on",
        };
        format!(
            "{again}`lab update resume {rollout}` {go_on}, `lab update abort {rollout}` ends it, \
             `lab update rollback` takes machines back"
        )
    }
}

impl fmt::Display for PauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { by, reason } if reason.is_empty() => write!(f, "paused by {by}"),
            Self::Operator { by, reason } => write!(f, "paused by {by}: {reason}"),
            Self::BudgetSpent {
                group,
                failed,
                allowed,
            } => {
                write!(
                    f,
                    "{failed} of group {group} failed, and its policy allows {allowed}"
                )
            }
            Self::FleetBudgetSpent { failed, allowed } => write!(
                f,
                "{failed} machines of all groups together failed, and the fleet's settings allow {allowed}"
            ),
            Self::CanaryFailed { group } => {
                write!(f, "no machine of the canary of group {group} was updated")
            }
            Self::NoProgress { waited_for, .. } => {
                write!(
                    f,
                    "nothing went on for too long; it waited for: {waited_for}"
                )
            }
            Self::Rejected { group, by, comment } if comment.is_empty() => {
                write!(f, "{by} rejected group {group}")
            }
            Self::Rejected { group, by, comment } => {
                write!(f, "{by} rejected group {group}: {comment}")
            }
            Self::ApprovalExpired { group } => {
                write!(f, "nobody approved group {group} in time")
            }
            Self::AnalysisFailed {
                group,
                gate,
                finding,
                count,
                allowed,
                detail,
            } => write!(
                f,
                "gate {gate} of group {group}: {count} × {}, and {allowed} are accepted; the \
                 newest: {detail}",
                finding.word()
            ),
            Self::TrafficBlocked {
                group,
                side,
                machines,
            } => {
                let names: Vec<&str> = machines.iter().map(MachineName::as_str).collect();
                write!(
                    f,
                    "traffic of group {group} does not move to side {side}: not updated are {}",
                    names.join(", ")
                )
            }
            Self::TrafficStuck { group, side, error } => {
                write!(
                    f,
                    "traffic of group {group} cannot be moved to side {side}: {error}"
                )
            }
        }
    }
}
