//! What becomes of rollouts, and of their groups, waves and places.

use common::{GroupName, MachineName, RolloutId, Timestamp};

use super::super::{ENDED_KEPT, Fleet, number_of};
use crate::{
    rollout::{Place, PlaceState, Rollout, RolloutGroup, Wave},
    traffic::TrafficStep,
    transition::{ApprovalStep, PlaceStep, RolloutStep, WaveStep},
};

impl Fleet {
    pub(super) fn created(&mut self, rollout: &Rollout, undoes_to_now: bool) {
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

    pub(super) fn wave_closed(&mut self, rollout: &RolloutId, group: &GroupName, wave: usize) {
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

    pub(super) fn with_rollout(&mut self, id: &RolloutId, change: impl FnOnce(&mut Rollout)) {
        let rollout = number_of(id).and_then(|number| self.facts.rollouts.get_mut(&number));
        if let Some(rollout) = rollout {
            change(rollout);
        }
    }

    pub(super) fn with_group(
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

    pub(super) fn with_wave(
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
    pub(super) fn measure_anew(&mut self, machine: &MachineName) {
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
    pub(super) fn traffic_stepped(&mut self, group: &GroupName, step: &TrafficStep) {
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
    pub(super) fn with_place(&mut self, machine: &MachineName, change: impl FnOnce(&mut Place)) {
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

    pub(super) fn aborted(&mut self, id: &RolloutId, by: &str, reason: &str, at: Timestamp) {
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

    pub(super) fn end(&mut self, id: &RolloutId, step: RolloutStep, at: Timestamp) {
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
