//! Turns of machines: who gets a lease, for how long it holds, and what its result comes to.

use std::time::Duration;

use common::{
    Action, AttemptStatus, Epoch, LeaseId, MachineName, MachineReport, Outcome, OutcomeKind,
    RolloutId, Timestamp,
    text::{REASON_MAX, tame_line},
};

use crate::{
    change::Change,
    decide::Draft,
    fleet::Fleet,
    lease::{Lease, SILENCE_MAX},
    request::{Directive, Grant, Renewal},
    rollout::{PlaceState, RolloutState},
    wait::WaitReason,
};

impl Fleet {
    /// What a machine hears that polls while it holds a lease; nothing when the lease was given
    /// back and the poll goes on as any other.
    pub(super) fn held(
        &mut self,
        now: Timestamp,
        lease: &Lease,
        report: &MachineReport,
        draft: &mut Draft,
    ) -> Option<Directive> {
        let name = &lease.machine;
        let begun = report
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.lease >= lease.id);
        let ended = report.last_lease >= lease.id;
        if begun || ended {
            // Its result is on its way; until then the slot stays taken.
            self.revive(now, lease.id, draft);
            let state = if ended {
                "its result is awaited"
            } else {
                "it is at it"
            };
            return Some(match self.stand_down(name) {
                Some(stand_down) => Directive::StandDown(stand_down),
                None => Directive::Wait(WaitReason::Final {
                    state: state.to_owned(),
                    reason: String::new(),
                }),
            });
        }
        // It never got the grant. The same again, as long as it could be granted now.
        let may = self.index().place_of.get(name).copied().and_then(|at| {
            let (rollout, _, place) = self.at(at)?;
            let same = place.state.lease() == Some(lease.id);
            let active = rollout.state == RolloutState::Active;
            let open = || self.gate_at(at, now).is_ok();
            (same && active && open()).then_some(())
        });
        if may.is_some() && lease.epoch == self.facts().epoch && self.revive(now, lease.id, draft) {
            return self.grant_of(lease.id, now).map(Directive::Proceed);
        }
        let machine = self.facts().machines.get(name);
        if machine.is_some_and(|machine| report.sequence <= machine.heard.granted) {
            let state = "its turn has been given out".to_owned();
            let reason = String::new();
            return Some(Directive::Wait(WaitReason::Final { state, reason }));
        }
        let reason = "not begun, and given back".to_owned();
        let outcome = OutcomeKind::Abandoned;
        self.commit(
            draft,
            Change::LeaseEnded {
                lease: lease.id,
                outcome,
                reason,
                at: now,
            },
        );
        None
    }

    /// Gives a lease a new term; an overdue one comes back to life. Whether it has one.
    fn revive(&mut self, now: Timestamp, lease: LeaseId, draft: &mut Draft) -> bool {
        let Some(until) = self.term_from(lease, now, Duration::ZERO) else {
            return false;
        };
        if self.facts().leases[&lease].overdue_since.is_some() {
            self.commit(draft, Change::LeaseRevived { lease });
        }
        self.extend(lease, until);
        true
    }

    pub(super) fn grant(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        draft: &mut Draft,
    ) -> Directive {
        let granted = self.index().place_of.get(name).copied().and_then(|at| {
            let (rollout, group, place) = self.at(at)?;
            let machine = self.facts().machines.get(name)?;
            let lease = Lease {
                id: self.facts().next_lease,
                machine: name.clone(),
                group: group.name.clone(),
                rollout: rollout.id.clone(),
                epoch: self.facts().epoch,
                action: rollout.action,
                from: machine.running().cloned(),
                boot: machine.report.as_ref().map(|report| report.boot_id.clone()),
                granted_at: now,
                overdue_since: None,
            };
            let staged = machine.staged(&place.target).or(place.target.closure());
            Some((lease, staged.cloned(), at))
        });
        let Some((lease, closure, at)) = granted else {
            return Directive::Wait(WaitReason::NoRollout);
        };
        let id = lease.id;
        self.commit(draft, Change::LeaseGranted { lease, closure });
        self.moved(at.rollout, at.group, now);
        self.extend(id, now + self.lease_term(id));
        self.grant_of(id, now)
            .map_or(Directive::Wait(WaitReason::NoRollout), Directive::Proceed)
    }

    /// A live lease as the holder is told of it.
    fn grant_of(&mut self, id: LeaseId, now: Timestamp) -> Option<Grant> {
        let lease = self.facts().leases.get(&id)?.clone();
        if let Some(machine) = self.machine_mut(&lease.machine) {
            machine.heard.granted = machine.heard.sequence;
        }
        let at = self.index().place_of.get(&lease.machine).copied()?;
        let (rollout, group, place) = self.at(at)?;
        let policy = group.rules(place.rules);
        Some(Grant {
            rollout: rollout.id.clone(),
            lease: id,
            epoch: lease.epoch,
            valid_for: self.hearsay.lease_until.get(&id)?.since(now),
            action: lease.action,
            target: place.target.clone(),
            allow_reboot: policy.allow_reboot || lease.action == Action::Reboot,
            allow_soft_reboot: policy.soft_reboot,
            rollback_on_failure: policy.rollback_on_failure,
            health_timeout: policy.health_timeout,
            force: rollout.forces(place),
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn renew(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        lease: LeaseId,
        epoch: Epoch,
        attempt: Option<AttemptStatus>,
        silence: Duration,
        draft: &mut Draft,
    ) -> Renewal {
        self.hear(name, now);
        if let Some(machine) = self.machine_mut(name) {
            machine.heard.attempt = attempt;
            machine.heard.epoch = epoch;
        }
        if let Some(stand_down) = self.stand_down(name) {
            // Still heard of: what it holds does not run out while it finishes or goes back.
            if self.lease_of(name).is_some_and(|held| held.id == lease) {
                self.revive(now, lease, draft);
            }
            return Renewal::StandDown(stand_down);
        }
        let Some(held) = self.facts().leases.get(&lease) else {
            return Renewal::NotHeld(format!("lease {lease} is not live"));
        };
        #[cfg(feature = "seeded-bugs")]
        let anybody = self.has(crate::bug::Bug::IdentityFromMessage);
        #[cfg(not(feature = "seeded-bugs"))]
        let anybody = false;
        if held.machine != *name && !anybody {
            return Renewal::NotHeld(format!("lease {lease} belongs to another machine"));
        }
        #[cfg(feature = "seeded-bugs")]
        let fenced = !self.has(crate::bug::Bug::EpochNotFenced);
        #[cfg(not(feature = "seeded-bugs"))]
        let fenced = true;
        if fenced && held.epoch != self.facts().epoch {
            return Renewal::NotHeld(format!("lease {lease} is older than the last stop"));
        }
        let Some(until) = self.term_from(lease, now, silence.min(SILENCE_MAX)) else {
            return Renewal::NotHeld(format!("lease {lease} has reached its longest life"));
        };
        if held.overdue_since.is_some() {
            self.commit(draft, Change::LeaseRevived { lease });
        }
        self.extend(lease, until);
        Renewal::Valid(until.since(now))
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn result(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        rollout: &RolloutId,
        lease: LeaseId,
        outcome: &Outcome,
        took: Duration,
        report: MachineReport,
        draft: &mut Draft,
    ) {
        if self.group_of(name).is_none() && self.lease_of(name).is_none() {
            return;
        }
        let reason = tame_line(&outcome.reason, REASON_MAX);
        let held = self.lease_of(name).filter(|held| held.id == lease).cloned();
        self.learn(now, name, &report, draft);
        match held {
            Some(held) => {
                let (outcome, reason) = self.proven(&held, outcome.kind, reason, &report);
                let before = draft.history.len();
                self.commit(
                    draft,
                    Change::LeaseEnded {
                        lease,
                        outcome,
                        reason,
                        at: now,
                    },
                );
                for entry in &mut draft.history[before..] {
                    entry.took_s = took.as_secs();
                }
                self.retry(name, now, draft);
            }
            None if lease == LeaseId::default() && outcome.kind == OutcomeKind::Refused => {
                let pending = self
                    .index()
                    .place_of
                    .get(name)
                    .copied()
                    .and_then(|at| self.at(at));
                let here = pending.is_some_and(|(r, _, place)| {
                    r.id == *rollout && place.state == PlaceState::Pending
                });
                if here {
                    let (rollout, machine) = (rollout.clone(), name.clone());
                    self.commit(
                        draft,
                        Change::Declined {
                            rollout,
                            machine,
                            reason,
                        },
                    );
                    self.retry(name, now, draft);
                }
            }
            None => {
                #[cfg(feature = "seeded-bugs")]
                self.count_twice_with_bug(now, name, outcome.kind, draft);
            }
        }
    }

    /// The known bug of counting a result that was counted already: whatever the machine holds
    /// now is ended by it.
    #[cfg(feature = "seeded-bugs")]
    fn count_twice_with_bug(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        outcome: OutcomeKind,
        draft: &mut Draft,
    ) {
        if !self.has(crate::bug::Bug::ResultNotIdempotent) {
            return;
        }
        if let Some(lease) = self.lease_of(name).map(|lease| lease.id) {
            let reason = String::new();
            self.commit(
                draft,
                Change::LeaseEnded {
                    lease,
                    outcome,
                    reason,
                    at: now,
                },
            );
        }
    }

    /// A machine counts as updated only when it says that it really runs the target.
    fn proven(
        &self,
        lease: &Lease,
        outcome: OutcomeKind,
        reason: String,
        report: &MachineReport,
    ) -> (OutcomeKind, String) {
        if outcome != OutcomeKind::Confirmed {
            return (outcome, reason);
        }
        let place = self.place_of_lease(lease);
        let expected = place.and_then(|place| place.closure.as_ref().or(place.target.closure()));
        match (expected, &report.running) {
            (Some(expected), Some(running)) if expected != running => {
                let text = format!("says it was updated, but runs {running}");
                (OutcomeKind::Stuck, text)
            }
            (Some(_), None) => (
                OutcomeKind::Stuck,
                "says it was updated, but not what it runs".to_owned(),
            ),
            (Some(_), Some(_)) | (None, _) => (outcome, reason),
        }
    }
}
