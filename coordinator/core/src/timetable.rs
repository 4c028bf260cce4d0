//! Whether the windows and calendars let somebody begin now, and whether there is time enough: by the rules of
//! the group, or by those that a machine has to itself.
//!
//! What is found is kept until it changes; what shuts while machines are still to go is told.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use common::{Action, MachineName, Target, Timestamp};

use crate::{
    calendar::Calendar,
    change::Change,
    decide::Draft,
    fleet::{Fleet, Location},
    opening::{Cause, Openings, Seen, State},
    plan::PlannedGroup,
    policy::Policy,
    rollout::{Place, PlaceState, RolloutGroup, Rules},
    wait::WaitReason,
};

impl Fleet {
    /// Whether there is time enough for this machine, whose group may go on.
    pub(crate) fn time_for(
        &self,
        machine: &MachineName,
        at: Location,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let (rollout, group, place) = self.at(at).ok_or(WaitReason::NoRollout)?;
        if rollout.immediate {
            return Ok(());
        }
        let rules = self.rules_for(place);
        let policy = group.rules(rules);
        let seen = self.seen(at.rollout, at.group, rules, now);
        let needs = self.needs(machine, rollout.action, &place.target, policy);
        self.has_time(policy, &seen, needs, now)
    }

    /// Whose rules hold for this machine.
    pub(crate) fn rules_for(&self, place: &Place) -> Rules {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what the group may, every machine of it may.
        if self.has(crate::bug::Bug::OwnRulesIgnored) {
            return Rules::Group;
        }
        place.rules
    }

    /// Whether those who obey these rules may begin, and the quickest of them has time enough.
    pub(crate) fn time_by(
        &self,
        number: u64,
        group: usize,
        rules: Rules,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let policy = self.facts().rollouts[&number].groups[group].rules(rules);
        let seen = self.seen(number, group, rules, now);
        self.has_time(policy, &seen, seen.needs, now)
    }

    /// The same of whoever is to go next: the best that can be said of any of them.
    pub(crate) fn time_for_next(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let g = &self.facts().rollouts[&number].groups[group];
        if g.own.is_empty() {
            return self.time_by(number, group, Rules::Group, now);
        }
        let mut best = None;
        for rules in self.rules_of_next(number, group) {
            let Err(reason) = self.time_by(number, group, rules, now) else {
                return Ok(());
            };
            let sooner = |other: &WaitReason| match (reason.until(), other.until()) {
                (Some(this), Some(other)) => this < other,
                (this, other) => this.is_some() && other.is_none(),
            };
            if best.as_ref().is_none_or(sooner) {
                best = Some(reason);
            }
        }
        best.map_or(Ok(()), Err)
    }

    /// Whose rules those obey who are to go next: of the present wave, or else anybody who has not begun.
    fn rules_of_next(&self, number: u64, group: usize) -> Vec<Rules> {
        let waves = &self.index().waves;
        let g = &self.facts().rollouts[&number].groups[group];
        let current = waves.get(&(number, group, g.current));
        let of_the_wave: Vec<Rules> =
            current.map_or_else(Vec::new, |wave| wave.pending_rules().collect());
        if !of_the_wave.is_empty() {
            return of_the_wave;
        }
        let all = waves.range((number, group, 0)..(number, group + 1, 0));
        let mut rules: Vec<Rules> = all.flat_map(|(_, wave)| wave.pending_rules()).collect();
        rules.sort_unstable();
        rules.dedup();
        if rules.is_empty() {
            rules.push(Rules::Group);
        }
        rules
    }

    /// What this attempt of the machine is expected to take: what its own have taken, those with a reboot if
    /// it is known to take one, and what the policy says before there are enough of them.
    pub fn needs(
        &self,
        machine: &MachineName,
        action: Action,
        target: &Target,
        policy: &Policy,
    ) -> Duration {
        let known = self.facts().machines.get(machine);
        let expected = policy.expected_duration;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever the machine has shown.
        if self.has(crate::bug::Bug::TimeTakenIgnored) {
            return expected;
        }
        known.map_or(expected, |known| {
            known.needs(known.reboots_for(action, target, policy), expected)
        })
    }

    /// When the windows and calendars of a planned group let the first of its machines go.
    pub(crate) fn goes_at(
        &self,
        action: Action,
        group: &PlannedGroup,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let machines = group.waves.iter().flat_map(|wave| &wave.machines);
        // The quickest of those who obey the same.
        let mut quickest: BTreeMap<Rules, (&Policy, Duration)> = BTreeMap::new();
        for machine in machines {
            let policy = group.policy_of(machine);
            let needs = self.needs(&machine.name, action, &machine.target, policy);
            let least = quickest.entry(machine.rules).or_insert((policy, needs));
            least.1 = least.1.min(needs);
        }
        let goes = quickest.into_values().filter_map(|(policy, needs)| {
            let openings = self.openings(policy, now);
            match openings.next(now, needs) {
                Some((from, _)) if from == now => Some(now),
                Some(_) | None => openings.can_go(now, needs),
            }
        });
        goes.min()
    }

    /// Finds out anew about the windows of which what is known holds no longer, and tells of those
    /// that were open and are not. Whether one has opened.
    pub(crate) fn look_at_windows(&mut self, now: Timestamp, draft: &mut Draft) -> bool {
        let mut opened = false;
        for number in self.index().unfinished.clone() {
            for group in 0..self.facts().rollouts[&number].groups.len() {
                let looked = self.look_anew(number, group, now);
                opened |= looked.iter().any(|(_, seen)| seen.is_open());
                let missed = self.missed(number, group, &looked, now);
                #[cfg(feature = "seeded-bugs")]
                // BUG (seeded): nobody hears of it.
                let missed = missed.filter(|_| !self.has(crate::bug::Bug::WindowsUntold));
                for (rules, seen) in looked {
                    self.hearsay.windows.insert((number, group, rules), seen);
                }
                if let Some(missed) = missed {
                    self.commit(draft, missed);
                }
            }
        }
        opened
    }

    /// What is to be known anew of a group's windows. Rules that nobody obeys who is still to go are left
    /// alone, unless they are the only ones.
    fn look_anew(&self, number: u64, group: usize, now: Timestamp) -> Vec<(Rules, Seen)> {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let waves = (number, group, 0)..(number, group + 1, 0);
        let obeyed = |rules: Rules| {
            let mut waves = self.index().waves.range(waves.clone());
            g.own.is_empty() || waves.any(|(_, wave)| wave.pending_rules().any(|r| r == rules))
        };
        let known = |rules: Rules| {
            let seen = self.hearsay.windows.get(&(number, group, rules));
            seen.is_some_and(|seen| seen.holds(now))
        };
        let anew = g.all_rules();
        anew.filter(|rules| !known(*rules) && obeyed(*rules))
            .map(|rules| {
                let policy = g.rules(rules);
                let needs = pending(g, rules)
                    .map(|place| self.needs(&place.machine, rollout.action, &place.target, policy));
                let needs = needs.min().unwrap_or(policy.expected_duration);
                (rules, self.look(policy, needs, now))
            })
            .collect()
    }

    /// The windows that were open since it was last told and are shut, while machines that go by them are
    /// still to go.
    fn missed(
        &self,
        number: u64,
        group: usize,
        looked: &[(Rules, Seen)],
        now: Timestamp,
    ) -> Option<Change> {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        if rollout.immediate || g.finished_at.is_some() {
            return None;
        }
        let from = g
            .windows_told
            .map_or(rollout.created_at, |told| told.max(rollout.created_at));
        let mut told: Option<(u32, Timestamp, u32, Option<Timestamp>)> = None;
        let shut = looked.iter().filter(|(_, seen)| !seen.is_open());
        for (rules, seen) in shut {
            let left = u32::try_from(pending(g, *rules).count()).unwrap_or(u32::MAX);
            let gone = self.openings(g.rules(*rules), now).gone_by(from, now);
            let Some((windows, shut_at)) = gone.filter(|_| left > 0) else {
                continue;
            };
            told = Some(match told {
                None => (windows, shut_at, left, seen.goes_at),
                Some((also, shut_before, others, goes_at)) => (
                    windows.max(also),
                    shut_at.max(shut_before),
                    left + others,
                    [goes_at, seen.goes_at].into_iter().flatten().min(),
                ),
            });
        }
        let (windows, shut_at, left, opens_at) = told?;
        Some(Change::WindowMissed {
            rollout: rollout.id.clone(),
            group: g.name.clone(),
            windows,
            shut_at,
            left,
            opens_at,
        })
    }

    /// What is known of the windows of those who obey these rules, or else found out.
    pub(crate) fn seen(
        &self,
        number: u64,
        group: usize,
        rules: Rules,
        now: Timestamp,
    ) -> Cow<'_, Seen> {
        let known = self.hearsay.windows.get(&(number, group, rules));
        match known.filter(|seen| seen.holds(now)) {
            Some(seen) => Cow::Borrowed(seen),
            None => {
                let policy = self.facts().rollouts[&number].groups[group].rules(rules);
                Cow::Owned(self.look(policy, policy.expected_duration, now))
            }
        }
    }

    pub(crate) fn look(&self, policy: &Policy, needs: Duration, now: Timestamp) -> Seen {
        Seen::of(&self.openings(policy, now), needs, now)
    }

    /// When whoever obeys this policy may begin something.
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

    /// The known bugs of taking a zone for its offset in January, and of forgetting calendars or windows.
    #[cfg(feature = "seeded-bugs")]
    fn openings_with_bug<'a>(&self, openings: Openings<'a>, now: Timestamp) -> Openings<'a> {
        use jiff::tz::TimeZone;
        if self.has(crate::bug::Bug::CalendarsIgnored) {
            return openings.without_calendars();
        }
        if self.has(crate::bug::Bug::EventsIgnored) {
            return openings.without_events();
        }
        if self.has(crate::bug::Bug::FirstWindowOnly) {
            return openings.in_the_first_window();
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
    pub(crate) fn has_time(
        &self,
        policy: &Policy,
        seen: &Seen,
        needs: Duration,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let zone = || policy.timezone.clone();
        match &seen.state {
            State::Open { until } if until.since(now) >= needs => Ok(()),
            State::Open { until } => Err(WaitReason::WindowTooShort {
                needs,
                left: until.since(now),
                closes_at: *until,
                opens_at: self.openings(policy, now).can_go(*until, needs),
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

/// Who obeys these rules and has not begun.
fn pending(group: &RolloutGroup, rules: Rules) -> impl Iterator<Item = &Place> {
    let all = group.places();
    all.filter(move |place| place.rules == rules && place.state == PlaceState::Pending)
}
