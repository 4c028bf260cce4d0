//! Everything the agent can ask its shell to do. Each effect has all that is needed to carry it
//! out; the shell looks nothing up and decides nothing.

use std::time::Duration;

use common::{
    Action, AttemptStatus, CleanUp, Epoch, LeaseId, MachineReport, RolloutId, StorePath, Target,
    TrafficCall,
};
use serde::{Deserialize, Serialize};

pub use crate::note::{NotFollowed, Note};
use crate::{
    input::{Failure, Hook},
    moment::Moment,
    state::{Baseline, Mode, Previous, RebootKind, StepId, Unreported},
};

/// What came of one input.
#[must_use = "the durable state is to be saved and the effects carried out"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Save [`crate::Agent::durable`] *before* any of the effects is begun. When it cannot be
    /// saved the process ends: nothing was done, and the next start begins from what is on disk.
    pub persist: bool,
    /// What to do, in this order. None waits for the one before it to end.
    pub effects: Vec<Effect>,
}

/// A call to the coordinator, so that its answer finds back. Counts from 1 in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the coordinator what to do. Takes the place of a poll still under way, which is dropped.
    /// Ends in `Input::Directive` or `Input::CallFailed`.
    Poll {
        /// To be given back with the answer.
        call: CallId,
        /// How long the coordinator may hold the call.
        hold: Duration,
        /// What is true of the machine.
        report: Box<MachineReport>,
    },
    /// Keep the lease alive. Ends in `Input::Renewed` or `Input::CallFailed`.
    Renew {
        /// To be given back with the answer.
        call: CallId,
        /// Which lease.
        lease: LeaseId,
        /// The highest epoch seen.
        epoch: Epoch,
        /// Where the attempt stands.
        status: AttemptStatus,
        /// How long nothing will be heard of the machine (a reboot); zero otherwise.
        silence: Duration,
    },
    /// Hand in the result of an attempt. Ends in `Input::ReportAcknowledged` or
    /// `Input::CallFailed`. Sent again until acknowledged.
    Report {
        /// To be given back with the answer.
        call: CallId,
        /// The result.
        result: Box<Unreported>,
        /// What is true of the machine now.
        report: Box<MachineReport>,
    },
    /// Begin a piece of work, as a unit named after its step. Ends in `Input::StepDone`.
    Begin(Job),
    /// The unit of this job runs already: wait for it. Ends in `Input::StepDone`.
    Attach(Job),
    /// Keep exactly these systems from garbage collection; drop the agent's other roots. Work that
    /// needs a root of its own (`Stage`, `Snapshot`) has made it before.
    KeepRoots {
        /// In order, without duplicates.
        paths: Vec<StorePath>,
    },
    /// Measure the machine. Ends in `Input::Measured`.
    Measure,
    /// Something a person may want to read in the journal. Nothing depends on it.
    Note(Note),
}

/// A piece of work that takes time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Names the unit. Never used twice on one machine.
    pub step: StepId,
    /// The unit's time limit. The agent gives up by itself a little later, with
    /// [`crate::input::Failure::TimedOut`].
    pub within: Duration,
    /// Whether its units may still be started.
    pub may_begin: MayBegin,
    /// What to do.
    pub work: Work,
}

/// Whether the units of a job may still be started when the shell comes to it. One that is there
/// already is waited for in any case.
///
/// Asked immediately before each unit is started, because between a decision and the deed the
/// process may have been stopped, or another one may have taken its place, while a lease ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayBegin {
    /// At any time: nothing is disturbed by it, or it ends a disturbance.
    Always,
    /// Before this moment: later the lease may not hold any more.
    Before(Moment),
    /// No: it was started once, and never is again.
    Never,
}

impl MayBegin {
    /// Whether a unit may be started now.
    ///
    /// # Errors
    /// What the job has come to when it may not.
    pub fn now(self, now: Moment) -> Result<(), Failure> {
        match self {
            Self::Always => Ok(()),
            Self::Before(end) if now < end => Ok(()),
            Self::Before(_) => Err(Failure::TooLate),
            Self::Never => Err(Failure::Lost),
        }
    }
}

/// What a job does. All of it can be begun again after a crash without harm, the machine's own scripts
/// excepted: those the agent never begins twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Obtain the target, check it, root it, decide whether it takes a reboot, and see whether the
    /// machine is ready for it. Stops the unit of an earlier `Stage` first. Answer:
    /// [`crate::input::Done::Staged`].
    Stage {
        /// What.
        target: Target,
        /// What for: going back waits for no condition.
        action: Action,
        /// For which rollout; `None` when prepared ahead of any.
        rollout: Option<RolloutId>,
    },
    /// Measure the machine, note which units have failed and how it is, and root the running
    /// system and the boot default; fails where that is not possible, and where the machine is not
    /// ready ([`crate::input::Failure::NotReady`]). Answer: [`crate::input::Done::Snapshot`].
    Snapshot {
        /// The closure the attempt goes to: must be complete in the store.
        target: StorePath,
        /// What for: going back waits for no condition.
        action: Action,
        /// Where the attempt may reboot the machine: how long to wait, if it does, for people who
        /// are logged in and programs that ask for time.
        reboot_wait: Option<Duration>,
    },
    /// Start the timer that rolls back by itself unless it is disarmed. Takes the place of an
    /// earlier timer of the same lease. Answer: [`crate::input::Done::Armed`].
    ArmDeadMan {
        /// Part of the timer's name.
        lease: LeaseId,
        /// Where it goes back to.
        previous: Previous,
        /// When, from now.
        after: Duration,
    },
    /// Stop that timer; no error when there is none. Answer: [`crate::input::Done::Disarmed`].
    DisarmDeadMan {
        /// Whose.
        lease: LeaseId,
    },
    /// Run one of the machine's own hook scripts. Answer: [`crate::input::Done::Hook`].
    RunHook {
        /// Which.
        hook: Hook,
        /// What the script is told, as environment variables.
        context: HookContext,
    },
    /// Set the system profile to the path, then run its `switch-to-configuration`. Answer:
    /// [`crate::input::Done::Activated`].
    Activate {
        /// The system closure.
        path: StorePath,
        /// `switch` or `boot`.
        mode: Mode,
        /// What may be replaced: only while the machine runs this or the path, and boots this or
        /// the path next; else somebody else has been at work, and the answer is
        /// [`crate::input::Failure::Elsewhere`]. `None`: anything.
        over: Option<Previous>,
    },
    /// Reboot, in order. Answer: [`crate::input::Done::RebootAsked`] once the reboot is under way.
    Reboot {
        /// On whose account.
        lease: LeaseId,
        /// What.
        kind: RebootKind,
        /// On the way to a target: what is tried, and what boots after that unless the attempt ends
        /// well, where the boot loader can do that.
        trial: Option<Trial>,
    },
    /// Decide how the machine is, compared with how it was. Answer:
    /// [`crate::input::Done::Judged`].
    Judge {
        /// How it was before.
        baseline: Baseline,
        /// How long health checks may take to come good, the settle time included.
        timeout: Duration,
        /// Whether the machine has gone back: then it counts as cut off from the network when it is so
        /// now, even if the coordinator was heard since the switch.
        back: bool,
    },
    /// Go back: profile and boot default to `previous.boot_default`, and with [`Mode::Switch`]
    /// activate `previous.running`. Waits first for the lease's dead-man program, where that is at
    /// work, for at most half of the time; then stops the attempt's own units that are still at
    /// work. Nothing to do when all is so already. Answer: [`crate::input::Done::Restored`].
    Restore {
        /// Whose attempt.
        lease: LeaseId,
        /// Where to.
        previous: Previous,
        /// `Boot` when the machine is going to be rebooted into it, or never left it.
        mode: Mode,
        /// What may be replaced besides: only while the machine runs this or what it ran before;
        /// else the answer is [`crate::input::Failure::Elsewhere`]. `None`: anything.
        over: Option<StorePath>,
    },
    /// Run the health checks. Answer: [`crate::input::Done::Checked`].
    CheckHealth {
        /// The coordinator's request; 0 for the periodic check.
        request: u64,
        /// How long the checks may take.
        timeout: Duration,
    },
    /// Remove what [`crate::cleanup::removable`] lets go, measured at that moment, then collect the
    /// store's garbage. Answer: [`crate::input::Done::CleanedUp`].
    CleanUp {
        /// What is to be kept, as asked for.
        cleanup: CleanUp,
        /// What is to be kept whatever was asked for, beside what is found on the machine.
        needed: Vec<StorePath>,
        /// How the machine was when it began, where it was begun before.
        begun: Option<Before>,
    },
    /// Run the machine's own traffic script. Stops the unit of an earlier one that was given up on
    /// first. Answer: [`crate::input::Done::TrafficMoved`].
    MoveTraffic {
        /// What the script is told, and how long it may take.
        call: TrafficCall,
    },
}

/// How a machine was before a cleanup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Numbers of its generations.
    pub generations: Vec<u64>,
    /// Free bytes in the store's file system.
    pub store_free_bytes: u64,
}

/// A boot that may fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The system to boot once.
    pub target: StorePath,
    /// The system to boot after that.
    pub back: StorePath,
}

/// What a hook script is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookContext {
    /// The rollout.
    pub rollout: RolloutId,
    /// The lease.
    pub lease: LeaseId,
    /// Where the machine goes, or was to go.
    pub target: StorePath,
    /// Where it comes from.
    pub previous: StorePath,
    /// Whether the way there includes a reboot.
    pub reboot: bool,
    /// Why it goes back (rollback hook only); empty otherwise.
    pub reason: String,
}
