//! What comes of a request: every answer, and what machines are told.

use std::time::Duration;

use common::{
    Action, CleanUp, Epoch, GroupName, LeaseId, MachineName, RolloutId, SideName, StopMode, Target,
    Timestamp, TrafficCall,
};
use serde::{Deserialize, Serialize};

use crate::{
    analysis::Measurement,
    change::Change,
    config::Fault,
    history::Entry,
    identity::{Holder, Who},
    outlook::Outlook,
    plan::Plan,
    wait::WaitReason,
};

/// What comes of a request. Nothing of it may leave the process before the changes are durable.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "changes must be made durable before the reply leaves"]
pub struct Decision {
    /// Facts, already applied in memory.
    pub changes: Vec<Change>,
    /// The answer.
    pub reply: Reply,
    /// Machines whose waiting poll is to be decided again, in the order of their turn.
    pub wake: Vec<MachineName>,
    /// Whether every connected agent is to be told at once (a stop or its end).
    pub broadcast: bool,
    /// What the history keeps of it.
    pub history: Vec<Entry>,
    /// What the audit log keeps of it.
    pub audit: Option<AuditEntry>,
    /// What is to be measured: the answers are requests of their own.
    pub measure: Vec<Measurement>,
}

/// Who asked for what, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Who.
    pub who: Who,
    /// What was asked, one word.
    pub action: String,
    /// Of what.
    pub object: String,
    /// Why.
    pub reason: String,
    /// `done`, or why not.
    pub result: String,
}

/// Answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Done; where there is something to say, a sentence.
    Done(String),
    /// To a poll.
    Directive(Directive),
    /// To a renewal.
    Renewal(Renewal),
    /// To a result.
    Acknowledged,
    /// To `Plan`, and what it comes to.
    Plan(Box<Plan>, Box<Outlook>),
    /// To `Execute`: the rollout, unless there was nothing to do.
    Executed {
        /// Its id.
        rollout: Option<RolloutId>,
        /// What was planned.
        plan: Box<Plan>,
    },
    /// To `PinTargets`.
    Pinned(Vec<MachineName>),
    /// To `EmergencyStop`.
    Stopped(Epoch),
    /// To `RequestHealthCheck`.
    HealthCheck {
        /// Number of the request.
        request: u64,
        /// Machines asked.
        machines: Vec<MachineName>,
    },
    /// To `SetConfig`, and to `CheckConfig` what that would be.
    Config {
        /// The revision now in force.
        revision: u64,
        /// Rollouts whose groups have other rules in it, and that go on under those of before.
        as_before: Vec<AsBefore>,
        /// What is valid and perhaps not what was meant.
        warnings: Vec<Fault>,
    },
    /// To `CreateToken`: its id.
    Token(String),
    /// To `Enrol`, `RenewCertificate` and `Bootstrap`: whom to name in the certificate.
    Certify(Holder),
    /// To `AskToReturn`: nobody has approved yet.
    ReturnPending,
    /// To `AskToReturn`: whom to name in the certificate.
    Returns {
        /// Whom.
        holder: Holder,
        /// Its serial number: the new one, or that of the one which was issued before in answer to
        /// the same and may not have arrived.
        serial: String,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// To `MoveTraffic`.
    Moves {
        /// The side that the traffic moves to.
        to: SideName,
        /// The same as a sentence, and what is paused for it.
        text: String,
    },
    /// To `Notify`: the channels it goes to.
    Notify(Vec<String>),
    /// No.
    Refused(Refusal),
}

impl Reply {
    /// Why it is refused, if it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Done(_)
            | Self::Directive(_)
            | Self::Renewal(_)
            | Self::Acknowledged
            | Self::Plan(..)
            | Self::Executed { .. }
            | Self::Pinned(_)
            | Self::Stopped(_)
            | Self::HealthCheck { .. }
            | Self::Config { .. }
            | Self::Moves { .. }
            | Self::Token(_)
            | Self::Certify(_)
            | Self::ReturnPending
            | Self::Returns { .. }
            | Self::Notify(_) => None,
        }
    }
}

/// What a machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Nothing to do now.
    Wait(WaitReason),
    /// Obtain this; no lease needed.
    Stage {
        /// For which rollout; none when prepared ahead.
        rollout: Option<RolloutId>,
        /// What.
        target: Target,
        /// What for.
        action: Action,
        /// Even if it failed there before.
        force: bool,
        /// Number of the wish, which is new with every `prepare`; 0 within a rollout.
        wish: u64,
    },
    /// It is the machine's turn.
    Proceed(Grant),
    /// Run the health checks.
    Check {
        /// Number of the request.
        request: u64,
        /// How long they may take.
        timeout: Duration,
    },
    /// Take or leave its traffic, by its own script.
    MoveTraffic(TrafficCall),
    /// Remove old generations and collect garbage.
    CleanUp {
        /// Number of the request.
        request: u64,
        /// What is to be kept.
        cleanup: CleanUp,
    },
    /// An emergency stop holds.
    StandDown(StandDown),
}

/// The right to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The rollout.
    pub rollout: RolloutId,
    /// The lease.
    pub lease: LeaseId,
    /// The epoch it is issued under.
    pub epoch: Epoch,
    /// How long it lasts without renewal, from when the agent asked.
    pub valid_for: Duration,
    /// What to do.
    pub action: Action,
    /// What to run.
    pub target: Target,
    /// Whether the machine may reboot by itself.
    pub allow_reboot: bool,
    /// Whether a soft-reboot will do, where that brings the target.
    pub allow_soft_reboot: bool,
    /// Whether it goes back by itself when it is not healthy.
    pub rollback_on_failure: bool,
    /// How long it may take to become healthy.
    pub health_timeout: Duration,
    /// Whether the target is to be tried even if it failed there before.
    pub force: bool,
}

/// What a stop asks of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandDown {
    /// What to do past the point of no return.
    pub mode: StopMode,
    /// Why.
    pub reason: String,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease goes on.
    Valid(Duration),
    /// Stop.
    StandDown(StandDown),
    /// This lease is not live: finish or undo, and report.
    NotHeld(String),
}

/// A rollout that goes on under the rules that groups of it had when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsBefore {
    /// The rollout.
    pub rollout: RolloutId,
    /// Its groups that have other rules now, in its order.
    pub groups: Vec<GroupName>,
    /// Whether somebody has to let it go on first.
    pub paused: bool,
}

/// Why a request is refused. Each kind has an exit status in `lab`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such machine, group, rollout, token or certificate.
    #[error("no {what} {name:?}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The fleet is not in a state in which that can be done.
    #[error("{0}")]
    NotNow(String),
    /// It changed meanwhile.
    #[error("{0}")]
    Changed(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Policy, token or stop forbids it.
    #[error("{0}")]
    Forbidden(String),
    /// The configuration has faults.
    #[error("the configuration has {} faults", .0.len())]
    Faults(Vec<Fault>),
}
