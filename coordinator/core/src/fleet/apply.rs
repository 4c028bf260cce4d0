//! `apply`: one arm per fact, for decisions and for recovery alike. It trusts its input: facts were
//! decided before they were written.

mod leases;

use std::collections::BTreeMap;

use common::{GroupName, MachineName, OutcomeKind, RolloutId, Timestamp};

use super::{ENDED_KEPT, Fleet, Stop, number_of};
use crate::{
    analysis::{Analysis, Last},
    calendar::Calendar,
    change::Change,
    machine::{Machine, Pin},
    quarantine::Quarantine,
    rollout::{PauseReason, Place, PlaceState, Rollout, RolloutGroup, RolloutState, Wave},
    traffic::{Traffic, TrafficStep},
    transition::{ApprovalStep, PlaceStep, RolloutStep, WaveStep},
};

impl Fleet {
    /// Makes a fact true in memory.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::ConfigSet {
                revision,
                config,
                at,
                ..
            } => {
                self.facts.follow_schedules(config, *at);
                self.hearsay.planned.clear();
                self.facts.revision = *revision;
                self.calendars_set(&config.calendars, *at);
                for group in self.sides_changed_by(config) {
                    self.facts.traffic.entry(group).or_default().sides_changed();
                }
                self.facts.config = Some(config.clone());
                for machine in self.facts.machines.keys() {
                    self.index.judge(&self.facts, machine);
                }
                self.index.find_gone(&self.facts);
                self.index.find_lasting(&self.facts);
            }
            Change::Reported {
                machine,
                report,
                at,
            } => {
                self.with_machine(machine, |known| {
                    let running = known.running().cloned();
                    known.learn((**report).clone());
                    known.look_at_what_runs(running.as_ref(), *at);
                });
                self.index.judge(&self.facts, machine);
            }
            Change::Alarmed {
                alarm, machines, ..
            } => {
                for (machine, _) in machines {
                    self.with_machine(machine, |known| {
                        known.told.insert(*alarm);
                    });
                }
            }
            Change::Pinned { targets, by, at } => {
                for (machine, target) in targets {
                    let pin = Pin {
                        target: target.clone(),
                        at: *at,
                        by: by.clone(),
                    };
                    self.facts.machines.entry(machine.clone()).or_default().pin = Some(pin);
                }
            }
            Change::RolloutCreated {
                rollout,
                undoes_to_now,
            } => self.created(rollout, *undoes_to_now),
            Change::ApprovalAsked { rollout, group, at } => {
                self.with_group(rollout, group, |g| {
                    g.approval_step(ApprovalStep::Asked(*at))
                });
            }
            Change::Approved {
                rollout,
                group,
                by,
                comment,
                at,
            } => {
                let given = ApprovalStep::Given {
                    by: by.clone(),
                    comment: comment.clone(),
                    at: *at,
                };
                self.with_group(rollout, group, |g| g.approval_step(given));
            }
            Change::WaveOpened {
                rollout,
                group,
                wave,
                at,
            } => {
                self.with_wave(rollout, group, *wave, |w| w.step(WaveStep::Opened(*at)));
            }
            Change::WaveSoaking {
                rollout,
                group,
                wave,
                until,
            } => {
                self.with_wave(rollout, group, *wave, |w| w.step(WaveStep::Soaks(*until)));
            }
            Change::WaveClosed {
                rollout,
                group,
                wave,
            } => self.wave_closed(rollout, group, *wave),
            Change::WaveHeld {
                rollout, group, at, ..
            } => self.with_group(rollout, group, |g| g.held_since = Some(*at)),
            Change::Promoted {
                rollout,
                group,
                waves,
                ..
            } => self.with_group(rollout, group, |g| {
                g.promoted = *waves;
                g.held_since = None;
            }),
            Change::WindowMissed {
                rollout,
                group,
                windows,
                shut_at,
                ..
            } => {
                self.with_group(rollout, group, |g| {
                    g.windows_told = Some(*shut_at);
                    g.windows_missed = g.windows_missed.saturating_add(*windows);
                });
            }
            Change::GroupFinished { rollout, group, at } => {
                self.with_group(rollout, group, |g| g.finished_at = Some(*at));
                self.facts.finished.insert(group.clone(), *at);
            }
            Change::LeaseGranted { lease, closure } => {
                self.facts.next_lease = lease.id.next();
                self.index.lease_of.insert(lease.machine.clone(), lease.id);
                self.index.mark_away(&lease.group, &lease.machine);
                self.facts.leases.insert(lease.id, lease.clone());
                self.index.judge(&self.facts, &lease.machine);
                self.measure_anew(&lease.machine);
                self.with_place(&lease.machine, |place| {
                    place.step(PlaceStep::Granted(lease.id));
                    place.closure.clone_from(closure);
                    place.verdict = None;
                });
            }
            Change::LeaseOverdue { lease, at } => self.overdue(*lease, *at),
            Change::LeaseRevived { lease } => self.revived(*lease),
            Change::LeaseEnded {
                lease,
                outcome,
                reason,
                at,
            } => {
                self.ended(*lease, *outcome, reason, *at);
            }
            Change::LeaseLost { lease, at } => self.lost(*lease, *at),
            Change::Recovered { machine } => self.recovered(machine),
            Change::Arrived { machine, .. } => {
                self.with_place(machine, |place| place.step(PlaceStep::Arrived));
            }
            Change::Declined {
                machine, reason, ..
            } => {
                self.with_place(machine, |place| {
                    place.step(PlaceStep::Declined);
                    place.verdict = Some(OutcomeKind::Refused);
                    place.reason.clone_from(reason);
                });
            }
            Change::Skipped {
                machine, reason, ..
            } => {
                self.with_place(machine, |place| {
                    place.step(PlaceStep::Skipped);
                    place.reason.clone_from(reason);
                });
            }
            Change::RolloutPaused {
                rollout,
                reason,
                takes_back,
            } => self.with_rollout(rollout, |r| {
                r.step(RolloutStep::Paused(reason.clone()));
                r.takes_back = *takes_back;
            }),
            Change::NothingToTakeBack { rollout } => {
                self.with_rollout(rollout, |r| r.takes_back = false);
            }
            Change::RolloutResumed { rollout, .. } => self.with_rollout(rollout, |r| {
                let unshown = r.is_paused_for_lack_of_success();
                let unreached = matches!(
                    r.state,
                    RolloutState::Paused(PauseReason::NoProgress { .. })
                );
                r.accept_analysis();
                r.takes_back = false;
                r.step(RolloutStep::Resumed);
                for group in &mut r.groups {
                    group.forgiven = group.failed;
                    // What is still to be shown is not accepted beforehand.
                    if unshown && (group.has_ended_wave() || unreached) {
                        group.unshown_accepted = Some(group.current);
                    }
                    group.approval_step(ApprovalStep::Resumed);
                }
            }),
            Change::RolloutAborted {
                rollout,
                by,
                reason,
                at,
            } => {
                self.aborted(rollout, by, reason, *at);
            }
            Change::RolloutEnded {
                rollout,
                succeeded,
                at,
            } => {
                self.end(rollout, RolloutStep::Ended(*succeeded), *at);
            }
            Change::Stopped {
                epoch,
                groups,
                mode,
                by,
                reason,
                at,
            } => {
                let before = std::mem::replace(&mut self.facts.epoch, *epoch);
                let mut stop = Stop {
                    groups: groups.iter().cloned().collect(),
                    mode: *mode,
                    by: by.clone(),
                    reason: reason.clone(),
                    at: *at,
                };
                // A second stop widens the first.
                match &self.facts.stop {
                    Some(before) if before.groups.is_empty() => stop.groups.clear(),
                    Some(before) if !stop.groups.is_empty() => {
                        stop.groups.extend(before.groups.iter().cloned());
                    }
                    Some(_) | None => {}
                }
                for lease in self.facts.leases.values_mut() {
                    // What a restore or a stop has made void stays so.
                    if !stop.covers(&lease.group) && lease.epoch == before {
                        lease.epoch = *epoch;
                    }
                }
                self.facts.stop = Some(stop);
            }
            Change::StopLifted { .. } => self.facts.stop = None,
            Change::Restored { epoch, next_lease } => {
                self.facts.epoch = *epoch;
                self.facts.next_lease = *next_lease;
                self.facts.traffic.values_mut().for_each(Traffic::restored);
            }
            Change::Forgotten { machine, at, .. } => self.forgotten(machine, *at),
            Change::Quarantined {
                machine,
                by,
                reason,
                at,
            } => {
                let quarantine = Quarantine::new(by, reason, *at);
                self.facts.quarantined.insert(machine.clone(), quarantine);
                self.fails(machine, |_| 0);
            }
            Change::Retried { machine, until, .. } => self.with_place(machine, |place| {
                place.step(PlaceStep::Retried);
                place.tries += 1;
                place.retry_at = Some(*until);
            }),
            Change::TargetQuarantined {
                target,
                by,
                reason,
                at,
            } => {
                let quarantine = Quarantine::new(by, reason, *at);
                self.facts.targets_aside.insert(target.clone(), quarantine);
                let failed = self.index.failing_with.get(target).cloned();
                for machine in failed.unwrap_or_default() {
                    self.fails_with(&machine, None);
                }
            }
            Change::TargetReleased { target, .. } => {
                self.facts.targets_aside.remove(target);
            }
            Change::Released { machine, .. } => {
                self.facts.quarantined.remove(machine);
                self.fails(machine, |_| 0);
            }
            Change::AnalysisBegan {
                rollout,
                group,
                wave,
                opened,
                at,
            } => self.with_group(rollout, group, |g| {
                let gates = g.policy.gates.len();
                let Some(wave) = g.waves.get_mut(*wave) else {
                    return;
                };
                let accepted = wave.analysis.as_ref().is_some_and(|found| found.accepted);
                let analysis = Analysis::new(*opened, *at, gates);
                wave.analysis = Some(Analysis {
                    accepted,
                    ..analysis
                });
            }),
            Change::Measured {
                rollout,
                group,
                wave,
                gate,
                finding,
                detail,
                at,
            } => self.with_wave(rollout, group, *wave, |w| {
                let analysis = w.analysis.as_mut();
                if let Some(tally) = analysis.and_then(|found| found.tallies.get_mut(*gate)) {
                    tally.take(Last {
                        at: *at,
                        finding: *finding,
                        detail: detail.clone(),
                    });
                }
            }),
            Change::TokenCreated { .. }
            | Change::TokenRevoked { .. }
            | Change::CertificateIssued { .. }
            | Change::CertificateRevoked { .. }
            | Change::ReturnAsked { .. }
            | Change::ReturnApproved { .. }
            | Change::ReturnAnswered { .. }
            | Change::ReturnWithdrawn { .. }
            | Change::IdentitiesForgotten { .. } => self.facts.registry.apply(change),
            Change::Traffic { group, step } => {
                let (next_rollout, epoch) = (self.facts.next_rollout, self.facts.epoch);
                let traffic = self.facts.traffic.entry(group.clone()).or_default();
                traffic.apply(step, next_rollout, epoch);
                self.traffic_stepped(group, step);
            }
            Change::Schedule { schedule, step } => {
                if let Some(number) = step.run_number() {
                    self.facts.schedule_runs = number;
                }
                if let Some(course) = self.facts.courses.get_mut(schedule) {
                    course.apply(step);
                }
            }
        }
    }

    /// From here on other calendars hold. What they say of the time before is not looked at.
    fn calendars_set(&mut self, calendars: &BTreeMap<String, Calendar>, at: Timestamp) {
        let known = self.facts.config.as_ref().map(|config| &config.calendars);
        if known.is_some_and(|known| known == calendars) {
            return;
        }
        self.hearsay.windows.clear();
        for number in &self.index.unfinished {
            let rollout = self.facts.rollouts.get_mut(number);
            for group in rollout.into_iter().flat_map(|rollout| &mut rollout.groups) {
                group.windows_told = group.windows_told.max(Some(at));
            }
        }
    }

    fn created(&mut self, rollout: &Rollout, undoes_to_now: bool) {
        let number = self.facts.next_rollout;
        self.facts.next_rollout += 1;
        self.facts.rollouts.insert(number, rollout.clone());
        self.index.enter(number, rollout);
        for place in rollout.places() {
            self.index.look_whether_gone(&self.facts, &place.machine);
        }
        self.all_moved(number, rollout.created_at);
        if undoes_to_now {
            // Also of those that never get their turn, or go back by themselves: a rollback must not
            // take them to where they came from in an update before this one.
            for place in rollout.places() {
                if let Some(machine) = self.facts.machines.get_mut(&place.machine) {
                    machine.previous = machine.running().cloned();
                }
            }
        }
        let ended: Vec<u64> = self
            .facts
            .rollouts
            .iter()
            .filter(|(_, rollout)| rollout.is_final())
            .map(|(number, _)| *number)
            .collect();
        for old in ended.iter().rev().skip(ENDED_KEPT) {
            self.facts.rollouts.remove(old);
        }
    }

    fn wave_closed(&mut self, rollout: &RolloutId, group: &GroupName, wave: usize) {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): who has approved one wave has approved them all.
        let once = self.has(crate::bug::Bug::ApprovedOnce);
        #[cfg(not(feature = "seeded-bugs"))]
        let once = false;
        self.with_group(rollout, group, |g| {
            if let Some(closed) = g.waves.get_mut(wave) {
                closed.step(WaveStep::Closed);
                g.current = wave + 1;
            }
            if g.approves_next() && !once {
                g.approval_step(ApprovalStep::NextWave);
            }
        });
    }

    /// Changes what is known of a machine, and since when what is to be told of it holds.
    fn with_machine(&mut self, name: &MachineName, change: impl FnOnce(&mut Machine)) {
        let known = self.facts.machines.entry(name.clone()).or_default();
        self.index.no_longer_lasts(name, known);
        change(known);
        self.index.lasts(&self.facts, name);
    }

    fn with_rollout(&mut self, id: &RolloutId, change: impl FnOnce(&mut Rollout)) {
        let rollout = number_of(id).and_then(|number| self.facts.rollouts.get_mut(&number));
        if let Some(rollout) = rollout {
            change(rollout);
        }
    }

    fn with_group(
        &mut self,
        id: &RolloutId,
        name: &GroupName,
        change: impl FnOnce(&mut RolloutGroup),
    ) {
        self.with_rollout(id, |rollout| {
            if let Some(group) = rollout.groups.iter_mut().find(|group| group.name == *name) {
                change(group);
            }
        });
    }

    fn with_wave(
        &mut self,
        id: &RolloutId,
        group: &GroupName,
        wave: usize,
        change: impl FnOnce(&mut Wave),
    ) {
        self.with_group(id, group, |group| {
            if let Some(wave) = group.waves.get_mut(wave) {
                change(wave);
            }
        });
    }

    /// The machine goes: what was measured of its wave without it is void.
    fn measure_anew(&mut self, machine: &MachineName) {
        let Some(at) = self.index.place_of.get(machine).copied() else {
            return;
        };
        if let Some(rollout) = self.facts.rollouts.get_mut(&at.rollout) {
            let wave = &mut rollout.groups[at.group].waves[at.wave];
            if let Some(analysis) = &mut wave.analysis {
                analysis.begin_anew();
            }
            self.hearsay
                .measuring
                .retain(|(rollout, group, wave, _), _| {
                    (*rollout, *group, *wave) != (at.rollout, at.group, at.wave)
                });
        }
    }

    /// What a step of its traffic does to the group's present wave: once the traffic has moved, what the
    /// gates found before says nothing, and a wave does not soak when its traffic leaves it.
    fn traffic_stepped(&mut self, group: &GroupName, step: &TrafficStep) {
        for number in &self.index.unfinished {
            let Some(rollout) = self.facts.rollouts.get_mut(number) else {
                continue;
            };
            let groups = rollout.groups.iter_mut().enumerate();
            for (index, g) in groups.filter(|(_, g)| g.name == *group) {
                let current = g.current;
                let wave = g.waves.get_mut(current);
                let Some(wave) = wave.filter(|wave| wave.side.is_some()) else {
                    continue;
                };
                match step {
                    TrafficStep::Begun { to, at, .. } if wave.side.as_ref() != Some(to) => {
                        wave.step(WaveStep::Left(*at));
                    }
                    TrafficStep::Moved { .. } => {}
                    TrafficStep::Begun { .. }
                    | TrafficStep::Again { .. }
                    | TrafficStep::Failed { .. }
                    | TrafficStep::GivenUp { .. } => continue,
                }
                if let Some(analysis) = &mut wave.analysis {
                    analysis.begin_anew();
                }
                self.hearsay.measuring.retain(|(of, group, wave, _), _| {
                    (*of, *group, *wave) != (*number, index, current)
                });
            }
        }
    }

    /// Changes the machine's place in its unfinished rollout, and every counter that follows.
    fn with_place(&mut self, machine: &MachineName, change: impl FnOnce(&mut Place)) {
        let Some(at) = self.index.place_of.get(machine).copied() else {
            return;
        };
        let Some(rollout) = self.facts.rollouts.get_mut(&at.rollout) else {
            return;
        };
        let group = &mut rollout.groups[at.group];
        let place = &mut group.waves[at.wave].places[at.place];
        let before = place.clone();
        change(place);
        group.failed += u32::from(place.state.is_failure());
        group.failed -= u32::from(before.state.is_failure());
        group.retrying += u32::from(place.is_retrying());
        group.retrying -= u32::from(before.is_retrying());
        self.index.moved(at, &before, place);
        let goes_again = place.state == PlaceState::Pending && before.state != PlaceState::Pending;
        let rules = (at.rollout, at.group, place.rules);
        let windows = &mut self.hearsay.windows;
        // That they are shut was told to nobody while there was nobody to go.
        if goes_again && windows.get(&rules).is_some_and(|seen| !seen.is_open()) {
            windows.remove(&rules);
        }
    }

    fn aborted(&mut self, id: &RolloutId, by: &str, reason: &str, at: Timestamp) {
        self.with_rollout(id, |rollout| {
            for place in rollout
                .groups
                .iter_mut()
                .flat_map(|g| &mut g.waves)
                .flat_map(|w| &mut w.places)
            {
                if place.state == PlaceState::Pending {
                    place.step(PlaceStep::Skipped);
                    "the rollout was aborted".clone_into(&mut place.reason);
                }
            }
        });
        self.end(
            id,
            RolloutStep::Aborted {
                by: by.to_owned(),
                reason: reason.to_owned(),
            },
            at,
        );
    }

    fn end(&mut self, id: &RolloutId, step: RolloutStep, at: Timestamp) {
        self.with_rollout(id, |rollout| {
            rollout.step(step);
            rollout.ended_at = Some(at);
        });
        if let Some(number) = number_of(id) {
            self.index.leave(&self.facts, number);
            self.forget_patience(number);
            self.forget_measurements(number);
            self.hearsay.windows.retain(|(of, _, _), _| *of != number);
        }
    }
}
