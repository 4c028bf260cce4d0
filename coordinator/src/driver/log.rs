//! What the log says of durable facts, with the fields by which somebody looks for it at night:
//! `rollout`, `machine`, `group`, `lease` and `epoch`. In the journal of systemd they are fields as
//! well, so that `journalctl LEASE=12` finds a turn from its beginning to its end; the agent calls
//! its own the same.

use std::collections::BTreeMap;

use common::{
    Epoch, GroupName, LeaseId, MachineName, OutcomeKind, RolloutId, ScheduleName, time::span,
};
use coordinator_core::{Change, Fleet, schedule::ScheduleStep, traffic::TrafficStep};
use tracing::field::display;

/// Tells facts, and remembers whose each lease is: facts about a lease say only its number.
pub(super) struct Log {
    holders: BTreeMap<LeaseId, Holder>,
}

#[derive(Clone)]
struct Holder {
    machine: MachineName,
    rollout: RolloutId,
    group: GroupName,
}

/// One line.
#[derive(Default)]
struct Line<'a> {
    /// Whether somebody may have to do something.
    warns: bool,
    rollout: Option<&'a RolloutId>,
    machine: Option<&'a MachineName>,
    group: Option<&'a GroupName>,
    lease: Option<LeaseId>,
    text: String,
}

impl Log {
    /// With the leases that are held.
    pub(super) fn new(fleet: &Fleet) -> Self {
        let leases = fleet.facts().leases.iter();
        let holders = leases.map(|(id, lease)| (*id, Holder::of(lease)));
        Self {
            holders: holders.collect(),
        }
    }

    /// Tells facts that are durable.
    pub(super) fn tell(&mut self, changes: &[Change], epoch: Epoch) {
        for change in changes {
            if let Change::LeaseGranted { lease, .. } = change {
                self.holders.insert(lease.id, Holder::of(lease));
            }
            if let Some(line) = self.line(change) {
                line.write(epoch);
            }
            if let Change::LeaseEnded { lease, .. } | Change::LeaseLost { lease, .. } = change {
                self.holders.remove(lease);
            }
            if let Change::Forgotten { machine, .. } = change {
                self.holders.retain(|_, holder| holder.machine != *machine);
            }
        }
    }

    /// The line of a fact; none of those that are many, or told elsewhere.
    fn line<'a>(&'a self, change: &'a Change) -> Option<Line<'a>> {
        let of_lease = |lease: &LeaseId, text: String| {
            let holder = self.holders.get(lease);
            Line {
                rollout: holder.map(|holder| &holder.rollout),
                machine: holder.map(|holder| &holder.machine),
                group: holder.map(|holder| &holder.group),
                lease: Some(*lease),
                text,
                ..Line::default()
            }
        };
        let of_rollout = |rollout, text: String| Line {
            rollout: Some(rollout),
            text,
            ..Line::default()
        };
        let of_group = |rollout, group, text: String| Line {
            group: Some(group),
            ..of_rollout(rollout, text)
        };
        let of_machine = |rollout, machine, text: String| Line {
            machine: Some(machine),
            ..of_rollout(rollout, text)
        };
        let plain = |text: String| Line {
            text,
            ..Line::default()
        };
        let warning = |line| Line {
            warns: true,
            ..line
        };
        Some(match change {
            Change::ConfigSet {
                revision,
                by,
                reason,
                ..
            } => plain(format!(
                "configuration {revision} is in force, set by {by}{}",
                because(reason)
            )),
            Change::Pinned { targets, by, .. } => plain(format!(
                "targets of {} machines, named by {by}",
                targets.len()
            )),
            Change::RolloutCreated { rollout, .. } => of_rollout(
                &rollout.id,
                format!(
                    "{} of {} machines, begun by {}",
                    match rollout.is_emergency() {
                        true => "emergency update",
                        false => "rollout",
                    },
                    rollout.places().count(),
                    rollout.created_by
                ),
            ),
            Change::ApprovalAsked { rollout, group, .. } => {
                of_group(rollout, group, "waits for approval".to_owned())
            }
            Change::Approved {
                rollout,
                group,
                by,
                comment,
                ..
            } => {
                let why = because(comment);
                of_group(rollout, group, format!("approved by {by}{why}"))
            }
            Change::WaveOpened {
                rollout,
                group,
                wave,
                ..
            } => of_group(rollout, group, format!("wave {} opens", wave + 1)),
            Change::WaveHeld {
                rollout,
                group,
                wave,
                ..
            } => of_group(rollout, group, format!("waits after wave {}", wave + 1)),
            Change::Promoted {
                rollout,
                group,
                by,
                reason,
                ..
            } => {
                let why = because(reason);
                of_group(rollout, group, format!("promoted by {by}{why}"))
            }
            Change::WaveSoaking {
                rollout,
                group,
                wave,
                ..
            } => of_group(rollout, group, format!("wave {} soaks", wave + 1)),
            Change::WaveClosed {
                rollout,
                group,
                wave,
            } => of_group(rollout, group, format!("wave {} closes", wave + 1)),
            Change::GroupFinished { rollout, group, .. } => {
                of_group(rollout, group, "the group is finished".to_owned())
            }
            Change::WindowMissed {
                rollout,
                group,
                left,
                ..
            } => {
                let text = format!("the window has shut, {left} machines are still to go");
                warning(of_group(rollout, group, text))
            }
            Change::LeaseGranted { lease, .. } => {
                of_lease(&lease.id, format!("granted: {}", lease.machine))
            }
            Change::LeaseOverdue { lease, .. } => {
                let text = "overdue: no result, the slot stays taken".to_owned();
                warning(of_lease(lease, text))
            }
            Change::LeaseRevived { lease } => {
                of_lease(lease, "the holder is heard of again".to_owned())
            }
            Change::LeaseEnded {
                lease,
                outcome,
                reason,
                ..
            } => {
                let text = match reason.as_str() {
                    "" => format!("ended: {outcome}"),
                    reason => format!("ended: {outcome}: {reason}"),
                };
                Line {
                    warns: failed(*outcome),
                    ..of_lease(lease, text)
                }
            }
            Change::LeaseLost { lease, .. } => {
                let text = "given up: the machine counts as failed and keeps its slot".to_owned();
                warning(of_lease(lease, text))
            }
            Change::Recovered { machine } => Line {
                machine: Some(machine),
                ..plain("healthy again: its slot is free".to_owned())
            },
            Change::Arrived { rollout, machine } => {
                let text = "found to run its target already".to_owned();
                of_machine(rollout, machine, text)
            }
            Change::Declined {
                rollout,
                machine,
                reason,
            } => warning(of_machine(rollout, machine, format!("declined: {reason}"))),
            Change::Skipped {
                rollout,
                machine,
                reason,
            } => of_machine(rollout, machine, format!("left out: {reason}")),
            Change::RolloutPaused {
                rollout, reason, ..
            } => warning(of_rollout(rollout, format!("paused: {reason}"))),
            Change::NothingToTakeBack { rollout } => of_rollout(
                rollout,
                "nothing of what it brought is to be taken back".to_owned(),
            ),
            Change::RolloutResumed {
                rollout,
                by,
                reason,
                ..
            } => of_rollout(rollout, format!("resumed by {by}{}", because(reason))),
            Change::RolloutAborted {
                rollout,
                by,
                reason,
                ..
            } => of_rollout(rollout, format!("aborted by {by}: {reason}")),
            Change::RolloutEnded {
                rollout, succeeded, ..
            } => Line {
                warns: !succeeded,
                ..of_rollout(rollout, "the rollout has ended".to_owned())
            },
            Change::Stopped { by, reason, .. } => {
                warning(plain(format!("emergency stop by {by}: {reason}")))
            }
            Change::StopLifted { by, reason } => {
                plain(format!("the emergency stop is lifted by {by}: {reason}"))
            }
            Change::Restored { .. } => warning(plain(
                "this state is older than the fleet's: whatever was issued since is void"
                    .to_owned(),
            )),
            Change::Forgotten {
                machine,
                by,
                reason,
                ..
            } => Line {
                machine: Some(machine),
                ..plain(format!("freed by {by}: {reason}"))
            },
            Change::Quarantined {
                machine,
                by,
                reason,
                ..
            } => Line {
                machine: Some(machine),
                ..warning(plain(format!("in quarantine, by {by}: {reason}")))
            },
            Change::Released { machine, by, .. } => Line {
                machine: Some(machine),
                ..plain(format!("released by {by}"))
            },
            Change::Retried {
                rollout,
                machine,
                until,
                at,
            } => Line {
                rollout: Some(rollout),
                machine: Some(machine),
                ..plain(format!("tries again in {}", span(until.since(*at))))
            },
            Change::TargetQuarantined {
                target, by, reason, ..
            } => warning(plain(format!("{target} in quarantine, by {by}: {reason}"))),
            Change::TargetReleased { target, by, .. } => {
                plain(format!("{target} released by {by}"))
            }
            Change::Alarmed {
                alarm,
                machines,
                at,
            } => warning(plain(coordinator_core::alarm::text(*alarm, machines, *at))),
            Change::AnalysisBegan {
                rollout,
                group,
                wave,
                ..
            } => of_group(rollout, group, format!("wave {} is measured", wave + 1)),
            Change::Traffic { group, step } => return of_traffic(group, step),
            Change::Schedule { schedule, step } => return of_schedule(schedule, step),
            // What the gates come to is told when they pause the rollout; reports are many.
            // Identities have an audit log, and lines where they are asked for.
            Change::Reported { .. }
            | Change::Measured { .. }
            | Change::TokenCreated { .. }
            | Change::TokenRevoked { .. }
            | Change::CertificateIssued { .. }
            | Change::CertificateRevoked { .. }
            | Change::ReturnAsked { .. }
            | Change::ReturnApproved { .. }
            | Change::ReturnAnswered { .. }
            | Change::ReturnWithdrawn { .. }
            | Change::IdentitiesForgotten { .. } => return None,
        })
    }
}

fn of_schedule<'a>(schedule: &ScheduleName, step: &'a ScheduleStep) -> Option<Line<'a>> {
    let line = |warns, text: String| {
        Some(Line {
            warns,
            text: format!("schedule {schedule}: {text}"),
            ..Line::default()
        })
    };
    match step {
        ScheduleStep::Began { run } => line(false, format!("run {} begins", run.number)),
        ScheduleStep::Executed { rollout, .. } => Some(Line {
            rollout: Some(rollout),
            ..line(false, "its targets are known".to_owned())?
        }),
        ScheduleStep::Ended {
            succeeded, text, ..
        } => line(!succeeded, text.clone()),
        ScheduleStep::Passed { how, text, .. } => line(true, format!("{}: {text}", how.word())),
        ScheduleStep::Skip { by, .. } => line(false, format!("{by} wants the next run left out")),
        ScheduleStep::SetBack { .. } => line(true, "the clock was far ahead".to_owned()),
    }
}

/// How a sentence goes on where somebody said why.
fn because(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    }
}

fn of_traffic<'a>(group: &'a GroupName, step: &'a TrafficStep) -> Option<Line<'a>> {
    let line = |warns, text: String| Line {
        warns,
        group: Some(group),
        text: format!("traffic: {text}"),
        ..Line::default()
    };
    Some(match step {
        TrafficStep::Begun {
            to, rollout, by, ..
        } => Line {
            rollout: rollout.as_ref(),
            ..line(false, format!("to side {to}, by {by}"))
        },
        TrafficStep::Again { .. } => line(false, "the move is attempted again".to_owned()),
        TrafficStep::Moved { detail, .. } if detail.is_empty() => {
            line(false, "it is where it was to be".to_owned())
        }
        TrafficStep::Moved { detail, .. } => {
            line(true, format!("it is where it was to be: {detail}"))
        }
        TrafficStep::Failed { error, .. } => line(true, format!("not moved: {error}")),
        TrafficStep::GivenUp { .. } => line(true, "the move is given up".to_owned()),
    })
}

impl Holder {
    fn of(lease: &coordinator_core::lease::Lease) -> Self {
        Self {
            machine: lease.machine.clone(),
            rollout: lease.rollout.clone(),
            group: lease.group.clone(),
        }
    }
}

impl Line<'_> {
    fn write(self, epoch: Epoch) {
        let Self {
            warns,
            rollout,
            machine,
            group,
            lease,
            text,
        } = self;
        let (rollout, machine) = (rollout.map(display), machine.map(display));
        let (group, lease, epoch) = (group.map(display), lease.map(|lease| lease.0), epoch.0);
        if warns {
            tracing::warn!(rollout, machine, group, lease, epoch, "{text}");
        } else {
            tracing::info!(rollout, machine, group, lease, epoch, "{text}");
        }
    }
}

/// Whether somebody may have to look at the machine or its target.
fn failed(outcome: OutcomeKind) -> bool {
    match outcome {
        OutcomeKind::RolledBack | OutcomeKind::Stuck => true,
        OutcomeKind::Confirmed
        | OutcomeKind::RebootRequired
        | OutcomeKind::Refused
        | OutcomeKind::Abandoned => false,
    }
}
