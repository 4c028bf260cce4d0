//! One attempt, as it is kept on disk.

use std::time::Duration;

use common::{
    Action, AttemptStatus, BootId, Epoch, LeaseId, Outcome, RolloutId, StopMode, StorePath, Target,
};
use serde::{Deserialize, Serialize};

use super::{Baseline, BootMoment, Mode, Previous, RebootKind, StepId};
use crate::{cause::Cause, facts::Facts, foreign};

/// What became of a hook. Each is begun at most once in an attempt, whatever crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookState {
    /// Not begun.
    #[default]
    NotBegun,
    /// Begun; no result yet.
    Begun,
    /// It did its work (or the machine has no such hook).
    Succeeded,
    /// It said no.
    Failed,
    /// It was begun, and how it ended is not known: its time ran out, or the power went.
    Unknown,
}

/// The hooks of one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// `preUpdateScript`.
    pub pre: HookState,
    /// `postUpdateScript`.
    pub post: HookState,
    /// `rollbackScript`.
    pub rollback: HookState,
}

/// One attempt under one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// For which rollout.
    pub rollout: RolloutId,
    /// Under which lease.
    pub lease: LeaseId,
    /// Granted under which epoch.
    pub epoch: Epoch,
    /// Until when the lease holds. In another boot it holds no longer.
    pub lease_until: BootMoment,
    /// What for.
    pub action: Action,
    /// Where to, as asked; `None`: what the next boot starts anyway.
    pub target: Option<Target>,
    /// Where to; `None` until it is staged.
    pub path: Option<StorePath>,
    /// How.
    pub mode: Mode,
    /// Whether the machine may reboot.
    pub allow_reboot: bool,
    /// Whether a soft-reboot will do, where that brings the target.
    #[serde(default)]
    pub allow_soft_reboot: bool,
    /// Which reboot leads to the target, where the way there is one.
    #[serde(default)]
    pub reboot_kind: RebootKind,
    /// Whether a failing judgement makes the machine go back.
    pub rollback_on_failure: bool,
    /// How long the health checks may take to come good, in milliseconds; never 0.
    pub health_timeout_ms: u64,
    /// Where it comes from; recorded before anything changes.
    pub previous: Option<Previous>,
    /// How it was.
    pub baseline: Baseline,
    /// The boot the attempt began in.
    pub boot_id: BootId,
    /// The step that is begun next or was begun last.
    pub step: Step,
    /// The work of that step, once begun; `None` while the step waits for its turn.
    pub job: Option<StepId>,
    /// What became of the hooks.
    pub hooks: Hooks,
    /// The dead-man timer may be running.
    pub armed: bool,
    /// The boot in which the timer was last started; it does not outlive it.
    #[serde(default)]
    pub armed_in: Option<BootId>,
    /// The boot default, or more, may have been changed.
    pub touched: bool,
    /// How often activation was begun.
    pub activations: u32,
    /// How often a reboot into the target was asked for.
    pub reboots: u32,
    /// How often going back was begun.
    pub restores: u32,
    /// How often a reboot back was asked for.
    pub reboots_back: u32,
    /// How many steps were begun.
    pub steps: u32,
    /// The target is wanted even if it failed on this machine before.
    pub force: bool,
    /// The emergency stop, once seen.
    pub stop: Option<StopMode>,
    /// Why the attempt will not be confirmed, once that is decided.
    pub cause: Option<Cause>,
    /// What the rollback hook had to complain about.
    pub complaint: Option<String>,
    /// What was done, oldest first, at most [`RECORDS_MAX`](super::RECORDS_MAX).
    pub records: Vec<Record>,
    /// Begun by another version of the agent and not understood as a whole: all that is done about
    /// it is to go back.
    #[serde(default)]
    pub foreign: bool,
}

impl Attempt {
    /// How long the health checks may take to come good.
    pub fn health_timeout(&self) -> Duration {
        Duration::from_millis(self.health_timeout_ms)
    }

    /// Whether these facts show the attempt's target running; where the way there is a reboot, also
    /// booted. A soft-reboot leaves the booted system what it was: its kernel still runs.
    pub fn arrived(&self, facts: &Facts) -> bool {
        let booted = match (self.mode, self.reboot_kind) {
            (Mode::Switch, _) => true,
            (Mode::Boot, RebootKind::UserSpace) => facts.boot_id != self.boot_id,
            (Mode::Boot, RebootKind::Machine) => {
                facts.booted == self.path && facts.boot_id != self.boot_id
            }
        };
        self.path.is_some() && facts.running == self.path && booted
    }

    /// Whether the pre-update hook did anything that the rollback hook has to make up for: not when
    /// it said no.
    pub fn owes_rollback_hook(&self) -> bool {
        let pre = match self.hooks.pre {
            HookState::NotBegun | HookState::Failed => false,
            HookState::Begun | HookState::Succeeded | HookState::Unknown => true,
        };
        pre && self.hooks.rollback == HookState::NotBegun
    }

    /// Whether the target is at fault: by the reason, or because on it no agent came to an end.
    pub fn blames_target(&self) -> bool {
        match &self.cause {
            Some(Cause::Endless) => self.past_no_return(),
            Some(cause) => cause.blames_target(),
            None => false,
        }
    }

    /// Whether the machine can no longer come back without having been away: from the activation
    /// on, or where the way there is a reboot, from the moment the reboot is asked for.
    pub fn past_no_return(&self) -> bool {
        match self.mode {
            Mode::Switch => self.activations > 0,
            Mode::Boot => self.reboots > 0,
        }
    }

    /// Where it stands, in the words of the wire.
    pub fn status(&self) -> AttemptStatus {
        AttemptStatus {
            rollout: Some(self.rollout.clone()),
            lease: self.lease,
            step: self.step.word().to_owned(),
            past_no_return: self.past_no_return(),
        }
    }
}

/// The steps of an attempt. Each is written down before it is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Obtaining the target, where it was not staged before the lease.
    Staging,
    /// Noting how the machine is and where it comes from.
    Snapshot,
    /// Starting the dead-man timer.
    Arming,
    /// `preUpdateScript`.
    PreHook,
    /// `switch-to-configuration`.
    Activating,
    /// Telling the coordinator that the machine will be silent for a while.
    Announcing,
    /// The reboot into the target.
    Rebooting,
    /// Booted into the target: starting the dead-man timer of this boot.
    Rearming,
    /// `postUpdateScript`.
    PostHook,
    /// Judging the target.
    Judging,
    /// Going back.
    RollingBack,
    /// The reboot into the previous system.
    RebootingBack,
    /// `rollbackScript`.
    RollbackHook,
    /// Judging the previous system.
    JudgingRollback,
    /// The verdict is written; the dead-man timer is being stopped.
    Closing {
        /// The verdict.
        #[serde(deserialize_with = "foreign::outcome")]
        outcome: Outcome,
    },
    /// A step of another version of the agent, in its own words. It is not gone on with: the
    /// machine goes back.
    Unknown(String),
}

impl Step {
    /// The step's name on the wire (`agent.proto`, `Attempt.step`).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Snapshot => "snapshot",
            Self::Arming | Self::Rearming => "arming",
            Self::PreHook => "pre-hook",
            Self::Activating => "activating",
            Self::Announcing | Self::Rebooting | Self::RebootingBack => "rebooting",
            Self::PostHook => "post-hook",
            Self::Judging => "judging",
            Self::RollingBack => "rolling-back",
            Self::RollbackHook => "rollback-hook",
            Self::JudgingRollback => "judging-rollback",
            Self::Closing { .. } => "confirming",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// One step that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The step's name on the wire.
    pub step: String,
    /// How long it took, in milliseconds; 0 when it ended unseen.
    pub took_ms: u64,
    /// The end of its output; bounded by [`common::text::OUTPUT_MAX`].
    pub output: String,
}
