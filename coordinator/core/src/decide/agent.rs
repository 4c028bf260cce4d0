//! What agents ask: polls, renewals, results.

use std::time::Duration;

use common::{
    Action, AttemptStatus, Epoch, HealthState, LeaseId, MachineName, MachineReport, Outcome,
    OutcomeKind, RolloutId, Timestamp,
    text::{REASON_MAX, tame_line},
};

use super::Draft;
use crate::{
    change::Change,
    fleet::Fleet,
    lease::{Lease, SILENCE_MAX},
    machine::Machine,
    request::{AgentRequest, Directive, Grant, Refusal, Renewal, Reply, StandDown},
    rollout::{PlaceState, RolloutState},
    wait::WaitReason,
};

impl Fleet {
    pub(super) fn agent(
        &mut self,
        now: Timestamp,
        machine: &MachineName,
        request: AgentRequest,
        draft: &mut Draft,
    ) -> Reply {
        self.overtaken(now, machine, &request, draft);
        match request {
            AgentRequest::Poll { report } => match self.poll(now, machine, *report, draft) {
                Ok(directive) => Reply::Directive(directive),
                Err(refusal) => Reply::Refused(refusal),
            },
            AgentRequest::Renew {
                lease,
                epoch,
                attempt,
                silence,
            } => Reply::Renewal(self.renew(now, machine, lease, epoch, attempt, silence, draft)),
            AgentRequest::Result {
                rollout,
                lease,
                outcome,
                took,
                report,
            } => {
                self.result(
                    now, machine, &rollout, lease, &outcome, took, *report, draft,
                );
                Reply::Acknowledged
            }
        }
    }

    /// Takes a report in: what is new becomes a fact, the rest is remembered as heard. False when
    /// it was overtaken by a newer one and says nothing.
    fn learn(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        report: &MachineReport,
        draft: &mut Draft,
    ) -> bool {
        #[cfg(feature = "seeded-bugs")]
        let gullible = self.has(crate::bug::Bug::StaleReportWins);
        self.hear(name, now);
        if let Some(machine) = self.machine_mut(name) {
            let stale = machine.is_stale(report);
            #[cfg(feature = "seeded-bugs")]
            let stale = stale && !gullible;
            if stale {
                return false;
            }
            let known = machine.report.as_ref();
            if known.is_some_and(|known| known.boot_id != report.boot_id) {
                machine.heard.granted = 0;
            }
        }
        if self
            .facts()
            .machines
            .get(name)
            .is_none_or(|machine| machine.is_news(report))
        {
            let report = Box::new(Machine::facts(report));
            self.commit(
                draft,
                Change::Reported {
                    machine: name.clone(),
                    report,
                    at: Some(now),
                },
            );
        }
        self.hear(name, now);
        let mut told = false;
        if let Some(machine) = self.machine_mut(name) {
            let heard = &mut machine.heard;
            heard.sequence = report.sequence;
            heard.attempt.clone_from(&report.attempt);
            if heard.checks != report.health.checks {
                heard.checks.clone_from(&report.health.checks);
            }
            heard.health_request = heard.health_request.max(report.health_request);
            heard.store_free_bytes = report.store_free_bytes;
            heard.epoch = report.epoch;
            heard.declined.clone_from(&report.declined);
            heard.cleaned_up.clone_from(&report.cleaned_up);
            told = heard.traffic != report.traffic;
            heard.traffic.clone_from(&report.traffic);
        }
        if told {
            self.has_moved_traffic(name, now, draft);
        }
        if self
            .hearsay
            .checks
            .get(name)
            .is_some_and(|c| c.request <= report.health_request)
        {
            self.hearsay.checks.remove(name);
            self.has_answered(name, now, draft);
        }
        if let Some(done) = &report.cleaned_up {
            self.has_cleaned_up(name, done, now, draft);
        }
        let recovered = self.facts().machines.get(name).is_some_and(|machine| {
            machine
                .failed
                .as_ref()
                .is_some_and(|failed| report.last_lease >= failed.lease)
                && machine.health() == HealthState::Healthy
                && machine.running().is_some()
                && report.attempt.is_none()
        });
        if recovered {
            self.commit(
                draft,
                Change::Recovered {
                    machine: name.clone(),
                },
            );
        }
        true
    }

    fn poll(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        report: MachineReport,
        draft: &mut Draft,
    ) -> Result<Directive, Refusal> {
        if self.group_of(name).is_none() {
            return Ok(Directive::Wait(WaitReason::UnknownMachine));
        }
        if !self.learn(now, name, &report, draft) {
            let text = format!("a newer poll of {name} has come before this one");
            return Err(Refusal::Changed(text));
        }
        self.has_polled(name);
        Ok(self.directive(now, name, &report, draft))
    }

    /// What a machine that has just said how it is, is to do.
    fn directive(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        report: &MachineReport,
        draft: &mut Draft,
    ) -> Directive {
        if let Some(lease) = self.lease_of(name).cloned()
            && let Some(directive) = self.held(now, &lease, report, draft)
        {
            return directive;
        }
        let stand_down = self.stand_down(name);
        if let Some(check) = self.hearsay.checks.get(name)
            && stand_down.is_none()
        {
            return Directive::Check {
                request: check.request,
                timeout: check.timeout,
            };
        }
        if let Some(call) = self.traffic_call(name) {
            return Directive::MoveTraffic(call);
        }
        if let Some(stand_down) = stand_down {
            return Directive::StandDown(stand_down);
        }
        if let Some((request, cleanup)) = self.cleanup_wanted(name, now) {
            return Directive::CleanUp { request, cleanup };
        }
        if let Some(aside) = self.leave_out_of_bad(name, draft) {
            return Directive::Wait(aside);
        }
        if let Some(stage) = self.next_to_stage(name, draft) {
            return stage;
        }
        match self.permission(name, now) {
            Ok(_) => self.grant(now, name, draft),
            Err(reason) => Directive::Wait(reason),
        }
    }

    /// What a machine hears that polls while it holds a lease; nothing when the lease was given
    /// back and the poll goes on as any other.
    fn held(
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
            return Some(Directive::Wait(WaitReason::Final { state }));
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

    /// The stop that holds for this machine.
    fn stand_down(&self, machine: &MachineName) -> Option<StandDown> {
        let stop = self.facts().stop.as_ref()?;
        let covered = match self.group_of(machine) {
            Some(group) => stop.covers(group),
            None => stop.groups.is_empty(),
        };
        #[cfg(feature = "seeded-bugs")]
        let covered = covered && !self.has(crate::bug::Bug::StopNotCheckedInGrant);
        covered.then(|| StandDown {
            mode: stop.mode,
            reason: stop.reason.clone(),
        })
    }

    /// What the machine should obtain before its turn comes, or what it turned out to have. Whoever
    /// has its part of a rollout behind it obtains what the next one will want.
    fn next_to_stage(&mut self, name: &MachineName, draft: &mut Draft) -> Option<Directive> {
        if let Some((rollout, place)) = self.engagement(name) {
            if place.state != PlaceState::Pending || rollout.action == Action::Reboot {
                return None;
            }
            let machine = self.facts().machines.get(name)?;
            let (id, target) = (rollout.id.clone(), place.target.clone());
            let (action, force, wish) = (rollout.action, rollout.forces(place), place.tries.into());
            if machine.is_there(action, &target) && machine.health() != HealthState::Unhealthy {
                self.commit(
                    draft,
                    Change::Arrived {
                        rollout: id,
                        machine: name.clone(),
                    },
                );
                return Some(Directive::Wait(WaitReason::UpToDate));
            }
            if machine.staged(&target).is_none() {
                return Some(Directive::Stage {
                    rollout: Some(id),
                    target,
                    action,
                    force,
                    wish,
                });
            }
            return None;
        }
        let machine = self.facts().machines.get(name)?;
        let pin = machine.pin.as_ref()?;
        let needed = !machine.runs(&pin.target) && machine.staged(&pin.target).is_none();
        needed.then(|| Directive::Stage {
            rollout: None,
            target: pin.target.clone(),
            action: Action::Update,
            force: false,
            wish: pin.wish(),
        })
    }

    fn grant(&mut self, now: Timestamp, name: &MachineName, draft: &mut Draft) -> Directive {
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
        self.extend(id, now + self.lease_term());
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
    fn renew(
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
    fn result(
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
