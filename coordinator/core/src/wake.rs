//! Who is told to poll because it is its turn: exactly as many machines as slots are free, in the
//! order of the waves, and each of them once.
//!
//! A machine that was told counts as on its way to its slot until it polls. Without that every
//! change would tell everybody anew for whom there is room: with hundreds of free slots most of the
//! coordinator's work would be telling the same machines the same thing.

use std::{collections::BTreeSet, time::Duration};

use common::{MachineName, Timestamp};

use crate::{
    decide::Draft,
    fleet::Fleet,
    rollout::{RolloutState, WaveState},
};

/// Candidates looked at for one wake-up, beyond the free slots, before the rest is left to poll.
const LOOK: usize = 64;

/// How long a machine that was told may take to poll before others are told in its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// Machines of one group of a rollout that were told and have not polled since.
#[derive(Clone, Debug)]
pub struct Woken {
    machines: BTreeSet<MachineName>,
    /// When the first of them was told.
    since: Timestamp,
}

impl Fleet {
    /// Wakes those whose turn it is.
    pub(crate) fn wake_next(&mut self, now: Timestamp, draft: &mut Draft) {
        let numbers = self.index().unfinished.clone();
        self.hearsay
            .woken
            .retain(|(number, _), _| numbers.contains(number));
        for number in numbers {
            for group in 0..self.facts().rollouts[&number].groups.len() {
                let next = self.next_in(number, group, now);
                if next.is_empty() {
                    continue;
                }
                draft.wake.extend(next.iter().cloned());
                let woken = self.hearsay.woken.entry((number, group));
                let woken = woken.or_insert_with(|| Woken {
                    machines: BTreeSet::new(),
                    since: now,
                });
                woken.machines.extend(next);
            }
        }
    }

    /// Machines of the group's open wave for whom there is room beside those that were told.
    fn next_in(&mut self, number: u64, group: usize, now: Timestamp) -> Vec<MachineName> {
        let g = &self.facts().rollouts[&number].groups[group];
        let room = self.free_slots(g);
        // Others took all the room: whoever was told is told anew when there is some again.
        let late = |woken: &Woken| room == 0 || now >= woken.since + PATIENCE;
        if self.hearsay.woken.get(&(number, group)).is_some_and(late) {
            self.hearsay.woken.remove(&(number, group));
        }
        let woken = self.hearsay.woken.get(&(number, group));
        let told = |machine: &MachineName| woken.is_some_and(|w| w.machines.contains(machine));
        let free = room.saturating_sub(woken.map_or(0, |woken| woken.machines.len()));
        if free == 0 {
            return Vec::new();
        }
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let wave = g.current.min(g.waves.len() - 1);
        let open = matches!(g.waves[wave].state, WaveState::Open(_));
        let count = self.index().waves.get(&(number, group, wave));
        let Some(count) = count.filter(|_| open && rollout.state == RolloutState::Active) else {
            return Vec::new();
        };
        let pending = count.pending.iter();
        pending
            .map(|place| &g.waves[wave].places[*place].machine)
            .filter(|machine| !told(machine))
            .take(free + LOOK)
            .filter(|machine| self.permission(machine, now).is_ok())
            .take(free)
            .cloned()
            .collect()
    }

    /// The machine has polled: whatever it was told, it is not on its way any more.
    pub(crate) fn has_polled(&mut self, machine: &MachineName) {
        let Some(at) = self.index().place_of.get(machine).copied() else {
            return;
        };
        if let Some(woken) = self.hearsay.woken.get_mut(&(at.rollout, at.group)) {
            woken.machines.remove(machine);
            if woken.machines.is_empty() {
                self.hearsay.woken.remove(&(at.rollout, at.group));
            }
        }
    }
}
