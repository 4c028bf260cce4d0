//! Who goes first in a rollout, judged from the rollout alone.

use common::Action;

use crate::rollout::{Rollout, RolloutGroup, Wave};

/// A rollout that has just been created has a canary in every group that is to have one and of which more than
/// one machine goes: its first wave and no other one, of as many machines as its rules say, and never of all.
pub(super) fn holds(rollout: &Rollout) -> bool {
    let updates = rollout.action == Action::Update;
    rollout.groups.iter().all(|group| {
        let canaries = group.waves.iter().filter(|wave| wave.canary).count();
        match updates && group.policy.canary > 0 && group.places().count() > 1 {
            true => canaries == 1 && group.waves.first().is_some_and(|w| is_right(group, w)),
            false => canaries == 0,
        }
    })
}

/// Whether this wave is what the canary is to be.
fn is_right(group: &RolloutGroup, wave: &Wave) -> bool {
    let of_its_turn = group.waves.iter().filter(|other| other.turn == wave.turn);
    let of_its_turn: usize = of_its_turn.map(|wave| wave.places.len()).sum();
    let going = group.places().count();
    let named = |wave: &Wave| {
        let names = &group.policy.canary_machines;
        let places = wave.places.iter();
        places.filter(|p| names.contains(&p.machine)).count()
    };
    let wanted = if group.policy.canary_machines.is_empty() {
        match group.policy.canary_percent {
            Some(percent) => (of_its_turn * usize::try_from(percent).unwrap_or(100)).div_ceil(100),
            None => usize::try_from(group.policy.canary).unwrap_or(usize::MAX),
        }
    } else {
        let go = group
            .waves
            .iter()
            .filter(|w| w.turn == wave.turn)
            .map(named);
        let go: usize = go.sum();
        let first = if go == 0 { 0 } else { wave.places.len() };
        if named(wave) != first {
            return false;
        }
        // Somebody stands in where none of them goes.
        go.max(1)
    };
    // Somebody must come after it.
    let wanted = wanted.min(of_its_turn).min(going - 1);
    wave.canary && wave.places.len() == wanted
}
