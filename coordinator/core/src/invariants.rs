//! The invariants, as code: one function checks them all. The simulator calls it after every
//! event, the coordinator after loading.
//!
//! What can only be seen between two states (no lease number twice, no grant past a limit, nobody
//! updated without saying so) is in [`between`], and what one fact may do to the state before it in
//! [`follows`]. The rest can only be seen from outside, and is the simulator's to watch (`sim::check`
//! in `integration-tests`): 4, nothing is told before it is durable; 8, everything ends once
//! faults stop; 10, an agent acts only for itself; and of 2 and 6, who is really away and what
//! really runs.

mod order;
mod steps;
mod traffic;

use std::fmt;

pub use steps::follows;

use common::{GroupName, MachineName};

use crate::{
    fleet::{Fleet, Index, number_of},
    lease::Lease,
    rollout::{Place, PlaceState, Rollout, RolloutGroup, Turn, Wave, WaveState},
    wait::WaitReason,
};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number in `ARCHITECTURE.md`.
    pub invariant: u8,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {}", self.invariant, self.text)
    }
}

/// Everything wrong with this state.
pub fn check(fleet: &Fleet) -> Vec<Violation> {
    let mut found = rules(fleet);
    index_holds(fleet, &mut found);
    found
}

/// Everything but the index, which costs as much to derive anew as the whole fleet is large, and
/// stays wrong once it is.
pub fn rules(fleet: &Fleet) -> Vec<Violation> {
    let mut found = Vec::new();
    one_lease_per_machine(fleet, &mut found);
    leases_and_places_agree(fleet, &mut found);
    slots(fleet, &mut found);
    waves_in_order(fleet, &mut found);
    reasons(fleet, &mut found);
    steps::aside(fleet, &mut found);
    steps::bad_targets(fleet, &mut found);
    steps::told(fleet, &mut found);
    traffic::nobody_leaves_it(fleet, &mut found);
    traffic::goes_back(fleet, &mut found);
    found
}

fn violate(found: &mut Vec<Violation>, invariant: u8, text: String) {
    found.push(Violation { invariant, text });
}

/// 1: at most one live lease per machine; at most one unfinished rollout touches a machine.
fn one_lease_per_machine(fleet: &Fleet, found: &mut Vec<Violation>) {
    let mut holders: Vec<&MachineName> = fleet
        .facts()
        .leases
        .values()
        .map(|lease| &lease.machine)
        .collect();
    let all = holders.len();
    holders.sort();
    holders.dedup();
    if holders.len() != all {
        violate(
            found,
            1,
            format!("{all} leases are held by {} machines", holders.len()),
        );
    }
    let unfinished = fleet
        .facts()
        .rollouts
        .values()
        .filter(|rollout| !rollout.is_final());
    let mut open: Vec<&MachineName> = unfinished
        .flat_map(|rollout| rollout.places())
        .filter(|place| !place.state.is_final())
        .map(|place| &place.machine)
        .collect();
    open.sort();
    for pair in open.windows(2).filter(|pair| pair[0] == pair[1]) {
        violate(found, 1, format!("{} is open in two rollouts", pair[0]));
    }
}

/// 1: a place that holds a lease is the lease's, and the other way round; numbers below the next.
fn leases_and_places_agree(fleet: &Fleet, found: &mut Vec<Violation>) {
    let facts = fleet.facts();
    for lease in facts.leases.values() {
        if lease.id >= facts.next_lease {
            violate(
                found,
                1,
                format!("lease {} is not below the next one", lease.id),
            );
        }
        if lease.epoch > facts.epoch {
            violate(
                found,
                3,
                format!("lease {} is of a later epoch than the fleet", lease.id),
            );
        }
        // The rollout may have ended and been forgotten while its holder was silent.
        let Some(rollout) = fleet.rollout(&lease.rollout) else {
            continue;
        };
        let expected = match lease.overdue_since {
            None => PlaceState::Leased(lease.id),
            Some(_) => PlaceState::Overdue(lease.id),
        };
        let place = rollout
            .places()
            .find(|place| place.machine == lease.machine);
        if place.map(|place| place.state) != Some(expected) {
            violate(
                found,
                1,
                format!("lease {} has no place in {}", lease.id, rollout.id),
            );
        }
    }
    for place in facts.rollouts.values().flat_map(|rollout| rollout.places()) {
        let held = place.state.lease();
        if let Some(id) = held.filter(|id| !facts.leases.contains_key(id)) {
            violate(
                found,
                1,
                format!("{} holds lease {id}, which is none", place.machine),
            );
        }
    }
}

/// 2: whoever holds a lease, is overdue or failed takes a slot; what `grant` added stays in the
/// group's limit. The fleet's limit may be lowered under way, so it is checked at each grant, by
/// [`between`].
fn slots(fleet: &Fleet, found: &mut Vec<Violation>) {
    let facts = fleet.facts();
    for (number, rollout) in &facts.rollouts {
        for group in &rollout.groups {
            let held = group
                .places()
                .filter(|place| place.state.lease().is_some())
                .count();
            let allowed = usize::try_from(group.policy.max_parallel).unwrap_or(usize::MAX);
            if held > allowed {
                let name = &group.name;
                violate(
                    found,
                    2,
                    format!("r{number}: {held} of {name} away, {allowed} may"),
                );
            }
        }
    }
    for (name, machine) in &facts.machines {
        if machine.failed.is_some() && fleet.lease_of(name).is_some() {
            violate(found, 2, format!("{name} failed and holds a lease"));
        }
    }
}

/// 5: a wave is open only when every one before it is closed; nothing ran in one that waits.
fn waves_in_order(fleet: &Fleet, found: &mut Vec<Violation>) {
    for rollout in fleet.facts().rollouts.values() {
        for group in &rollout.groups {
            let begun = |state| match state {
                WaveState::Waiting => false,
                WaveState::Open(_) | WaveState::Soaking(_) | WaveState::Closed => true,
            };
            let asked =
                |wave: &usize| begun(group.waves[*wave].state) && group.holds_after(wave - 1);
            if let Some(wave) = (1..group.waves.len()).find(asked) {
                let name = &group.name;
                violate(
                    found,
                    5,
                    format!("{}: wave {wave} of {name} opened unasked", rollout.id),
                );
            }
            for pair in group.waves.windows(2) {
                if begun(pair[1].state) && pair[0].state != WaveState::Closed {
                    violate(
                        found,
                        5,
                        format!("{}: a wave of {} jumped", rollout.id, group.name),
                    );
                }
            }
            let closed = group
                .waves
                .iter()
                .filter(|wave| wave.state != WaveState::Waiting);
            for wave in closed.filter(|wave| wave.state == WaveState::Closed) {
                // A late machine may catch up after its wave closed, and is away then.
                let late = wave
                    .places
                    .iter()
                    .filter(|p| p.state.lease().is_some())
                    .count();
                let limit = usize::try_from(group.policy.max_parallel).unwrap_or(usize::MAX);
                if late > limit {
                    violate(found, 5, format!("{}: {late} late at once", rollout.id));
                }
            }
            let waiting = group
                .waves
                .iter()
                .filter(|wave| wave.state == WaveState::Waiting);
            let early = waiting
                .flat_map(|w| &w.places)
                .find(|p| p.state.lease().is_some());
            if let Some(place) = early {
                violate(
                    found,
                    5,
                    format!("{} went before its wave opened", place.machine),
                );
            }
        }
    }
}

/// 7: every machine that does not go has a reason; every paused rollout has a way out.
fn reasons(fleet: &Fleet, found: &mut Vec<Violation>) {
    let now = fleet.hearsay().now;
    for rollout in fleet
        .facts()
        .rollouts
        .values()
        .filter(|rollout| !rollout.is_final())
    {
        let pending = rollout
            .places()
            .filter(|place| place.state == PlaceState::Pending);
        for place in pending {
            if let Err(reason) = fleet.permission(&place.machine, now)
                && says_nothing(&reason)
            {
                let kind = reason.kind();
                violate(found, 7, format!("{} only waits: {kind}", place.machine));
            }
        }
        if let crate::rollout::RolloutState::Paused(reason) = &rollout.state
            && reason.way_out(&rollout.id).is_empty()
        {
            violate(
                found,
                7,
                format!("{} is paused without a way out", rollout.id),
            );
        }
    }
}

/// Whether this is no reason for a machine that is still to go: it says that there is nothing to
/// wait for.
fn says_nothing(reason: &WaitReason) -> bool {
    match reason {
        WaitReason::NoRollout
        | WaitReason::NoTarget
        | WaitReason::UpToDate
        | WaitReason::MovedOn { .. }
        | WaitReason::Final { .. } => true,
        WaitReason::UnknownMachine
        | WaitReason::Quarantined { .. }
        | WaitReason::TargetQuarantined { .. }
        | WaitReason::Retry { .. }
        | WaitReason::Retrying { .. }
        | WaitReason::Stopped { .. }
        | WaitReason::Paused { .. }
        | WaitReason::Dependency { .. }
        | WaitReason::Stagger { .. }
        | WaitReason::Approval { .. }
        | WaitReason::Held { .. }
        | WaitReason::WindowClosed { .. }
        | WaitReason::WindowTooShort { .. }
        | WaitReason::Frozen { .. }
        | WaitReason::WaveNotOpen { .. }
        | WaitReason::Soaking { .. }
        | WaitReason::Analysing { .. }
        | WaitReason::GroupUnhealthy { .. }
        | WaitReason::Offline { .. }
        | WaitReason::Staging
        | WaitReason::CleaningUp
        | WaitReason::StagingFailed { .. }
        | WaitReason::BadTarget { .. }
        | WaitReason::TargetNotAllowed { .. }
        | WaitReason::MachineUnhealthy { .. }
        | WaitReason::GroupLimit { .. }
        | WaitReason::Apart { .. }
        | WaitReason::CoordinatorLast { .. }
        | WaitReason::Quorum { .. }
        | WaitReason::FleetLimit { .. }
        | WaitReason::LiveSide { .. }
        | WaitReason::TrafficMoving { .. }
        | WaitReason::SideNotReady { .. } => false,
    }
}

/// 9 (half of it): what `apply` keeps up to date is what the facts say.
fn index_holds(fleet: &Fleet, found: &mut Vec<Violation>) {
    if *fleet.index() != Index::of(fleet.facts()) {
        violate(found, 9, "counters and facts have drifted apart".to_owned());
    }
}

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
        let needs = known.map_or(expected, |known| known.needs(expected));
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
    if !config.coordinators.contains(&lease.machine) {
        return;
    }
    let say = |text: &str| format!("lease {} of {}: {text}", lease.id, lease.machine);
    let away = config.coordinators.iter();
    let away = away
        .filter(|m| fleet.index().is_away(fleet.facts(), m))
        .count();
    if away > 1 && 2 * away >= config.coordinators.len() {
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

/// 9: these facts, replayed, are the state. `None` when they are.
pub fn replayed(fleet: &Fleet, replayed: &Fleet) -> Option<Violation> {
    (fleet.facts() != replayed.facts()).then(|| Violation {
        invariant: 9,
        text: "replaying the journal gives another state".to_owned(),
    })
}
