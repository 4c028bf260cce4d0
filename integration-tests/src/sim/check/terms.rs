//! How long machines are waited for, held against the document as it is written: a machine's own key, or that of
//! its policy, its group, its group's policy, or the fleet.

use std::time::Duration;

use common::{MachineName, Timestamp};
use coordinator_core::{
    Change, Fleet,
    alarm::Alarm,
    config::duration,
    fleet::number_of,
    rollout::{PlaceState, Rollout, RolloutState, WaveState},
};
use serde_json::Value;

/// The document in force, and the machine that is looked for in it.
struct Keys<'a> {
    document: &'a Value,
    group: Option<&'a str>,
    machine: &'a MachineName,
}

impl<'a> Keys<'a> {
    fn of(fleet: &'a Fleet, machine: &'a MachineName) -> Option<Self> {
        let config = fleet.facts().config.as_ref()?;
        let group = config.group_of.get(machine);
        Some(Self {
            document: &config.document,
            group: group.map(|group| group.as_str()),
            machine,
        })
    }

    /// The first that says something of it.
    fn value(&self, pointer: &str) -> Option<&'a Value> {
        let at = |section: &str, name: &str| self.document.get(section)?.get(name);
        let own = at("updateMachines", self.machine.as_str());
        let group = self.group.and_then(|group| at("updateGroups", group));
        let policy_of = |keys: Option<&'a Value>| {
            let name = keys?.get("updatePolicy")?.as_str()?;
            at("updatePolicies", name)
        };
        let settings = self.document.get("updateSettings");
        let all = [own, policy_of(own), group, policy_of(group), settings];
        let mut values = all.into_iter().flatten().map(|keys| keys.pointer(pointer));
        values.find_map(|value| value.filter(|value| !value.is_null()))
    }

    fn time(&self, pointer: &str) -> Option<Duration> {
        duration(self.value(pointer)?).ok()
    }
}

/// What is wrong with the times of a change that a decision has made, on the state before it. `after` is what
/// the decision came to.
pub(super) fn wrong(before: &Fleet, after: &Fleet, change: &Change) -> Option<String> {
    let of_leases = granted(before, after, change).or_else(|| overdue(before, after, change));
    of_leases
        .or_else(|| given_up(before, after, change))
        .or_else(|| left_aside(before, after, change))
        .or_else(|| put_aside(before, change))
        .or_else(|| told(before, change))
}

fn granted(before: &Fleet, after: &Fleet, change: &Change) -> Option<String> {
    let Change::LeaseGranted { lease, .. } = change else {
        return None;
    };
    let machine = &lease.machine;
    let term = Keys::of(before, machine)?.time("/leaseTime")?;
    let until = *after.hearsay().lease_until.get(&lease.id)?;
    let has = until.since(after.hearsay().now);
    (has != term).then(|| format!("{machine} has {has:?} for its lease, not {term:?}"))
}

fn overdue(before: &Fleet, after: &Fleet, change: &Change) -> Option<String> {
    let Change::LeaseOverdue { lease, at } = change else {
        return None;
    };
    // It may have been heard of in the same moment.
    let held = after.facts().leases.get(lease)?;
    held.overdue_since?;
    let grace = Keys::of(before, &held.machine)?.time("/graceTime")?;
    let has = after.hearsay().lease_until.get(lease)?.since(*at);
    (has != grace).then(|| format!("{} has {has:?} of grace, not {grace:?}", held.machine))
}

/// Of machines that do not obtain their target, and of those that are offline.
fn given_up(before: &Fleet, after: &Fleet, change: &Change) -> Option<String> {
    let (Change::Skipped {
        rollout,
        machine,
        reason,
    }
    | Change::Declined {
        rollout,
        machine,
        reason,
    }) = change
    else {
        return None;
    };
    let (key, since) = match reason.as_str() {
        "not reached in time" => ("/catchUp", before.only_late_since(number_of(rollout)?)?),
        "did not obtain its target in time" => {
            let opened = opened_at(before.rollout(rollout)?, machine)?;
            ("/stageTimeout", opened)
        }
        _ => return None,
    };
    let most = Keys::of(before, machine)?.time(key)?;
    let too_soon = after.hearsay().now < since + most;
    too_soon.then(|| format!("{machine} is given up in less than {most:?}"))
}

/// A wave ends without those of it that have not begun, all of which count as offline.
fn left_aside(before: &Fleet, after: &Fleet, change: &Change) -> Option<String> {
    let (Change::WaveSoaking {
        rollout,
        group,
        wave,
        ..
    }
    | Change::WaveClosed {
        rollout,
        group,
        wave,
    }) = change
    else {
        return None;
    };
    let wave = before.rollout(rollout)?.group(group)?.waves.get(*wave)?;
    let ends = matches!(wave.state, WaveState::Open(_));
    let mut places = wave.places.iter().filter(|_| ends);
    places.find_map(|place| {
        let machine = &place.machine;
        let pending = place.state == PlaceState::Pending;
        let least = Keys::of(before, machine)?.time("/offlineAfter")?;
        let heard = after.facts().machines.get(machine)?.heard.at;
        let since = heard.map_or(after.hearsay().since, |at| at.max(after.hearsay().since));
        let silent = after.hearsay().now.since(since);
        let too_soon = pending && silent < least;
        too_soon.then(|| format!("a wave ends without {machine}, silent for {silent:?} only"))
    })
}

fn put_aside(before: &Fleet, change: &Change) -> Option<String> {
    let Change::Quarantined {
        machine, reason, ..
    } = change
    else {
        return None;
    };
    if !reason.ends_with("attempts in a row failed") {
        return None;
    }
    let failed = before.facts().machines.get(machine)?.failures_in_a_row;
    let most = Keys::of(before, machine)?.value("/quarantineAfter");
    let most = most.and_then(Value::as_u64).unwrap_or(0);
    let too_soon = most == 0 || u64::from(failed) < most;
    too_soon.then(|| format!("{machine} is put aside after {failed} failures, not {most}"))
}

fn told(before: &Fleet, change: &Change) -> Option<String> {
    let Change::Alarmed {
        alarm,
        machines,
        at,
    } = change
    else {
        return None;
    };
    let mut all = machines.iter();
    all.find_map(|(machine, since)| told_too_soon(before, *alarm, machine, *since, *at))
}

fn told_too_soon(
    before: &Fleet,
    alarm: Alarm,
    machine: &MachineName,
    since: Timestamp,
    at: Timestamp,
) -> Option<String> {
    let key = match alarm {
        Alarm::NotUpdated => "/alarms/notUpdated",
        Alarm::NotApplied => "/alarms/notApplied",
    };
    let after = Keys::of(before, machine)?.time(key)?;
    (after.is_zero() || at < since + after)
        .then(|| format!("{machine} is {} for less than {after:?}", alarm.says()))
}

fn opened_at(rollout: &Rollout, machine: &MachineName) -> Option<Timestamp> {
    let mut waves = rollout.groups.iter().flat_map(|group| &group.waves);
    let wave = waves.find(|wave| wave.places.iter().any(|p| p.machine == *machine))?;
    match wave.state {
        WaveState::Open(since) => Some(since),
        WaveState::Waiting | WaveState::Soaking(_) | WaveState::Closed => None,
    }
}

/// Who is waited for although the document says that it is not any more.
pub(super) fn waited_for_too_long(fleet: &Fleet) -> Option<String> {
    let now = fleet.hearsay().now;
    fleet.index().unfinished.iter().find_map(|number| {
        let since = fleet.only_late_since(*number)?;
        let rollout = &fleet.facts().rollouts[number];
        let waits = rollout.state == RolloutState::Active;
        let mut places = rollout.places().filter(|_| waits);
        places.find_map(|place| {
            let catch_up = Keys::of(fleet, &place.machine)?.time("/catchUp")?;
            let over = place.state == PlaceState::Pending && since + catch_up <= now;
            over.then(|| format!("{} is waited for longer than {catch_up:?}", place.machine))
        })
    })
}
