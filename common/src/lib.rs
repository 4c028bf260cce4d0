//! Words that the coordinator and the agents must agree on: names, times, store paths, health and
//! outcomes. Pure data: nothing here reads a clock, a file or a socket.
//!
//! A thing enters this crate only when both daemons must agree on it word for word.

pub mod cleanup;
pub mod closure;
pub mod epoch;
pub mod error_chain;
pub mod health;
pub mod id;
pub mod outcome;
pub mod report;
pub mod text;
pub mod time;
pub mod token;
pub mod traffic;

pub use cleanup::{CleanUp, CleanedUp};
pub use closure::{StorePath, Target};
pub use epoch::Epoch;
pub use health::{CheckResult, Health, HealthState};
pub use id::{
    BootId, GroupName, LeaseId, MachineName, OperatorName, RolloutId, ScheduleName, SideName,
};
pub use outcome::{Outcome, OutcomeKind};
pub use report::{
    AttemptStatus, ChangeKind, Changes, Declined, DeclinedKind, Generation, MachineReport,
    PackageChange, Staged,
};
pub use time::Timestamp;
pub use traffic::{Gets, TrafficCall, TrafficDone, TrafficOrder};

use serde::{Deserialize, Serialize};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Go to a new target.
    Update,
    /// Go back to an older system that the machine still has.
    Rollback,
    /// Boot what is staged, or boot again.
    Reboot,
}

/// What an emergency stop asks of machines that are past the point of no return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// Finish the attempt, judge it, report.
    Finish,
    /// Go back to the recorded system.
    Rollback,
}
