//! Where a rollout wants the traffic of a group with two sides, and who waits for that.
//!
//! Nobody goes whose side may hold traffic. So before each wave opens, the traffic is put on the other
//! side, also where it is thought to be there already: only an answer of this rollout's own time counts.
//! When a side is done and another one follows, the traffic moves to it, within the group's windows, and the wave
//! soaks (`watch`) while the gates are measured anew.

use std::time::Duration;

use common::{GroupName, MachineName, SideName, Timestamp};

use super::{Adapter, BlueGreen, Move, Side};
use crate::{
    decide::Draft,
    fleet::{Fleet, number_of, rollout_id},
    rollout::{PauseReason, Place, PlaceState, Rollout, RolloutGroup, Rules, Wave, WaveState},
    wait::WaitReason,
};

/// Whom of a side traffic that is moved there waits for; each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Care {
    /// Whoever has its turn. Enough where the traffic is already.
    AtWork,
    /// Whoever failed or was lost in the middle, and is not known to be healthy since.
    Away,
    /// Whoever is not there, not healthy, or not as the rollout wants it.
    Ready,
}

impl Fleet {
    /// Whether it was said since the rollout began that all traffic of the group is on this side.
    fn stands_on(&self, rollout: &Rollout, group: &GroupName, side: &SideName) -> bool {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what must not wait does not wait for the traffic either.
        if rollout.immediate && self.has(crate::bug::Bug::ImmediateWithTraffic) {
            return true;
        }
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): where the traffic was once, it is taken for still to be.
        if self.has(crate::bug::Bug::TrafficTakenForGranted) {
            return self.traffic_of(group).and_then(|known| known.on.as_ref()) == Some(side);
        }
        self.traffic_of(group).is_some_and(|traffic| {
            traffic.settled
                && traffic.on.as_ref() == Some(side)
                && number_of(&rollout.id).is_some_and(|number| number < traffic.said_for)
        })
    }

    /// Nobody goes whose side may hold traffic.
    pub(crate) fn side_is_idle(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        machine: &MachineName,
    ) -> Result<(), WaitReason> {
        let Some(sides) = &group.policy.blue_green else {
            return Ok(());
        };
        let Some(side) = sides.side_of(machine) else {
            return Ok(());
        };
        let other = sides.other(&side.name);
        let present = self.another_side(&group.name, machine, side);
        let number = number_of(&rollout.id);
        let first = number.and_then(|number| self.goes_before(number, &group.name));
        // Where the traffic stands for another rollout, that may have to take it back.
        let mine = present.is_none() && first.is_none();
        if mine && self.stands_on(rollout, &group.name, &other.name) {
            return Ok(());
        }
        Err(self.moving_or(group, || WaitReason::LiveSide {
            group: group.name.clone(),
            side: present.unwrap_or(&side.name).clone(),
            behind: Vec::new(),
            first: first.filter(|_| present.is_none()).map(Box::new),
            was: present.map(|_| side.name.clone()),
        }))
    }

    /// The side on which the machine is by now, where it is another one than this. The traffic follows the
    /// sides of the configuration in force.
    fn another_side(
        &self,
        group: &GroupName,
        machine: &MachineName,
        side: &Side,
    ) -> Option<&SideName> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): a machine is on the side on which it was when the rollout began.
        if self.has(crate::bug::Bug::SidesForGood) {
            return None;
        }
        let present = self.sides_of(group);
        let present = present.and_then(|sides| sides.side_of(machine));
        let present = present.map(|present| &present.name);
        present.filter(|present| **present != side.name)
    }

    /// That the traffic is being moved, if it is.
    fn moving_or(&self, group: &RolloutGroup, or: impl FnOnce() -> WaitReason) -> WaitReason {
        let traffic = self.traffic_of(&group.name);
        match traffic.and_then(|traffic| traffic.moving.as_ref()) {
            Some(moving) => WaitReason::TrafficMoving {
                group: group.name.clone(),
                to: moving.to.clone(),
                attempt: moving.attempt,
                error: moving
                    .failed
                    .as_ref()
                    .map(|(_, error)| error.as_str().into()),
                machines: self.asked_for_traffic(&group.name),
                until: self.due(moving, self.hearsay().now),
                zone: group.policy.timezone.as_str().into(),
            },
            None => or(),
        }
    }

    /// The present wave of a group, its side and the one across.
    fn present_side<'a>(
        &self,
        g: &'a RolloutGroup,
    ) -> Option<(&'a BlueGreen, &'a Wave, &'a Side, &'a Side)> {
        let sides = g.policy.blue_green.as_ref()?;
        let wave = g.waves.get(g.current)?;
        let side = sides.side(wave.side.as_ref()?)?;
        Some((sides, wave, side, sides.other(&side.name)))
    }

    /// Whether the traffic is on the side of the group's present wave, once it is to be: when another side
    /// follows. `None` when the wave is none that traffic follows.
    pub(crate) fn traffic_has_followed(&self, number: u64, group: usize) -> Option<bool> {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let (_, _, side, _) = self.present_side(g)?;
        let follows = g.current + 1 < g.waves.len();
        follows.then(|| self.stands_on(rollout, &g.name, &side.name))
    }

    /// The machines of a side that keep traffic from being moved there.
    pub(super) fn not_ready(
        &self,
        side: &Side,
        wave: Option<&Wave>,
        care: Care,
        now: Timestamp,
    ) -> Vec<MachineName> {
        let of_the_fleet = |machine: &&MachineName| self.group_of(machine).is_some();
        let is_out = |machine: &&MachineName| {
            let ill = self.group_of(machine);
            let ill = ill.and_then(|group| self.index().ill.get(group));
            let place = wave.and_then(|wave| {
                let mut places = wave.places.iter();
                places.find(|place| place.machine == **machine)
            });
            self.lease_of(machine).is_some()
                || (care >= Care::Away && self.index().is_away(self.facts(), machine))
                || (care == Care::Ready
                    && (ill.is_some_and(|ill| ill.contains(*machine))
                        || self.is_offline(machine, now)
                        || self.quarantine_of(machine).is_some()
                        || place.is_some_and(|place| place.state != PlaceState::Updated)))
        };
        let machines = side.machines.iter().filter(of_the_fleet);
        machines.filter(is_out).cloned().collect()
    }

    /// The other side than that of the group's present wave is to hold all traffic. Whether it does; a move
    /// is begun if it does not, and none is under way.
    pub(crate) fn clears_side(
        &mut self,
        number: u64,
        group: usize,
        now: Timestamp,
        draft: &mut Draft,
    ) -> bool {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let Some((sides, _, side, other)) = self.present_side(g) else {
            return true;
        };
        if self.is_first(number, &g.name, side).is_err() {
            return false;
        }
        if self.stands_on(rollout, &g.name, &other.name) {
            return true;
        }
        if self.clearing(g, now).is_ok() {
            let (name, to, sides) = (g.name.clone(), other.name.clone(), sides.clone());
            let by = (Some(rollout.id.clone()), format!("rollout {}", rollout.id));
            self.begin_move(&name, &to, &sides, by, now, draft);
        }
        false
    }

    /// Why no move to the side across from the present wave's can be begun.
    fn clearing(&self, g: &RolloutGroup, now: Timestamp) -> Result<(), WaitReason> {
        let Some((sides, _, _, other)) = self.present_side(g) else {
            return Ok(());
        };
        self.stop_over(&g.name)?;
        // Where all of it is already it is not really moved.
        let known = self.traffic_of(&g.name);
        let is_there = known.is_some_and(|traffic| traffic.is_on(&other.name));
        let care = if is_there { Care::AtWork } else { Care::Ready };
        let before = g.current.checked_sub(1).map(|before| &g.waves[before]);
        self.ready(g, (sides, other), before, care, now)
    }

    /// Nobody keeps the traffic from being moved to a side, one of those that the rollout knows.
    fn ready(
        &self,
        g: &RolloutGroup,
        (known, side): (&BlueGreen, &Side),
        wave: Option<&Wave>,
        care: Care,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let moving = self.traffic_of(&g.name).and_then(|t| t.moving.as_ref());
        let sides = self.sides_for(&g.name, &side.name, known);
        let present = sides.side(&side.name).unwrap_or(side);
        let mut machines = match present.machines.is_empty() {
            // Nobody would have the traffic.
            true => side.machines.clone(),
            false => self.not_ready(present, wave, care, now),
        };
        let mut waits_for = present;
        if machines.is_empty() && sides.adapter == Adapter::Hook {
            // Who is at work cannot be told to leave its traffic.
            waits_for = sides.other(&side.name);
            machines = self.not_ready(waits_for, None, Care::AtWork, now);
        }
        if moving.is_none() && machines.is_empty() {
            return Ok(());
        }
        Err(self.moving_or(g, || WaitReason::SideNotReady {
            group: g.name.clone(),
            side: waits_for.name.clone(),
            machines,
        }))
    }

    /// Everybody of the present wave's side is done, and the traffic is to follow: begins the move, or
    /// pauses the rollout when somebody of it never will be as it is to be.
    pub(crate) fn moves_on(
        &mut self,
        number: u64,
        group: usize,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let Some((sides, wave, side, _)) = self.present_side(g) else {
            return;
        };
        if self.stop_over(&g.name).is_err() {
            return;
        }
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whoever of the side went back or failed is not looked at.
        let careless = self.has(crate::bug::Bug::TrafficToFailed);
        #[cfg(not(feature = "seeded-bugs"))]
        let careless = false;
        let care = if careless { Care::AtWork } else { Care::Ready };
        let machines = self.blocking(g, wave, (sides, side));
        let id = rollout_id(number);
        let (name, to) = (g.name.clone(), side.name.clone());
        if !machines.is_empty() && !careless {
            let reason = PauseReason::TrafficBlocked {
                group: name,
                side: to,
                machines,
            };
            self.pause_rollout(&id, reason, draft);
        } else if self.is_first(number, &g.name, side).is_ok()
            && self.time_to_move(number, group, now).is_ok()
            && self.ready(g, (sides, side), Some(wave), care, now).is_ok()
        {
            let sides = sides.clone();
            let by = (Some(id), format!("rollout {}", rollout.id));
            self.begin_move(&name, &to, &sides, by, now, draft);
        }
    }

    /// Those of the present wave who keep the traffic from following for good: they are not as the rollout wants
    /// them and never will be, or all of the side have left.
    fn blocking(
        &self,
        g: &RolloutGroup,
        wave: &Wave,
        (known, side): (&BlueGreen, &Side),
    ) -> Vec<MachineName> {
        let sides = self.sides_for(&g.name, &side.name, known);
        let present = sides.side(&side.name);
        if present.is_some_and(|present| present.machines.is_empty()) {
            return side.machines.clone();
        }
        let not_as_it_is_to_be = self.not_updated(wave, present);
        let spoilt = not_as_it_is_to_be.filter(|place| place.state.is_final());
        spoilt.map(|place| place.machine.clone()).collect()
    }

    /// Whether the windows and calendars of the group let a rollout move its traffic to what it has updated: that
    /// is what users see of it.
    fn time_to_move(&self, number: u64, group: usize, now: Timestamp) -> Result<(), WaitReason> {
        let rollout = &self.facts().rollouts[&number];
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): only machines go by windows.
        if self.has(crate::bug::Bug::TrafficOutsideWindow) {
            return Ok(());
        }
        if rollout.immediate {
            return Ok(());
        }
        let seen = self.seen(number, group, Rules::Group, now);
        let policy = &rollout.groups[group].policy;
        self.has_time(policy, &seen, Duration::ZERO, now)
    }

    /// The places of the wave whose machines are on this side by now, and not updated.
    fn not_updated<'a>(
        &'a self,
        wave: &'a Wave,
        side: Option<&'a Side>,
    ) -> impl Iterator<Item = &'a Place> {
        let is_here = move |place: &&Place| {
            let here = self.group_of(&place.machine).is_some();
            here && side.is_none_or(|side| side.machines.contains(&place.machine))
        };
        let places = wave.places.iter().filter(is_here);
        places.filter(|place| place.state != PlaceState::Updated)
    }

    /// Whether the rollout that wants this move would not begin it to the side as that is by now.
    pub(super) fn is_spoilt(&self, moving: &Move, group: &GroupName, side: &Side) -> bool {
        let rollout = moving.rollout.as_ref().and_then(|id| self.rollout(id));
        let g = rollout.and_then(|rollout| rollout.group(group));
        let wave = g.and_then(|g| g.waves.get(g.current));
        let wave = wave.filter(|wave| wave.side.as_ref() == Some(&side.name));
        wave.is_some_and(|wave| self.not_updated(wave, Some(side)).next().is_some())
    }

    /// That a group waits for its traffic, if it does.
    pub(crate) fn traffic_wait(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let rollout = &self.facts().rollouts[&number];
        let g = &rollout.groups[group];
        let Some((sides, wave, side, other)) = self.present_side(g) else {
            return Ok(());
        };
        let follows = match wave.state {
            WaveState::Waiting | WaveState::Closed => false,
            WaveState::Soaking(_) => true,
            WaveState::Open(_) => {
                let count = self.index().waves.get(&(number, group, g.current));
                let offline = |place: &usize| self.is_offline(&wave.places[*place].machine, now);
                count.is_none_or(|count| count.live == 0 && count.pending.iter().all(offline))
            }
        };
        if follows {
            if self.traffic_has_followed(number, group) != Some(false) {
                return Ok(());
            }
            self.is_first(number, &g.name, side)?;
            // Who is not ready may never be by itself, and is told before what only takes time.
            self.ready(g, (sides, side), Some(wave), Care::Ready, now)?;
            return self.time_to_move(number, group, now);
        }
        self.is_first(number, &g.name, side)?;
        if self.stands_on(rollout, &g.name, &other.name) {
            return Ok(());
        }
        self.clearing(g, now)
    }

    /// A gate failed while the traffic ran on the side that was just updated: it goes back at once, or when
    /// nobody of the other side is at work any more.
    pub(crate) fn traffic_goes_back(
        &mut self,
        id: &common::RolloutId,
        reason: &PauseReason,
        draft: &mut Draft,
    ) {
        let PauseReason::AnalysisFailed { group, gate, .. } = reason else {
            return;
        };
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever the gates say, the traffic stays.
        if self.has(crate::bug::Bug::TrafficStays) {
            return;
        }
        let g = self.rollout(id).and_then(|rollout| rollout.group(group));
        let Some((sides, wave, side, other)) = g.and_then(|g| self.present_side(g)) else {
            return;
        };
        let watched = matches!(wave.state, WaveState::Soaking(_));
        if !watched || !self.may_hold_traffic(group, &side.name) {
            return;
        }
        let now = self.hearsay().now;
        let present = self.sides_for(group, &other.name, sides);
        let present = present.side(&other.name).unwrap_or(other);
        if present.machines.is_empty()
            || !self.not_ready(present, None, Care::AtWork, now).is_empty()
        {
            return;
        }
        let (to, sides) = (other.name.clone(), sides.clone());
        let by = (Some(id.clone()), format!("gate {gate} of rollout {id}"));
        self.begin_move(group, &to, &sides, by, now, draft);
    }
}
