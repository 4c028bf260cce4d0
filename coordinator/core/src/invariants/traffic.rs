//! 12: whoever is away for an update is on a side without traffic, and traffic moves to no side that is not
//! as it is to be.

use common::{GroupName, MachineName, SideName};

use super::{Violation, violate};
use crate::{
    fleet::Fleet,
    lease::Lease,
    rollout::{PauseReason, PlaceState, Rollout, RolloutState, WaveState},
    traffic::TrafficStep,
};

/// Nobody holds a lease whose side may hold traffic.
pub(super) fn nobody_leaves_it(fleet: &Fleet, found: &mut Vec<Violation>) {
    // What a restore made void is seen to by whoever lifts the stop.
    let epoch = fleet.facts().epoch;
    let leases = fleet.facts().leases.values();
    for lease in leases.filter(|lease| lease.epoch == epoch) {
        let rollout = fleet.rollout(&lease.rollout);
        let group = rollout.and_then(|rollout| rollout.group(&lease.group));
        let sides = group.and_then(|group| group.policy.blue_green.as_ref());
        let Some(side) = sides.and_then(|sides| sides.side_of(&lease.machine)) else {
            continue;
        };
        if fleet.may_hold_traffic(&lease.group, &side.name) {
            let (machine, side) = (&lease.machine, &side.name);
            let text = format!("{machine} is away, and its side {side} may hold traffic");
            violate(found, 12, text);
        }
    }
}

/// Whether all traffic is elsewhere than on the side on which this machine is by the configuration in force.
pub(super) fn is_idle(before: &Fleet, lease: &Lease) -> bool {
    let sides = before.sides_of(&lease.group);
    let side = sides.and_then(|sides| sides.side_of(&lease.machine));
    side.is_none_or(|side| !before.may_hold_traffic(&lease.group, &side.name))
}

/// A side that the gates find bad does not keep its traffic: its wave soaks no more.
pub(super) fn goes_back(fleet: &Fleet, found: &mut Vec<Violation>) {
    for rollout in fleet.facts().rollouts.values() {
        let RolloutState::Paused(PauseReason::AnalysisFailed { group, .. }) = &rollout.state else {
            continue;
        };
        let g = rollout.group(group);
        let wave = g.and_then(|g| g.waves.get(g.current));
        let soaks = wave.filter(|wave| matches!(wave.state, WaveState::Soaking(_)));
        let sides = g.and_then(|g| g.policy.blue_green.as_ref());
        let side = soaks.and_then(|wave| wave.side.as_ref());
        // It waits for whoever is at work on the other side, by the sides of then or of now.
        let at_work = |side: &SideName| {
            let now = fleet.sides_of(group);
            let mut others = sides.into_iter().map(|sides| &**sides).chain(now);
            others.any(|sides| {
                let mut machines = sides.other(side).machines.iter();
                machines.any(|machine| fleet.lease_of(machine).is_some())
            })
        };
        if let Some(side) = side.filter(|side| !at_work(side)) {
            let id = &rollout.id;
            violate(
                found,
                12,
                format!("{id}: the gates fail, and {side} keeps its traffic"),
            );
        }
    }
}

/// Of two sides the idle one is the first wave.
pub(super) fn begins_idle(before: &Fleet, rollout: &Rollout) -> bool {
    rollout.groups.iter().all(|g| {
        let on = before
            .traffic_of(&g.name)
            .and_then(|known| known.on.as_ref());
        let sides = g.policy.blue_green.as_ref();
        let first = sides.map(|sides| &sides.sides[0].name);
        let known = on.filter(|on| sides.is_some_and(|sides| sides.side(on).is_some()));
        let live = known.or(first);
        g.waves.len() < 2 || live.is_none() || g.waves[0].side.as_ref() != live
    })
}

/// Whether a rollout that began before this one is in the middle of this group's sides: only one at a time moves
/// their traffic.
fn is_anothers(before: &Fleet, own: &Rollout, group: &GroupName) -> bool {
    let goes_on = |rollout: &Rollout| rollout.state == RolloutState::Active;
    let is_at_work = |rollout: &Rollout| {
        let part = rollout.group(group).filter(|g| g.finished_at.is_none());
        let part = part.filter(|g| g.policy.blue_green.is_some());
        part.is_some_and(|g| g.waves.iter().any(|wave| wave.state != WaveState::Waiting))
    };
    let rollouts = before.facts().rollouts.values();
    let mut earlier = rollouts.take_while(|rollout| rollout.id != own.id);
    goes_on(own) && earlier.any(|rollout| goes_on(rollout) && is_at_work(rollout))
}

/// Whether this may happen to the traffic now.
pub(super) fn takes(before: &Fleet, group: &GroupName, step: &TrafficStep) -> bool {
    let known = before.traffic_of(group).cloned().unwrap_or_default();
    if !known.takes(step) {
        return false;
    }
    let TrafficStep::Begun {
        to, sides, rollout, ..
    } = step
    else {
        return true;
    };
    let Some(side) = sides.side(to) else {
        return false;
    };
    let mut machines = side.machines.iter();
    if machines.any(|machine| before.lease_of(machine).is_some()) {
        return false;
    }
    let mut machines = side.machines.iter();
    let away = |machine: &MachineName| before.index().is_away(before.facts(), machine);
    if rollout.is_none() && !known.is_on(to) && machines.any(away) {
        return false;
    }
    let rollout = rollout.as_ref().and_then(|id| before.rollout(id));
    if known.moving.is_none() && rollout.is_some_and(|own| is_anothers(before, own, group)) {
        return false;
    }
    // What a rollout has just updated gets traffic only if all of it is as it is to be.
    let g = rollout.and_then(|rollout| rollout.group(group));
    let present = g.and_then(|g| g.waves.get(g.current));
    let Some(wave) = present.filter(|wave| wave.side.as_ref() == Some(to)) else {
        return true;
    };
    wave.state != WaveState::Waiting
        && wave.places.iter().all(|place| {
            // Whoever has come to the other side since is not part of it.
            let here = before.group_of(&place.machine).is_some();
            let here = here && side.machines.contains(&place.machine);
            !here || place.state == PlaceState::Updated
        })
}
