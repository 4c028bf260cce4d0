//! `apply`: one arm per fact, for decisions and for recovery alike. It trusts its input: facts were
//! decided before they were written.

mod leases;
mod rollouts;

use std::collections::BTreeMap;

use common::{MachineName, OutcomeKind, Timestamp};

use super::{Fleet, Stop};
use crate::{
    analysis::{Analysis, Last},
    calendar::Calendar,
    change::Change,
    machine::{Machine, Pin},
    quarantine::Quarantine,
    rollout::{PauseReason, RolloutState},
    traffic::Traffic,
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
                self.index.find_failing(&self.facts);
            }
            Change::Reported {
                machine,
                report,
                at,
            } => {
                let mut needs_less = false;
                self.with_machine(machine, |known| {
                    let running = known.running().cloned();
                    let before = known.has_staged_a_reboot();
                    known.learn((**report).clone());
                    known.look_at_what_runs(running.as_ref(), *at);
                    needs_less = before && !known.has_staged_a_reboot();
                });
                if needs_less {
                    self.look_again_for(machine);
                }
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
            Change::RolloutResumed { rollout, gates, .. } => self.with_rollout(rollout, |r| {
                let unshown = r.is_paused_for_lack_of_success();
                let unreached = matches!(
                    r.state,
                    RolloutState::Paused(PauseReason::NoProgress { .. })
                );
                r.resume_analysis(*gates);
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
                let analysis = wave.analysis.get_or_insert_with(|| Analysis::new(gates));
                analysis.begins(*opened, *at);
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

    /// A machine that is still to go needs less time than before: it may be the quickest of its group now.
    fn look_again_for(&mut self, machine: &MachineName) {
        let Some(at) = self.index.place_of.get(machine).copied() else {
            return;
        };
        if let Some((_, _, place)) = self.at(at) {
            let rules = (at.rollout, at.group, place.rules);
            self.hearsay.windows.remove(&rules);
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

    /// Changes what is known of a machine, and since when what is to be told of it holds.
    fn with_machine(&mut self, name: &MachineName, change: impl FnOnce(&mut Machine)) {
        let known = self.facts.machines.entry(name.clone()).or_default();
        let config = self.facts.config.as_deref();
        self.index.no_longer_lasts(config, name, known);
        change(known);
        self.index.lasts(&self.facts, name);
    }
}
