//! What must be true of the world, whatever the programs believe: looked at where it happens. On a
//! machine's side when something begins or is written down there, on the coordinator's when facts
//! become durable.

use agent::host::{Family, Unit};
use agent_core::{Durable, Step};
use common::{Epoch, GroupName, LeaseId, OutcomeKind};
use coordinator_core::{Change, Fleet, invariants, lease::Lease};

use super::{
    machine::switch_of,
    setup::{At, elapsed},
    world::World,
};

/// A machine that is really away.
#[derive(Clone, Debug)]
pub(crate) struct Disruption {
    pub(crate) lease: LeaseId,
    pub(crate) group: GroupName,
}

/// A lease as it was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) machine: usize,
    group: GroupName,
    /// Limits in force when it was granted.
    group_limit: usize,
    fleet_limit: usize,
    ended: bool,
}

impl World {
    /// A unit is about to begin.
    pub(crate) fn check_unit(&mut self, machine: usize, unit: &Unit) {
        let disturbs = match unit.family {
            Family::PreHook => true,
            Family::Activate => switch_of(unit).is_some_and(|(_, verb)| verb == "switch"),
            Family::Stage
            | Family::BackupCheck
            | Family::Profile
            | Family::Restore
            | Family::PostHook
            | Family::RollbackHook
            | Family::BootLoader
            | Family::Condition
            | Family::Check
            | Family::CleanUp
            | Family::Collect
            | Family::Traffic => false,
        };
        if disturbs {
            self.check_disturbance(machine);
        }
    }

    /// A reboot is about to begin; the way back is not bound to a lease.
    pub(crate) fn check_reboot(&mut self, machine: usize) {
        let m = &self.machines[machine];
        if m.truth.rebooting_there {
            self.check_disturbance(machine);
        }
    }

    fn check_disturbance(&mut self, machine: usize) {
        let now = elapsed();
        let m = &mut self.machines[machine];
        let name = m.name.clone();
        let Some(lease) = m.truth.attempt else {
            let text = format!("{name} is disturbed, and its disk knows of no attempt");
            return self.violate(text);
        };
        let Some(granted) = self.granted.get(&lease) else {
            return self.violate(format!("{name} is disturbed under a lease nobody gave"));
        };
        let mut wrong = Vec::new();
        if granted.machine != machine {
            wrong.push("another machine's lease");
        }
        if m.truth.until.get(&lease).is_none_or(|until| *until <= now) {
            wrong.push("a lease that ran out");
        }
        let epoch = m.truth.epochs.get(&lease).copied().unwrap_or_default();
        let (heard, at) = m.truth.heard;
        // What it hears in this very instant it may not have looked at.
        if epoch < heard && at < now {
            wrong.push("a lease older than a stop it has heard of");
        }
        if lease < m.truth.used || m.truth.verdicts.contains_key(&lease) {
            wrong.push("a lease that was used up");
        }
        if m.dead_man.is_none_or(|(armed, _)| armed != lease) {
            wrong.push("a lease without a dead-man timer");
        }
        m.truth.used = m.truth.used.max(lease);
        let first = m.truth.disruption.is_none();
        if first {
            m.truth.forgotten = false;
            m.truth.disruption = Some(Disruption {
                lease,
                group: granted.group.clone(),
            });
        }
        for wrong in wrong {
            self.violate(format!("{name} is disturbed under {wrong} (lease {lease})"));
        }
        if first {
            self.check_limits(machine);
        }
    }

    /// Whoever is really away, counted by the world, against the limits they were let go under.
    fn check_limits(&mut self, newest: usize) {
        let away = self.machines.iter().filter(|m| !m.truth.forgotten);
        let away: Vec<&Disruption> = away.filter_map(|m| m.truth.disruption.as_ref()).collect();
        let Some(newest) = &self.machines[newest].truth.disruption else {
            return;
        };
        let group = newest.group.clone();
        let told = |d: &&Disruption| self.granted.get(&d.lease);
        let limit = away.iter().filter_map(told).map(|g| g.fleet_limit).max();
        let mates: Vec<&Disruption> = away.iter().filter(|d| d.group == group).copied().collect();
        let group_limit = mates.iter().filter_map(told).map(|g| g.group_limit).max();
        let (all, here) = (away.len(), mates.len());
        let (limit, group_limit) = (limit.unwrap_or(0), group_limit.unwrap_or(0));
        if all > limit {
            self.violate(format!("{all} machines are really away, {limit} may"));
        }
        if here > group_limit {
            self.violate(format!(
                "{here} machines of {group} are really away, {group_limit} may"
            ));
        }
    }

    /// The agent's state is about to be on disk.
    pub(crate) fn saved(&mut self, machine: usize, state: &Durable) {
        let step = state.attempt.as_ref().map(|attempt| &attempt.step);
        let rebooting = matches!(step, Some(Step::Announcing | Step::Rebooting));
        let lease = state.attempt.as_ref().map(|attempt| attempt.lease);
        let truth = &mut self.machines[machine].truth;
        let before = std::mem::replace(&mut truth.attempt, lease);
        truth.rebooting_there = rebooting;
        truth.unreported = state.unreported.is_some();
        let closing = match step {
            Some(Step::Closing { outcome }) => lease.map(|lease| (lease, outcome)),
            Some(_) | None => None,
        };
        let waiting = state.unreported.as_ref();
        let waiting = waiting.map(|result| (result.lease, &result.outcome));
        for (lease, outcome) in closing.into_iter().chain(waiting) {
            if lease == LeaseId::default() {
                continue;
            }
            let truth = &mut self.machines[machine].truth;
            let known = truth.verdicts.get(&lease).cloned();
            match known {
                Some(first) if first != *outcome => {
                    self.violate(format!("lease {lease} ends in two ways"));
                }
                Some(_) => {}
                None => {
                    truth.verdicts.insert(lease, outcome.clone());
                    let kind = outcome.kind;
                    self.tell(|w| format!("{}: lease {lease} is {kind}", w.machines[machine].name));
                }
            }
        }
        let truth = &mut self.machines[machine].truth;
        if before.is_some() && lease.is_none() {
            let verdict = before.and_then(|lease| truth.verdicts.get(&lease));
            if verdict.is_none_or(|outcome| outcome.kind != OutcomeKind::Stuck) {
                truth.disruption = None;
            }
            self.recovered(machine);
        }
    }

    /// A machine that was away and is healthy again is back.
    pub(crate) fn recovered(&mut self, machine: usize) {
        let m = &mut self.machines[machine];
        if m.truth.disruption.is_some() && m.truth.attempt.is_none() && m.is_well() {
            m.truth.disruption = None;
        }
    }

    /// A machine that is really away has its slot.
    pub(crate) fn check_slots(&mut self) {
        for machine in 0..self.machines.len() {
            self.recovered(machine);
        }
        let Some(mirror) = self.coordinator.mirror.as_ref() else {
            return;
        };
        let away = &mirror.index().away;
        let slotless = self.machines.iter().find(|m| {
            let really = m.truth.disruption.is_some() && !m.truth.forgotten;
            really && !away.values().any(|away| away.contains(&m.name))
        });
        if let Some(m) = slotless {
            let text = format!("{} is really away and has no slot", m.name);
            self.violate(text);
        }
    }

    /// These facts are acknowledged from here on.
    pub(crate) fn acknowledged(&mut self, changes: &[Change]) {
        let Some(mut mirror) = self.coordinator.mirror.take() else {
            return;
        };
        for change in changes {
            self.check_change(&mirror, change);
            let before = matches!(change, Change::LeaseGranted { .. }).then(|| mirror.clone());
            mirror.apply(change);
            if let Change::LeaseGranted { lease, .. } = change {
                self.grant(&mirror, lease);
            }
            for wrong in before.iter().flat_map(|b| invariants::between(b, &mirror)) {
                self.violate(wrong.to_string());
            }
            if let Some(line) = line_of(change) {
                self.tell(|_| line);
            }
        }
        for wrong in invariants::check(&mirror) {
            self.violate(wrong.to_string());
        }
        self.coordinator.mirror = Some(mirror);
        self.check_slots();
    }

    fn grant(&mut self, fleet: &Fleet, lease: &Lease) {
        let Some(machine) = self.index_of(&lease.machine) else {
            return self.violate(format!("{} has a lease and is nobody", lease.machine));
        };
        let group = fleet
            .rollout(&lease.rollout)
            .and_then(|rollout| rollout.group(&lease.group));
        let limit = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        let granted = Granted {
            machine,
            group: lease.group.clone(),
            group_limit: group.map_or(0, |group| limit(group.policy.max_parallel)),
            fleet_limit: limit(fleet.fleet_limit()),
            ended: false,
        };
        if self.granted.insert(lease.id, granted).is_some() {
            self.violate(format!("lease {} is granted twice", lease.id));
        }
    }

    /// One change, against the state before it.
    fn check_change(&mut self, mirror: &Fleet, change: &Change) {
        let mut wrong = None;
        if let Change::Reported {
            machine, report, ..
        } = change
        {
            let (of, boot) = boot_of(report.boot_id.as_str());
            let now = (boot, report.sequence);
            if let Some(index) = self.index_of(machine) {
                let newest = &mut self.machines[index].truth.newest;
                if of != machine.as_str() {
                    wrong = Some(format!("{machine} is taken for {of}"));
                } else if now < *newest {
                    wrong = Some(format!(
                        "{machine}'s report {now:?} takes the place of the newer {newest:?}"
                    ));
                }
                *newest = now.max(*newest);
            }
        }
        if let Change::LeaseEnded { lease, outcome, .. } = change {
            wrong = self.check_result(mirror, *lease, *outcome);
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// A result is about to count.
    fn check_result(
        &mut self,
        mirror: &Fleet,
        lease: LeaseId,
        outcome: OutcomeKind,
    ) -> Option<String> {
        self.results += 1;
        let Some(granted) = self.granted.get_mut(&lease) else {
            return Some(format!("lease {lease} ends and was not granted"));
        };
        if std::mem::replace(&mut granted.ended, true) {
            return Some(format!("the result of lease {lease} counts twice"));
        }
        let m = &self.machines[granted.machine];
        let said = m.truth.verdicts.get(&lease).map(|outcome| outcome.kind);
        let held = mirror.facts().leases.get(&lease);
        let rollout = held.and_then(|held| mirror.rollout(&held.rollout));
        let place = rollout.and_then(|rollout| {
            let mut places = rollout.places();
            places.find(|place| place.state.lease() == Some(lease))
        });
        let expected = place.and_then(|place| place.closure.as_ref().or(place.target.closure()));
        let is_there = expected.is_none() || m.running().as_ref() == expected;
        let as_said = match outcome {
            // A lease that was never begun is given back without a verdict.
            OutcomeKind::Abandoned => true,
            // Who says that it was updated, and has been booted into something else since, is not.
            OutcomeKind::Stuck if said == Some(OutcomeKind::Confirmed) => !is_there,
            OutcomeKind::Confirmed
            | OutcomeKind::RolledBack
            | OutcomeKind::Stuck
            | OutcomeKind::RebootRequired
            | OutcomeKind::Refused => said == Some(outcome),
        };
        if !as_said {
            let text = format!(
                "lease {lease} counts as {outcome}, {} said {said:?}",
                m.name
            );
            return Some(text);
        }
        (outcome == OutcomeKind::Confirmed && !is_there)
            .then(|| format!("{} counts as updated and is not", m.name))
    }

    /// What the coordinator read back, against what it had acknowledged.
    pub(crate) fn check_restart(&mut self, loaded: &Fleet) {
        let mirror = self.coordinator.mirror.as_ref();
        if mirror.is_some_and(|mirror| invariants::replayed(mirror, loaded).is_some()) {
            self.violate("what was acknowledged is not what is read back".to_owned());
        }
    }

    /// An agent starts, and this epoch is on its disk: what the process before it heard and died of
    /// writing down, nobody has heard.
    pub(crate) fn remembered(&mut self, machine: usize, epoch: Epoch) {
        let heard = &mut self.machines[machine].truth.heard;
        heard.0 = heard.0.min(epoch);
    }

    /// The agent was told this: from now on it knows better.
    pub(crate) fn heard(&mut self, machine: usize, epoch: Epoch) {
        let now: At = elapsed();
        let heard = &mut self.machines[machine].truth.heard;
        if epoch > heard.0 {
            *heard = (epoch, now);
        }
    }

    /// What is not at its end yet, if anything.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let Some(fleet) = self.coordinator.mirror.as_ref() else {
            return Some("there is no coordinator".to_owned());
        };
        if let Some(number) = fleet.index().unfinished.first() {
            let rollout = &fleet.facts().rollouts[number];
            let open = rollout.places().filter(|place| !place.state.is_final());
            let open: Vec<String> = open
                .map(|place| format!("{} {}", place.machine, place.state.word()))
                .collect();
            return Some(format!("{} is {:?}: {open:?}", rollout.id, rollout.state));
        }
        let busy = self
            .machines
            .iter()
            .find(|m| m.truth.attempt.is_some() || m.truth.unreported);
        if let Some(m) = busy {
            return Some(format!("{} is not done: {:?}", m.name, m.truth.attempt));
        }
        let lease = fleet.facts().leases.values().next();
        lease.map(|lease| format!("{} holds lease {}", lease.machine, lease.id))
    }
}

/// Machine and number of a boot.
fn boot_of(boot_id: &str) -> (&str, u32) {
    let text = boot_id.strip_prefix("boot-").unwrap_or(boot_id);
    let (machine, number) = text.rsplit_once('-').unwrap_or((text, ""));
    (machine, number.parse().unwrap_or(0))
}

/// A fact as a line of the trace. Reports are left out: they hold what this host's file system has
/// free.
fn line_of(change: &Change) -> Option<String> {
    if let Change::Reported { .. } | Change::ConfigSet { .. } | Change::CertificateIssued { .. } =
        change
    {
        return None;
    }
    let text = serde_json::to_string(change).unwrap_or_else(|error| error.to_string());
    Some(format!("fact {text}"))
}
