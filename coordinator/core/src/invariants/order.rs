//! In which order the machines of a group go, judged pair by pair and from the facts alone.

use std::time::Duration;

use common::{Action, MachineName};

use crate::{
    config::GroupConfig,
    fleet::Fleet,
    policy::Order,
    rollout::{Place, Rollout, RolloutGroup, Wave},
};

/// Attempts that say by themselves what the next one takes.
const ENOUGH: usize = 3;

/// Nobody is expected to need less than that, whatever it took.
const LEAST: Duration = Duration::from_secs(60);

/// A rollout that has just been created has the machines of each group in the order that the group's rules
/// name, as far as nothing else decides: a canary by name, two sides, machines that go after everybody.
pub(super) fn holds(before: &Fleet, rollout: &Rollout) -> bool {
    let config = before.facts().config.as_ref();
    rollout.groups.iter().all(|group| {
        let home = config.and_then(|config| config.groups.get(&group.name));
        home.is_none_or(|home| of_group(before, rollout.action, home, group))
    })
}

fn of_group(before: &Fleet, action: Action, home: &GroupConfig, group: &RolloutGroup) -> bool {
    let by_name = !group.policy.canary_machines.is_empty();
    let alike = |a: &Wave, b: &Wave| {
        a.turn == b.turn && a.side == b.side && !(by_name && a.canary != b.canary)
    };
    let waves = group.waves.iter();
    let places = waves.flat_map(|wave| wave.places.iter().map(move |place| (wave, place)));
    let places: Vec<(&Wave, &Place)> = places.collect();
    places.iter().enumerate().all(|(index, (wave, place))| {
        let mut later = places[index + 1..].iter();
        later.all(|(other, after)| {
            !alike(wave, other) || !goes_before((before, action), home, group, after, place)
        })
    })
}

/// Whether the first is to go before the second.
fn goes_before(
    (before, action): (&Fleet, Action),
    home: &GroupConfig,
    group: &RolloutGroup,
    first: &Place,
    second: &Place,
) -> bool {
    for order in &group.policy.order {
        let (one, other) = match order {
            Order::FailedLast => (
                u64::from(has_failed(before, &first.machine)),
                u64::from(has_failed(before, &second.machine)),
            ),
            // The longer comes first.
            Order::LongestFirst => (
                takes(before, action, group, second).as_secs(),
                takes(before, action, group, first).as_secs(),
            ),
        };
        if one != other {
            return one < other;
        }
    }
    let at = |place: &Place| home.machines.iter().position(|m| *m == place.machine);
    at(first) < at(second)
}

fn has_failed(before: &Fleet, machine: &MachineName) -> bool {
    let known = before.facts().machines.get(machine);
    known.is_some_and(|known| known.failed_last)
}

/// What an attempt is expected to take: the longest of those that are known, of one with a reboot of those with
/// one, and where these are few no less than its rules say and all others took.
fn takes(before: &Fleet, action: Action, group: &RolloutGroup, place: &Place) -> Duration {
    let policy = group.rules(place.rules);
    let Some(known) = before.facts().machines.get(&place.machine) else {
        return policy.expected_duration;
    };
    let reboots = known.reboots_for(action, &place.target, policy);
    let alike = if reboots {
        &known.took_with_reboot_s
    } else {
        &known.took_s
    };
    let mut took: Vec<u64> = alike.iter().copied().collect();
    if took.len() < ENOUGH {
        took.push(policy.expected_duration.as_secs());
        took.extend(&known.took_s);
    }
    let longest = took.into_iter().map(Duration::from_secs).max();
    longest.unwrap_or_default().max(LEAST)
}
