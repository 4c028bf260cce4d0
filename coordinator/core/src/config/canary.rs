//! Who goes first of a group: in it, not all of it, and somebody who can go first.

use std::collections::BTreeSet;

use common::{GroupName, MachineName};

use super::{
    Fault, FleetConfig, GroupConfig,
    section::{fault, nearest},
};
use crate::policy::{PauseAfter, Policy};

/// Adds what is wrong with the canary of a group. What only a policy says is not of one group, and is
/// followed as far as that goes.
pub(super) fn check(
    name: &GroupName,
    group: &GroupConfig,
    config: &FleetConfig,
    faults: &mut Vec<Fault>,
) {
    let path = format!("updateGroups.{name}");
    let own = &config.document["updateGroups"][name.as_str()];
    let says = |key: &str| own.get(key).is_some_and(|value| !value.is_null());
    size(&path, group, says("canary"), faults);
    names(&path, group, &config.coordinators, faults);
    pauses(&path, &group.policy, faults);
    let asks = group.policy.pause_after == PauseAfter::Canary && group.policy.canary > 0;
    if asks && group.machines.len() == 1 && says("pauseAfter") {
        let message = "a group of one machine has no canary to pause after";
        fault(faults, &format!("{path}.pauseAfter"), message, "remove it");
    }
}

/// How many machines are the canary when all of the group go; as far as it fits into the group.
pub(super) fn size_in(group: &GroupConfig) -> usize {
    let size = group.machines.len();
    let canary = usize::try_from(group.policy.canary).unwrap_or(usize::MAX);
    canary.min(size.saturating_sub(1))
}

fn size(path: &str, group: &GroupConfig, own: bool, faults: &mut Vec<Fault>) {
    let policy = &group.policy;
    let size = u32::try_from(group.machines.len()).unwrap_or(u32::MAX);
    let written = match policy.canary_percent {
        Some(percent) => format!("{percent}%"),
        None => policy.canary.to_string(),
    };
    let path = format!("{path}.canary");
    let hint = "make it smaller, or 0 for none";
    // The presets' canary of one is dropped in a group of one; only a written number can be wrong.
    if policy.canary > size.max(policy.preset.canary()) {
        let message = format!("a canary of {written} is bigger than its group of {size}");
        fault(faults, &path, message, hint);
    } else if own && policy.canary_machines.is_empty() && policy.canary == size && size > 1 {
        let message = format!(
            "a canary of {written} is the whole group of {size}, and nobody would come after it"
        );
        fault(faults, &path, message, hint);
    }
}

/// Machines by name.
fn names(path: &str, group: &GroupConfig, coordinators: &[MachineName], faults: &mut Vec<Fault>) {
    let path = format!("{path}.canary");
    let mut seen = BTreeSet::new();
    let runs_none = |machine: &MachineName| !coordinators.contains(machine);
    for machine in &group.policy.canary_machines {
        if !group.machines.contains(machine) {
            let message = format!("{machine} is not in the group");
            let names = group.machines.iter().map(MachineName::as_str);
            let hint = nearest(machine.as_str(), names, "machines");
            fault(faults, &path, message, hint);
        } else if !seen.insert(machine) {
            let message = format!("{machine} is named twice");
            fault(faults, &path, message, "name it once");
        } else if !runs_none(machine) && group.machines.iter().any(runs_none) {
            let message = format!(
                "{machine} runs a coordinator, which goes after everybody else and never first"
            );
            fault(faults, &path, message, "name another machine");
        }
    }
    let size = group.machines.len();
    if size > 0 && seen.len() == size {
        let message = "the canary is the whole group, and nobody would come after it";
        fault(faults, &path, message, "name fewer machines");
    }
}

/// Adds that somebody is to be asked after a canary that there is not.
pub(super) fn pauses(path: &str, policy: &Policy, faults: &mut Vec<Fault>) {
    if policy.pause_after == PauseAfter::Canary && policy.canary == 0 {
        let message = "there is no canary to pause after";
        let path = format!("{path}.pauseAfter");
        fault(faults, &path, message, "set canary as well");
    }
}
