//! Whom a wave that is open waits for, and until when it does.

use common::{GroupName, MachineName, Timestamp};

use crate::{
    fleet::{Fleet, Location, number_of},
    rollout::{Place, Rollout, RolloutGroup, WaveState},
    wait::WaitReason,
};

/// So many machines are named. Each machine that asks is told them, and a wave may have thousands.
const NAMED: usize = 8;

impl Fleet {
    /// Who of the present wave of this group is not back: some of them by name, those at work first, and how
    /// many more.
    pub(crate) fn not_back(&self, rollout: &Rollout, name: &GroupName) -> (Vec<MachineName>, u32) {
        let place = rollout.groups.iter().position(|group| group.name == *name);
        let (Some(group), Some(number)) = (place, number_of(&rollout.id)) else {
            return (Vec::new(), 0);
        };
        let wave = rollout.groups[group].current;
        let Some(count) = self.index().waves.get(&(number, group, wave)) else {
            return (Vec::new(), 0);
        };
        let is_at_work = |machine: &&MachineName| {
            let at = self.index().place_of.get(*machine).copied();
            let here = |at: &Location| (at.rollout, at.group, at.wave) == (number, group, wave);
            let found = at.filter(here).and_then(|at| self.at(at));
            found.is_some_and(|(_, _, place)| place.state.lease().is_some())
        };
        let away = self.index().away.get(name).into_iter().flatten();
        let at_work = away.filter(is_at_work).cloned();
        let places = &rollout.groups[group].waves[wave].places;
        let pending = count
            .pending
            .iter()
            .map(|place| places[*place].machine.clone());
        let machines: Vec<MachineName> = at_work.chain(pending).take(NAMED).collect();
        let all = u64::from(count.live) + count.pending.len() as u64;
        let more = all.saturating_sub(machines.len() as u64);
        (machines, u32::try_from(more).unwrap_or(u32::MAX))
    }

    /// That an earlier wave than the machine's has not closed, or its own not opened: who holds it, and when
    /// the clock alone can change that.
    pub(crate) fn wave_not_open(&self, at: Location, now: Timestamp) -> WaitReason {
        let Some((rollout, group, _)) = self.at(at) else {
            return WaitReason::NoRollout;
        };
        let open = group.current.min(group.waves.len() - 1);
        let (machines, more) = match open == at.wave {
            true => (Vec::new(), 0),
            false => self.not_back(rollout, &group.name),
        };
        let next = match group.waves[open].state {
            WaveState::Waiting => {
                let gate = self.gate_of(at.rollout, at.group, now);
                gate.err().and_then(|reason| reason.until())
            }
            WaveState::Open(_) | WaveState::Soaking(_) | WaveState::Closed => {
                self.next_try(at.rollout, at.group, now)
            }
        };
        WaitReason::WaveNotOpen {
            wave: wave_number(at.wave),
            open: wave_number(open),
            machines,
            more,
            next,
            zone: group.policy.timezone.clone(),
        }
    }

    /// Why a machine that has not obtained its target has not: as it has said itself, or that it is at it.
    pub(crate) fn still_staging(
        &self,
        group: &RolloutGroup,
        at: Location,
        place: &Place,
    ) -> WaitReason {
        let ends_at = match group.waves[at.wave].state {
            WaveState::Open(since) if at.wave == group.current => {
                Some(self.stage_ends(place, since))
            }
            WaveState::Open(_) | WaveState::Waiting | WaveState::Soaking(_) | WaveState::Closed => {
                None
            }
        };
        let zone = group.policy.timezone.clone();
        let known = self.facts().machines.get(&place.machine);
        match known.and_then(|known| known.declined(&place.target, place.tries.into())) {
            Some(WaitReason::StagingFailed { reason, .. }) => WaitReason::StagingFailed {
                reason,
                ends_at,
                zone,
            },
            Some(declined) => declined,
            None => WaitReason::Staging { ends_at, zone },
        }
    }

    /// Until when a machine of a wave that is open since then may take to obtain its target. One that was
    /// offline has its time from the moment at which it was heard again.
    pub(crate) fn stage_ends(&self, place: &Place, since: Timestamp) -> Timestamp {
        let machine = self.facts().machines.get(&place.machine);
        let there_since = machine.and_then(|machine| machine.heard.since);
        let there_since = there_since.unwrap_or(self.hearsay().since);
        let begins = there_since.max(place.retry_at.unwrap_or(there_since));
        begins.max(since) + self.terms_of(&place.machine).stage
    }
}

/// A wave as people count them.
pub(crate) fn wave_number(wave: usize) -> u32 {
    u32::try_from(wave + 1).unwrap_or(u32::MAX)
}
