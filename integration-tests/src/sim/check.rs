//! What must be true of the world, whatever the programs believe: looked at where it happens.

use std::collections::BTreeMap;

use agent_core::{Durable, Hook, Mode, Previous, Step, Work, state::Unreported};
use common::{Epoch, LeaseId, OutcomeKind, RolloutId};
use coordinator_core::{
    Change, Decision, Fleet, Reply,
    fleet::Index,
    invariants,
    request::{Directive, Renewal},
    rollout::{PlaceState, WaveState},
};

use super::{
    driver::{Ask, Origin},
    event::{At, MachineIndex},
    machine::Disruption,
    oracle,
    world::{Body, World},
};

/// What the world knows of the leases that were given out.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    told: BTreeMap<LeaseId, Told>,
    /// The newest report that was taken in, of each machine: boot and sequence.
    newest: BTreeMap<MachineIndex, (u32, u64)>,
    /// Most machines that were really away at once.
    pub(crate) most_away: usize,
}

/// A lease as a machine was told of it.
#[derive(Debug)]
struct Told {
    machine: MachineIndex,
    rollout: RolloutId,
    epoch: Epoch,
    group: common::GroupName,
    /// Limits in force when it was granted.
    group_limit: usize,
    fleet_limit: usize,
    /// The last instant at which the machine may believe in it.
    until: At,
}

impl Truth {
    /// Lease numbers from here on have not been told to anybody.
    pub(crate) fn forget_from(&mut self, next: LeaseId) {
        self.told.retain(|lease, _| *lease < next);
    }
}

impl World {
    /// Everything about one decision, before its changes reach the mirror.
    pub(crate) fn check_decision(&mut self, fleet: &Fleet, ask: &Ask, decision: &Decision) {
        if decision.changes.is_empty() {
            return;
        }
        let wrong = invariants::check(fleet).into_iter();
        let wrong = wrong.chain(invariants::between(&self.coordinator.mirror, fleet));
        for violation in wrong.collect::<Vec<_>>() {
            self.violate(violation.to_string());
            if violation.invariant == 9 {
                let (kept, derived) = (fleet.index(), Index::of(fleet.facts()));
                self.tell(|_| format!("kept {kept:#?}\nderived {derived:#?}"));
            }
        }
        for change in &decision.changes {
            self.check_change(fleet, ask, change);
            self.coordinator.mirror.apply(change);
        }
    }

    /// One change, against the state before it.
    fn check_change(&mut self, fleet: &Fleet, ask: &Ask, change: &Change) {
        let letter = ask.from.as_ref().map(|origin| &origin.letter);
        let sender = letter.map(|letter| letter.machine);
        let truth = letter.and_then(|letter| match &letter.body {
            Body::Ask { truth, .. } => Some(truth),
            Body::Answer { .. } | Body::Push { .. } => None,
        });
        let mirror = &self.coordinator.mirror;
        let index = |name| self.index_of.get(name).copied();
        let mut wrong = None;
        match change {
            Change::Reported { machine, report } => {
                let Some(machine) = index(machine) else {
                    return;
                };
                let boot = report.boot_id.as_str().rsplit('-').next();
                let boot = boot.and_then(|boot| boot.parse().ok()).unwrap_or(0);
                let now = (boot, report.sequence);
                let newest = self.truth.newest.entry(machine).or_default();
                if sender != Some(machine) {
                    wrong = Some("a report is taken from another machine".to_owned());
                } else if now < *newest {
                    wrong = Some(format!(
                        "the report {now:?} takes the place of the newer {newest:?}"
                    ));
                }
                *newest = now.max(*newest);
            }
            Change::LeaseGranted { lease, .. } => {
                let group = mirror
                    .rollout(&lease.rollout)
                    .filter(|rollout| !rollout.immediate)
                    .and_then(|rollout| rollout.group(&lease.group));
                if let Some(group) = group
                    && let Some(why) = oracle::outside(&group.policy, fleet.hearsay().now)
                {
                    wrong = Some(format!("lease {} is granted {why}", lease.id));
                }
                if sender != index(&lease.machine) {
                    wrong = Some(format!("lease {} is granted to nobody who asked", lease.id));
                }
            }
            Change::LeaseEnded { lease, outcome, .. } => {
                let Some(held) = mirror.facts().leases.get(lease) else {
                    return;
                };
                let given_back = *outcome == OutcomeKind::Abandoned;
                if sender != index(&held.machine) {
                    wrong = Some(format!("lease {lease} is ended by somebody else"));
                } else if !given_back && !Self::is_result_for(&ask.request, *lease) {
                    wrong = Some(format!("lease {lease} is ended by another lease's result"));
                } else if *outcome == OutcomeKind::Confirmed {
                    let place = mirror.rollout(&held.rollout).and_then(|rollout| {
                        rollout
                            .places()
                            .find(|place| place.state.lease() == Some(*lease))
                    });
                    let expected = place.and_then(|p| p.closure.as_ref().or(p.target.closure()));
                    if expected.is_some() && expected != truth {
                        wrong = Some(format!("{} counts as updated and is not", held.machine));
                    }
                }
            }
            Change::Arrived { rollout, machine } => {
                let place = mirror
                    .rollout(rollout)
                    .and_then(|rollout| rollout.places().find(|place| place.machine == *machine));
                let expected = place.and_then(|place| place.target.closure());
                if expected != truth {
                    wrong = Some(format!("{machine} counts as arrived and is not"));
                }
            }
            Change::WaveSoaking {
                rollout,
                group,
                wave,
                ..
            }
            | Change::WaveClosed {
                rollout,
                group,
                wave,
            } => {
                let group = mirror.rollout(rollout).and_then(|r| r.group(group));
                let wave = group.and_then(|group| group.waves.get(*wave));
                let open = wave.filter(|wave| matches!(wave.state, WaveState::Open(_)));
                let out = open.and_then(|wave| {
                    let mut places = wave.places.iter();
                    places.find(|place| place.state.lease().is_some())
                });
                if let Some(place) = out {
                    wrong = Some(format!("a wave ends while {} is out", place.machine));
                }
            }
            Change::ConfigSet { .. }
            | Change::Pinned { .. }
            | Change::RolloutCreated { .. }
            | Change::ApprovalAsked { .. }
            | Change::Approved { .. }
            | Change::WaveOpened { .. }
            | Change::GroupFinished { .. }
            | Change::LeaseOverdue { .. }
            | Change::LeaseRevived { .. }
            | Change::LeaseLost { .. }
            | Change::Recovered { .. }
            | Change::Declined { .. }
            | Change::Skipped { .. }
            | Change::RolloutPaused { .. }
            | Change::RolloutResumed { .. }
            | Change::RolloutAborted { .. }
            | Change::RolloutEnded { .. }
            | Change::Stopped { .. }
            | Change::StopLifted { .. }
            | Change::Restored { .. }
            | Change::Forgotten { .. }
            | Change::TokenCreated { .. }
            | Change::TokenRevoked { .. }
            | Change::CertificateIssued { .. }
            | Change::CertificateRevoked { .. } => {}
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// What leaves the coordinator for a machine.
    pub(crate) fn check_reply(&mut self, origin: &Origin, reply: &Reply) {
        let machine = origin.letter.machine;
        let until = |for_: std::time::Duration| {
            origin.letter.sent_at + u64::try_from(for_.as_millis()).unwrap_or(u64::MAX / 2)
        };
        match reply {
            Reply::Directive(Directive::Proceed(grant)) => {
                let mirror = &self.coordinator.mirror;
                let group = mirror
                    .facts()
                    .leases
                    .get(&grant.lease)
                    .map(|lease| lease.group.clone());
                let Some(group) = group else {
                    let text = format!("lease {} is given and not recorded", grant.lease);
                    return self.violate(text);
                };
                let policy = mirror
                    .rollout(&grant.rollout)
                    .and_then(|rollout| rollout.group(&group))
                    .map_or(0, |group| group.policy.max_parallel);
                let fleet_limit = mirror.fleet_limit();
                let until = until(grant.valid_for);
                let told = self.truth.told.entry(grant.lease).or_insert_with(|| Told {
                    machine,
                    rollout: grant.rollout.clone(),
                    epoch: grant.epoch,
                    group,
                    group_limit: usize::try_from(policy).unwrap_or(usize::MAX),
                    fleet_limit: usize::try_from(fleet_limit).unwrap_or(usize::MAX),
                    until,
                });
                told.until = told.until.max(until);
                // A stop of other groups carries the lease over to its epoch.
                told.epoch = told.epoch.max(grant.epoch);
                if told.machine != machine || told.rollout != grant.rollout {
                    self.violate(format!("lease {} is given out twice", grant.lease));
                }
            }
            Reply::Renewal(Renewal::Valid(valid_for)) => self.check_renewal(origin, *valid_for),
            Reply::Directive(_)
            | Reply::Renewal(_)
            | Reply::Done(_)
            | Reply::Acknowledged
            | Reply::Plan(_)
            | Reply::Executed { .. }
            | Reply::Pinned(_)
            | Reply::Stopped(_)
            | Reply::HealthCheck { .. }
            | Reply::Config { .. }
            | Reply::Token(_)
            | Reply::Certify(_)
            | Reply::Notify(_)
            | Reply::Refused(_) => {}
        }
    }

    fn check_renewal(&mut self, origin: &Origin, valid_for: std::time::Duration) {
        let Body::Ask { request, .. } = &origin.letter.body else {
            return;
        };
        let coordinator_core::request::AgentRequest::Renew { lease, .. } = **request else {
            return;
        };
        let machine = origin.letter.machine;
        let facts = self.coordinator.mirror.facts();
        let held = facts.leases.get(&lease);
        let holder = held.and_then(|held| self.index_of.get(&held.machine));
        let text = if holder != Some(&machine) {
            format!("a machine renews lease {lease}, which is not its own")
        } else if held.is_some_and(|held| held.epoch != facts.epoch) {
            format!("lease {lease} of an older epoch is renewed")
        } else {
            let until = origin.letter.sent_at
                + u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX / 2);
            if let Some(told) = self.truth.told.get_mut(&lease) {
                told.until = told.until.max(until);
            }
            return;
        };
        self.violate(text);
    }

    /// A result is always the same, however often it is sent.
    pub(crate) fn check_verdict(&mut self, machine: MachineIndex, result: &Unreported) {
        if result.lease == LeaseId::default() {
            return;
        }
        let truth = &mut self.machines[machine].truth;
        let first = truth
            .verdicts
            .entry(result.lease)
            .or_insert_with(|| result.outcome.clone());
        if *first != result.outcome {
            let text = format!("lease {} ends in two ways", result.lease);
            self.violate(text);
        }
    }

    /// A piece of work is begun on a machine.
    pub(crate) fn check_work(&mut self, machine: MachineIndex, work: &Work) {
        let m = &self.machines[machine];
        let Some(attempt) = &m.disk.attempt else {
            return;
        };
        let lease = attempt.lease;
        let there = attempt.step == Step::Rebooting;
        let (changes, disturbs) = match work {
            Work::RunHook { hook, .. } => {
                self.check_hook(machine, lease, *hook);
                (*hook == Hook::Pre, *hook == Hook::Pre)
            }
            Work::Activate { mode, .. } => (true, *mode == Mode::Switch),
            Work::Reboot { .. } => (there, there),
            Work::Restore { previous, .. } => {
                self.check_way_back(machine, lease, previous);
                (false, false)
            }
            Work::Stage { .. }
            | Work::Snapshot { .. }
            | Work::ArmDeadMan { .. }
            | Work::DisarmDeadMan { .. }
            | Work::Judge { .. }
            | Work::CheckHealth { .. } => (false, false),
        };
        if changes {
            self.note_before(machine, lease);
        }
        if disturbs {
            self.check_disturbance(machine, lease);
        }
    }

    fn note_before(&mut self, machine: MachineIndex, lease: LeaseId) {
        let m = &mut self.machines[machine];
        if m.truth.before.as_ref().is_none_or(|(l, _)| *l != lease) {
            let previous = Previous {
                running: m.running.clone(),
                boot_default: m.profile.clone(),
            };
            m.truth.before = Some((lease, previous));
        }
    }

    fn check_hook(&mut self, machine: MachineIndex, lease: LeaseId, hook: Hook) {
        let truth = &mut self.machines[machine].truth;
        let count = truth.hooks.entry((lease, hook)).or_default();
        *count += 1;
        let twice = *count > 1;
        let pre = truth.hooks.get(&(lease, Hook::Pre)).copied().unwrap_or(0);
        let alone = hook != Hook::Pre && pre == 0 && truth.cut != Some(lease);
        if twice {
            self.violate(format!("lease {lease}: the {hook:?} hook runs twice"));
        }
        if alone {
            self.violate(format!("lease {lease}: the {hook:?} hook runs alone"));
        }
    }

    pub(crate) fn check_way_back(
        &mut self,
        machine: MachineIndex,
        lease: LeaseId,
        previous: &Previous,
    ) {
        let before = &self.machines[machine].truth.before;
        if before.as_ref() != Some(&(lease, previous.clone())) {
            let name = self.machines[machine].name.clone();
            self.violate(format!("{name} goes back to where it did not come from"));
        }
    }

    fn check_disturbance(&mut self, machine: MachineIndex, lease: LeaseId) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let name = m.name.clone();
        let truth = &mut m.truth;
        let ended = truth.verdicts.contains_key(&lease);
        let newest = lease >= truth.used && !ended;
        truth.used = truth.used.max(lease);
        let heard = truth.heard;
        let Some(told) = self.truth.told.get(&lease) else {
            return self.violate(format!("{name} is disturbed under a lease nobody gave it"));
        };
        let first = truth.disruption.is_none();
        if first {
            truth.forgotten = false;
        }
        truth.disruption.get_or_insert(Disruption {
            lease,
            group: told.group.clone(),
        });
        let mut wrong = Vec::new();
        if told.machine != machine {
            wrong.push("another machine's lease");
        }
        if told.until <= now {
            wrong.push("a lease that ran out");
        }
        if told.epoch < heard {
            wrong.push("a lease older than a stop it has heard of");
        }
        if !newest {
            wrong.push("a lease that was used up");
        }
        for wrong in wrong {
            self.violate(format!("{name} is disturbed under {wrong} ({lease})"));
        }
        if first {
            self.check_limits(machine);
        }
    }

    /// Whoever is really away, counted by the world, against the limits they were let go under.
    fn check_limits(&mut self, newest: MachineIndex) {
        let Some(group) = self.machines[newest]
            .truth
            .disruption
            .as_ref()
            .map(|disruption| disruption.group.clone())
        else {
            return;
        };
        let away = self.machines.iter().filter(|m| !m.truth.forgotten);
        let away: Vec<&Disruption> = away.filter_map(|m| m.truth.disruption.as_ref()).collect();
        let told = |d: &&&Disruption| self.truth.told.get(&d.lease);
        let fleet_limit = away.iter().filter_map(|d| told(&d)).map(|t| t.fleet_limit);
        let fleet_limit = fleet_limit.max().unwrap_or(0);
        let mates: Vec<&&Disruption> = away.iter().filter(|d| d.group == group).collect();
        let group_limit = mates.iter().filter_map(told).map(|t| t.group_limit);
        let group_limit = group_limit.max().unwrap_or(0);
        let (all, here) = (away.len(), mates.len());
        self.truth.most_away = self.truth.most_away.max(all);
        if all > fleet_limit {
            self.violate(format!("{all} machines are really away, {fleet_limit} may"));
        }
        if here > group_limit {
            let text = format!("{here} machines of {group} are really away, {group_limit} may");
            self.violate(text);
        }
    }

    /// A machine that is really away has its slot, as long as there is a coordinator.
    pub(crate) fn check_slots(&mut self) {
        if self.coordinator.fleet.is_none() {
            return;
        }
        let index = self.coordinator.mirror.index();
        let slotless = self.machines.iter().find(|m| {
            let away = m.truth.disruption.is_some() && !m.truth.forgotten;
            away && !index.away.values().any(|away| away.contains(&m.name))
        });
        if let Some(m) = slotless {
            let text = format!("{} is really away and has no slot", m.name);
            self.violate(text);
        }
    }

    /// An attempt came to its verdict: is it true?
    pub(crate) fn check_end(&mut self, machine: MachineIndex, before: &Durable) {
        let m = &self.machines[machine];
        let Some(old) = &before.attempt else {
            return;
        };
        let was_closing = matches!(old.step, Step::Closing { .. });
        let outcome = match &m.disk.attempt {
            Some(attempt) => match &attempt.step {
                Step::Closing { outcome } => Some(outcome.kind),
                Step::Staging
                | Step::Snapshot
                | Step::Arming
                | Step::PreHook
                | Step::Activating
                | Step::Announcing
                | Step::Rebooting
                | Step::Rearming
                | Step::PostHook
                | Step::Judging
                | Step::RollingBack
                | Step::RebootingBack
                | Step::RollbackHook
                | Step::JudgingRollback => None,
            },
            None => m.disk.unreported.as_ref().map(|r| r.outcome.kind),
        };
        let Some(kind) = outcome else {
            return;
        };
        if !was_closing {
            self.check_outcome(machine, old.lease, old.path.as_ref(), kind);
        }
        let m = &mut self.machines[machine];
        if m.disk.attempt.is_none() {
            if kind != OutcomeKind::Stuck {
                m.truth.disruption = None;
            }
            self.recovered(machine);
        }
    }

    fn check_outcome(
        &mut self,
        machine: MachineIndex,
        lease: LeaseId,
        target: Option<&common::StorePath>,
        kind: OutcomeKind,
    ) {
        let m = &self.machines[machine];
        let before = m.truth.before.as_ref().filter(|(l, _)| *l == lease);
        let is_back = before.is_none_or(|(_, previous)| {
            m.running == previous.running && m.profile == previous.boot_default
        });
        let ran = |hook| m.truth.hooks.get(&(lease, hook)).copied().unwrap_or(0) > 0;
        let whole = m.truth.cut != Some(lease) && ran(Hook::Pre);
        let (holds, paired) = match kind {
            OutcomeKind::Confirmed => (Some(&m.running) == target, ran(Hook::Post)),
            OutcomeKind::RolledBack => (is_back, ran(Hook::Rollback)),
            // Nothing was changed by the attempt; what a power cut brings up is not its doing.
            OutcomeKind::Abandoned | OutcomeKind::Refused => {
                (is_back || m.truth.cut == Some(lease), true)
            }
            OutcomeKind::RebootRequired => {
                let stays = before.is_none_or(|(_, previous)| m.running == previous.running);
                (stays, true)
            }
            OutcomeKind::Stuck => (true, true),
        };
        let name = m.name.clone();
        if !holds {
            self.violate(format!("{name} says {kind}, and is not (lease {lease})"));
        }
        if whole && !paired {
            self.violate(format!("{name} is {kind} without its hook (lease {lease})"));
        }
    }

    /// A machine that was away and is healthy again is back.
    pub(crate) fn recovered(&mut self, machine: MachineIndex) {
        let m = &mut self.machines[machine];
        if m.truth.disruption.is_some() && m.disk.attempt.is_none() && m.is_healthy() {
            m.truth.disruption = None;
        }
    }

    /// Whether nothing is unfinished, and if not, what.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let Some(fleet) = &self.coordinator.fleet else {
            return Some("the coordinator is not there".to_owned());
        };
        if let Some(number) = fleet.index().unfinished.first() {
            let rollout = &fleet.facts().rollouts[number];
            let open = rollout.places().filter(|p| !p.state.is_final());
            let open: Vec<String> = open
                .take(4)
                .map(|place| {
                    let now = fleet.hearsay().now;
                    let waits = place.state == PlaceState::Pending;
                    let why = waits
                        .then(|| fleet.permission(&place.machine, now).err())
                        .flatten();
                    let why = why.map(|why| why.to_string()).unwrap_or_default();
                    format!("{} {} {why}", place.machine, place.state.word())
                })
                .collect();
            return Some(format!("{} is {:?}: {open:?}", rollout.id, rollout.state));
        }
        let busy = self.machines.iter().find(|m| {
            m.disk.attempt.is_some() || m.disk.unreported.is_some() || !m.up || m.agent.is_none()
        });
        if let Some(m) = busy {
            return Some(format!("{} is not done: {:?}", m.name, m.disk.attempt));
        }
        let lease = fleet.facts().leases.values().next();
        lease.map(|lease| format!("{} holds lease {}", lease.machine, lease.id))
    }
}
