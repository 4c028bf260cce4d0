//! The edge to the machine: everything the agent's steps need of it, and nothing more.
//!
//! Two machines stand behind it: a real one ([`crate::system`]: systemd and Nix) and a directory
//! ([`crate::directory`]: the demo and tests). What a step *means* is above, in
//! [`crate::executor`], and is the same for both.

use std::{fmt, io, path::PathBuf, time::Duration};

pub use agent_core::FailedUnit;
use agent_core::{Failure, MayBegin, Moment, NextBoot, Reach, RebootKind, StepId, Trial};
use common::{BootId, LeaseId, StorePath, Target};
use platform::clock::Clock;

pub use crate::nix_daemon::Missing;
use crate::{
    closure_diff::Difference, links::Links, nix_daemon::DaemonError, systemd::ServiceMake,
    targets::NotAllowed,
};

/// What every unit of ours is called, so that the agent finds them after a restart.
pub const UNIT_PREFIX: &str = "lab-updater-";

/// What a unit is for; part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Obtaining a target.
    Stage,
    /// The machine's backup check.
    BackupCheck,
    /// Setting the system profile.
    Profile,
    /// `switch-to-configuration` of the target.
    Activate,
    /// `switch-to-configuration` of the previous system.
    Restore,
    /// `preUpdateScript`.
    PreHook,
    /// `postUpdateScript`.
    PostHook,
    /// `rollbackScript`.
    RollbackHook,
    /// Telling the boot loader what to start.
    BootLoader,
    /// A condition's command.
    Condition,
    /// A health check's command.
    Check,
    /// Removing old generations.
    CleanUp,
    /// Collecting the store's garbage.
    Collect,
    /// `trafficScript`.
    Traffic,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 14] = [
        Self::Stage,
        Self::BackupCheck,
        Self::Profile,
        Self::Activate,
        Self::Restore,
        Self::PreHook,
        Self::PostHook,
        Self::RollbackHook,
        Self::BootLoader,
        Self::Condition,
        Self::Check,
        Self::CleanUp,
        Self::Collect,
        Self::Traffic,
    ];

    /// Everything that may change the machine: what has to stop before it goes back.
    pub const DISRUPTIVE: [Self; 5] = [
        Self::Profile,
        Self::Activate,
        Self::Restore,
        Self::PreHook,
        Self::PostHook,
    ];

    /// Its part of a unit's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::BackupCheck => "backup-check",
            Self::Profile => "profile",
            Self::Activate => "activate",
            Self::Restore => "restore",
            Self::PreHook => "pre-hook",
            Self::PostHook => "post-hook",
            Self::RollbackHook => "rollback-hook",
            Self::BootLoader => "boot-loader",
            Self::Condition => "condition",
            Self::Check => "check",
            Self::CleanUp => "clean-up",
            Self::Collect => "collect",
            Self::Traffic => "traffic",
        }
    }
}

/// A program to run outside of the agent: it outlives the agent, and its end can be asked for
/// later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What for.
    pub family: Family,
    /// What makes the name unique: the step, and a part before it where a step has several.
    pub tag: String,
    /// One line for a person.
    pub description: String,
    /// Program (absolute path) and arguments.
    pub command: Vec<String>,
    /// Environment variables besides the machine's usual ones.
    pub environment: Vec<(String, String)>,
    /// Longest run time; then the whole unit is killed.
    pub within: Duration,
    /// Limits for work that could starve the machine's own.
    pub resources: Resources,
    /// Who it is.
    pub run_as: RunAs,
    /// Whether it may still be started, asked immediately before that.
    pub may_begin: MayBegin,
}

/// The user who is made for a unit that runs as [`RunAs::Nobody`]. Where the Nix daemon's
/// `allowed-users` names users, this is the one to name.
pub const NOBODY: &str = "lab-updater-fetch";

/// That user's home: there while the unit is.
pub const NOBODYS_HOME: &str = "/run/lab-updater-fetch";

/// Who a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// Root: it changes the machine.
    Root,
    /// A user who is made for it and may do nothing: whatever it changes, somebody else does for it.
    Nobody,
}

/// Resource limits of a unit; `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes.
    pub memory_max: Option<u64>,
    /// Processes and threads.
    pub tasks_max: Option<u64>,
}

impl Resources {
    /// So many processes and threads, and no other limit.
    pub fn tasks(max: u64) -> Self {
        Self {
            memory_max: None,
            tasks_max: Some(max),
        }
    }
}

impl Unit {
    /// Whether it may be started now.
    pub fn check_begin(&self, clock: &Clock) -> Result<(), HostError> {
        check_begin(&self.name(), self.may_begin, clock)
    }

    /// The unit's name: `lab-updater-<family>-<tag>.service`.
    pub fn name(&self) -> String {
        format!("{UNIT_PREFIX}{}-{}.service", self.family.word(), self.tag)
    }
}

/// The core's time: the boot-time clock, in fleet time.
pub fn moment(clock: &Clock) -> Moment {
    Moment(u64::try_from(clock.uptime().as_millis()).unwrap_or(u64::MAX))
}

/// Whether something of this name may be started now.
pub fn check_begin(name: &str, may_begin: MayBegin, clock: &Clock) -> Result<(), HostError> {
    may_begin
        .now(moment(clock))
        .map_err(|why| HostError::NotBegun {
            unit: name.to_owned(),
            why,
        })
}

/// Whether a unit of this name belongs to one of the steps.
pub(crate) fn belongs_to(unit: &str, steps: &[StepId]) -> bool {
    let is_of = |step: &StepId| unit.ends_with(&format!("-{step}.service"));
    steps.iter().any(is_of)
}

/// How a unit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signal(i32),
    /// Its time was up, and it was killed.
    TimedOut,
    /// It never ran.
    NotStarted(String),
}

impl End {
    /// Whether it did what it was for.
    pub fn succeeded(&self) -> bool {
        *self == Self::Exited(0)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => write!(f, "killed when its time was up"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// A unit's end and the end of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// The end of its output; bounded and tamed.
    pub output: String,
}

/// From when journal entries count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From [`Host::mark_journal`] on.
    Mark,
    /// From this long ago on.
    Ago(Duration),
}

/// What came of asking for a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// The machine is going down, and this process with it.
    UnderWay,
    /// The machine has been booted; this process belongs to the boot before and has to go.
    Happened,
}

/// Why the machine could not do or tell something.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// D-Bus said no, or nothing in time.
    #[error("cannot {doing}")]
    Bus {
        /// What was tried.
        doing: String,
        /// What it said.
        #[source]
        cause: Box<zbus::Error>,
    },
    /// The file system or the kernel said no.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What it said.
        #[source]
        cause: io::Error,
    },
    /// The Nix daemon did not say.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A program said no.
    #[error("cannot {doing}: {said}")]
    Program {
        /// What was tried.
        doing: String,
        /// How it ended.
        said: String,
    },
    /// Something that must be there is not, or is not understood.
    #[error("{0}")]
    Missing(String),
    /// Something that must hold before an update does not.
    #[error("{0}")]
    NotReady(String),
    /// The machine runs, or boots next, what somebody else brought it.
    #[error("somebody else switched the machine to {0}")]
    Elsewhere(StorePath),
    /// It did not end in time.
    #[error("{0}: it did not end in time")]
    TimedOut(String),
    /// It was at work, and how it ended nobody can tell.
    #[error("how {0} ended is lost")]
    Lost(String),
    /// It was not started, as it was not allowed to be any more.
    #[error("{unit} was not started: {why}")]
    NotBegun {
        /// Which unit.
        unit: String,
        /// What that comes to.
        #[source]
        why: Failure,
    },
    /// The machine's own configuration forbids it.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

impl HostError {
    /// An I/O error and what was being done.
    pub fn io(doing: impl Into<String>, cause: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            cause,
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::TimedOut(_) => Self::TimedOut,
            HostError::Lost(_) => Self::Lost,
            HostError::NotBegun { why, .. } => why,
            HostError::NotReady(why) => Self::NotReady(why),
            HostError::Elsewhere(path) => Self::Elsewhere(path),
            HostError::NotAllowed(why) => Self::NotAllowed(why.to_string()),
            other @ (HostError::Bus { .. }
            | HostError::Io { .. }
            | HostError::Daemon(_)
            | HostError::Program { .. }
            | HostError::Missing(_)) => {
                Self::Failed(common::error_chain::Chain(&other).to_string())
            }
        }
    }
}

/// One machine.
#[allow(
    async_fn_in_trait,
    reason = "the agent runs on one thread, so no future needs to be Send"
)]
pub trait Host {
    /// Its links.
    fn links(&self) -> &Links;

    /// The boot it is in.
    fn boot_id(&self) -> Result<BootId, HostError>;

    /// What the boot loader starts next.
    async fn next_boot(&self) -> NextBoot {
        NextBoot::Unknown
    }

    /// Makes the boot loader start the target once and what was there before after that, unless it
    /// passes over a system that does not boot by itself. Says how, for a person; `None` on a machine
    /// that has no boot loader. Safe to repeat.
    async fn boot_once(&self, _trial: &Trial, _tag: &str) -> Result<Option<String>, HostError> {
        Ok(None)
    }

    /// Takes back what [`Host::boot_once`] did; nothing when it did nothing.
    async fn boot_always(&self, _tag: &str) -> Result<(), HostError> {
        Ok(())
    }

    /// Runs a unit to its end; when it is at work already, or has ended and was not
    /// [cleared](Self::clear), waits for that one instead. Starts it only if it
    /// [may](Unit::check_begin) be.
    async fn run(&self, unit: &Unit) -> Result<Ran, HostError>;

    /// Whether a step has a unit, at work or ended.
    async fn has_unit(&self, step: StepId) -> Result<bool, HostError>;

    /// Forgets the ended units with this tag, or stops them.
    async fn clear(&self, tag: &str) -> Result<(), HostError>;

    /// Forgets every ended unit but those of these steps, whose ends nobody has written down yet.
    async fn sweep(&self, awaited: &[StepId]) -> Result<(), HostError>;

    /// Stops every unit of these families.
    async fn stop(&self, families: &[Family]) -> Result<(), HostError>;

    /// Brings the target into the store. Its closure is complete when this returns, and a root of
    /// [`crate::links::ROOTS`] keeps it.
    async fn obtain(
        &self,
        step: StepId,
        target: &Target,
        within: Duration,
    ) -> Result<(StorePath, String), HostError>;

    /// What obtaining the target will take; `None` where nobody can say.
    async fn missing(&self, _target: &Target) -> Result<Option<Missing>, HostError> {
        Ok(None)
    }

    /// In which store paths two closures differ; `None` where nobody can say.
    async fn difference(
        &self,
        _before: &StorePath,
        _after: &StorePath,
    ) -> Result<Option<Difference>, HostError> {
        Ok(None)
    }

    /// Bytes of memory that are left for more work, swap included; `None` where nobody can say.
    fn available_memory(&self) -> Option<u64> {
        None
    }

    /// Whether the closure of this path is complete in the store.
    async fn is_complete(&self, path: &StorePath) -> Result<bool, HostError>;

    /// Makes the path the system profile's current generation; nothing when it is.
    async fn set_profile(
        &self,
        tag: &str,
        path: &StorePath,
        may_begin: MayBegin,
    ) -> Result<(), HostError>;

    /// Removes these generations of the system profile, and waits for the end of a removal that the
    /// step has begun before.
    async fn remove_generations(&self, _step: StepId, _numbers: &[u64]) -> Result<(), HostError> {
        let why = "this machine has no generations that could be removed";
        Err(HostError::Missing(why.to_owned()))
    }

    /// Removes from the store what nothing needs.
    async fn collect_garbage(&self, _step: StepId, _within: Duration) -> Result<(), HostError> {
        let why = "this machine has no store that could be collected";
        Err(HostError::Missing(why.to_owned()))
    }

    /// A system's `switch-to-configuration`, as a program of this host.
    fn switcher(&self, system: &StorePath) -> PathBuf;

    /// Starts, or starts anew, the timer that rolls back unless it is disarmed.
    async fn arm(&self, lease: LeaseId, after: Duration) -> Result<(), HostError>;

    /// Stops that timer; no error when there is none. What it has started goes on.
    async fn disarm(&self, lease: LeaseId) -> Result<(), HostError>;

    /// Waits for the end of what that timer has started, at most this long; then ends it.
    async fn await_dead_man(&self, lease: LeaseId, within: Duration) -> Result<(), HostError>;

    /// Who or what a reboot would disturb, one short line each.
    async fn reboot_blockers(&self) -> Result<Vec<String>, HostError> {
        Ok(Vec::new())
    }

    /// Whether a soft-reboot takes up a system that waits for its boot.
    async fn can_soft_reboot(&self) -> bool {
        false
    }

    /// Reboots, in order.
    async fn reboot(&self, kind: RebootKind) -> Result<Reboot, HostError>;

    /// Whether somebody answers over the network.
    async fn reaches(&self, who: Reach) -> bool;

    /// Units that have failed, ours left out.
    async fn failed_units(&self) -> Result<Vec<FailedUnit>, HostError>;

    /// A unit's active state, in systemd's word.
    async fn active_state(&self, unit: &str) -> Result<String, HostError>;

    /// Remembers where the journal is now.
    async fn mark_journal(&self) -> Result<(), HostError>;

    /// Journal entries of this syslog priority or worse, at most 20, newest last.
    async fn serious_entries(&self, priority: u8, since: Since) -> Result<Vec<String>, HostError>;

    /// Services that were started again by themselves at least so many times in the time up to now.
    /// A machine without anybody who starts services again has none.
    async fn restart_loops(
        &self,
        _within: Duration,
        _times: u32,
    ) -> Result<Vec<String>, HostError> {
        Ok(Vec::new())
    }

    /// What the service that this process runs as would be started from now; `None` when that
    /// cannot be said.
    async fn service(&self) -> Option<ServiceMake>;
}
