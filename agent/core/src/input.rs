//! Everything that can happen to the agent.

use std::time::Duration;

use common::{
    Action, CleanUp, Epoch, Health, LeaseId, RolloutId, Staged, StopMode, StorePath, Target,
    TrafficCall,
};
use serde::{Deserialize, Serialize};

use crate::{
    effect::CallId,
    facts::Facts,
    moment::Moment,
    state::{Baseline, RebootKind, StepId},
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed. Says nothing else.
    Tick,
    /// The coordinator answered a poll.
    Directive {
        /// Which poll.
        call: CallId,
        /// When the poll was sent: a lease in the answer counts from there.
        sent: Moment,
        /// The fleet's epoch.
        epoch: Epoch,
        /// What to do.
        directive: Directive,
    },
    /// The coordinator pushed something.
    Signal {
        /// The fleet's epoch.
        epoch: Epoch,
        /// What.
        signal: Signal,
    },
    /// The coordinator answered a renewal.
    Renewed {
        /// Which call.
        call: CallId,
        /// When it was sent: the validity counts from there.
        sent: Moment,
        /// Which lease it was for.
        lease: LeaseId,
        /// The fleet's epoch.
        epoch: Epoch,
        /// What it said.
        renewal: Renewal,
    },
    /// The coordinator has the result of this lease on its disk.
    ReportAcknowledged {
        /// Which call.
        call: CallId,
        /// The result's rollout.
        rollout: RolloutId,
        /// The result's lease; 0 when it had none.
        lease: LeaseId,
        /// The fleet's epoch.
        epoch: Epoch,
    },
    /// A call came to nothing: no connection, a deadline, an error status.
    CallFailed {
        /// Which call.
        call: CallId,
        /// Why.
        reason: String,
    },
    /// A job ended.
    StepDone {
        /// Which.
        step: StepId,
        /// With what.
        answer: Answer,
    },
    /// The machine was measured; at any time, asked for or not.
    Measured(Facts),
    /// The dead-man timer went off and acts.
    DeadManFired {
        /// Whose timer.
        lease: LeaseId,
    },
}

impl Input {
    /// Whether the coordinator said this. What it says may forbid what the clock makes due.
    pub(crate) fn is_said_by_the_coordinator(&self) -> bool {
        match self {
            Self::Directive { .. }
            | Self::Signal { .. }
            | Self::Renewed { .. }
            | Self::ReportAcknowledged { .. } => true,
            Self::Tick
            | Self::CallFailed { .. }
            | Self::StepDone { .. }
            | Self::Measured(_)
            | Self::DeadManFired { .. } => false,
        }
    }
}

/// What the coordinator asks for. The wire's words, as types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Nothing to do.
    Wait {
        /// Kind of the wait reason.
        kind: String,
        /// The same as a sentence.
        text: String,
        /// When to ask again; zero: at once, with a long poll.
        ask_again: Duration,
    },
    /// Obtain a target; needs no lease.
    Stage {
        /// For which rollout; `None` when ahead of any.
        rollout: Option<RolloutId>,
        /// What.
        target: Target,
        /// What for.
        action: Action,
        /// Also when it failed on this machine before.
        force: bool,
        /// Number of the wish; 0 within a rollout.
        wish: u64,
    },
    /// The machine's turn.
    Proceed(Proceed),
    /// Run the health checks and report.
    Check {
        /// Number of the request.
        request: u64,
        /// How long the checks may take.
        timeout: Duration,
    },
    /// Remove old generations and collect the store's garbage; needs no lease.
    CleanUp {
        /// Number of the request.
        request: u64,
        /// What is to be kept.
        cleanup: CleanUp,
    },
    /// Run the machine's own traffic script; needs no lease.
    MoveTraffic(TrafficCall),
    /// Emergency stop.
    StandDown(StandDown),
}

/// A lease, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proceed {
    /// For which rollout.
    pub rollout: RolloutId,
    /// The lease.
    pub lease: LeaseId,
    /// The epoch it was granted under.
    pub epoch: Epoch,
    /// How long it holds, counted from when the poll was sent.
    pub valid_for: Duration,
    /// What for.
    pub action: Action,
    /// Where to. `None` only with [`Action::Reboot`]: what the next boot starts anyway.
    pub target: Option<Target>,
    /// Whether the machine may reboot. [`Action::Reboot`] always may.
    pub allow_reboot: bool,
    /// Whether a soft-reboot will do, where that brings the target.
    pub allow_soft_reboot: bool,
    /// Whether a failing judgement makes the machine go back; else it stays, *stuck*.
    pub rollback_on_failure: bool,
    /// How long the health checks may take to come good; zero: the machine's own limit.
    pub health_timeout: Duration,
    /// Go also to a target that failed on this machine before. Set when a person asked for exactly
    /// that; a schedule does not.
    pub force: bool,
}

/// Emergency stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandDown {
    /// The epoch it raised the fleet to.
    pub epoch: Epoch,
    /// For machines past the point of no return.
    pub mode: StopMode,
    /// Why.
    pub reason: String,
}

/// What the coordinator pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Nothing but the epoch (the first message of a stream).
    Epoch,
    /// Poll now.
    Wake,
    /// Emergency stop.
    StandDown(StandDown),
}

/// The answer to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds this long, counted from when the renewal was sent.
    Valid {
        /// How long.
        valid_for: Duration,
    },
    /// Emergency stop.
    StandDown(StandDown),
    /// The coordinator does not know this lease as live.
    NotHeld {
        /// What it says about that.
        reason: String,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it came to.
    pub result: Result<Done, Failure>,
    /// The end of its output, where it has any. Tamed and bounded by the agent.
    pub output: String,
}

/// What a job came to, one kind for each kind of [`crate::effect::Work`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The target is on the machine, checked and rooted.
    Staged(Staged),
    /// How the machine was before anything changed.
    Snapshot {
        /// Measured now.
        facts: Facts,
        /// For the judgement later.
        baseline: Baseline,
        /// Going to the target takes a reboot: which is enough.
        needs_reboot: Option<RebootKind>,
    },
    /// The dead-man timer runs.
    Armed,
    /// The dead-man timer does not run.
    Disarmed {
        /// It had gone off, and acted, before it could be stopped.
        fired: bool,
    },
    /// A hook ended.
    Hook(HookEnd),
    /// `switch-to-configuration` ended.
    Activated {
        /// How.
        end: ActivationEnd,
        /// Measured after it.
        facts: Facts,
    },
    /// The reboot is under way.
    RebootAsked,
    /// The machine was judged.
    Judged(Judgement),
    /// The way back ended.
    Restored {
        /// How.
        end: ActivationEnd,
        /// Measured after it.
        facts: Facts,
    },
    /// The health checks ended.
    Checked {
        /// What they say.
        health: Health,
        /// Measured after them.
        facts: Facts,
    },
    /// The cleanup ended.
    CleanedUp {
        /// Generations that are no more.
        removed: u32,
        /// By how many bytes more of the store's file system are free.
        freed_bytes: u64,
        /// Why a part of it came to nothing.
        failure: Option<String>,
        /// Measured after it.
        facts: Facts,
    },
    /// The traffic script ended with exit status 0.
    TrafficMoved,
}

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its time was up.
    #[error("it did not end in time")]
    TimedOut,
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// The machine's own configuration does not allow it. To be tried again only when asked anew.
    #[error("{0}")]
    NotAllowed(String),
    /// Something that must hold before an update does not, for now: "later", not "no".
    #[error("{0}")]
    NotReady(String),
    /// The machine runs, or boots next, something that the attempt did not bring it: somebody else
    /// has been at work there, and nothing was done.
    #[error("somebody else switched the machine to {0}")]
    Elsewhere(StorePath),
    /// Nobody knows how it ended: the machine or the agent died in the middle.
    #[error("its result was lost in a crash or a power cut")]
    Lost,
    /// It was not begun, because by then the lease might not have held any more.
    #[error("the lease had run out before it could be begun")]
    TooLate,
    /// The answer was of another kind than the work.
    #[error("the answer does not fit the work")]
    Unfitting,
}

/// How a hook script ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookEnd {
    /// The machine has no such hook.
    NotConfigured,
    /// Exit status 0.
    Succeeded,
    /// Another exit status, or a signal.
    Failed {
        /// Which, in words.
        status: String,
    },
}

/// How `switch-to-configuration` ended. What the machine really runs is in the facts beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivationEnd {
    /// Exit status 0.
    Done,
    /// Exit status 2 or 4: it went through, and something complained. Not a failure by itself;
    /// the judgement decides.
    Degraded,
    /// Exit status 100, or an inhibitor: it takes a reboot.
    RebootNeeded,
    /// Exit status 11: somebody else is switching this machine. To be tried again.
    Busy,
    /// Anything else.
    Failed {
        /// What, in words.
        status: String,
    },
}

/// What the judgement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Nothing is worse than it was (see [`crate::comparison`]).
    pub healthy: bool,
    /// What speaks against it, one short line each.
    pub findings: Vec<String>,
    /// What had failed before and still does, and critical entries of the journal, one short line
    /// each: told, and held against nobody.
    pub no_better: Vec<String>,
    /// At one of the looks the coordinator had been silent since the switch, and of those that answered
    /// over the network before the attempt nobody did.
    pub cut_off: bool,
    /// The health checks behind it.
    pub health: Health,
    /// Measured with it.
    pub facts: Facts,
}

/// The machine's own scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Before the machine is disturbed (`preUpdateScript`).
    Pre,
    /// On the new system, before it is judged (`postUpdateScript`).
    Post,
    /// After the way back (`rollbackScript`).
    Rollback,
}
