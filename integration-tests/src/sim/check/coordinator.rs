//! What the coordinator decides and says, against the state before it and against what is true.

use std::{collections::VecDeque, time::Duration};

use common::{Action, MachineReport, OutcomeKind};
use coordinator_core::{
    Change, Decision, Fleet, Reply,
    analysis::{Finding, Probe},
    fleet::Index,
    invariants,
    policy::Policy,
    request::{AgentRequest, Directive, Renewal},
    rollout::{Place, Rollout, WaveState},
};

use super::{
    super::{
        driver::{Ask, Origin},
        oracle,
        world::{Body, World},
    },
    Told, schedules, terms, waves,
};

/// Decisions with changes after which what is recorded is held against itself.
const UNREAD_MAX: u32 = 64;

/// The boot that a report speaks of, if the request brings one.
pub(crate) fn boot_of(request: &AgentRequest) -> Option<u32> {
    match request {
        AgentRequest::Poll { report } | AgentRequest::Result { report, .. } => {
            Some(boot_number(report))
        }
        AgentRequest::Renew { .. } => None,
    }
}

fn boot_number(report: &MachineReport) -> u32 {
    let boot = report.boot_id.as_str().rsplit('-').next();
    boot.and_then(|boot| boot.parse().ok()).unwrap_or(0)
}

/// What the machine needs by what is recorded of it: the longest of its last attempts, of one with a reboot of
/// those that had one, and while there are fewer than three not less than its policy expects and than any took.
fn needs(mirror: &Fleet, place: &Place, action: Action, policy: &Policy) -> Duration {
    let expected = policy.expected_duration;
    let Some(known) = mirror.facts().machines.get(&place.machine) else {
        return expected;
    };
    let staged = known
        .report
        .as_ref()
        .and_then(|report| report.staged.as_ref());
    let staged = staged.filter(|staged| staged.target == place.target && staged.needs_reboot);
    let by_target = staged
        .is_some_and(|staged| policy.allow_reboot && !(policy.soft_reboot && staged.soft_reboot));
    let alike = match by_target || action == Action::Reboot {
        true => &known.took_with_reboot_s,
        false => &known.took_s,
    };
    let longest =
        |took: &VecDeque<u64>| Duration::from_secs(took.iter().copied().max().unwrap_or(0));
    match alike.len() {
        0..=2 => longest(&known.took_s).max(longest(alike)).max(expected),
        _ => longest(alike).max(Duration::from_secs(60)),
    }
}

/// Who is sent to what it has said that it refuses, although nobody wants what failed to be tried again. What
/// machines say of that is hearsay, which the mirror does not have.
fn refused_already(fleet: &Fleet, rollout: &Rollout) -> Option<String> {
    let refuses = |place: &&Place| {
        let known = fleet.facts().machines.get(&place.machine);
        known.is_some_and(|known| known.refuses(&place.target).is_some())
    };
    let asks = rollout.action == Action::Update && !rollout.retry_failed;
    let sent = rollout.places().find(refuses).filter(|_| asks)?;
    Some(format!("{} goes to what it has refused", sent.machine))
}

/// Whether somebody has changed something and judged it.
fn is_attempt(change: &Change) -> bool {
    let judged = [
        OutcomeKind::Confirmed,
        OutcomeKind::RolledBack,
        OutcomeKind::Stuck,
    ];
    matches!(change, Change::LeaseEnded { outcome, .. } if judged.contains(outcome))
}

impl World {
    /// Everything about one decision, before its changes reach the mirror.
    pub(crate) fn check_decision(&mut self, fleet: &Fleet, ask: &Ask, decision: &Decision) {
        if decision.changes.is_empty() {
            return;
        }
        let mut wrong = invariants::rules(fleet);
        wrong.extend(invariants::between(&self.coordinator.mirror, fleet));
        for violation in wrong {
            self.violate(violation.to_string());
        }
        for change in &decision.changes {
            if let Some(wrong) = invariants::follows(&self.coordinator.mirror, change) {
                self.violate(wrong.to_string());
            }
            self.check_change(fleet, ask, change);
            let mirror = &self.coordinator.mirror;
            let machines = (&self.machines[..], &self.index_of);
            let wrong = [
                self.truth.approvals.check(mirror, change),
                self.truth.gates.check(mirror, machines, self.now, change),
                schedules::check(mirror, ask, change),
                terms::wrong(mirror, fleet, change),
                waves::wrong(mirror, change, fleet.hearsay().now),
            ];
            for wrong in wrong.into_iter().flatten() {
                self.violate(wrong);
            }
            self.truth.attempts += u64::from(is_attempt(change));
            self.coordinator.mirror.apply(change);
        }
        if let Some(wrong) = terms::waited_for_too_long(fleet) {
            self.violate(wrong);
        }
        let now = self.coordinator_time();
        if let Some(wrong) = self.truth.promises.check_windows(fleet, now) {
            self.violate(wrong);
        }
        self.truth.slots_moved = true;
        self.truth.unread += 1;
        if self.pedantic || self.truth.unread >= UNREAD_MAX {
            self.check_record(fleet);
        }
    }

    /// What is kept up to date is what the facts say, and the recorded changes alone lead to the
    /// same facts. A fleet that drifted from its record stays so, and this looks at all of it.
    pub(crate) fn check_record(&mut self, fleet: &Fleet) {
        self.truth.unread = 0;
        let derived = Index::of(fleet.facts());
        if *fleet.index() != derived {
            self.violate("invariant 9: counters and facts have drifted apart".to_owned());
            let kept = fleet.index();
            self.tell(|_| format!("kept {kept:#?}\nderived {derived:#?}"));
        }
        let replayed = invariants::replayed(fleet, &self.coordinator.mirror);
        if let Some(violation) = replayed {
            self.violate(violation.to_string());
        }
    }

    /// One change, against the state before it.
    fn check_change(&mut self, fleet: &Fleet, ask: &Ask, change: &Change) {
        let letter = ask.origin().map(|origin| &origin.letter);
        let sender = letter.map(|letter| letter.machine);
        let truth = letter.and_then(|letter| match &letter.body {
            Body::Ask { truth, .. } => Some(truth),
            Body::Answer { .. } | Body::Push { .. } => None,
        });
        let mirror = &self.coordinator.mirror;
        let index = |name| self.index_of.get(name).copied();
        let mut wrong = None;
        match change {
            Change::Reported {
                machine, report, ..
            } => {
                let Some(machine) = index(machine) else {
                    return;
                };
                let now = (boot_number(report), report.sequence);
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
                let rollout = mirror.rollout(&lease.rollout);
                let rollout = rollout.filter(|rollout| !rollout.immediate);
                let group = rollout.and_then(|rollout| rollout.group(&lease.group));
                let config = mirror.facts().config.as_ref();
                let nothing = serde_json::Value::Null;
                let document = config.map_or(&nothing, |config| &config.document);
                let place = group.and_then(|group| {
                    let place = group
                        .places()
                        .find(|place| place.machine == lease.machine)?;
                    Some((place, group.rules(place.rules)))
                });
                if let Some((place, policy)) = place
                    && let Some(why) = oracle::outside(
                        policy,
                        document,
                        needs(mirror, place, lease.action, policy),
                        fleet.hearsay().now,
                    )
                {
                    wrong = Some(format!("lease {} is granted {why}", lease.id));
                }
                if mirror.group_of(&lease.machine).is_none() {
                    wrong = Some(format!("{} goes and has left the fleet", lease.machine));
                }
                if sender != index(&lease.machine) {
                    wrong = Some(format!("lease {} is granted to nobody who asked", lease.id));
                }
            }
            Change::Measured {
                rollout,
                group,
                gate,
                finding: Finding::Pass,
                ..
            } => {
                let group = mirror.rollout(rollout).and_then(|r| r.group(group));
                let gate = group.and_then(|group| group.policy.gates.get(*gate));
                let by_machines =
                    gate.is_some_and(|gate| matches!(gate.probe, Probe::HealthCheck { .. }));
                if !by_machines && !ask.is_pass() {
                    wrong = Some(format!("a gate of {rollout} passes and nobody has said so"));
                }
            }
            Change::LeaseEnded { lease, outcome, .. } => {
                let Some(held) = mirror.facts().leases.get(lease) else {
                    return;
                };
                // A poll of a holder that has not begun gives back; everything else is a result.
                let given_back = *outcome == OutcomeKind::Abandoned && ask.is_poll();
                if sender != index(&held.machine) {
                    wrong = Some(format!("lease {lease} is ended by somebody else"));
                } else if !given_back && !ask.is_result_for(*lease) {
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
            Change::Traffic { group, step } => {
                let now = fleet.hearsay().now;
                let outside = self.moved_outside(mirror, group, step, now);
                wrong = outside.or_else(|| self.wrongly_moved(mirror, group, step));
            }
            Change::Forgotten { machine, .. } => {
                // What it knew of the order of its reports, it was told to forget.
                self.truth
                    .newest
                    .retain(|known, _| Some(*known) != index(machine));
            }
            Change::RolloutCreated { rollout, .. } => {
                let plan = ask.plan();
                wrong = plan
                    .and_then(|plan| self.truth.promises.check_plan(plan, rollout))
                    .or_else(|| refused_already(fleet, rollout));
            }
            Change::ConfigSet { .. }
            | Change::Pinned { .. }
            | Change::ApprovalAsked { .. }
            | Change::Approved { .. }
            | Change::WaveHeld { .. }
            | Change::Promoted { .. }
            | Change::WaveOpened { .. }
            | Change::GroupFinished { .. }
            | Change::WindowMissed { .. }
            | Change::Alarmed { .. }
            | Change::Retried { .. }
            | Change::TargetQuarantined { .. }
            | Change::TargetReleased { .. }
            | Change::LeaseOverdue { .. }
            | Change::LeaseRevived { .. }
            | Change::LeaseLost { .. }
            | Change::Recovered { .. }
            | Change::Declined { .. }
            | Change::Skipped { .. }
            | Change::RolloutPaused { .. }
            | Change::NothingToTakeBack { .. }
            | Change::RolloutResumed { .. }
            | Change::RolloutAborted { .. }
            | Change::RolloutEnded { .. }
            | Change::Stopped { .. }
            | Change::StopLifted { .. }
            | Change::Restored { .. }
            | Change::TokenCreated { .. }
            | Change::TokenRevoked { .. }
            | Change::CertificateIssued { .. }
            | Change::CertificateRevoked { .. }
            | Change::ReturnAsked { .. }
            | Change::ReturnApproved { .. }
            | Change::ReturnAnswered { .. }
            | Change::ReturnWithdrawn { .. }
            | Change::IdentitiesForgotten { .. }
            | Change::AnalysisBegan { .. }
            | Change::Measured { .. }
            | Change::Quarantined { .. }
            | Change::Released { .. }
            | Change::Schedule { .. } => {}
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
                    lost: false,
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
            | Reply::Plan(..)
            | Reply::Executed { .. }
            | Reply::Pinned(_)
            | Reply::Stopped(_)
            | Reply::HealthCheck { .. }
            | Reply::Config { .. }
            | Reply::Moves { .. }
            | Reply::Token(_)
            | Reply::Certify(_)
            | Reply::ReturnPending
            | Reply::Returns { .. }
            | Reply::Notify(_)
            | Reply::Refused(_) => {}
        }
    }

    fn check_renewal(&mut self, origin: &Origin, valid_for: std::time::Duration) {
        let Body::Ask { request, .. } = &origin.letter.body else {
            return;
        };
        let AgentRequest::Renew { lease, .. } = *request else {
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
}
