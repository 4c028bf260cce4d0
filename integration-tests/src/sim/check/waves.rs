//! Waves that soak for as long as the rules say, and what is taken back of a rollout that failed.

use std::time::Duration;

use common::{GroupName, RolloutId, Timestamp};
use coordinator_core::{
    Change, Fleet,
    fleet::number_of,
    rollout::{PauseReason, Place, PlaceState, Rollout, RolloutGroup, RolloutState, WaveState},
};

/// What is wrong with a change, against the state before it.
pub(super) fn wrong(before: &Fleet, change: &Change, now: Timestamp) -> Option<String> {
    soaks_too_short(before, change, now).or_else(|| left_as_it_is(before, change))
}

/// A wave soaks until another time than its rules say, or does not.
fn soaks_too_short(before: &Fleet, change: &Change, now: Timestamp) -> Option<String> {
    if let Change::WaveSoaking {
        rollout,
        group,
        wave,
        until,
    } = change
    {
        let soak = soak(before, rollout, group, *wave)?;
        let has = until.since(now);
        return (has != soak)
            .then(|| format!("a wave of {rollout} soaks for {has:?}, not {soak:?}"));
    }
    let Change::WaveClosed {
        rollout,
        group,
        wave,
    } = change
    else {
        return None;
    };
    let g = before.rollout(rollout)?.group(group)?;
    let early = match g.waves.get(*wave)?.state {
        WaveState::Soaking(until) => now < until && g.promoted <= *wave,
        WaveState::Open(_) => !soak(before, rollout, group, *wave)?.is_zero(),
        WaveState::Waiting | WaveState::Closed => false,
    };
    early.then(|| format!("a wave of {rollout} closes before it has soaked"))
}

/// How long this wave is to soak.
fn soak(before: &Fleet, rollout: &RolloutId, group: &GroupName, wave: usize) -> Option<Duration> {
    let rollout = before.rollout(rollout)?;
    let g = rollout.group(group)?;
    let last = wave + 1 == g.waves.len();
    if rollout.immediate || last || wave < g.promoted {
        return Some(Duration::ZERO);
    }
    let policy = &g.policy;
    Some(match &policy.blue_green {
        Some(sides) => sides.watch,
        None if g.waves.get(wave)?.canary => policy.canary_soak,
        None => policy.soak,
    })
}

/// Nothing is taken back although the budget of a group is still spent, and somebody there runs what the rollout
/// has brought it and may go back.
fn left_as_it_is(before: &Fleet, change: &Change) -> Option<String> {
    let Change::NothingToTakeBack { rollout: id } = change else {
        return None;
    };
    let rollout = before.rollout(id)?;
    let RolloutState::Paused(PauseReason::BudgetSpent { group, .. }) = &rollout.state else {
        return None;
    };
    let group = rollout.group(group)?;
    let mut places = group.places().filter(|_| group.spent());
    let stays = places.find(|place| may_go_back(before, rollout, group, place))?;
    Some(format!("{} keeps what {id} has brought it", stays.machine))
}

fn may_go_back(before: &Fleet, rollout: &Rollout, group: &RolloutGroup, place: &Place) -> bool {
    let machine = &place.machine;
    let known = before.facts().machines.get(machine);
    let running = known.and_then(|known| known.running());
    let brought = place.closure.as_ref().or(place.target.closure());
    let here = before.index().place_of.get(machine);
    let free = here.is_none_or(|at| Some(at.rollout) == number_of(&rollout.id));
    place.state == PlaceState::Updated
        && group.rules(place.rules).takes_back
        && free
        && before.lease_of(machine).is_none()
        && before.group_of(machine) == Some(&group.name)
        && before.quarantine_of(machine).is_none()
        && running.is_some()
        && running == brought
        && place.from.is_some()
        && place.from.as_ref() != running
        && group.policy.blue_green.is_none()
}
