//! May a group's part of a rollout go on at all? Emergency stop, dependencies, approval, stagger and
//! maintenance windows: what holds for all of its machines alike.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use common::{GroupName, MachineName, Timestamp};

use crate::{
    calendar::Calendar,
    change::Change,
    decide::Draft,
    fleet::{Fleet, Location},
    opening::{Cause, Openings, Seen, State},
    plan::PlannedWave,
    policy::Policy,
    rollout::{Approval, PlaceState, Rollout, RolloutGroup},
    wait::WaitReason,
};

impl Fleet {
    /// Whether an emergency stop holds for the group.
    pub(crate) fn stop_over(&self, group: &GroupName) -> Result<(), WaitReason> {
        #[cfg(feature = "seeded-bugs")]
        if self.has(crate::bug::Bug::StopNotCheckedInGrant) {
            return Ok(());
        }
        match &self.facts().stop {
            Some(stop) if stop.covers(group) => Err(WaitReason::Stopped {
                by: stop.by.clone(),
                reason: stop.reason.clone(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the group's part may go on at all: dependencies, approval, stagger, window; and
    /// whether there is so much time.
    pub(crate) fn gate(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        needs: Duration,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        self.gate_with(rollout, group, now, || {
            self.has_time(group, &self.look(group, needs, now), needs, now)
        })
    }

    /// The same of a group by its number, with what is known of its windows, and the time that the
    /// quickest of its machines needs.
    pub(crate) fn gate_of(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let rollout = self.facts().rollouts.get(&number);
        let rollout = rollout.ok_or(WaitReason::NoRollout)?;
        let g = &rollout.groups[group];
        self.gate_with(rollout, g, now, || {
            let seen = self.seen(number, group, now);
            self.has_time(g, &seen, seen.needs, now)
        })
    }

    /// Whether there is time enough for this machine, whose group may go on.
    pub(crate) fn time_for(
        &self,
        machine: &MachineName,
        at: Location,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let rollout = self.facts().rollouts.get(&at.rollout);
        let rollout = rollout.ok_or(WaitReason::NoRollout)?;
        if rollout.immediate {
            return Ok(());
        }
        let group = &rollout.groups[at.group];
        let seen = self.seen(at.rollout, at.group, now);
        self.has_time(group, &seen, self.needs(machine, &group.policy), now)
    }

    /// What an attempt of this machine is expected to take: what its own have taken, and what the
    /// policy says before there are enough of them.
    pub fn needs(&self, machine: &MachineName, policy: &Policy) -> Duration {
        let known = self.facts().machines.get(machine);
        let expected = policy.expected_duration;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever the machine has shown.
        if self.has(crate::bug::Bug::TimeTakenIgnored) {
            return expected;
        }
        known.map_or(expected, |known| known.needs(expected))
    }

    /// When the windows and calendars of a planned group let the first of its machines go.
    pub(crate) fn goes_at(
        &self,
        policy: &Policy,
        waves: &[PlannedWave],
        now: Timestamp,
    ) -> Option<Timestamp> {
        let machines = waves.iter().flat_map(|wave| &wave.machines);
        let needs = machines.map(|machine| self.needs(&machine.name, policy));
        let needs = needs.min().unwrap_or(policy.expected_duration);
        let openings = self.openings(policy, now);
        match openings.next(now, needs) {
            Some((from, _)) if from == now => Some(now),
            Some(_) | None => openings.can_go(now, needs),
        }
    }

    /// Finds out anew about the windows of which what is known holds no longer, and tells of those
    /// that were open and are not. Whether one has opened.
    pub(crate) fn look_at_windows(&mut self, now: Timestamp, draft: &mut Draft) -> bool {
        let mut opened = false;
        for number in self.index().unfinished.clone() {
            for group in 0..self.facts().rollouts[&number].groups.len() {
                let key = (number, group);
                let seen = self.hearsay.windows.get(&key);
                if seen.is_some_and(|seen| seen.holds(now)) {
                    continue;
                }
                let g = &self.facts().rollouts[&number].groups[group];
                let pending = g
                    .places()
                    .filter(|place| place.state == PlaceState::Pending);
                let needs = pending
                    .map(|place| self.needs(&place.machine, &g.policy))
                    .min();
                let needs = needs.unwrap_or(g.policy.expected_duration);
                let seen = self.look(g, needs, now);
                let missed = self.missed(number, group, &seen, now);
                opened |= matches!(seen.state, State::Open { .. });
                self.hearsay.windows.insert(key, seen);
                if let Some(missed) = missed {
                    self.commit(draft, missed);
                }
            }
        }
        opened
    }

    /// The windows that were open since it was last told and are shut, while machines of the group
    /// are still to go.
    fn missed(&self, number: u64, group: usize, seen: &Seen, now: Timestamp) -> Option<Change> {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        if rollout.immediate || g.finished_at.is_some() || matches!(seen.state, State::Open { .. })
        {
            return None;
        }
        let pending = g
            .places()
            .filter(|place| place.state == PlaceState::Pending);
        let left = u32::try_from(pending.count()).unwrap_or(u32::MAX);
        let from = g
            .windows_told
            .map_or(rollout.created_at, |told| told.max(rollout.created_at));
        let (windows, shut_at) = self.openings(&g.policy, now).gone_by(from, now)?;
        (left > 0).then(|| Change::WindowMissed {
            rollout: rollout.id.clone(),
            group: g.name.clone(),
            windows,
            shut_at,
            left,
            opens_at: seen.goes_at,
        })
    }

    /// What is known of the group's windows, or else found out.
    fn seen(&self, number: u64, group: usize, now: Timestamp) -> Cow<'_, Seen> {
        let known = self.hearsay.windows.get(&(number, group));
        match known.filter(|seen| seen.holds(now)) {
            Some(seen) => Cow::Borrowed(seen),
            None => {
                let group = &self.facts().rollouts[&number].groups[group];
                Cow::Owned(self.look(group, group.policy.expected_duration, now))
            }
        }
    }

    fn look(&self, group: &RolloutGroup, needs: Duration, now: Timestamp) -> Seen {
        Seen::of(&self.openings(&group.policy, now), needs, now)
    }

    fn gate_with(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        now: Timestamp,
        windows: impl FnOnce() -> Result<(), WaitReason>,
    ) -> Result<(), WaitReason> {
        self.stop_over(&group.name)?;
        for dependency in &group.policy.dependencies {
            self.dependency(rollout, dependency)?;
        }
        match group.approval {
            Approval::NotNeeded | Approval::Given { .. } => {}
            Approval::Needed | Approval::Asked(_) => {
                let asked = match group.approval {
                    Approval::Asked(since) => Some(since),
                    Approval::NotNeeded | Approval::Needed | Approval::Given { .. } => None,
                };
                let after = group.policy.approved_after;
                return Err(WaitReason::Approval {
                    group: group.name.clone(),
                    rollout: rollout.id.clone(),
                    counts_at: asked.and_then(|since| Some(since + after?)),
                });
            }
        }
        if rollout.immediate {
            return Ok(());
        }
        for dependency in &group.policy.dependencies {
            self.stagger(rollout, dependency, now)?;
        }
        windows()
    }

    /// Finished in this rollout, or not touched by any other.
    fn dependency(&self, rollout: &Rollout, name: &GroupName) -> Result<(), WaitReason> {
        let unfinished = match rollout.group(name) {
            Some(group) => group.finished_at.is_none(),
            None => self.index().unfinished.iter().any(|number| {
                let other = &self.facts().rollouts[number];
                other
                    .group(name)
                    .is_some_and(|group| group.finished_at.is_none())
            }),
        };
        if unfinished {
            Err(WaitReason::Dependency {
                group: name.clone(),
            })
        } else {
            Ok(())
        }
    }

    /// Time enough has passed since the group was last finished.
    fn stagger(
        &self,
        rollout: &Rollout,
        name: &GroupName,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let (finished_at, stagger) = match rollout.group(name) {
            Some(group) => (group.finished_at, group.policy.stagger),
            None => {
                let config = self.facts().config.as_ref();
                let stagger = config.map_or_else(Default::default, |c| c.stagger_of(name));
                (self.facts().finished.get(name).copied(), stagger)
            }
        };
        match finished_at.map(|at| at + stagger) {
            Some(until) if now < until => Err(WaitReason::Stagger {
                group: name.clone(),
                until,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// When a group of this policy may begin something.
    #[cfg_attr(
        not(feature = "seeded-bugs"),
        allow(unused_variables, reason = "a known bug needs it")
    )]
    pub(crate) fn openings<'a>(&'a self, policy: &'a Policy, now: Timestamp) -> Openings<'a> {
        static NONE: BTreeMap<String, Calendar> = BTreeMap::new();
        let config = self.facts().config.as_deref();
        let openings = Openings::of(policy, config.map_or(&NONE, |config| &config.calendars));
        #[cfg(feature = "seeded-bugs")]
        let openings = self.openings_with_bug(openings, now);
        openings
    }

    /// The known bugs of taking a zone for its offset in January, and of forgetting calendars.
    #[cfg(feature = "seeded-bugs")]
    fn openings_with_bug<'a>(&self, openings: Openings<'a>, now: Timestamp) -> Openings<'a> {
        use jiff::tz::TimeZone;
        if self.has(crate::bug::Bug::CalendarsIgnored) {
            return openings.without_calendars();
        }
        if !self.has(crate::bug::Bug::WindowIgnoresClockChange) {
            return openings;
        }
        let zone = openings.zone().clone();
        let year = jiff::Timestamp::from_millisecond(now.as_millis())
            .map_or(1970, |now| now.to_zoned(zone.clone()).year());
        let january = jiff::civil::date(year, 1, 1).at(0, 0, 0, 0);
        let offset = zone
            .to_ambiguous_timestamp(january)
            .compatible()
            .map(|t| zone.to_offset(t));
        openings.in_zone(offset.map_or(zone, TimeZone::fixed))
    }

    /// Whether something may begin, and what it is expected to take fits into what is left.
    fn has_time(
        &self,
        group: &RolloutGroup,
        seen: &Seen,
        needs: Duration,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let zone = || group.policy.timezone.clone();
        match &seen.state {
            State::Open { until } if until.since(now) >= needs => Ok(()),
            State::Open { until } => Err(WaitReason::WindowTooShort {
                needs,
                left: until.since(now),
                closes_at: *until,
                opens_at: self.openings(&group.policy, now).can_go(*until, needs),
                zone: zone(),
            }),
            State::Shut {
                cause: Cause::Window,
                ..
            } => Err(WaitReason::WindowClosed {
                opens_at: seen.goes_at,
                zone: zone(),
            }),
            State::Shut {
                cause: Cause::Calendar { calendar, entry },
                until,
            } => Err(WaitReason::Frozen {
                calendar: calendar.clone(),
                entry: entry.clone(),
                ends_at: *until,
                opens_at: seen.goes_at,
                zone: zone(),
            }),
        }
    }
}
