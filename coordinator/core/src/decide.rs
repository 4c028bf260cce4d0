//! `handle`: one request at a time, always in the same order: what the clock alone makes true, the
//! request itself, and what follows from both.

mod agent;
mod configuration;
mod course;
mod identities;
mod never_fits;
mod operator;
mod returns;
mod rollouts;
mod schedules;

use common::Timestamp;

use crate::{
    analysis::Measurement,
    change::Change,
    fleet::Fleet,
    history::Entry,
    request::{AuditEntry, Decision, Refusal, Reply, Request},
};

/// A decision in the making.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) changes: Vec<Change>,
    pub(crate) wake: Vec<common::MachineName>,
    pub(crate) broadcast: bool,
    pub(crate) history: Vec<Entry>,
    pub(crate) audit: Option<AuditEntry>,
    pub(crate) measure: Vec<Measurement>,
}

impl Fleet {
    /// Decides one request. The changes are applied in memory when this returns; nothing of the
    /// decision may leave the process before they are durable.
    pub fn handle(&mut self, now: Timestamp, request: Request) -> Decision {
        let now = self.follow_clock(now);
        let mut draft = Draft::default();
        if self.hearsay.deadline <= now {
            self.advance(now, &mut draft);
        }
        let before = draft.changes.len();
        let reply = match request {
            Request::Tick => Reply::Done(String::new()),
            Request::Agent { machine, request } => self.agent(now, &machine, request, &mut draft),
            Request::Operator { actor, request } => self.operator(now, &actor, request, &mut draft),
            Request::Enrol {
                secret_hash,
                from,
                serial,
                expires_at,
            } => self.enrol(now, &secret_hash, &from, serial, expires_at, &mut draft),
            Request::RenewCertificate {
                serial,
                new_serial,
                expires_at,
            } => self.renew_certificate(now, &serial, new_serial, expires_at, &mut draft),
            Request::AskToReturn(asked) => self.ask_to_return(now, asked, &mut draft),
            Request::ScheduleResolved {
                schedule,
                run,
                targets,
            } => self.schedule_resolved(now, &schedule, run, targets, &mut draft),
            Request::Bootstrap {
                holder,
                serial,
                expires_at,
            } => self.bootstrap(now, holder, serial, expires_at, &mut draft),
            Request::TrafficMoved(answered) => self.traffic_answered(now, answered, &mut draft),
            Request::Measured {
                id,
                finding,
                detail,
            } => self.answered(now, id, finding, &detail, &mut draft),
        };
        if draft.changes.len() > before {
            self.advance(now, &mut draft);
        }
        Decision {
            changes: draft.changes,
            reply,
            wake: draft.wake,
            broadcast: draft.broadcast,
            history: draft.history,
            audit: draft.audit,
            measure: draft.measure,
        }
    }

    /// Makes a fact true in memory and keeps it for the journal, and what of it belongs into the
    /// history.
    pub(crate) fn commit(&mut self, draft: &mut Draft, change: Change) {
        draft.history.extend(self.entry_of(&change));
        self.apply(&change);
        draft.changes.push(change);
    }
}

/// The reply to a request that may be refused.
pub(crate) fn or_refused(result: Result<Reply, Refusal>) -> Reply {
    result.unwrap_or_else(Reply::Refused)
}
