//! Every fact that can be recorded: the vocabulary of the journal.
//!
//! This is the one core type that is stored, as JSON. Variants and fields are only ever added;
//! `coordinator/tests/journals/` holds journals that must load for ever.

use common::{
    Epoch, GroupName, LeaseId, MachineName, MachineReport, OutcomeKind, RolloutId, ScheduleName,
    StopMode, StorePath, Target, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    alarm::Alarm,
    analysis::{Finding, Resumption},
    config::FleetConfig,
    identity::{Certificate, Token},
    lease::Lease,
    rollout::{PauseReason, Rollout},
    schedule::ScheduleStep,
    traffic::TrafficStep,
};

/// One fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Change {
    /// Another fleet configuration is in force.
    ConfigSet {
        /// Rises by one.
        revision: u64,
        /// The whole of it.
        config: Box<FleetConfig>,
        /// Who set it.
        by: String,
        /// Why; may be empty. Journals of before this was kept do not say it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// A machine said something new.
    Reported {
        /// Which.
        machine: MachineName,
        /// The facts of its report.
        report: Box<MachineReport>,
        /// When. Journals of before that was of use do not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
    /// Somebody named what machines are to run.
    Pinned {
        /// Machine and target.
        targets: Vec<(MachineName, Target)>,
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A rollout was created.
    RolloutCreated {
        /// The whole of it.
        rollout: Box<Rollout>,
        /// What its machines run now is what a rollback goes back to. Journals of before this was
        /// so do not say it.
        #[serde(default)]
        undoes_to_now: bool,
    },
    /// A group began to wait for approval.
    ApprovalAsked {
        /// In which rollout.
        rollout: RolloutId,
        /// Which group.
        group: GroupName,
        /// When.
        at: Timestamp,
    },
    /// Somebody said yes.
    Approved {
        /// In which rollout.
        rollout: RolloutId,
        /// To which group.
        group: GroupName,
        /// Who.
        by: String,
        /// What they said to it; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        comment: String,
        /// When.
        at: Timestamp,
    },
    /// A wave opened.
    WaveOpened {
        /// In which rollout.
        rollout: RolloutId,
        /// In which group.
        group: GroupName,
        /// Which, from 0.
        wave: usize,
        /// When.
        at: Timestamp,
    },
    /// Everybody in a wave is back; it soaks.
    WaveSoaking {
        /// In which rollout.
        rollout: RolloutId,
        /// In which group.
        group: GroupName,
        /// Which, from 0.
        wave: usize,
        /// Until when.
        until: Timestamp,
    },
    /// A wave closed.
    WaveClosed {
        /// In which rollout.
        rollout: RolloutId,
        /// In which group.
        group: GroupName,
        /// Which, from 0.
        wave: usize,
    },
    /// A wave has closed, and somebody is asked whether the group may go on.
    WaveHeld {
        /// In which rollout.
        rollout: RolloutId,
        /// In which group.
        group: GroupName,
        /// The wave that has closed, from 0.
        wave: usize,
        /// When.
        at: Timestamp,
    },
    /// Somebody said that a group is to go on.
    Promoted {
        /// In which rollout.
        rollout: RolloutId,
        /// Which group.
        group: GroupName,
        /// How many waves nobody is asked about any more, and nothing soaks after.
        waves: usize,
        /// Who.
        by: String,
        /// Why; may be empty. Journals of before this was kept do not say it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// A group is finished.
    GroupFinished {
        /// In which rollout.
        rollout: RolloutId,
        /// Which.
        group: GroupName,
        /// When.
        at: Timestamp,
    },
    /// A machine got its turn.
    LeaseGranted {
        /// The lease.
        lease: Lease,
        /// The closure that its target came to.
        closure: Option<StorePath>,
    },
    /// A lease ran out without a result. Its slot stays taken.
    LeaseOverdue {
        /// Which.
        lease: LeaseId,
        /// When.
        at: Timestamp,
    },
    /// The holder of an overdue lease is heard of again.
    LeaseRevived {
        /// Which.
        lease: LeaseId,
    },
    /// An attempt ended with the machine's own result.
    LeaseEnded {
        /// Which.
        lease: LeaseId,
        /// How.
        outcome: OutcomeKind,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// An overdue lease was given up; the machine counts as failed and keeps its slot.
    LeaseLost {
        /// Which.
        lease: LeaseId,
        /// When.
        at: Timestamp,
    },
    /// A failed machine is healthy again: its slot is free.
    Recovered {
        /// Which.
        machine: MachineName,
    },
    /// A machine was found to run its target without having had a turn.
    Arrived {
        /// In which rollout.
        rollout: RolloutId,
        /// Which.
        machine: MachineName,
    },
    /// A machine refused before it had a lease, or took too long to stage.
    Declined {
        /// In which rollout.
        rollout: RolloutId,
        /// Which.
        machine: MachineName,
        /// Why.
        reason: String,
    },
    /// A machine is left out of a rollout.
    Skipped {
        /// Of which rollout.
        rollout: RolloutId,
        /// Which.
        machine: MachineName,
        /// Why.
        reason: String,
    },
    /// A rollout is paused.
    RolloutPaused {
        /// Which.
        rollout: RolloutId,
        /// Why.
        reason: PauseReason,
        /// Whether what it brought is to be taken back once nobody is at work. Journals of before that was
        /// so do not say it.
        #[serde(default)]
        takes_back: bool,
    },
    /// A rollout goes on; its failures so far are accepted.
    RolloutResumed {
        /// Which.
        rollout: RolloutId,
        /// Who said so.
        by: String,
        /// Why; may be empty. Journals of before this was kept do not say it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        /// What becomes of the gates of a wave, where one of them had paused it.
        #[serde(default, skip_serializing_if = "Resumption::is_unsaid")]
        gates: Resumption,
    },
    /// A rollout was ended by somebody.
    RolloutAborted {
        /// Which.
        rollout: RolloutId,
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Every machine of a rollout has ended its part.
    RolloutEnded {
        /// Which.
        rollout: RolloutId,
        /// Whether any machine ended as it should.
        succeeded: bool,
        /// When.
        at: Timestamp,
    },
    /// An emergency stop.
    Stopped {
        /// The epoch from here on.
        epoch: Epoch,
        /// Which groups; empty: the whole fleet.
        groups: Vec<GroupName>,
        /// What machines past the point of no return do.
        mode: StopMode,
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The emergency stop is lifted.
    StopLifted {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// The store came from a backup: whatever was issued since is void.
    Restored {
        /// The epoch from here on.
        epoch: Epoch,
        /// The first lease number that cannot have been used.
        next_lease: LeaseId,
    },
    /// An operator freed what a machine holds.
    Forgotten {
        /// Which.
        machine: MachineName,
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// A token was made.
    TokenCreated {
        /// Its id.
        id: String,
        /// The token, without its secret.
        token: Token,
    },
    /// A token was taken back.
    TokenRevoked {
        /// Its id.
        id: String,
    },
    /// A certificate was issued.
    CertificateIssued {
        /// Its serial number.
        serial: String,
        /// Whose, and how long.
        certificate: Certificate,
        /// The token it was traded for.
        token: Option<String>,
    },
    /// A certificate was taken back.
    CertificateRevoked {
        /// Its serial number.
        serial: String,
    },
    /// A machine whose certificate has ended asks to return.
    ReturnAsked {
        /// Which.
        machine: MachineName,
        /// Serial number of that certificate.
        serial: String,
        /// SHA-256 of its public key, hexadecimal.
        key: String,
        /// The address it comes from.
        from: String,
        /// When.
        at: Timestamp,
    },
    /// An operator lets it.
    ReturnApproved {
        /// Which.
        machine: MachineName,
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
        /// How long the approval can be used.
        until: Timestamp,
    },
    /// The approval is used: the certificate with this serial number comes of it, as the next fact.
    ReturnAnswered {
        /// Which.
        machine: MachineName,
        /// Serial number of the new certificate.
        serial: String,
    },
    /// What a machine asked, and whatever was said to it, is void.
    ReturnWithdrawn {
        /// Which.
        machine: MachineName,
    },
    /// Tokens and certificates that ended long ago are not kept any longer.
    IdentitiesForgotten {
        /// Ids of the tokens.
        tokens: Vec<String>,
        /// Serial numbers of the certificates.
        certificates: Vec<String>,
    },
    /// Windows of a group shut while machines of it were still to go.
    WindowMissed {
        /// In which rollout.
        rollout: RolloutId,
        /// Which group.
        group: GroupName,
        /// How many there were since the last one that was told of.
        windows: u32,
        /// When the last one shut.
        shut_at: Timestamp,
        /// Machines that are still to go.
        left: u32,
        /// When they can, as things are now.
        opens_at: Option<Timestamp>,
    },
    /// Everybody in a wave is back, and its gates are measured from here on.
    AnalysisBegan {
        /// In which rollout.
        rollout: RolloutId,
        /// In which group.
        group: GroupName,
        /// Which, from 0.
        wave: usize,
        /// When the wave opened.
        opened: Timestamp,
        /// When.
        at: Timestamp,
    },
    /// A gate of a wave was measured.
    Measured {
        /// In which rollout.
        rollout: RolloutId,
        /// In which group.
        group: GroupName,
        /// Which wave, from 0.
        wave: usize,
        /// Which gate of the group's policy, from 0.
        gate: usize,
        /// What was found.
        finding: Finding,
        /// What was seen, in a few words; bounded.
        detail: String,
        /// When.
        at: Timestamp,
    },
    /// A schedule took a step.
    Schedule {
        /// Which.
        schedule: ScheduleName,
        /// What happened to it.
        step: ScheduleStep,
    },
    /// A machine takes part in no rollout until it is released.
    Quarantined {
        /// Which.
        machine: MachineName,
        /// Who put it aside.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// A machine takes part in rollouts again.
    Released {
        /// Which.
        machine: MachineName,
        /// Who said so.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// Nobody is updated to this target until it is released.
    TargetQuarantined {
        /// A closure, a flake reference, or a channel.
        target: String,
        /// Who put it aside.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Machines may be updated to this target again.
    TargetReleased {
        /// Which.
        target: String,
        /// Who said so.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A machine whose attempt failed is to try again.
    Retried {
        /// In which rollout.
        rollout: RolloutId,
        /// Which.
        machine: MachineName,
        /// Not before then.
        until: Timestamp,
        /// When its attempt failed.
        at: Timestamp,
    },
    /// People are told that something has held of machines for too long.
    Alarmed {
        /// What.
        alarm: Alarm,
        /// Of which, and since when.
        machines: Vec<(MachineName, Timestamp)>,
        /// When.
        at: Timestamp,
    },
    /// Of what a paused rollout brought there is nothing left to take back: it stays paused.
    NothingToTakeBack {
        /// Which.
        rollout: RolloutId,
    },
    /// Something happened to the traffic of a group with two sides.
    Traffic {
        /// Which group.
        group: GroupName,
        /// What.
        step: TrafficStep,
    },
}

impl Change {
    /// Whether it is one about tokens, certificates and those who ask for them.
    pub fn is_identity(&self) -> bool {
        matches!(
            self,
            Self::TokenCreated { .. }
                | Self::TokenRevoked { .. }
                | Self::CertificateIssued { .. }
                | Self::CertificateRevoked { .. }
                | Self::ReturnAsked { .. }
                | Self::ReturnApproved { .. }
                | Self::ReturnAnswered { .. }
                | Self::ReturnWithdrawn { .. }
                | Self::IdentitiesForgotten { .. }
        )
    }
}
