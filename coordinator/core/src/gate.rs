//! May a group's part of a rollout go on at all? Emergency stop, dependencies, approval, stagger, and
//! whether somebody's [timetable](crate::timetable) lets it go.

use std::time::Duration;

use common::{GroupName, Timestamp};

use crate::{
    fleet::{Fleet, Location},
    policy::Policy,
    rollout::{Rollout, RolloutGroup, Wave, WaveState},
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

    /// Whether somebody of this wave of the group who obeys this policy may go on at all: dependencies,
    /// approval, stagger, window; and whether there is so much time.
    pub(crate) fn gate(
        &self,
        rollout: &Rollout,
        (group, wave): (&RolloutGroup, &Wave),
        (policy, needs): (&Policy, Duration),
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let begun = wave.state != WaveState::Waiting;
        self.gate_with(rollout, group, begun, now, || {
            self.has_time(policy, &self.look(policy, needs, now), needs, now)
        })
    }

    /// The same of a group by its number, with what is known of its windows, and the time that the
    /// quickest of its machines needs: open if it is for any of those who are to go next.
    pub(crate) fn gate_of(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let rollout = self.facts().rollouts.get(&number);
        let rollout = rollout.ok_or(WaitReason::NoRollout)?;
        self.gate_with(rollout, &rollout.groups[group], false, now, || {
            self.time_for_next(number, group, now)
        })
    }

    /// The same of the rules that one machine of the group obeys.
    pub(crate) fn gate_at(&self, at: Location, now: Timestamp) -> Result<(), WaitReason> {
        let (rollout, group, place) = self.at(at).ok_or(WaitReason::NoRollout)?;
        let begun = group.waves[at.wave].state != WaveState::Waiting;
        self.gate_with(rollout, group, begun, now, || {
            self.time_by(at.rollout, at.group, self.rules_for(place), now)
        })
    }

    /// What has `begun` was approved, whatever is asked for what comes after it.
    fn gate_with(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        begun: bool,
        now: Timestamp,
        windows: impl FnOnce() -> Result<(), WaitReason>,
    ) -> Result<(), WaitReason> {
        self.stop_over(&group.name)?;
        for dependency in &group.policy.dependencies {
            self.dependency(rollout, dependency)?;
        }
        if let Some(asked) = group.approval.waits_since()
            && !begun
        {
            let (after, expiry) = (group.policy.approved_after, group.policy.approval_expiry);
            return Err(WaitReason::Approval {
                group: group.name.clone(),
                rollout: rollout.id.clone(),
                counts_at: asked.and_then(|since| Some(since + after?)),
                expires_at: asked.map(|since| since + expiry),
                zone: group.policy.timezone.clone(),
                four_eyes: self.four_eyes(rollout, group).map(Box::new),
            });
        }
        if rollout.immediate {
            return Ok(());
        }
        for dependency in &group.policy.dependencies {
            self.stagger(rollout, group, dependency, now)?;
        }
        windows()
    }

    /// Finished in this rollout, or not touched by any other.
    fn dependency(&self, rollout: &Rollout, name: &GroupName) -> Result<(), WaitReason> {
        let is_unfinished = |rollout: &Rollout| {
            let group = rollout.group(name);
            group.is_some_and(|group| group.finished_at.is_none())
        };
        let unfinished = match rollout.group(name) {
            Some(_) => is_unfinished(rollout).then_some(rollout),
            None => {
                let all = self.index().unfinished.iter();
                let mut all = all.map(|number| &self.facts().rollouts[number]);
                all.find(|other| is_unfinished(other))
            }
        };
        let Some(rollout) = unfinished else {
            return Ok(());
        };
        let (machines, more) = self.not_back(rollout, name);
        Err(WaitReason::Dependency {
            group: name.clone(),
            machines,
            more,
        })
    }

    /// Time enough has passed since the group of that name was last finished.
    fn stagger(
        &self,
        rollout: &Rollout,
        waits: &RolloutGroup,
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
                zone: waits.policy.timezone.clone(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}
