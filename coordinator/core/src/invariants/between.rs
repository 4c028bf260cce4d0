//! What must hold from one state to the next: grants, what counts as updated, and what is over.

use common::{GroupName, MachineName};

use super::{Violation, violate};
use crate::{
    fleet::{Fleet, number_of},
    lease::Lease,
    rollout::{Place, PlaceState, Rollout, RolloutGroup, Turn, Wave, WaveState},
};

/// What must hold from one state to the next: `before` and `after` one request.
pub fn between(before: &Fleet, after: &Fleet) -> Vec<Violation> {
    let mut found = Vec::new();
    if after.facts().epoch < before.facts().epoch {
        violate(&mut found, 3, "the epoch went back".to_owned());
    }
    if after.facts().next_lease < before.facts().next_lease {
        violate(&mut found, 1, "lease numbers went back".to_owned());
    }
    if before.facts().revision != after.facts().revision {
        nobody_is_kept(after, &mut found);
    }
    grants(before, after, &mut found);
    updated_by_their_word(before, after, &mut found);
    final_stays_final(before, after, &mut found);
    found
}

/// 7: nobody waits for whoever has left the configuration.
fn nobody_is_kept(after: &Fleet, found: &mut Vec<Violation>) {
    for number in &after.index().unfinished {
        let rollout = &after.facts().rollouts[number];
        let mut pending = rollout.places().filter(|p| p.state == PlaceState::Pending);
        if let Some(place) = pending.find(|place| after.group_of(&place.machine).is_none()) {
            let text = format!("{} waits for {}, which has left", rollout.id, place.machine);
            violate(found, 7, text);
        }
    }
}

/// 2, 3: each new lease was allowed at that instant.
fn grants(before: &Fleet, after: &Fleet, found: &mut Vec<Violation>) {
    let new = after
        .facts()
        .leases
        .values()
        .filter(|l| l.id >= before.facts().next_lease);
    for lease in new {
        let say = |text: &str| format!("lease {} of {}: {text}", lease.id, lease.machine);
        if after.index().away_total > usize::try_from(after.fleet_limit()).unwrap_or(usize::MAX) {
            violate(found, 2, say("the fleet's limit is passed"));
        }
        if after
            .facts()
            .stop
            .as_ref()
            .is_some_and(|stop| stop.covers(&lease.group))
        {
            violate(found, 3, say("granted under an emergency stop"));
        }
        if lease.epoch != after.facts().epoch {
            violate(found, 3, say("granted under another epoch"));
        }
        for other in after.apart_from(&lease.machine) {
            if after.lease_of(other).is_some() {
                violate(found, 2, say(&format!("together with {other}")));
            }
        }
        let away = after.index().away.get(&lease.group);
        let rollout = after.rollout(&lease.rollout);
        let limit = rollout.and_then(|rollout| rollout.group(&lease.group));
        let limit = limit.map_or(0, |group| group.policy.max_parallel);
        if away.map_or(0, std::collections::BTreeSet::len)
            > usize::try_from(limit).unwrap_or(usize::MAX)
        {
            violate(found, 2, say("the group's limit is passed"));
        }
        let Some(rollout) = rollout.filter(|_| number_of(&lease.rollout).is_some()) else {
            violate(found, 1, say("granted for no rollout"));
            continue;
        };
        let Some(group) = rollout.group(&lease.group) else {
            continue;
        };
        let spent_before = before
            .rollout(&lease.rollout)
            .and_then(|r| r.group(&lease.group));
        if spent_before.is_some_and(RolloutGroup::spent) {
            violate(found, 3, say("granted after the budget was spent"));
        }
        let rollout_before = before.rollout(&lease.rollout);
        if rollout_before.is_some_and(|r| r.overspent().is_some()) {
            violate(found, 3, say("granted after the fleet's budget was spent"));
        }
        coordinators(after, lease, rollout, found);
        // Of the machine's own numbers, and not of what the grant took them for.
        let places = group.waves.iter();
        let mut places = places.flat_map(|wave| wave.places.iter().map(move |p| (wave, p)));
        let Some((wave, place)) = places.find(|(_, place)| place.machine == lease.machine) else {
            violate(found, 1, say("granted without a place"));
            continue;
        };
        let places = rollout_before.into_iter().flat_map(Rollout::places);
        let mut retry_at = places.filter(|before| before.machine == lease.machine);
        let retry_at = retry_at.find_map(|before| before.retry_at);
        if retry_at.is_some_and(|until| lease.granted_at < until) {
            violate(found, 3, say("granted before it is to try again"));
        }
        let no_room = |group: &RolloutGroup| leaves_no_room_beside(group, &lease.machine);
        if place.tries == 0 && spent_before.is_some_and(no_room) {
            violate(found, 3, say("beside some that are to try again"));
        }
        let policy = group.rules(place.rules);
        let expected = policy.expected_duration;
        let known = after.facts().machines.get(&lease.machine);
        let needs = known.map_or(expected, |known| {
            let reboots = known.reboots_for(rollout.action, &place.target, policy);
            known.needs(reboots, expected)
        });
        if let Err(reason) = after.gate(rollout, (group, wave), (policy, needs), lease.granted_at) {
            violate(found, 3, say(&format!("granted although {reason}")));
        }
    }
}

/// Whether those who are to try again leave no room in the group's budget. Whoever was silent in its turn
/// and gives it back has not failed.
fn leaves_no_room_beside(group: &RolloutGroup, machine: &MachineName) -> bool {
    let silent = |place: &Place| place.machine == *machine && place.state.is_failure();
    let back = u32::from(group.places().any(silent));
    let failed = group.counted().saturating_sub(back);
    group.retrying > 0 && failed + group.retrying > group.policy.max_failures
}

/// 2, 3: whoever runs a coordinator goes after everybody else, and most of them stay.
fn coordinators(fleet: &Fleet, lease: &Lease, rollout: &Rollout, found: &mut Vec<Violation>) {
    let Some(config) = &fleet.facts().config else {
        return;
    };
    let say = |text: &str| format!("lease {} of {}: {text}", lease.id, lease.machine);
    let away = config.coordinators.iter();
    let away = away
        .filter(|m| fleet.index().is_away(fleet.facts(), m))
        .count();
    let is_one = config.coordinators.contains(&lease.machine);
    if is_one && away > 1 && 2 * away >= config.coordinators.len() {
        violate(found, 2, say("with it half of the coordinators are away"));
    }
    // Those that depend on a group with such a machine come after it, whoever is at work in between.
    let runs_one = |group: &&RolloutGroup| group.waves.iter().any(|wave| wave.turn != Turn::Any);
    let first = rollout.groups.iter().filter(runs_one);
    let mut on: Vec<&GroupName> = first.map(|group| &group.name).collect();
    let mut behind = Vec::new();
    let elsewhere = fleet.index().unfinished.iter();
    let elsewhere = elsewhere.flat_map(|number| &fleet.facts().rollouts[number].groups);
    let elsewhere = elsewhere.map(|group| (&group.name, &group.policy));
    let configured = config
        .groups
        .iter()
        .map(|(name, group)| (name, &group.policy));
    let elsewhere = elsewhere.chain(configured);
    let elsewhere = elsewhere.filter(|(name, _)| rollout.group(name).is_none());
    let here = rollout
        .groups
        .iter()
        .map(|group| (&group.name, &group.policy));
    let all: Vec<_> = here.chain(elsewhere).collect();
    while let Some(before) = on.pop() {
        for (name, policy) in &all {
            if policy.dependencies.contains(before) && !behind.contains(name) {
                behind.push(*name);
                on.push(*name);
            }
        }
    }
    let was_last = rollout
        .groups
        .iter()
        .flat_map(|group| &group.waves)
        .any(|wave| {
            wave.turn != Turn::Any
                && wave
                    .places
                    .iter()
                    .any(|place| place.machine == lease.machine)
        });
    let others = rollout
        .groups
        .iter()
        .filter(|group| !behind.contains(&&group.name) && group.finished_at.is_none());
    let open = |wave: &&Wave| wave.turn == Turn::Any && wave.state != WaveState::Closed;
    if was_last
        && others
            .flat_map(|group| &group.waves)
            .any(|wave| open(&wave))
    {
        violate(found, 3, say("granted before everybody else was done"));
    }
}

/// 6: whoever counts as updated since has said that it runs the closure.
fn updated_by_their_word(before: &Fleet, after: &Fleet, found: &mut Vec<Violation>) {
    for (number, new) in &after.facts().rollouts {
        let Some(old) = before.facts().rollouts.get(number) else {
            continue;
        };
        for (was, is) in old.places().zip(new.places()) {
            let newly = was.state != PlaceState::Updated && is.state == PlaceState::Updated;
            let expected = is.closure.as_ref().or(is.target.closure());
            if !newly || expected.is_none() {
                continue;
            }
            let machine = after.facts().machines.get(&is.machine);
            if machine.and_then(crate::machine::Machine::running) != expected {
                violate(
                    found,
                    6,
                    format!(
                        "{} counts as updated in {}, and does not say so",
                        is.machine, new.id
                    ),
                );
            }
        }
    }
}

/// 5: what was final is the same still.
fn final_stays_final(before: &Fleet, after: &Fleet, found: &mut Vec<Violation>) {
    for (number, old) in &before.facts().rollouts {
        let Some(new) = after.facts().rollouts.get(number) else {
            continue;
        };
        if old.is_final() && old.state != new.state {
            violate(found, 5, format!("{} had ended and changed", old.id));
        }
        for (was, is) in old.places().zip(new.places()) {
            if was.state.is_final() && was.state != is.state {
                let text = format!(
                    "{} in {}: {} became {}",
                    was.machine,
                    old.id,
                    was.state.word(),
                    is.state.word()
                );
                violate(found, 5, text);
            }
        }
    }
}
