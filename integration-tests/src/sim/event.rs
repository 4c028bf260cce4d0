//! What can happen in the simulated world: concrete events, which are recorded and can be replayed
//! without any chance. And what follows from one: consequences, which chance turns into events.

use std::time::Duration;

use agent_core::{CallId, StepId};
use common::{Action, LeaseId, StopMode, StorePath};
use coordinator_core::analysis::Finding;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A machine, by its place in the fleet.
pub(crate) type MachineIndex = usize;

/// Milliseconds since the beginning of the simulated time.
pub(crate) type At = u64;

/// One thing that happens, complete: applying it takes no chance and no clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// A message arrives.
    Arrive {
        message: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<AgentCut>,
    },
    /// The coordinator takes up everything that waits: one batch, durable, then the replies.
    Batch {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<BatchCut>,
    },
    /// A held poll has been held long enough.
    HoldEnds { message: u64 },
    /// The coordinator's process dies.
    CoordinatorDies,
    /// The coordinator's process starts.
    CoordinatorStarts,
    /// Somebody copies the coordinator's store.
    Backup,
    /// The coordinator's disk is lost, and its store comes from the last backup.
    Restore,
    /// Whether the coordinator's disk has room.
    CoordinatorDisk { full: bool },
    /// The coordinator's wall clock jumps.
    CoordinatorClock { by_ms: i64 },
    /// A call comes to nothing, and the agent is told so.
    CallFails {
        machine: MachineIndex,
        life: u32,
        call: u64,
    },
    /// The agent's time has come.
    AgentTick {
        machine: MachineIndex,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<AgentCut>,
    },
    /// The agent's process dies; its units do not.
    AgentDies { machine: MachineIndex },
    /// The agent's process starts.
    AgentStarts {
        machine: MachineIndex,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<AgentCut>,
    },
    /// The agent's process stands still: it is stopped, or starved.
    AgentFreezes { machine: MachineIndex },
    /// It goes on, with all that it has missed.
    AgentThaws { machine: MachineIndex },
    /// Whether the machine's disk has room for the agent's state.
    MachineDisk { machine: MachineIndex, full: bool },
    /// A unit ends.
    UnitEnds {
        machine: MachineIndex,
        step: StepId,
        how: UnitEnd,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut: Option<AgentCut>,
    },
    /// A measurement that the agent asked for.
    Measured { machine: MachineIndex },
    /// The dead-man timer goes off, if it is armed still.
    DeadMan {
        machine: MachineIndex,
        boot: u32,
        lease: LeaseId,
    },
    /// The machine is off at once: a power cut, or the end of an orderly shutdown.
    PowerOff {
        machine: MachineIndex,
        ordered: bool,
    },
    /// The machine comes up.
    Boot {
        machine: MachineIndex,
        into: BootInto,
    },
    /// A service of the machine fails by itself, or is repaired.
    Ill { machine: MachineIndex, ill: bool },
    /// Which directions of the machine's link work.
    Link {
        machine: MachineIndex,
        to_coordinator: bool,
        from_coordinator: bool,
    },
    /// A compromised machine speaks of a lease that may not be its own.
    Forge {
        machine: MachineIndex,
        lease: LeaseId,
    },
    /// A system behaves like this on this machine.
    Nature {
        machine: MachineIndex,
        system: StorePath,
        nature: Nature,
    },
    /// The source of a schedule's run comes to this system for all its machines, or to nothing.
    ScheduleResolved {
        schedule: String,
        run: u64,
        /// The coordinator's process that asked for it.
        life: u32,
        system: Option<StorePath>,
    },
    /// An operator asks for something.
    Operator { command: Box<Command> },
    /// A measurement that this life of the coordinator asked for was made.
    Measurement {
        life: u32,
        id: u64,
        finding: Finding,
    },
    /// What is measured for this gate from now on.
    Gate { gate: String, finding: Finding },
    /// Whoever moves the traffic of a group for this life of the coordinator takes a step.
    Traffic {
        group: String,
        number: u64,
        attempt: u32,
        life: u32,
        step: Balance,
    },
    /// Whether the balancer of a group answers.
    Balancer { group: String, works: bool },
    /// The balancer of a group starts anew, and knows nothing of what it was told.
    BalancerStarts { group: String },
}

/// What whoever moves traffic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Balance {
    /// The new side gets traffic as well.
    Opens,
    /// The move fails.
    Fails,
    /// The move ends as the machines make it; whether anybody hears of it.
    Ends { answers: bool },
}

/// Where an agent's step is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentCut {
    /// Before the state is saved (`None`), or after it and this many effects.
    pub(crate) after_effects: Option<usize>,
    /// The machine loses its power, not only the agent its process.
    pub(crate) power: bool,
}

/// Where the coordinator's step is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BatchCut {
    /// Decided, nothing written.
    BeforeAppend,
    /// Written, not synced; what is not synced survives or not.
    BeforeSync { survives: bool },
    /// Durable, and this many replies have left.
    AfterReplies(usize),
}

/// How a unit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UnitEnd {
    /// As the machine and its system make it.
    ByNature,
    /// It cannot be done this time.
    Fails,
    /// Its time limit ends it.
    TimesOut,
}

/// What comes up at a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BootInto {
    /// The boot default.
    Default,
    /// The boot loader falls back to the generation before.
    Fallback,
    /// Something else altogether.
    Third,
}

/// How a system behaves on a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nature {
    /// Going there takes a reboot.
    pub(crate) needs_reboot: bool,
    /// One of user space is enough for that.
    #[serde(default)]
    pub(crate) user_space: bool,
    /// What is wrong with it.
    pub(crate) flaw: Option<Flaw>,
}

impl Nature {
    /// Why it takes a reboot, if it does.
    pub(crate) fn reason(self) -> &'static str {
        if self.user_space {
            "inhibitor:dbus-implementation"
        } else {
            "kernel"
        }
    }
}

/// What can be wrong with a system on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flaw {
    /// Its health checks fail.
    Unhealthy,
    /// The switch fails and leaves the old system running.
    SwitchFails,
    /// The switch goes through with complaints (exit status 4).
    SwitchDegraded,
    /// The switch hangs.
    SwitchHangs,
    /// The switch says that it takes a reboot (exit status 100).
    SwitchWantsReboot,
    /// Somebody else is switching (exit status 11).
    SwitchBusy,
    /// The boot loader falls back.
    BootFallsBack,
    /// The boot brings up a third system.
    BootsThird,
    /// It does not come up until somebody goes there.
    BootSilent,
    /// It cannot be obtained.
    StageFails,
    /// The pre-update hook says no.
    PreHookFails,
    /// The post-update hook fails.
    PostHookFails,
    /// The post-update hook hangs.
    PostHookHangs,
    /// The coordinator cannot be reached from it.
    CutsNetwork,
}

/// What operators do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Command {
    Configure {
        document: Value,
    },
    Prepare {
        targets: Vec<(MachineIndex, StorePath)>,
    },
    Execute {
        groups: Vec<String>,
        machines: Vec<MachineIndex>,
        action: Action,
        parallel: Option<u32>,
        immediate: bool,
        #[serde(default)]
        retry_failed: bool,
        /// Of a rollback.
        #[serde(default)]
        to_generation: Option<u64>,
        /// Of a rollback, the number of the rollout that is taken back.
        #[serde(default)]
        before: Option<u64>,
        /// Only if what would be done is still this plan.
        #[serde(default)]
        if_plan: Option<String>,
        /// Of that plan, in order: who was to go to what.
        #[serde(default)]
        shown: Vec<(MachineIndex, String)>,
    },
    Approve {
        rollout: Option<u64>,
        /// Only this one.
        #[serde(default)]
        group: Option<common::GroupName>,
        reject: bool,
        /// Who answers; everything else is done by one operator.
        by: String,
    },
    Promote {
        rollout: Option<u64>,
        full: bool,
    },
    Pause {
        rollout: Option<u64>,
    },
    ResumeRollout {
        rollout: Option<u64>,
    },
    MeasureAgain {
        rollout: Option<u64>,
    },
    Abort {
        rollout: Option<u64>,
    },
    Stop {
        groups: Vec<String>,
        mode: StopMode,
    },
    Lift,
    CheckHealth {
        groups: Vec<String>,
    },
    Forget {
        machine: MachineIndex,
    },
    Quarantine {
        machines: Vec<MachineIndex>,
    },
    Release {
        machines: Vec<MachineIndex>,
    },
    QuarantineTarget {
        target: String,
    },
    ReleaseTarget {
        target: String,
    },
    RunSchedule {
        schedule: String,
    },
    SkipSchedule {
        schedule: String,
    },
    MoveTraffic {
        group: String,
        to: Option<String>,
    },
}

/// What follows from an event and needs chance to go on.
#[derive(Clone, Debug)]
pub(crate) enum Consequence {
    /// A message is on its way.
    Sent { message: u64, to_coordinator: bool },
    /// Something waits for the coordinator.
    Waiting,
    /// A poll is held.
    Held { message: u64, until: At },
    /// A call found nobody, or its connection broke.
    Broken {
        machine: MachineIndex,
        life: u32,
        call: CallId,
    },
    /// A unit runs.
    UnitRuns {
        machine: MachineIndex,
        step: StepId,
        within: Duration,
        kind: UnitKind,
        flaw: Option<Flaw>,
    },
    /// A measurement is wanted.
    Measure { machine: MachineIndex },
    /// A dead-man timer is armed.
    Armed {
        machine: MachineIndex,
        boot: u32,
        lease: LeaseId,
        at: At,
    },
    /// A reboot was asked for.
    GoingDown { machine: MachineIndex },
    /// A machine is off, and would boot this.
    Off {
        machine: MachineIndex,
        flaw: Option<Flaw>,
    },
    /// A machine is up, without its agent yet.
    Up { machine: MachineIndex },
    /// An agent's process is gone.
    AgentGone { machine: MachineIndex },
    /// The coordinator's process is gone.
    CoordinatorGone,
    /// This life of the coordinator wants something measured.
    MeasurementWanted { life: u32, id: u64, gate: String },
}

/// Kinds of units, as far as they differ in how long they take and how they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitKind {
    Stage,
    Short,
    Hook(agent_core::Hook),
    Activate,
    Restore,
    Reboot,
    Judge,
    CleanUp,
    Traffic,
}
