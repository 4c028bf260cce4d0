//! How long a group of a rollout may stand still with nothing to wait for: after that the rollout
//! pauses and says what it waits for, so that a person looks.

use std::time::Duration;

use common::Timestamp;

use crate::{
    fleet::Fleet,
    rollout::{PauseReason, PlaceState},
    wait::WaitReason,
};

/// What one group has used of its patience.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From when its standing still counts.
    since: Timestamp,
    /// When it was last looked at.
    looked: Timestamp,
}

/// What a group does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Machines of it hold leases.
    AtWork,
    /// Only time, a person or another group can bring it on.
    Waits,
    /// It could go on.
    StandsStill,
}

impl Fleet {
    /// A rollout that could go on but does not for this long pauses itself.
    fn no_progress_after(&self) -> Duration {
        let config = self.facts().config.as_ref();
        config.map_or(Duration::MAX, |config| config.no_progress)
    }

    /// This group of the rollout went on.
    pub(crate) fn moved(&mut self, number: u64, group: usize, now: Timestamp) {
        let anew = Patience {
            since: now,
            looked: now,
        };
        self.hearsay.patience.insert((number, group), anew);
    }

    /// Every group of the rollout begins anew.
    pub(crate) fn all_moved(&mut self, number: u64, now: Timestamp) {
        let groups = self.facts().rollouts[&number].groups.len();
        for group in 0..groups {
            self.moved(number, group, now);
        }
    }

    /// The rollout is over.
    pub(crate) fn forget_patience(&mut self, number: u64) {
        self.hearsay.patience.retain(|(of, _), _| *of != number);
    }

    /// Why the rollout is to pause, if one of its groups could go on but has not for too long. Time
    /// in which the group could not go on does not count, and does not make good for the time
    /// before it either: with a window of an hour a day the patience of three hours lasts three
    /// days. Machines at work, of whatever group, are let finish first.
    pub(crate) fn stalled(&mut self, number: u64, now: Timestamp) -> Option<PauseReason> {
        if self.only_late_since(number).is_some() {
            return None;
        }
        let mut stalled = None;
        for group in self.unfinished_groups(number) {
            let pace = self.pace(number, group, now);
            let anew = Patience {
                since: now,
                looked: now,
            };
            let patience = self.hearsay.patience.entry((number, group)).or_insert(anew);
            match pace {
                Pace::AtWork => patience.since = now,
                Pace::Waits => {
                    patience.since = (patience.since + now.since(patience.looked)).min(now);
                }
                Pace::StandsStill => {}
            }
            patience.looked = now;
            let since = patience.since;
            if pace == Pace::StandsStill && since + self.no_progress_after() <= now {
                stalled = stalled.or(Some((group, since)));
            }
        }
        let (group, since) = stalled.filter(|_| !self.is_at_work(number))?;
        Some(PauseReason::NoProgress {
            since,
            waited_for: self.waited_for(number, group, now),
        })
    }

    /// When the first group's patience ends if nothing happens before.
    pub(crate) fn patience_ends(&self, number: u64, now: Timestamp) -> Timestamp {
        if self.is_at_work(number) {
            return Timestamp::MAX;
        }
        let still = self
            .unfinished_groups(number)
            .into_iter()
            .filter(|group| self.pace(number, *group, now) == Pace::StandsStill);
        let ends = still.map(|group| {
            let patience = self.hearsay.patience.get(&(number, group));
            patience.map_or(now, |patience| patience.since) + self.no_progress_after()
        });
        ends.min().unwrap_or(Timestamp::MAX)
    }

    fn unfinished_groups(&self, number: u64) -> Vec<usize> {
        let groups = self.facts().rollouts[&number].groups.iter().enumerate();
        groups
            .filter(|(_, group)| group.finished_at.is_none())
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether machines hold leases of the rollout, live or overdue.
    pub(crate) fn is_at_work(&self, number: u64) -> bool {
        let mut waves = self.index().waves.range((number, 0, 0)..(number + 1, 0, 0));
        waves.any(|(_, count)| count.live > 0)
    }

    fn pace(&self, number: u64, group: usize, now: Timestamp) -> Pace {
        let waves = (number, group, 0)..(number, group + 1, 0);
        if self
            .index()
            .waves
            .range(waves)
            .any(|(_, wave)| wave.live > 0)
        {
            return Pace::AtWork;
        }
        match self.group_wait(number, group, now) {
            Some(reason) if reason.is_orderly() => Pace::Waits,
            None if self.next_try(number, group, now).is_some() => Pace::Waits,
            Some(_) | None => Pace::StandsStill,
        }
    }

    /// What the first machine of the group that could go waits for.
    fn waited_for(&self, number: u64, group: usize, now: Timestamp) -> String {
        let places = self.facts().rollouts[&number].groups[group].places();
        let pending = places
            .filter(|place| place.state == PlaceState::Pending)
            .filter_map(|place| Some((place, self.permission(&place.machine, now).err()?)))
            .find(|(_, reason)| !matches!(reason, WaitReason::Dependency { .. }));
        pending.map_or_else(
            || "nothing in particular".to_owned(),
            |(place, reason)| format!("{}: {reason}", place.machine),
        )
    }
}
