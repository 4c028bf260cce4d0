//! Remarks for the journal: what a person may want to read there. Nothing depends on them.

use std::fmt;

use common::{CleanedUp, Epoch, Gets, Health, LeaseId, OutcomeKind, RolloutId, TrafficDone};

/// Remarks for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A lease was accepted.
    Accepted {
        /// Which.
        lease: LeaseId,
        /// For which rollout.
        rollout: RolloutId,
    },
    /// A directive was not followed.
    NotFollowed {
        /// Why.
        why: NotFollowed,
    },
    /// An attempt, or a staging, ended.
    Ended {
        /// Its lease; 0 when it had none.
        lease: LeaseId,
        /// How.
        outcome: OutcomeKind,
        /// Why.
        reason: String,
    },
    /// The emergency stop was seen.
    Stopped {
        /// Under which epoch.
        epoch: Epoch,
        /// The operator's reason.
        reason: String,
    },
    /// The periodic health check says something new.
    Health {
        /// What it says.
        health: Health,
    },
    /// A cleanup ended.
    CleanedUp(CleanedUp),
    /// The traffic script ended.
    TrafficMoved(TrafficDone),
    /// The coordinator does not answer.
    Silent {
        /// What the call failed with.
        reason: String,
        /// How many calls in a row have failed.
        failures: u32,
    },
}

/// Why a directive was not followed. The agent polls again a little later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    /// Its epoch is older than one the machine has seen.
    #[error("it is of epoch {given}, and epoch {seen} has been seen")]
    OldEpoch {
        /// The directive's.
        given: Epoch,
        /// The highest seen.
        seen: Epoch,
    },
    /// Its lease is older than one the machine has seen, or was used already.
    #[error("lease {given} is used up: lease {seen} has been seen")]
    OldLease {
        /// The directive's.
        given: LeaseId,
        /// The highest seen.
        seen: LeaseId,
    },
    /// The lease had run out, or almost, when the answer came.
    #[error("lease {given} came too late to be used")]
    TooLate {
        /// The lease.
        given: LeaseId,
    },
    /// It answers a poll that is not waited for any more.
    #[error("lease {given} answers a poll that was given up")]
    Superseded {
        /// The lease.
        given: LeaseId,
    },
    /// An attempt is in progress.
    #[error("an attempt is in progress")]
    Busy,
    /// The result of the attempt before has not been acknowledged yet.
    #[error("the last result has not been acknowledged yet")]
    Unreported,
    /// A cleanup is under way: whatever disturbs the machine waits for its end.
    #[error("the machine is being cleaned up")]
    CleaningUp,
    /// The traffic script is at work: whatever disturbs the machine waits for its end.
    #[error("the machine's traffic is being moved")]
    MovingTraffic,
    /// A newer order about traffic has come.
    #[error("the order about its traffic was overtaken by a newer one")]
    OldTrafficOrder,
    /// An order about traffic, and the machine has no script for it.
    #[error("the machine has no script that moves its traffic")]
    NoTrafficScript,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { lease, rollout } => {
                write!(f, "lease {lease} accepted, for rollout {rollout}")
            }
            Self::NotFollowed { why } => write!(f, "a directive was not followed: {why}"),
            Self::Ended {
                lease,
                outcome,
                reason,
            } => write!(
                f,
                "the attempt under lease {lease} ended: {outcome} {reason}"
            ),
            Self::Stopped { epoch, reason } => {
                write!(f, "emergency stop, epoch {epoch}: {reason}")
            }
            Self::Health { health } => {
                let failed: Vec<&str> = health.failed().collect();
                if failed.is_empty() {
                    write!(f, "every health check passes")
                } else {
                    write!(f, "health checks fail: {}", failed.join(", "))
                }
            }
            Self::CleanedUp(done) => {
                let (removed, freed) = (done.removed, done.freed_bytes);
                write!(
                    f,
                    "cleaned up: {removed} generations removed, {freed} bytes freed"
                )?;
                match &done.failure {
                    Some(why) => write!(f, "; {why}"),
                    None => Ok(()),
                }
            }
            Self::TrafficMoved(done) => {
                let Some(order) = &done.order else {
                    return write!(f, "nobody has ordered any traffic");
                };
                let gets = match (order.gets, &done.failure) {
                    (Gets::Traffic, None) => "gets traffic",
                    (Gets::Nothing, None) => "gets no more traffic",
                    (Gets::Traffic, Some(_)) => "was to get traffic",
                    (Gets::Nothing, Some(_)) => "was to get no more traffic",
                };
                let (group, number, attempt) = (&order.group, order.number, order.attempt);
                write!(
                    f,
                    "the machine {gets} (move {number} of group {group}, attempt {attempt})"
                )?;
                match &done.failure {
                    Some(why) => write!(f, ": {why}"),
                    None => Ok(()),
                }
            }
            Self::Silent { reason, failures } => {
                write!(
                    f,
                    "the coordinator does not answer ({failures} times): {reason}"
                )
            }
        }
    }
}
