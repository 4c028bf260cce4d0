//! The invariants, as code: one function checks them all. The simulator calls it after every
//! event, the coordinator after loading.
//!
//! What can only be seen between two states (no lease number twice, no grant past a limit, nobody
//! updated without saying so) is in [`between`], and what one fact may do to the state before it in
//! [`follows`]. The rest can only be seen from outside, and is the simulator's to watch (`sim::check`
//! in `integration-tests`): 4, nothing is told before it is durable; 8, everything ends once
//! faults stop; 10, an agent acts only for itself; and of 2 and 6, who is really away and what
//! really runs.

mod between;
mod canary;
mod order;
mod steps;
mod traffic;

use std::fmt;

pub use between::between;
pub use steps::follows;

use common::MachineName;

use crate::{
    fleet::{Fleet, Index},
    rollout::{PlaceState, WaveState},
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
        | WaitReason::NoSuchGeneration { .. }
        | WaitReason::NothingBefore
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
        | WaitReason::Staging { .. }
        | WaitReason::CleaningUp { .. }
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

/// 9: these facts, replayed, are the state. `None` when they are.
pub fn replayed(fleet: &Fleet, replayed: &Fleet) -> Option<Violation> {
    (fleet.facts() != replayed.facts()).then(|| Violation {
        invariant: 9,
        text: "replaying the journal gives another state".to_owned(),
    })
}
