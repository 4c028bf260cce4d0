//! What the agent keeps on disk: one small document, replaced as a whole before anything it
//! announces is done.
//!
//! # Other versions
//!
//! An agent may find what an older or a newer one wrote: an update brings a newer agent, and going
//! back an older one, with its dead-man program, in the middle of the attempt. So
//!
//! * a new field has a default, and no field is ever taken away or given another meaning;
//! * fields that this agent does not know are passed over;
//! * an attempt that it does not understand as a whole (a step, a hook's state, anything with a
//!   fixed set of words) is read for what going back takes, and the machine goes back (see
//!   `foreign`);
//! * the format's number is raised only when an older agent must not touch the machine at all: it
//!   then refuses to start, and so does its dead-man program.

use std::{collections::BTreeSet, fmt};

use common::{
    Action, BootId, CleanUp, CleanedUp, Epoch, LeaseId, Outcome, RolloutId, Staged, StorePath,
    Target, TrafficCall, TrafficDone,
};
use serde::{Deserialize, Serialize};

use crate::{effect::Before, facts::Reach, foreign, moment::Moment};

mod attempt;

pub use attempt::{Attempt, HookState, Hooks, Record, Step};

/// Most targets remembered as bad; the oldest goes first.
pub const BAD_TARGETS_MAX: usize = 16;

/// Most step records kept of one attempt.
pub const RECORDS_MAX: usize = 24;

/// Most failed units kept of how the machine was before.
pub const BASELINE_UNITS_MAX: usize = 256;

/// Everything the agent knows that must outlive it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(deserialize_with = "foreign::attempt")]
    pub attempt: Option<Attempt>,
    /// The target being obtained without a lease.
    #[serde(deserialize_with = "foreign::or_default")]
    pub staging: Option<Staging>,
    /// What is obtained, checked and rooted.
    #[serde(deserialize_with = "foreign::or_default")]
    pub staged: Option<Staged>,
    /// The result that the coordinator has not acknowledged.
    pub unreported: Option<Unreported>,
    /// Targets that failed here, oldest first, at most [`BAD_TARGETS_MAX`].
    pub bad_targets: Vec<BadTarget>,
    /// The lease of the last attempt that ended here; 0 before the first.
    pub last_lease: LeaseId,
    /// Where the last attempt came from: kept from garbage collection until the next one.
    pub kept: Vec<StorePath>,
    /// The systems that were confirmed last, oldest first, at most
    /// [`crate::cleanup::CONFIRMED_MAX`].
    #[serde(default)]
    pub confirmed: Vec<StorePath>,
    /// The cleanup under way.
    #[serde(default, deserialize_with = "foreign::or_default")]
    pub cleaning: Option<Cleaning>,
    /// What came of the last one.
    #[serde(default, deserialize_with = "foreign::or_default")]
    pub cleaned_up: CleanedUp,
    /// The run of the traffic script under way.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "foreign::or_default"
    )]
    pub moving_traffic: Option<MovingTraffic>,
    /// What came of the last order about traffic: no older one of its group is followed any more.
    #[serde(
        default,
        skip_serializing_if = "TrafficDone::is_nothing",
        deserialize_with = "foreign::or_default"
    )]
    pub traffic_done: TrafficDone,
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
            confirmed: Vec::new(),
            cleaning: None,
            cleaned_up: CleanedUp::default(),
            moving_traffic: None,
            traffic_done: TrafficDone::default(),
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

    /// What no cleanup may take: where the last attempt came from, what was confirmed last, and what
    /// is staged.
    pub fn needed_to_go_back(&self) -> BTreeSet<StorePath> {
        let staged = self.staged.iter().map(|staged| &staged.path);
        let needed = self.kept.iter().chain(&self.confirmed).chain(staged);
        needed.cloned().collect()
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
        // A target that is only to wait for the next boot: whoever boots, nothing is judged that
        // could make the machine go back, and nobody has given leave to boot it once more.
        if attempt.mode == Mode::Boot && !attempt.allow_reboot {
            return None;
        }
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
            | Step::JudgingRollback
            | Step::Unknown(_) => Some(DeadManOrder {
                previous,
                reboot: match attempt.mode {
                    Mode::Switch => false,
                    Mode::Boot => true,
                },
            }),
        }
    }

    /// Steps whose ended units a start must not sweep away: only they can tell how it ended. A cleanup is
    /// done over instead.
    pub fn awaited_steps(&self) -> Vec<StepId> {
        let moving = self.moving_traffic.as_ref().map(|moving| moving.job);
        self.open_step().into_iter().chain(moving).collect()
    }

    /// The target to take up between the two halves of the soft-reboot that this boot is about to end
    /// in: only when the attempt has asked for one, in this boot.
    pub fn soft_reboot_target(&self, boot: &BootId) -> Option<&StorePath> {
        let attempt = self.attempt.as_ref()?;
        let asked = attempt.step == Step::Rebooting && attempt.reboot_kind == RebootKind::UserSpace;
        let fresh = attempt.boot_id == *boot;
        attempt.path.as_ref().filter(|_| asked && fresh)
    }

    /// The lease of an attempt that this boot has left without an agent: the machine was disturbed
    /// under it, has been booted since, and no agent has come as far as starting its timer. For a
    /// dead-man program that the service manager starts some time after every boot: the agent's own
    /// timer, a transient one, did not outlive the boot, and a target may boot and yet have an agent
    /// that does not start, or starts and dies. Once the timer runs, nothing is left to do here.
    pub fn left_without_agent(&self, boot: &BootId) -> Option<LeaseId> {
        let attempt = self.attempt.as_ref()?;
        let booted_since = attempt.boot_id != *boot;
        let watched = attempt.armed_in.as_ref() == Some(boot);
        let disturbed = self.dead_man_order(attempt.lease).is_some();
        (booted_since && !watched && disturbed).then_some(attempt.lease)
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
    /// The way to the target is a reboot, asked for or brought about by a power cut: set the boot
    /// default, and reboot unless `previous.running` is what runs. Never a live switch: the two
    /// systems differ in what only a boot changes.
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

/// What is started anew by a reboot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum RebootKind {
    /// Everything, by firmware and boot loader.
    #[default]
    Machine,
    /// User space alone, under the kernel that runs (systemd-soft-reboot.service(8)).
    UserSpace,
}

/// Where a machine comes from: store paths, never generation numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// What was running.
    pub running: StorePath,
    /// What the next boot would have started: by the boot loader's word, and where it gives none, by
    /// the profile ([`crate::facts::Facts::boot_default`]). Going back makes both name it.
    pub boot_default: StorePath,
    /// What the profile named, where the boot loader said otherwise. Not gone back to; only known
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<StorePath>,
}

/// How the machine was before anything changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Units that had failed already, at most [`BASELINE_UNITS_MAX`].
    pub failed_units: Vec<String>,
    /// Names of health checks that failed already.
    pub failed_checks: Vec<String>,
    /// Who answered over the network.
    #[serde(default)]
    pub reached: Vec<Reach>,
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
    /// What for.
    #[serde(default = "update")]
    pub action: Action,
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

/// A cleanup under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaning {
    /// Number of the request.
    pub request: u64,
    /// What it asks to keep.
    pub cleanup: CleanUp,
    /// How the machine was when it began.
    pub before: Before,
    /// Its job.
    pub job: StepId,
}

/// A run of the traffic script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovingTraffic {
    /// What was ordered, bounded.
    pub call: TrafficCall,
    /// Its job.
    pub job: StepId,
}

/// What agents staged for before they wrote it down.
fn update() -> Action {
    Action::Update
}

/// A result, kept until the coordinator has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreported {
    /// For which rollout.
    pub rollout: RolloutId,
    /// Under which lease; 0 when the machine refused before it had one.
    pub lease: LeaseId,
    /// How it ended.
    #[serde(deserialize_with = "foreign::outcome")]
    pub outcome: Outcome,
    /// What was done.
    pub records: Vec<Record>,
}
