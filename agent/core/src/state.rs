//! What the agent keeps on disk: one small document, replaced as a whole before anything it
//! announces is done.

use std::{fmt, time::Duration};

use common::{
    Action, AttemptStatus, BootId, Epoch, LeaseId, Outcome, RolloutId, Staged, StopMode, StorePath,
    Target,
};
use serde::{Deserialize, Serialize};

use crate::{cause::Cause, facts::Facts, moment::Moment};

/// Most targets remembered as bad; the oldest goes first.
pub const BAD_TARGETS_MAX: usize = 16;

/// Most step records kept of one attempt.
pub const RECORDS_MAX: usize = 24;

/// Most failed units kept of how the machine was before.
pub const BASELINE_UNITS_MAX: usize = 256;

/// Everything the agent knows that must outlive it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// Version of this document, [`Durable::FORMAT`].
    pub format: u32,
    /// How often the agent has started here; the first part of every [`StepId`].
    pub life: u32,
    /// The boot it last ran in.
    pub boot_id: Option<BootId>,
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// The highest lease seen. A lease is accepted once: only a higher one is accepted after it.
    pub lease: LeaseId,
    /// The attempt in progress.
    pub attempt: Option<Attempt>,
    /// The target being obtained without a lease.
    pub staging: Option<Staging>,
    /// What is obtained, checked and rooted.
    pub staged: Option<Staged>,
    /// The result that the coordinator has not acknowledged.
    pub unreported: Option<Unreported>,
    /// Targets that failed here, oldest first, at most [`BAD_TARGETS_MAX`].
    pub bad_targets: Vec<BadTarget>,
    /// The lease of the last attempt that ended here; 0 before the first.
    pub last_lease: LeaseId,
    /// Where the last attempt came from: kept from garbage collection until the next one.
    pub kept: Vec<StorePath>,
}

/// Why a durable state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    /// Written by another version of the agent.
    #[error(
        "the state is of format {found}, this agent reads format {}",
        Durable::FORMAT
    )]
    Format {
        /// What it says.
        found: u32,
    },
    /// Contradicts itself.
    #[error("the state contradicts itself: {0}")]
    Contradiction(String),
}

impl Durable {
    /// The version this code reads and writes.
    pub const FORMAT: u32 = 1;

    /// A machine that has seen nothing.
    pub fn new() -> Self {
        Self {
            format: Self::FORMAT,
            life: 0,
            boot_id: None,
            epoch: Epoch::default(),
            lease: LeaseId::default(),
            attempt: None,
            staging: None,
            staged: None,
            unreported: None,
            bad_targets: Vec::new(),
            last_lease: LeaseId::default(),
            kept: Vec::new(),
        }
    }

    /// The state, if this code can go on from it. To be called on everything read from disk.
    ///
    /// # Errors
    /// When it is of another format or breaks an invariant of its own.
    pub fn checked(self) -> Result<Self, DurableError> {
        if self.format != Self::FORMAT {
            return Err(DurableError::Format { found: self.format });
        }
        match crate::invariants::violations(&self).into_iter().next() {
            Some(violation) => Err(DurableError::Contradiction(violation.to_string())),
            None => Ok(self),
        }
    }

    /// The step that was begun and has not ended, as the journal has it: after a start the shell
    /// looks for its unit.
    pub fn open_step(&self) -> Option<StepId> {
        match (&self.attempt, &self.staging) {
            (Some(attempt), _) => attempt.job,
            (None, Some(staging)) => Some(staging.job),
            (None, None) => None,
        }
    }

    /// What the dead-man program of this lease is to do, asked of the state on disk at the moment
    /// it goes off: nothing when the attempt is over, its verdict is written, or the machine was
    /// never disturbed.
    pub fn dead_man_order(&self, lease: LeaseId) -> Option<DeadManOrder> {
        let attempt = self.attempt.as_ref().filter(|a| a.lease == lease)?;
        let previous = attempt.previous.clone()?;
        match attempt.step {
            Step::Staging
            | Step::Snapshot
            | Step::Arming
            | Step::PreHook
            | Step::Closing { .. } => None,
            Step::Activating
            | Step::Announcing
            | Step::Rebooting
            | Step::Rearming
            | Step::PostHook
            | Step::Judging
            | Step::RollingBack
            | Step::RebootingBack
            | Step::RollbackHook
            | Step::JudgingRollback => Some(DeadManOrder {
                previous,
                reboot: attempt.reboots > 0,
            }),
        }
    }

    /// The lease of an attempt that this boot has left without an agent: the machine was disturbed
    /// under it, has been booted since, and the agent has not come up. For a dead-man program that
    /// the service manager starts some time after every boot: the agent's own timer, a transient
    /// one, did not outlive the boot, and a target may boot and yet have an agent that does not
    /// start. An agent that came up has armed its timer again, and nothing is left to do here.
    pub fn left_without_agent(&self, boot: &BootId) -> Option<LeaseId> {
        let came_up = self.boot_id.as_ref() == Some(boot);
        let attempt = self.attempt.as_ref().filter(|_| !came_up)?;
        let disturbed = self.dead_man_order(attempt.lease).is_some();
        disturbed.then_some(attempt.lease)
    }
}

impl Default for Durable {
    fn default() -> Self {
        Self::new()
    }
}

/// What the dead-man program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadManOrder {
    /// Where the machine goes back to.
    pub previous: Previous,
    /// The machine had been rebooted for the attempt: set the boot default, and reboot unless
    /// `previous.running` is what runs, rather than switch.
    pub reboot: bool,
}

/// Names one piece of work, for ever: no two have the same on one machine.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StepId {
    /// Which start of the agent began it.
    pub life: u32,
    /// Which piece of work of that life.
    pub number: u32,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.life, self.number)
    }
}

/// A moment and the boot in which it means something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMoment {
    /// The boot.
    pub boot_id: BootId,
    /// The moment of its clock.
    pub moment: Moment,
}

/// How a system is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `switch`: boot default and the running system.
    Switch,
    /// `boot`: boot default only.
    Boot,
}

/// Where a machine comes from: store paths, never generation numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// What was running.
    pub running: StorePath,
    /// What the next boot would have started.
    pub boot_default: StorePath,
}

/// How the machine was before anything changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Units that had failed already, at most [`BASELINE_UNITS_MAX`].
    pub failed_units: Vec<String>,
    /// Names of health checks that failed already.
    pub failed_checks: Vec<String>,
}

/// A target that failed on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadTarget {
    /// The closure.
    pub path: StorePath,
    /// What happened.
    pub reason: String,
}

/// A target being obtained without a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staging {
    /// What.
    pub target: Target,
    /// For which rollout.
    pub rollout: Option<RolloutId>,
    /// Number of the wish; 0 within a rollout.
    #[serde(default)]
    pub wish: u64,
    /// How often it was begun.
    pub tries: u32,
    /// Its latest try.
    pub job: StepId,
}

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
    /// What was done, oldest first, at most [`RECORDS_MAX`].
    pub records: Vec<Record>,
}

impl Attempt {
    /// How long the health checks may take to come good.
    pub fn health_timeout(&self) -> Duration {
        Duration::from_millis(self.health_timeout_ms)
    }

    /// Whether these facts show the attempt's target running; where the way there is a reboot, also
    /// booted.
    pub fn arrived(&self, facts: &Facts) -> bool {
        let booted = match self.mode {
            Mode::Switch => true,
            Mode::Boot => facts.booted == self.path && facts.boot_id != self.boot_id,
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
        outcome: Outcome,
    },
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

/// A result, kept until the coordinator has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreported {
    /// For which rollout.
    pub rollout: RolloutId,
    /// Under which lease; 0 when the machine refused before it had one.
    pub lease: LeaseId,
    /// How it ended.
    pub outcome: Outcome,
    /// What was done.
    pub records: Vec<Record>,
}
