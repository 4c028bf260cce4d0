//! Everything that can be asked, and every answer (`reply`): closed enums.
//!
//! Identity never comes out of a message: `machine` and `actor` are what the TLS connection proved.

mod reply;

use std::time::Duration;

use crate::{
    analysis::Finding,
    config::FleetConfig,
    identity::{Actor, Holder},
    traffic::Answered,
    wait::WaitReason,
};
use common::{
    Action, Epoch, GroupName, LeaseId, MachineName, MachineReport, Outcome, RolloutId,
    ScheduleName, SideName, StopMode, Target, Timestamp,
};

pub use reply::{
    AsBefore, AuditEntry, Decision, Directive, Grant, Refusal, Renewal, Reply, StandDown,
};

/// A question to the fleet.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The clock alone: does what has become due. Has no fields; there is one way to do a thing.
    Tick,
    /// Something from an agent, for itself.
    Agent {
        /// Who, from its certificate.
        machine: MachineName,
        /// What.
        request: AgentRequest,
    },
    /// Something from an operator.
    Operator {
        /// Who, from the certificate and the registry.
        actor: Actor,
        /// What.
        request: OperatorRequest,
    },
    /// A token is traded for a certificate. The driver has checked the certificate request and
    /// signs only after this is durable.
    Enrol {
        /// SHA-256 of the token's secret, hexadecimal.
        secret_hash: String,
        /// The address it comes from, for the audit log.
        from: String,
        /// Serial number the certificate will have.
        serial: String,
        /// When the certificate will end.
        expires_at: Timestamp,
    },
    /// The holder of a good certificate gets a fresh one.
    RenewCertificate {
        /// Serial number of the present one.
        serial: String,
        /// Serial number the new one will have.
        new_serial: String,
        /// When the new one will end.
        expires_at: Timestamp,
    },
    /// A machine whose certificate has ended asks for another one. The driver has checked both that
    /// certificate and the certificate request, and signs only after this is durable.
    AskToReturn(AskToReturn),
    /// What the source of a run of a schedule came to; see [`crate::Fleet::unresolved`].
    ScheduleResolved {
        /// Of which schedule.
        schedule: ScheduleName,
        /// Number of the run.
        run: u64,
        /// Machine and target, or why there are none.
        targets: Result<Vec<(MachineName, Target)>, String>,
    },
    /// The coordinator's own first administrator, made at first start.
    Bootstrap {
        /// Whom.
        holder: Holder,
        /// Serial number of the certificate.
        serial: String,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// A measurement that a decision asked for was made.
    Measured {
        /// Its number.
        id: u64,
        /// What was found.
        finding: Finding,
        /// What was seen, in a few words.
        detail: String,
    },
    /// Traffic that was to be moved has been, or has not.
    TrafficMoved(Answered),
}

/// A machine asks to return: with a certificate of this fleet's CA, and a request for another one
/// that the key of that certificate has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskToReturn {
    /// Whose certificate it is, as it says itself.
    pub machine: MachineName,
    /// Its serial number.
    pub serial: String,
    /// SHA-256 of its public key, hexadecimal.
    pub key: String,
    /// The address it comes from.
    pub from: String,
    /// Serial number the new certificate will have.
    pub new_serial: String,
    /// When the new one will end.
    pub expires_at: Timestamp,
}

/// What agents ask.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentRequest {
    /// Is there something to do?
    Poll {
        /// What is true of the machine.
        report: Box<MachineReport>,
    },
    /// I am still at it.
    Renew {
        /// The lease held.
        lease: LeaseId,
        /// The highest epoch the agent has seen.
        epoch: Epoch,
        /// Where the attempt stands.
        attempt: Option<common::AttemptStatus>,
        /// How long the agent will be silent (a reboot); zero otherwise.
        silence: Duration,
    },
    /// An attempt ended.
    Result {
        /// The rollout it belonged to.
        rollout: RolloutId,
        /// Its lease; 0 when the machine refused before it had one.
        lease: LeaseId,
        /// How it ended.
        outcome: Outcome,
        /// How long it took, as the agent measured.
        took: Duration,
        /// What is true of the machine now.
        report: Box<MachineReport>,
    },
}

/// Which machines: all when both lists are empty, otherwise those of the groups and those named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Whole groups.
    pub groups: Vec<GroupName>,
    /// Single machines.
    pub machines: Vec<MachineName>,
}

/// Where a rollback takes machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Back {
    /// To what each of them ran before.
    #[default]
    Previous,
    /// To this generation of each.
    Generation(u64),
    /// To what each ran before this rollout, if it runs what that brought: the rollout as a whole.
    Before(RolloutId),
}

/// What a rollout is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// With which machines.
    pub selection: Selection,
    /// Update, rollback or reboot.
    pub action: Action,
    /// At most this many away at once in each group.
    pub parallel: Option<u32>,
    /// For a rollback: where to.
    pub back: Back,
    /// Past windows, soak and stagger: an emergency update, or a rollback that cannot wait.
    pub immediate: bool,
    /// Also to targets that failed on a machine before; otherwise a machine that says so is left out, and one that
    /// has not said it yet refuses.
    pub retry_failed: bool,
    /// Why.
    pub reason: String,
}

impl Wish {
    /// Whether somebody chose what the machines come to: see [`Rollout::is_to_a_choice`].
    ///
    /// [`Rollout::is_to_a_choice`]: crate::rollout::Rollout::is_to_a_choice
    pub fn is_to_a_choice(&self) -> bool {
        match self.action {
            Action::Update => true,
            Action::Rollback => self.generation().is_some(),
            Action::Reboot => false,
        }
    }

    /// Why it leads a machine nowhere of which nothing else is known.
    pub(crate) fn leads_nowhere(&self) -> WaitReason {
        match (self.action, self.generation()) {
            (Action::Rollback, Some(number)) => WaitReason::NoSuchGeneration { number },
            (Action::Rollback, None) => WaitReason::NothingBefore,
            (Action::Update | Action::Reboot, _) => WaitReason::NoTarget,
        }
    }

    /// The generation that a rollback leads to by its number.
    pub fn generation(&self) -> Option<u64> {
        match self.back {
            Back::Generation(number) if self.action == Action::Rollback => Some(number),
            Back::Generation(_) | Back::Previous | Back::Before(_) => None,
        }
    }
}

/// What is to go on after a wave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    /// Which rollout; the only one that waits when not given.
    pub rollout: Option<RolloutId>,
    /// Which group; every one that waits when not given.
    pub group: Option<GroupName>,
    /// To the end, without asking or soaking again.
    pub full: bool,
}

/// What operators ask.
#[derive(Clone, Debug, PartialEq)]
pub enum OperatorRequest {
    /// What would `Execute` do? Changes nothing.
    Plan(Wish),
    /// Create a rollout.
    Execute {
        /// What it is to do.
        wish: Wish,
        /// Refuse unless the plan still comes out with this digest.
        if_plan: Option<String>,
    },
    /// Name what machines are to run.
    PinTargets {
        /// Machine and target.
        targets: Vec<(MachineName, Target)>,
        /// Why.
        reason: String,
    },
    /// Say yes, or no, to a group of a rollout.
    Approve {
        /// Which rollout; the only one that waits when not given.
        rollout: Option<RolloutId>,
        /// Which group; every one that waits when not given.
        group: Option<GroupName>,
        /// No instead of yes.
        reject: bool,
        /// Why.
        comment: String,
    },
    /// Let groups go on that soak, or that somebody is asked about, after a wave.
    Promote {
        /// Which.
        promotion: Promotion,
        /// Why.
        reason: String,
    },
    /// Grant nothing more in a rollout until it is resumed.
    Pause {
        /// Which; the only active one when not given.
        rollout: Option<RolloutId>,
        /// Why.
        reason: String,
    },
    /// Go on with a paused rollout, accepting its failures so far.
    ResumeRollout {
        /// Which; the only paused one when not given.
        rollout: Option<RolloutId>,
        /// Why.
        reason: String,
    },
    /// Go on with a rollout that a gate has paused, and measure the gates of that wave anew.
    MeasureAgain {
        /// Which; the only paused one when not given.
        rollout: Option<RolloutId>,
        /// Why.
        reason: String,
    },
    /// End a rollout. Holders finish; nobody else begins.
    Abort {
        /// Which; the only unfinished one when not given.
        rollout: Option<RolloutId>,
        /// Why.
        reason: String,
    },
    /// Stop everything, or some groups. Never refused for anything but the right to.
    EmergencyStop {
        /// Which groups; empty: the whole fleet.
        groups: Vec<GroupName>,
        /// What machines past the point of no return do.
        mode: StopMode,
        /// Why.
        reason: String,
    },
    /// Lift the emergency stop.
    Resume {
        /// Why; not empty.
        reason: String,
    },
    /// Ask machines for their health, now.
    RequestHealthCheck {
        /// Which machines.
        selection: Selection,
        /// How long each may take.
        timeout: Option<Duration>,
    },
    /// Free what a machine holds and forget its failure.
    ForgetMachine {
        /// Which.
        machine: MachineName,
        /// Why.
        reason: String,
    },
    /// Let machines take part in no rollout until they are released.
    Quarantine {
        /// Which.
        machines: Vec<MachineName>,
        /// Why; not empty.
        reason: String,
    },
    /// Let machines take part in rollouts again.
    Release {
        /// Which.
        machines: Vec<MachineName>,
        /// Why.
        reason: String,
    },
    /// Let nobody be updated to a target until it is released.
    QuarantineTarget {
        /// A closure, a flake reference, or a channel.
        target: String,
        /// Why; not empty.
        reason: String,
    },
    /// Let machines be updated to a target again.
    ReleaseTarget {
        /// Which.
        target: String,
        /// Why.
        reason: String,
    },
    /// Say what would come of this configuration. Changes nothing.
    CheckConfig(Box<FleetConfig>),
    /// Replace the fleet configuration.
    SetConfig {
        /// The validated configuration.
        config: Box<FleetConfig>,
        /// Refuse unless this revision is in force.
        if_revision: Option<u64>,
        /// Why.
        reason: String,
    },
    /// Make an enrolment token.
    CreateToken {
        /// SHA-256 of its secret, hexadecimal.
        secret_hash: String,
        /// Whom it makes.
        holder: Holder,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// Take a token back.
    RevokeToken {
        /// Which.
        id: String,
        /// Why.
        reason: String,
    },
    /// Take certificates back.
    RevokeIdentity {
        /// One certificate, by serial number, or all of a name.
        which: Which,
        /// Why.
        reason: String,
    },
    /// Let a machine return that asks to.
    ApproveReturn {
        /// Which.
        machine: MachineName,
        /// Only if it asks with this key: SHA-256, hexadecimal.
        key: Option<String>,
        /// Why.
        reason: String,
    },
    /// Run a schedule now.
    RunSchedule {
        /// Which.
        schedule: ScheduleName,
        /// Why.
        reason: String,
    },
    /// Leave out the next run of a schedule.
    SkipSchedule {
        /// Which.
        schedule: ScheduleName,
        /// Why.
        reason: String,
    },
    /// Move the traffic of a group with two sides. A rollout that is at work on it pauses.
    MoveTraffic {
        /// Of which group.
        group: GroupName,
        /// To which side; back to the one before when not given.
        to: Option<SideName>,
        /// Why.
        reason: String,
    },
    /// Tell people something.
    Notify {
        /// debug, info, warning, error.
        level: String,
        /// What.
        message: String,
        /// Where to; every channel when empty.
        channel: String,
    },
}

/// Certificates to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with this serial number.
    Serial(String),
    /// Every one of this name.
    Name(String),
}
