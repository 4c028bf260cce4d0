//! What the end of an attempt makes true: of the lease, of the machine's part, and of the machine.

use common::{Action, LeaseId, MachineName, OutcomeKind, Timestamp};

use super::super::{Fleet, Location, number_of};
use crate::{
    bad_target::source_of,
    machine::{Failed, Pin},
    rollout::Place,
    transition::PlaceStep,
};

impl Fleet {
    /// The place's state after a lease came to this end, wherever the rollout stands meanwhile: a
    /// rollout that was aborted keeps what its holders report.
    pub(super) fn end_place(
        &mut self,
        lease: &crate::lease::Lease,
        change: impl FnOnce(&mut Place),
    ) {
        let number = number_of(&lease.rollout);
        let here: Option<Location> = self.index.place_of.get(&lease.machine).copied();
        if here.map(|location| location.rollout) == number {
            self.with_place(&lease.machine, change);
            return;
        }
        let rollout = number.and_then(|number| self.facts.rollouts.get_mut(&number));
        let places = rollout
            .into_iter()
            .flat_map(|r| &mut r.groups)
            .flat_map(|g| &mut g.waves);
        let place = places
            .flat_map(|wave| &mut wave.places)
            .find(|p| p.state.lease() == Some(lease.id));
        if let Some(place) = place {
            change(place);
        }
    }

    pub(super) fn overdue(&mut self, id: LeaseId, at: Timestamp) {
        let Some(lease) = self.facts.leases.get_mut(&id) else {
            return;
        };
        lease.overdue_since = Some(at);
        let lease = lease.clone();
        self.end_place(&lease, |place| place.step(PlaceStep::Overdue));
    }

    pub(super) fn revived(&mut self, id: LeaseId) {
        let Some(lease) = self.facts.leases.get_mut(&id) else {
            return;
        };
        lease.overdue_since = None;
        let lease = lease.clone();
        self.end_place(&lease, |place| place.step(PlaceStep::Revived));
    }

    pub(super) fn ended(&mut self, id: LeaseId, outcome: OutcomeKind, reason: &str, at: Timestamp) {
        let Some(lease) = self.facts.leases.remove(&id) else {
            return;
        };
        self.drop_expiry(id);
        self.index.lease_of.remove(&lease.machine);
        let mut target = None;
        self.end_place(&lease, |place| {
            place.step(PlaceStep::Ended(outcome, place.returned));
            place.returned += u32::from(outcome == OutcomeKind::Abandoned);
            place.verdict = Some(outcome);
            reason.clone_into(&mut place.reason);
            target = Some(place.target.clone());
        });
        let machine = self
            .facts
            .machines
            .entry(lease.machine.clone())
            .or_default();
        match outcome {
            OutcomeKind::Confirmed | OutcomeKind::RebootRequired => machine.failed_last = false,
            OutcomeKind::RolledBack | OutcomeKind::Stuck | OutcomeKind::Refused => {
                machine.failed_last = true;
            }
            OutcomeKind::Abandoned => {}
        }
        let failed_with = match (outcome, lease.action) {
            (OutcomeKind::RolledBack | OutcomeKind::Stuck, Action::Update) => {
                target.as_ref().map(|target| source_of(target).to_owned())
            }
            (OutcomeKind::Refused | OutcomeKind::Abandoned, _) => machine.failed_with.clone(),
            _ => None,
        };
        let on_end = match outcome {
            OutcomeKind::Confirmed | OutcomeKind::RebootRequired => 0,
            OutcomeKind::RolledBack | OutcomeKind::Stuck => machine.failures_in_a_row + 1,
            OutcomeKind::Refused | OutcomeKind::Abandoned => machine.failures_in_a_row,
        };
        if matches!(outcome, OutcomeKind::Confirmed | OutcomeKind::RolledBack) {
            let boot = lease.boot.as_ref();
            let rebooted = boot.is_some_and(|boot| machine.has_booted_since(boot));
            machine.has_taken(at.since(lease.granted_at), rebooted);
        }
        match (outcome, lease.action) {
            (OutcomeKind::Stuck, _) => {
                machine.failed = Some(Failed {
                    lease: id,
                    group: lease.group.clone(),
                    at,
                    reason: reason.to_owned(),
                });
            }
            (OutcomeKind::Confirmed, Action::Update) => machine.previous = lease.from.clone(),
            (OutcomeKind::Confirmed, Action::Rollback) => {
                // What was left behind is not to be gone to unasked, by either way.
                machine.previous = None;
                machine.pin = target.map(|target| Pin {
                    target,
                    at,
                    by: String::new(),
                });
            }
            (OutcomeKind::Confirmed, Action::Reboot)
            | (
                OutcomeKind::RolledBack
                | OutcomeKind::RebootRequired
                | OutcomeKind::Refused
                | OutcomeKind::Abandoned,
                _,
            ) => {}
        }
        self.fails(&lease.machine, |_| on_end);
        self.fails_with(&lease.machine, failed_with);
        if self.facts.machines[&lease.machine].failed.is_none() {
            self.index.mark_back(&lease.group, &lease.machine);
        }
        self.index.judge(&self.facts, &lease.machine);
    }

    pub(super) fn lost(&mut self, id: LeaseId, at: Timestamp) {
        let Some(lease) = self.facts.leases.remove(&id) else {
            return;
        };
        self.drop_expiry(id);
        self.index.lease_of.remove(&lease.machine);
        let reason = "not heard of again after its lease ran out";
        let mut target = None;
        self.end_place(&lease, |place| {
            place.step(PlaceStep::Lost);
            reason.clone_into(&mut place.reason);
            target = Some(source_of(&place.target).to_owned());
        });
        let machine = self
            .facts
            .machines
            .entry(lease.machine.clone())
            .or_default();
        machine.failed_last = true;
        machine.failed = Some(Failed {
            lease: id,
            group: lease.group,
            at,
            reason: reason.to_owned(),
        });
        self.fails(&lease.machine, |times| times + 1);
        if lease.action == Action::Update {
            self.fails_with(&lease.machine, target);
        }
        self.index.judge(&self.facts, &lease.machine);
    }

    /// How often the machine has failed on end.
    pub(super) fn fails(&mut self, machine: &MachineName, times: impl FnOnce(u32) -> u32) {
        let Some(known) = self.facts.machines.get_mut(machine) else {
            return;
        };
        known.failures_in_a_row = times(known.failures_in_a_row);
        self.index.look_whether_it_fails(&self.facts, machine);
    }

    /// What the machine's last update was to and failed with.
    pub(super) fn fails_with(&mut self, machine: &MachineName, source: Option<String>) {
        let Some(known) = self.facts.machines.get_mut(machine) else {
            return;
        };
        // What is put aside is so already.
        let source = source.filter(|source| !self.facts.targets_aside.contains_key(source));
        let before = std::mem::replace(&mut known.failed_with, source.clone());
        self.index
            .failing_with(machine, before.as_deref(), source.as_deref());
    }

    pub(super) fn recovered(&mut self, machine: &MachineName) {
        let Some(known) = self.facts.machines.get_mut(machine) else {
            return;
        };
        if let Some(failed) = known.failed.take() {
            self.index.mark_back(&failed.group, machine);
        }
        self.index.judge(&self.facts, machine);
    }

    pub(super) fn forgotten(&mut self, machine: &MachineName, at: Timestamp) {
        if let Some(id) = self.index.lease_of.get(machine).copied() {
            self.lost(id, at);
        }
        self.recovered(machine);
        self.fails(machine, |_| 0);
        self.fails_with(machine, None);
        if let Some(known) = self.facts.machines.remove(machine) {
            let config = self.facts.config.as_deref();
            self.index.no_longer_lasts(config, machine, &known);
        }
        self.index.judge(&self.facts, machine);
    }
}
