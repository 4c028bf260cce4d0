//! What the history keeps: one entry per event that a person would ask about later.

use common::{MachineName, OutcomeKind, RolloutId, StorePath, Timestamp, time::span};
use serde::{Deserialize, Serialize};

use crate::{rollout::Rollout, window::clock};

/// One line of `lab update-history`. Stored as JSON: fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// `rollout-created`, `attempt`, `stop`, … one word.
    pub kind: String,
    /// The rollout, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// The machine, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// The group, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<common::GroupName>,
    /// Who, where it was somebody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// A sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// How an attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<OutcomeKind>,
    /// How long an attempt took, in seconds.
    #[serde(default)]
    pub took_s: u64,
    /// What the machine ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StorePath>,
    /// What the attempt was to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<StorePath>,
    /// The machine's generation afterwards.
    #[serde(default)]
    pub generation: u64,
}

impl crate::Fleet {
    /// What the history keeps of a fact that is about to be applied.
    pub(crate) fn entry_of(&self, change: &crate::Change) -> Option<Entry> {
        use crate::Change;

        let at = self.hearsay().now;
        let entry = |kind: &str| Entry {
            at,
            kind: kind.to_owned(),
            ..Entry::default()
        };
        Some(match change {
            Change::ConfigSet {
                revision,
                by,
                reason,
                ..
            } => Entry {
                by: by.clone(),
                text: match reason.as_str() {
                    "" => format!("revision {revision}"),
                    reason => format!("revision {revision}: {reason}"),
                },
                ..entry("config")
            },
            Change::RolloutCreated { rollout, .. } => Entry {
                rollout: Some(rollout.id.clone()),
                by: rollout.created_by.clone(),
                text: format!("{} machines: {}", rollout.places().count(), rollout.reason),
                ..entry(match rollout.is_emergency() {
                    true => "emergency-update",
                    false => "rollout-created",
                })
            },
            Change::ApprovalAsked { rollout, group, .. } => Entry {
                rollout: Some(rollout.clone()),
                group: Some(group.clone()),
                text: self.approval_text(rollout, group),
                ..entry("approval-asked")
            },
            Change::Approved {
                rollout,
                group,
                by,
                comment,
                ..
            } => Entry {
                rollout: Some(rollout.clone()),
                group: Some(group.clone()),
                by: by.clone(),
                text: comment.clone(),
                ..entry("approved")
            },
            Change::WaveHeld {
                rollout,
                group,
                wave,
                ..
            } => Entry {
                rollout: Some(rollout.clone()),
                group: Some(group.clone()),
                text: format!(
                    "wave {} is done: `lab update promote {rollout} --group={group}`",
                    wave + 1
                ),
                ..entry("promotion-asked")
            },
            Change::Promoted {
                rollout,
                group,
                by,
                reason,
                ..
            } => Entry {
                rollout: Some(rollout.clone()),
                group: Some(group.clone()),
                by: by.clone(),
                text: reason.clone(),
                ..entry("promoted")
            },
            Change::WindowMissed {
                rollout,
                group,
                left,
                opens_at,
                ..
            } => Entry {
                rollout: Some(rollout.clone()),
                group: Some(group.clone()),
                text: self.missed_text(rollout, group, *left, *opens_at),
                ..entry("window-missed")
            },
            Change::GroupFinished { rollout, group, .. } => Entry {
                rollout: Some(rollout.clone()),
                group: Some(group.clone()),
                ..entry("group-finished")
            },
            Change::LeaseOverdue { lease, .. } => self.of_lease(*lease, entry("overdue"))?,
            Change::LeaseLost { lease, .. } => self.of_lease(*lease, entry("lost"))?,
            Change::LeaseEnded {
                lease,
                outcome,
                reason,
                ..
            } => {
                let held = self.facts().leases.get(lease)?;
                let machine = self.facts().machines.get(&held.machine)?;
                let place = self.place_of_lease(held);
                let attempt = Entry {
                    verdict: Some(*outcome),
                    text: reason.clone(),
                    took_s: at.since(held.granted_at).as_secs(),
                    from: held.from.clone(),
                    to: place.and_then(|p| p.closure.clone().or(p.target.closure().cloned())),
                    generation: machine
                        .report
                        .as_ref()
                        .map_or(0, |report| report.generation),
                    ..entry("attempt")
                };
                self.of_lease(*lease, attempt)?
            }
            Change::Recovered { machine } => Entry {
                machine: Some(machine.clone()),
                ..entry("recovered")
            },
            Change::Declined {
                rollout,
                machine,
                reason,
            } => Entry {
                rollout: Some(rollout.clone()),
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                verdict: Some(OutcomeKind::Refused),
                text: reason.clone(),
                ..entry("attempt")
            },
            Change::Skipped {
                rollout,
                machine,
                reason,
            } => Entry {
                rollout: Some(rollout.clone()),
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                text: reason.clone(),
                ..entry("skipped")
            },
            Change::RolloutPaused {
                rollout, reason, ..
            } => Entry {
                rollout: Some(rollout.clone()),
                text: reason.to_string(),
                ..entry("rollout-paused")
            },
            Change::RolloutResumed {
                rollout,
                by,
                reason,
                ..
            } => Entry {
                rollout: Some(rollout.clone()),
                by: by.clone(),
                text: reason.clone(),
                ..entry("rollout-resumed")
            },
            Change::RolloutAborted {
                rollout,
                by,
                reason,
                ..
            } => Entry {
                rollout: Some(rollout.clone()),
                by: by.clone(),
                text: reason.clone(),
                ..entry("rollout-aborted")
            },
            Change::RolloutEnded {
                rollout, succeeded, ..
            } => Entry {
                rollout: Some(rollout.clone()),
                text: self
                    .rollout(rollout)
                    .map(Rollout::came_to)
                    .unwrap_or_default(),
                ..entry(if *succeeded {
                    "rollout-finished"
                } else {
                    "rollout-failed"
                })
            },
            Change::Stopped {
                by, reason, epoch, ..
            } => Entry {
                by: by.clone(),
                text: format!("epoch {epoch}: {reason}"),
                ..entry("stop")
            },
            Change::StopLifted { by, reason } => Entry {
                by: by.clone(),
                text: reason.clone(),
                ..entry("resume")
            },
            Change::Restored { epoch, .. } => Entry {
                text: format!(
                    "whatever was issued since this state was saved is void; epoch {epoch}"
                ),
                ..entry("restored")
            },
            Change::Forgotten {
                machine,
                by,
                reason,
                ..
            } => Entry {
                machine: Some(machine.clone()),
                by: by.clone(),
                text: reason.clone(),
                ..entry("forgotten")
            },
            Change::Quarantined {
                machine,
                by,
                reason,
                ..
            } => Entry {
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                by: by.clone(),
                text: format!("{reason}: `lab machines release {machine}`"),
                ..entry("quarantined")
            },
            Change::Released { machine, by, .. } => Entry {
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                by: by.clone(),
                ..entry("released")
            },
            Change::Retried {
                rollout,
                machine,
                until,
                at,
            } => Entry {
                rollout: Some(rollout.clone()),
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                text: format!("tries again in {}", span(until.since(*at))),
                ..entry("retry")
            },
            Change::TargetQuarantined {
                target, by, reason, ..
            } => Entry {
                by: by.clone(),
                text: format!("{target}: {reason}: `lab targets release {target}`"),
                ..entry("target-quarantined")
            },
            Change::TargetReleased { target, by, .. } => Entry {
                by: by.clone(),
                text: target.clone(),
                ..entry("target-released")
            },
            Change::Alarmed {
                alarm,
                machines,
                at,
            } => Entry {
                machine: match &machines[..] {
                    [(machine, _)] => Some(machine.clone()),
                    _ => None,
                },
                text: crate::alarm::text(*alarm, machines, *at),
                ..entry(alarm.kind())
            },
            Change::ReturnAsked {
                machine, key, from, ..
            } => Entry {
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                text: format!(
                    "its certificate ended while it was away; it asks from {from} with the key \
                     {key}: `lab identity approve {machine}`"
                ),
                ..entry("return-asked")
            },
            Change::ReturnApproved { machine, by, .. } => Entry {
                machine: Some(machine.clone()),
                group: self.group_of(machine).cloned(),
                by: by.clone(),
                ..entry("return-approved")
            },
            Change::Traffic { group, step } => self.entry_of_traffic(group, step, at)?,
            Change::Schedule { schedule, step } => self.entry_of_schedule(schedule, step, at)?,
            // Everyday facts, and those of the audit log.
            Change::Reported { .. }
            | Change::Pinned { .. }
            | Change::WaveOpened { .. }
            | Change::WaveSoaking { .. }
            | Change::NothingToTakeBack { .. }
            | Change::WaveClosed { .. }
            | Change::AnalysisBegan { .. }
            | Change::Measured { .. }
            | Change::LeaseGranted { .. }
            | Change::LeaseRevived { .. }
            | Change::Arrived { .. }
            | Change::TokenCreated { .. }
            | Change::TokenRevoked { .. }
            | Change::CertificateIssued { .. }
            | Change::CertificateRevoked { .. }
            | Change::ReturnAnswered { .. }
            | Change::ReturnWithdrawn { .. }
            | Change::IdentitiesForgotten { .. } => return None,
        })
    }

    fn missed_text(
        &self,
        rollout: &RolloutId,
        group: &common::GroupName,
        left: u32,
        opens_at: Option<Timestamp>,
    ) -> String {
        let group = self
            .rollout(rollout)
            .and_then(|rollout| rollout.group(group));
        let zone = group.map_or("UTC", |group| group.policy.timezone.as_str());
        let left = match left {
            1 => "1 machine is".to_owned(),
            left => format!("{left} machines are"),
        };
        match opens_at {
            Some(at) => format!("{left} still to go; they can at {}", clock(at, zone)),
            None => format!("{left} still to go, and no window within two years is long enough"),
        }
    }

    /// The entry with rollout, machine and group of a lease.
    fn of_lease(&self, lease: common::LeaseId, entry: Entry) -> Option<Entry> {
        let lease = self.facts().leases.get(&lease)?;
        Some(Entry {
            rollout: Some(lease.rollout.clone()),
            machine: Some(lease.machine.clone()),
            group: Some(lease.group.clone()),
            ..entry
        })
    }
}
