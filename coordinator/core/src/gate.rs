//! May a group's part of a rollout go on at all? Emergency stop, dependencies, approval, stagger and
//! maintenance windows: what holds for all of its machines alike.

use common::{GroupName, Timestamp};

use crate::{
    fleet::Fleet,
    policy::Policy,
    rollout::{Approval, Rollout, RolloutGroup},
    wait::WaitReason,
    window::{self, WindowState},
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

    /// Whether the group's part may go on at all: dependencies, approval, stagger, window.
    pub(crate) fn gate(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        self.gate_with(rollout, group, now, || self.windows_of(group, now))
    }

    /// The same of a group by its number, with what is known of its windows.
    pub(crate) fn gate_of(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let rollout = self.facts().rollouts.get(&number);
        let rollout = rollout.ok_or(WaitReason::NoRollout)?;
        let g = &rollout.groups[group];
        let seen = self.hearsay.windows.get(&(number, group));
        self.gate_with(rollout, g, now, || {
            seen.and_then(|seen| seen.at(now))
                .unwrap_or_else(|| self.windows_of(g, now))
        })
    }

    /// Finds out anew about the windows of which what is known holds no longer.
    pub(crate) fn look_at_windows(&mut self, now: Timestamp) {
        for number in &self.index().unfinished.clone() {
            for group in 0..self.facts().rollouts[number].groups.len() {
                let key = (*number, group);
                let seen = self.hearsay.windows.get(&key);
                if seen.is_some_and(|seen| seen.at(now).is_some()) {
                    continue;
                }
                let policy = &self.facts().rollouts[number].groups[group].policy;
                let seen = window::Seen::of(&policy.windows, now, &self.zone_of(policy, now));
                self.hearsay.windows.insert(key, seen);
            }
        }
    }

    fn gate_with(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        now: Timestamp,
        windows: impl FnOnce() -> WindowState,
    ) -> Result<(), WaitReason> {
        self.stop_over(&group.name)?;
        for dependency in &group.policy.dependencies {
            self.dependency(rollout, dependency)?;
        }
        match group.approval {
            Approval::NotNeeded | Approval::Given { .. } => {}
            Approval::Needed | Approval::Asked(_) => {
                let (group, rollout) = (group.name.clone(), rollout.id.clone());
                return Err(WaitReason::Approval { group, rollout });
            }
        }
        if rollout.immediate {
            return Ok(());
        }
        for dependency in &group.policy.dependencies {
            self.stagger(rollout, dependency, now)?;
        }
        has_time(group, windows(), now)
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

    fn windows_of(&self, group: &RolloutGroup, now: Timestamp) -> WindowState {
        let policy = &group.policy;
        window::state_of(&policy.windows, now, &self.zone_of(policy, now))
    }

    #[cfg_attr(
        not(feature = "seeded-bugs"),
        allow(
            clippy::unused_self,
            unused_variables,
            reason = "a known bug needs them"
        )
    )]
    fn zone_of(&self, policy: &Policy, now: Timestamp) -> jiff::tz::TimeZone {
        // The name was checked when the configuration was; the database is built in.
        let zone = window::zone(&policy.timezone).unwrap_or(jiff::tz::TimeZone::UTC);
        #[cfg(feature = "seeded-bugs")]
        let zone = self.zone_with_bug(zone, now);
        zone
    }

    /// The known bug of taking a zone for its offset in January.
    #[cfg(feature = "seeded-bugs")]
    fn zone_with_bug(&self, zone: jiff::tz::TimeZone, now: Timestamp) -> jiff::tz::TimeZone {
        if !self.has(crate::bug::Bug::WindowIgnoresClockChange) {
            return zone;
        }
        let year = jiff::Timestamp::from_millisecond(now.as_millis())
            .map_or(1970, |now| now.to_zoned(zone.clone()).year());
        let january = jiff::civil::date(year, 1, 1).at(0, 0, 0, 0);
        let offset = zone
            .to_ambiguous_timestamp(january)
            .compatible()
            .map(|t| zone.to_offset(t));
        offset.map_or(zone, jiff::tz::TimeZone::fixed)
    }
}

/// Whether what an attempt is expected to take fits into what is left of the window.
fn has_time(group: &RolloutGroup, windows: WindowState, now: Timestamp) -> Result<(), WaitReason> {
    match windows {
        WindowState::Closed { opens_at } => Err(WaitReason::WindowClosed { opens_at }),
        WindowState::Open { until } => {
            let (left, needs) = (until.since(now), group.policy.expected_duration);
            if left < needs {
                Err(WaitReason::WindowTooShort {
                    needs,
                    left,
                    closes_at: until,
                })
            } else {
                Ok(())
            }
        }
    }
}
