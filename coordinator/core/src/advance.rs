//! What follows by itself: leases that run out, waves that open, soak and close, rollouts that
//! pause or end. One function, run to a fixed point, for time and for events alike.

use common::{LeaseId, MachineName, RolloutId, Timestamp};

use crate::{
    change::Change,
    decide::Draft,
    fleet::{Fleet, rollout_id},
    lease::LEASE_LIFE_MAX,
    rollout::{NOT_REACHED, PauseReason, PlaceState, RolloutGroup, RolloutState, WaveState},
    wait::WaitReason,
};

/// Who of a wave has ended its part.
enum Back {
    /// Somebody is out, or may still go.
    NotYet,
    /// Whoever can be waited for.
    Everybody,
    /// Everybody, and none of the canary as it should.
    NobodyOfTheCanary,
}

impl Fleet {
    /// Does everything that follows from the state and the time, and finds the next instant at
    /// which more will.
    pub(crate) fn advance(&mut self, now: Timestamp, draft: &mut Draft) {
        self.expire_leases(now, draft);
        self.leave_out_gone(draft);
        self.look_at_quarantine(now, draft);
        self.look_at_targets(now, draft);
        self.look_at_alarms(now, draft);
        self.look_at_traffic(now, draft);
        let opened = self.look_at_windows(now, draft);
        // Each round applies at least one change, and every change moves a state machine on; a
        // round without any is the end.
        loop {
            let before = draft.changes.len();
            for number in self.index().unfinished.clone() {
                self.advance_rollout(number, now, draft);
            }
            self.advance_schedules(now, draft);
            if draft.changes.len() == before {
                break;
            }
        }
        // A window that opens may be shut again before anybody polls.
        if opened || !draft.changes.is_empty() {
            self.wake_next(now, draft);
        }
        self.hearsay.deadline = self.find_deadline(now);
    }

    /// Whoever has left the configuration in mid-rollout, or the sides of its group, does not begin its part any
    /// more.
    fn leave_out_gone(&mut self, draft: &mut Draft) {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whoever a rollout knows is waited for.
        if self.has(crate::bug::Bug::LeaversWaitedFor) {
            return;
        }
        for machine in self.index().gone.clone() {
            if let Some(rollout) = self.still_to_go(&machine) {
                let reason = match self.group_of(&machine) {
                    Some(_) => "it has left the sides of the group that it was to go with",
                    None => "it has left the fleet configuration",
                };
                self.leave_out(rollout, machine, reason.to_owned(), draft);
            }
        }
    }

    /// The unfinished rollout of which the machine has not begun its part.
    pub(crate) fn still_to_go(&self, machine: &MachineName) -> Option<RolloutId> {
        let (rollout, place) = self.engagement(machine)?;
        (place.state == PlaceState::Pending).then(|| rollout.id.clone())
    }

    /// Leases whose time is over become overdue, and after the grace period lost.
    fn expire_leases(&mut self, now: Timestamp, draft: &mut Draft) {
        while let Some((until, id)) = self.hearsay.expiries.first().copied() {
            if now < until {
                break;
            }
            let overdue = self
                .facts()
                .leases
                .get(&id)
                .and_then(|lease| lease.overdue_since);
            #[cfg(feature = "seeded-bugs")]
            if self.has(crate::bug::Bug::SlotFreedOnExpiry) {
                self.free_with_bug(id, now, draft);
                continue;
            }
            if overdue.is_some() {
                self.commit(draft, Change::LeaseLost { lease: id, at: now });
            } else {
                self.commit(draft, Change::LeaseOverdue { lease: id, at: now });
                let holder = self.facts().leases.get(&id).map(|lease| &lease.machine);
                let grace = holder.map(|machine| self.terms_of(machine).grace);
                self.extend(id, now + grace.unwrap_or_default());
            }
        }
    }

    /// The known bug of taking silence for "back".
    #[cfg(feature = "seeded-bugs")]
    fn free_with_bug(&mut self, lease: LeaseId, at: Timestamp, draft: &mut Draft) {
        let outcome = common::OutcomeKind::Abandoned;
        self.commit(
            draft,
            Change::LeaseEnded {
                lease,
                outcome,
                reason: String::new(),
                at,
            },
        );
    }

    fn advance_rollout(&mut self, number: u64, now: Timestamp, draft: &mut Draft) {
        let id = rollout_id(number);
        if self.takes_back(number, now, draft) {
            return;
        }
        let over = self.index().open_places.get(&number) == Some(&0);
        let active = self.facts().rollouts[&number].state == RolloutState::Active;
        if over
            && active
            && let Some(reason) = self.overspent(number)
            && self.has_to_take_back(number, &reason)
        {
            self.pause_rollout(&id, reason, draft);
            return;
        }
        if over && !self.has_gates_left(number) {
            self.finish_groups(number, now, draft);
            let rollout = &self.facts().rollouts[&number];
            let succeeded = rollout.somebody_went() && !rollout.is_paused_by_a_gate();
            self.commit(
                draft,
                Change::RolloutEnded {
                    rollout: id,
                    succeeded,
                    at: now,
                },
            );
            return;
        }
        let state = &self.facts().rollouts[&number].state;
        if let RolloutState::Paused(reason @ PauseReason::AnalysisFailed { .. }) = state {
            // Somebody of the other side may have been at work when the gate failed.
            let reason = reason.clone();
            self.traffic_goes_back(&id, &reason, draft);
            return;
        }
        if *state != RolloutState::Active {
            return;
        }
        if let Some(reason) = self.overspent(number) {
            self.pause_rollout(&id, reason, draft);
            return;
        }
        for group in 0..self.facts().rollouts[&number].groups.len() {
            self.advance_group(number, group, now, draft);
            // One of them may have paused it.
            if self.facts().rollouts[&number].state != RolloutState::Active {
                return;
            }
        }
        self.skip_late(number, now, draft);
        if let Some(reason) = self.stalled(number, now) {
            self.pause_rollout(&id, reason, draft);
        }
    }

    /// The budget that is spent: the first group's, or the whole rollout's.
    fn overspent(&self, number: u64) -> Option<PauseReason> {
        let rollout = &self.facts().rollouts[&number];
        if let Some(group) = rollout.groups.iter().find(|group| self.spent(group)) {
            return Some(PauseReason::BudgetSpent {
                group: group.name.clone(),
                failed: group.counted(),
                allowed: group.policy.max_failures,
            });
        }
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): each group looks at its own failures only.
        if self.has(crate::bug::Bug::FleetBudgetIgnored) {
            return None;
        }
        rollout.overspent()
    }

    fn spent(&self, group: &RolloutGroup) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.has(crate::bug::Bug::BudgetIgnoresSilence) {
            let silent = group
                .places()
                .filter(|place| matches!(place.state, PlaceState::Overdue(_) | PlaceState::Failed));
            let silent = u32::try_from(silent.count()).unwrap_or(u32::MAX);
            return group.counted().saturating_sub(silent) > group.policy.max_failures;
        }
        group.spent()
    }

    /// Groups that have nothing left to do are finished, so that dependents elsewhere may go.
    fn finish_groups(&mut self, number: u64, now: Timestamp, draft: &mut Draft) {
        let rollout = &self.facts().rollouts[&number];
        let unfinished = rollout
            .groups
            .iter()
            .filter(|group| group.finished_at.is_none());
        let names: Vec<_> = unfinished.map(|group| group.name.clone()).collect();
        for group in names {
            let rollout = rollout_id(number);
            self.commit(
                draft,
                Change::GroupFinished {
                    rollout,
                    group,
                    at: now,
                },
            );
        }
    }

    fn advance_group(&mut self, number: u64, group: usize, now: Timestamp, draft: &mut Draft) {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        if g.finished_at.is_some() {
            return;
        }
        let (rollout_id, name) = (rollout.id.clone(), g.name.clone());
        let gate = self.gate_of(number, group, now);
        if let Err(WaitReason::Approval { .. }) = gate {
            self.ask_approval(number, group, now, draft);
            return;
        }
        let wave = g.current;
        let follows = self.traffic_has_followed(number, group);
        let change = match g.waves.get(wave).map(|wave| wave.state) {
            None => Change::GroupFinished {
                rollout: rollout_id,
                group: name,
                at: now,
            },
            Some(WaveState::Waiting) if self.hold_of(rollout, g).is_err() => {
                if g.held_since.is_some() {
                    return;
                }
                // Also outside of the window: whoever is to say so may do that before it opens.
                Change::WaveHeld {
                    rollout: rollout_id,
                    group: name,
                    wave: wave - 1,
                    at: now,
                }
            }
            Some(WaveState::Waiting)
                if gate.is_ok() && self.turn_has_come(rollout, g, wave).is_ok() =>
            {
                if !self.clears_side(number, group, now, draft) {
                    return;
                }
                Change::WaveOpened {
                    rollout: rollout_id,
                    group: name,
                    wave,
                    at: now,
                }
            }
            Some(WaveState::Open(since)) => {
                self.decline_slow(number, group, wave, since, now, draft);
                match self.whos_back(number, group, wave, now) {
                    Back::NotYet => {
                        self.clears_side(number, group, now, draft);
                        return;
                    }
                    Back::Everybody => {}
                    Back::NobodyOfTheCanary => {
                        let reason = PauseReason::CanaryFailed { group: name };
                        self.pause_rollout(&rollout_id, reason, draft);
                        return;
                    }
                }
                // What is to be measured of the traffic is measured while it soaks.
                let passed = follows == Some(true) || self.gates_passed(number, group, now, draft);
                let g = &self.facts().rollouts[&number].groups[group];
                let soak = if self.facts().rollouts[&number].immediate {
                    std::time::Duration::ZERO
                } else {
                    g.soak_after(wave)
                };
                if self.facts().rollouts[&number].state != RolloutState::Active {
                    return;
                }
                if follows == Some(false) {
                    if passed {
                        self.moves_on(number, group, now, draft);
                    }
                    return;
                }
                if soak.is_zero() && follows.is_none() {
                    if !passed {
                        return;
                    }
                    Change::WaveClosed {
                        rollout: rollout_id,
                        group: name,
                        wave,
                    }
                } else {
                    let until = now + soak;
                    Change::WaveSoaking {
                        rollout: rollout_id,
                        group: name,
                        wave,
                        until,
                    }
                }
            }
            Some(WaveState::Soaking(_)) if follows == Some(false) => {
                self.moves_on(number, group, now, draft);
                return;
            }
            Some(WaveState::Soaking(_)) => {
                let healthy = self.health_of(g).is_ok();
                let soaks = g.soaks_until(now).is_some();
                #[cfg(feature = "seeded-bugs")]
                // BUG (seeded): what is well goes on.
                let soaks = soaks && !self.has(crate::bug::Bug::SoakCutShort);
                if !self.gates_passed(number, group, now, draft) || soaks || !healthy {
                    return;
                }
                Change::WaveClosed {
                    rollout: rollout_id,
                    group: name,
                    wave,
                }
            }
            Some(WaveState::Waiting | WaveState::Closed) => return,
        };
        self.moved(number, group, now);
        self.commit(draft, change);
    }

    /// Whether every machine of the wave has ended its part. Those that are offline are left aside,
    /// but nobody else goes on the strength of a wave in which nobody could be reached; and a
    /// canary that shows nothing is no canary: somebody of it must have gone as it should.
    fn whos_back(&self, number: u64, group: usize, wave: usize, now: Timestamp) -> Back {
        let Some(count) = self.index().waves.get(&(number, group, wave)) else {
            return Back::Everybody;
        };
        #[cfg(feature = "seeded-bugs")]
        let allowed_out = u32::from(self.has(crate::bug::Bug::WaveGateOffByOne));
        #[cfg(not(feature = "seeded-bugs"))]
        let allowed_out = 0;
        if count.live > allowed_out {
            return Back::NotYet;
        }
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let w = &g.waves[wave];
        let shown = count.updated > 0 || g.unshown_accepted == Some(wave);
        if count.pending.is_empty() {
            return if w.canary && !shown {
                Back::NobodyOfTheCanary
            } else {
                Back::Everybody
            };
        }
        let mut pending = count.pending.iter();
        let all_offline = pending.all(|place| self.is_offline(&w.places[*place].machine, now));
        if all_offline && (shown || !rollout.leads_on(group, wave)) {
            Back::Everybody
        } else {
            Back::NotYet
        }
    }

    /// Machines that are there but do not get their target staged are not waited for for ever. One
    /// that was offline has its time from the moment at which it was heard again.
    fn decline_slow(
        &mut self,
        number: u64,
        group: usize,
        wave: usize,
        since: Timestamp,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        if now < since + self.shortest_terms().stage {
            return;
        }
        let Some(count) = self.index().waves.get(&(number, group, wave)) else {
            return;
        };
        let rollout = &self.facts().rollouts[&number];
        if rollout.action == common::Action::Reboot {
            return;
        }
        let places = &rollout.groups[group].waves[wave].places;
        let slow: Vec<MachineName> = count
            .pending
            .iter()
            .map(|place| &places[*place])
            .filter(|place| {
                let machine = self.facts().machines.get(&place.machine);
                machine.is_none_or(|machine| machine.staged(&place.target).is_none())
                    && !self.is_offline(&place.machine, now)
                    && self.stage_ends(place, since) <= now
            })
            .map(|place| place.machine.clone())
            .collect();
        for machine in slow {
            let reason = "did not obtain its target in time".to_owned();
            self.commit(
                draft,
                Change::Declined {
                    rollout: rollout_id(number),
                    machine: machine.clone(),
                    reason,
                },
            );
            self.retry(&machine, now, draft);
        }
    }

    /// When only machines that are offline are left, each is waited for for a bounded time.
    fn skip_late(&mut self, number: u64, now: Timestamp, draft: &mut Draft) {
        let Some(since) = self.only_late_since(number) else {
            return;
        };
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): who is offline is waited for for ever.
        if self.has(crate::bug::Bug::LateForEver) {
            return;
        }
        let late = self.still_pending(number);
        let late = late.filter(|machine| since + self.terms_of(machine).catch_up <= now);
        let late: Vec<MachineName> = late.cloned().collect();
        for machine in late {
            let reason = NOT_REACHED.to_owned();
            self.leave_out(rollout_id(number), machine, reason, draft);
        }
    }

    /// Who has not begun its part of the rollout.
    pub(crate) fn still_pending(&self, number: u64) -> impl Iterator<Item = &MachineName> {
        let groups = &self.facts().rollouts[&number].groups;
        let waves = self.index().waves.range((number, 0, 0)..(number + 1, 0, 0));
        waves.flat_map(move |((_, group, wave), count)| {
            let places = &groups[*group].waves[*wave].places;
            count.pending.iter().map(|place| &places[*place].machine)
        })
    }

    /// The machine does not begin its part of the rollout any more.
    pub(crate) fn leave_out(
        &mut self,
        rollout: RolloutId,
        machine: MachineName,
        reason: String,
        draft: &mut Draft,
    ) {
        self.commit(
            draft,
            Change::Skipped {
                rollout,
                machine,
                reason,
            },
        );
    }

    /// Since when only late machines keep the rollout open, if so.
    pub fn only_late_since(&self, number: u64) -> Option<Timestamp> {
        let rollout = self.facts().rollouts.get(&number)?;
        let finished = rollout.groups.iter().map(|group| group.finished_at);
        finished.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The end of a lease's term from now, within its longest life.
    pub(crate) fn term_from(
        &self,
        lease: LeaseId,
        now: Timestamp,
        silence: std::time::Duration,
    ) -> Option<Timestamp> {
        let term = self.lease_term(lease);
        let lease = self.facts().leases.get(&lease)?;
        let end_of_life = lease.granted_at + LEASE_LIFE_MAX;
        let until = (now + term + silence).min(end_of_life);
        (now < until).then_some(until)
    }
}
