//! Why something does not go now: one variant per rule, with its numbers.
//!
//! The same value goes to the agent's status line, `lab why` and `lab update status`.

mod change;
mod words;

pub(crate) use words::list;

use std::time::Duration;

use common::{GroupName, MachineName, OperatorName, RolloutId, SideName, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::change::Whom;
use crate::rollout::PauseReason;

/// Whose own rollout it is, for which somebody else must say yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FourEyes {
    /// Who began it, or ran the schedule that did.
    pub author: OperatorName,
    /// By which key of the configuration.
    pub path: String,
}

/// Why a machine, or a group of a rollout, does not go now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum WaitReason {
    /// An emergency stop holds.
    Stopped {
        /// Who stopped.
        by: String,
        /// Why.
        reason: String,
    },
    /// The rollout is paused.
    Paused {
        /// Which.
        rollout: RolloutId,
        /// Why, in a sentence.
        reason: String,
        /// Whether resuming it only asks again for the approval that was not given.
        #[serde(default)]
        asks_again: bool,
    },
    /// No rollout has work for the machine.
    NoRollout,
    /// The machine runs its target.
    UpToDate,
    /// What the machine runs is not what that rollout brought, so nothing of it can be taken back there.
    MovedOn {
        /// The rollout that was to be taken back.
        rollout: RolloutId,
    },
    /// Nobody said what the machine is to run.
    NoTarget,
    /// The machine has no generation of this number.
    NoSuchGeneration {
        /// Which.
        number: u64,
    },
    /// Nothing is known that the machine ran before.
    NothingBefore,
    /// The machine is in no group of the configuration.
    UnknownMachine,
    /// The machine takes part in no rollout until it is released.
    Quarantined {
        /// Which.
        machine: MachineName,
        /// Who put it aside.
        by: String,
        /// Why.
        reason: String,
        /// Since when.
        at: Timestamp,
        /// IANA name of the machine's zone.
        #[serde(default)]
        zone: String,
    },
    /// Its attempt failed, and it is to try again.
    Retry {
        /// Not before then.
        until: Timestamp,
        /// How often it has failed.
        tries: u32,
        /// What happened.
        reason: String,
        /// IANA name of the machine's zone.
        #[serde(default)]
        zone: String,
    },
    /// Machines failed and are to try again: if they fail for good, the budget is spent.
    Retrying {
        /// Which.
        machines: Vec<MachineName>,
        /// When the next of them tries again, unless it is at it.
        #[serde(default)]
        next: Option<Timestamp>,
        /// IANA name of the zone of the group that waits.
        #[serde(default)]
        zone: String,
    },
    /// Nobody is updated to this target until it is released.
    TargetQuarantined {
        /// Which.
        target: String,
        /// Who put it aside.
        by: String,
        /// Why.
        reason: String,
        /// Since when.
        at: Timestamp,
        /// IANA name of the machine's zone.
        #[serde(default)]
        zone: String,
    },
    /// The target failed on this machine before and was not asked for again.
    BadTarget {
        /// What went wrong then.
        reason: String,
    },
    /// The machine's own configuration does not allow the target.
    TargetNotAllowed {
        /// What it says.
        reason: String,
    },
    /// The machine has ended its part of the rollout.
    Final {
        /// How, as in the status.
        state: String,
        /// The machine's last word about it; may be empty.
        #[serde(default)]
        reason: String,
    },
    /// The machine has not been heard of for a while.
    Offline {
        /// Since when, if it was ever heard of.
        since: Option<Timestamp>,
        /// IANA name of the machine's zone.
        #[serde(default)]
        zone: String,
    },
    /// The machine is still obtaining its target.
    Staging {
        /// When it counts as failed if it has not, once its wave is open.
        #[serde(default)]
        ends_at: Option<Timestamp>,
        /// IANA name of the group's zone.
        #[serde(default)]
        zone: String,
    },
    /// The machine is asked to clean up first, by a schedule.
    CleaningUp {
        /// When nobody waits for that any more.
        #[serde(default)]
        until: Option<Timestamp>,
        /// IANA name of the machine's zone.
        #[serde(default)]
        zone: String,
    },
    /// The machine could not obtain its target and tries again later.
    StagingFailed {
        /// What went wrong.
        reason: String,
        /// When it counts as failed if it has not by then, once its wave is open.
        #[serde(default)]
        ends_at: Option<Timestamp>,
        /// IANA name of the group's zone.
        #[serde(default)]
        zone: String,
    },
    /// A group that must be finished first is not.
    Dependency {
        /// Which.
        group: GroupName,
        /// The first machines of its present wave that are not back.
        #[serde(default)]
        machines: Vec<MachineName>,
        /// How many more of that wave are not.
        #[serde(default)]
        more: u32,
    },
    /// Time must pass after a group that had to be finished first.
    Stagger {
        /// Which.
        group: GroupName,
        /// Until when.
        until: Timestamp,
        /// IANA name of the waiting group's zone.
        #[serde(default)]
        zone: String,
    },
    /// Somebody must say yes.
    Approval {
        /// To which group.
        group: GroupName,
        /// In which rollout.
        rollout: RolloutId,
        /// When it counts as given if nobody has answered, where it ever does.
        counts_at: Option<Timestamp>,
        /// When the rollout pauses if nobody has answered, once somebody has been asked.
        #[serde(default)]
        expires_at: Option<Timestamp>,
        /// IANA name of the group's zone.
        #[serde(default)]
        zone: String,
        /// Who may not say it, where four eyes are asked for.
        #[serde(default)]
        four_eyes: Option<Box<FourEyes>>,
    },
    /// Somebody must say that the group is to go on after a wave.
    Held {
        /// Which group.
        group: GroupName,
        /// In which rollout.
        rollout: RolloutId,
        /// The wave that has closed, from 1.
        wave: u32,
    },
    /// The maintenance window is shut.
    WindowClosed {
        /// When the group can go: a window opens that is long enough, and no calendar is against it.
        opens_at: Option<Timestamp>,
        /// IANA name of its zone.
        #[serde(default)]
        zone: String,
    },
    /// A calendar that the group avoids lets nothing begin.
    Frozen {
        /// Its name.
        calendar: String,
        /// The entry in it.
        entry: String,
        /// When that entry ends.
        ends_at: Option<Timestamp>,
        /// When the group can go.
        opens_at: Option<Timestamp>,
        /// IANA name of the group's zone.
        zone: String,
    },
    /// Too little of the window is left.
    WindowTooShort {
        /// What an attempt is expected to take.
        needs: Duration,
        /// What is left.
        left: Duration,
        /// When the window shuts.
        closes_at: Timestamp,
        /// When there is time enough.
        #[serde(default)]
        opens_at: Option<Timestamp>,
        /// IANA name of its zone.
        #[serde(default)]
        zone: String,
    },
    /// An earlier wave has not closed.
    WaveNotOpen {
        /// The machine's wave, from 1.
        wave: u32,
        /// The wave that is open, from 1.
        open: u32,
        /// The first machines of that wave that are not back.
        #[serde(default)]
        machines: Vec<MachineName>,
        /// How many more of it are not.
        #[serde(default)]
        more: u32,
        /// When that can change by the clock alone: somebody of it tries again, or it opens itself.
        #[serde(default)]
        next: Option<Timestamp>,
        /// IANA name of the group's zone.
        #[serde(default)]
        zone: String,
    },
    /// Healthy time must pass after an earlier wave.
    Soaking {
        /// Until when.
        until: Timestamp,
        /// IANA name of the group's zone.
        #[serde(default)]
        zone: String,
    },
    /// The gates of a wave whose machines are all back have not all passed.
    Analysing {
        /// The first that has not.
        gate: String,
        /// Measurements of it that passed.
        passed: u32,
        /// How many must.
        needed: u32,
        /// Measurements that failed.
        failed: u32,
        /// That said nothing.
        inconclusive: u32,
        /// That came to nothing.
        errors: u32,
        /// When something is measured next.
        until: Option<Timestamp>,
        /// IANA name of the group's zone.
        #[serde(default)]
        zone: String,
    },
    /// Machines that were updated here are not healthy.
    GroupUnhealthy {
        /// Which.
        machines: Vec<MachineName>,
    },
    /// The machine itself is not healthy.
    MachineUnhealthy {
        /// Names of its failing checks.
        checks: Vec<String>,
    },
    /// As many machines of the group are away as may be.
    GroupLimit {
        /// Machines away.
        away: Vec<MachineName>,
        /// How many may be.
        allowed: u32,
    },
    /// Machines that it must not be away together with are.
    Apart {
        /// Those that are away, ill, or not heard of.
        machines: Vec<MachineName>,
    },
    /// It runs a coordinator, and goes after everybody else of its rollout.
    CoordinatorLast {
        /// Groups that are not done.
        groups: Vec<GroupName>,
    },
    /// It runs a coordinator, and too many others that do are not there.
    Quorum {
        /// Those that are away, ill, or not heard of.
        machines: Vec<MachineName>,
        /// How many may be, this one included.
        allowed: u32,
    },
    /// As many machines of the fleet are away as may be.
    FleetLimit {
        /// Machines away.
        away: Vec<MachineName>,
        /// How many may be.
        allowed: u32,
    },
    /// The machine's side of its group holds the traffic.
    LiveSide {
        /// Which group.
        group: GroupName,
        /// Which side.
        side: SideName,
        /// Machines of the other side that would be left behind by moving it there.
        behind: Vec<MachineName>,
        /// The side on which the machine was when its rollout began, where it is on another one since: the
        /// rollout leaves it as it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<SideName>,
        /// Another rollout that is at work on the group, and says until then where its traffic is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<Box<RolloutId>>,
    },
    /// The traffic of a group is to be moved first.
    TrafficMoving {
        /// Of which group.
        group: GroupName,
        /// To which side.
        to: SideName,
        /// Which attempt that is, from 1.
        attempt: u32,
        /// Why the last one failed, if it has.
        error: Option<Box<str>>,
        /// Machines whose scripts are waited for, where those move it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        machines: Vec<MachineName>,
        /// When the attempt has had its time, or the next one begins.
        #[serde(default)]
        until: Timestamp,
        /// IANA name of the group's zone. Boxed, as the error is: this is the largest of the reasons, and each
        /// answer that may be one has room for it.
        #[serde(default)]
        zone: Box<str>,
    },
    /// The traffic of a group is to be moved, and the side that is to get it is not ready.
    SideNotReady {
        /// Of which group.
        group: GroupName,
        /// Which side.
        side: SideName,
        /// Machines of it that are away, ill, silent, put aside, or not updated.
        machines: Vec<MachineName>,
    },
}

impl WaitReason {
    /// That the machine's rollout is paused.
    pub(crate) fn paused(rollout: &RolloutId, reason: &PauseReason) -> Self {
        Self::Paused {
            rollout: rollout.clone(),
            reason: reason.to_string(),
            asks_again: reason.asks_again(),
        }
    }

    /// The kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "stopped",
            Self::Paused { .. } => "paused",
            Self::NoRollout => "no-rollout",
            Self::UpToDate => "up-to-date",
            Self::MovedOn { .. } => "moved-on",
            Self::NoTarget => "no-target",
            Self::NoSuchGeneration { .. } => "no-such-generation",
            Self::NothingBefore => "nothing-before",
            Self::UnknownMachine => "unknown-machine",
            Self::Quarantined { .. } => "quarantined",
            Self::TargetQuarantined { .. } => "target-quarantined",
            Self::Retry { .. } => "retry",
            Self::Retrying { .. } => "retrying",
            Self::BadTarget { .. } => "bad-target",
            Self::TargetNotAllowed { .. } => "target-not-allowed",
            Self::Final { .. } => "final",
            Self::Offline { .. } => "offline",
            Self::Staging { .. } => "staging",
            Self::CleaningUp { .. } => "cleaning-up",
            Self::StagingFailed { .. } => "staging-failed",
            Self::Dependency { .. } => "dependency",
            Self::Stagger { .. } => "stagger",
            Self::Approval { .. } => "approval",
            Self::Held { .. } => "held",
            Self::WindowClosed { .. } => "window-closed",
            Self::Frozen { .. } => "frozen",
            Self::WindowTooShort { .. } => "window-too-short",
            Self::WaveNotOpen { .. } => "wave-not-open",
            Self::Soaking { .. } => "soaking",
            Self::Analysing { .. } => "analysing",
            Self::GroupUnhealthy { .. } => "group-unhealthy",
            Self::MachineUnhealthy { .. } => "machine-unhealthy",
            Self::GroupLimit { .. } => "group-limit",
            Self::Apart { .. } => "apart",
            Self::CoordinatorLast { .. } => "coordinator-last",
            Self::Quorum { .. } => "quorum",
            Self::FleetLimit { .. } => "fleet-limit",
            Self::LiveSide { .. } => "live-side",
            Self::TrafficMoving { .. } => "traffic-moving",
            Self::SideNotReady { .. } => "side-not-ready",
        }
    }

    /// The instant at which this reason ends by itself, where it does.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Stagger { until, .. }
            | Self::Soaking { until, .. }
            | Self::Retry { until, .. }
            | Self::TrafficMoving { until, .. } => Some(*until),
            Self::Approval { counts_at, .. } => *counts_at,
            Self::Analysing { until, .. } | Self::CleaningUp { until, .. } => *until,
            Self::WindowClosed { opens_at, .. }
            | Self::WindowTooShort { opens_at, .. }
            | Self::Frozen { opens_at, .. } => *opens_at,
            Self::Stopped { .. }
            | Self::Paused { .. }
            | Self::NoRollout
            | Self::UpToDate
            | Self::MovedOn { .. }
            | Self::NoTarget
            | Self::NoSuchGeneration { .. }
            | Self::NothingBefore
            | Self::UnknownMachine
            | Self::Quarantined { .. }
            | Self::TargetQuarantined { .. }
            | Self::Retrying { .. }
            | Self::BadTarget { .. }
            | Self::TargetNotAllowed { .. }
            | Self::Final { .. }
            | Self::Offline { .. }
            | Self::Staging { .. }
            | Self::StagingFailed { .. }
            | Self::Dependency { .. }
            | Self::Held { .. }
            | Self::WaveNotOpen { .. }
            | Self::GroupUnhealthy { .. }
            | Self::MachineUnhealthy { .. }
            | Self::GroupLimit { .. }
            | Self::Apart { .. }
            | Self::CoordinatorLast { .. }
            | Self::Quorum { .. }
            | Self::FleetLimit { .. }
            | Self::LiveSide { .. }
            | Self::SideNotReady { .. } => None,
        }
    }

    /// Whether only time, a person or another group can change it: a rollout that waits for these
    /// is not stalled.
    pub fn is_orderly(&self) -> bool {
        match self {
            Self::Stopped { .. }
            | Self::Paused { .. }
            | Self::Dependency { .. }
            | Self::Stagger { .. }
            | Self::Approval { .. }
            | Self::Held { .. }
            | Self::CoordinatorLast { .. }
            | Self::Soaking { .. }
            | Self::CleaningUp { .. }
            | Self::Retry { .. }
            | Self::TrafficMoving { .. }
            | Self::LiveSide { first: Some(_), .. }
            | Self::Analysing { .. } => true,
            // What never comes is not waited for.
            Self::WindowClosed { opens_at, .. }
            | Self::WindowTooShort { opens_at, .. }
            | Self::Frozen { opens_at, .. } => opens_at.is_some(),
            Self::NoRollout
            | Self::UpToDate
            | Self::MovedOn { .. }
            | Self::NoTarget
            | Self::NoSuchGeneration { .. }
            | Self::NothingBefore
            | Self::UnknownMachine
            | Self::Quarantined { .. }
            | Self::TargetQuarantined { .. }
            | Self::Retrying { .. }
            | Self::BadTarget { .. }
            | Self::TargetNotAllowed { .. }
            | Self::Final { .. }
            | Self::Offline { .. }
            | Self::Staging { .. }
            | Self::StagingFailed { .. }
            | Self::WaveNotOpen { .. }
            | Self::GroupUnhealthy { .. }
            | Self::MachineUnhealthy { .. }
            | Self::GroupLimit { .. }
            | Self::Apart { .. }
            | Self::Quorum { .. }
            | Self::FleetLimit { .. }
            | Self::LiveSide { .. }
            | Self::SideNotReady { .. } => false,
        }
    }
}
