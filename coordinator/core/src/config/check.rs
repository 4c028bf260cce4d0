//! What no single key can show: contradictions between keys, groups and machines.

use std::collections::BTreeMap;

use common::{GroupName, MachineName, Timestamp};
use serde_json::Value;

use super::{Fault, FleetConfig, GroupConfig, policies::Alone, section::nearest};
use crate::{
    opening::{Openings, TO_BEGIN},
    plan::in_dependency_order,
    policy::Policy,
    window::Window,
};

/// Adds every contradiction to the faults.
pub(super) fn check(config: &FleetConfig, faults: &mut Vec<Fault>) {
    if config.groups.is_empty() && faults.is_empty() {
        let hint = "name at least one group with its machines";
        push(faults, "updateGroups".to_owned(), "names no group", hint);
    }
    let mut seen: BTreeMap<&MachineName, &GroupName> = BTreeMap::new();
    for (name, group) in &config.groups {
        machines(name, group, config, &mut seen, faults);
        let path = format!("updateGroups.{name}");
        dependencies(&path, Some(name), &group.policy, config, faults);
        let strict = group
            .four_eyes
            .then(|| config.path_for_group(name, "fourEyes"));
        approvals(&path, &group.policy, strict, faults);
        soft_reboot(&path, &group.policy, faults);
        super::canary::check(name, group, config, faults);
        waves(name, group, faults);
        times(&path, &group.policy, config, faults);
        super::traffic::check(&path, group, &config.coordinators, faults);
    }
    for (name, policy) in &config.own {
        let path = format!("updateMachines.{name}");
        let group = config.home_of(name).map(|(_, group)| &group.policy);
        // What is wrong with its group's is said of the group.
        if group.is_none_or(|group| !group.same_times(policy)) {
            times(&path, policy, config, faults);
        }
        soft_reboot(&path, policy, faults);
    }
    cycles(config, faults);
    apart(config, faults);
    coordinators(config, faults);
    super::schedules::check(config, faults);
}

/// Policies that no group names, as far as they contradict themselves, or what holds for the whole fleet.
/// What they leave to groups is theirs to say.
pub(super) fn policies(alone: &[Alone<'_>], config: &FleetConfig, faults: &mut Vec<Fault>) {
    for Alone { path, keys, policy } in alone {
        let says = |key| keys.get(key).is_some_and(|value: &Value| !value.is_null());
        let says_of_its_preset = |key| says(key) || says("updatePolicy");
        dependencies(path, None, policy, config, faults);
        times(path, policy, config, faults);
        if says("allowReboot") {
            soft_reboot(path, policy, faults);
        }
        if policy.needs_approval || says_of_its_preset("requireApproval") {
            let strict = keys.get("fourEyes") == Some(&Value::Bool(true));
            let strict = strict.then(|| format!("{path}.fourEyes"));
            approvals(path, policy, strict, faults);
        }
        if says_of_its_preset("canary") {
            super::canary::pauses(path, policy, faults);
        }
    }
}

fn push(faults: &mut Vec<Fault>, path: String, message: impl Into<String>, hint: &str) {
    faults.push(Fault {
        path,
        message: message.into(),
        hint: hint.to_owned(),
    });
}

fn machines<'a>(
    name: &'a GroupName,
    group: &'a GroupConfig,
    config: &FleetConfig,
    seen: &mut BTreeMap<&'a MachineName, &'a GroupName>,
    faults: &mut Vec<Fault>,
) {
    let path = format!("updateGroups.{name}.machines");
    if group.machines.is_empty() && !faults.iter().any(|f| f.path.starts_with(&path)) {
        let on_it = config
            .groups
            .iter()
            .filter(|(_, other)| other.policy.dependencies.contains(name));
        let on_it: Vec<&str> = on_it.map(|(other, _)| other.as_str()).collect();
        let message = match on_it[..] {
            [] => "the group has no machines".to_owned(),
            _ => format!(
                "the group has no machines, and others depend on it: {}",
                on_it.join(", ")
            ),
        };
        push(
            faults,
            path.clone(),
            message,
            "leave the group out, also of `dependencies`",
        );
    }
    for (index, machine) in group.machines.iter().enumerate() {
        if let Some(other) = seen.insert(machine, name) {
            let message = format!("{machine} is in group {other} already");
            let hint = "a machine is in exactly one group";
            push(faults, format!("{path}[{index}]"), message, hint);
        }
    }
}

/// Of a group of that name, or of no group.
fn dependencies(
    path: &str,
    name: Option<&GroupName>,
    policy: &Policy,
    config: &FleetConfig,
    faults: &mut Vec<Fault>,
) {
    for (index, dependency) in policy.dependencies.iter().enumerate() {
        let path = format!("{path}.dependencies[{index}]");
        if Some(dependency) == name {
            push(faults, path, "a group cannot depend on itself", "remove it");
        } else if !config.groups.contains_key(dependency) {
            let groups = config.groups.keys().map(GroupName::as_str);
            let hint = nearest(dependency.as_str(), groups, "groups");
            push(
                faults,
                path,
                format!("there is no group {dependency}"),
                &hint,
            );
        }
    }
}

/// `strict` is the key by which nobody approves a rollout of their own: silence would be consent to it.
fn approvals(path: &str, policy: &Policy, strict: Option<String>, faults: &mut Vec<Fault>) {
    let path = |key: &str| format!("{path}.{key}");
    if let Some(after) = policy.approved_after {
        if !policy.needs_approval {
            let message = "means nothing where no approval is asked for";
            let hint = "set requireApproval to true as well, or remove it";
            push(faults, path("autoApproveAfter"), message, hint);
        } else if after >= policy.approval_expiry {
            let message = format!(
                "never comes: the question ends after {} s",
                policy.approval_expiry.as_secs()
            );
            let hint = "make it shorter than approvalExpiry";
            push(faults, path("autoApproveAfter"), message, hint);
        } else if let Some(strict) = strict {
            let message = format!(
                "counts silence as an answer, where {strict} asks for somebody else's: nobody would \
                 have looked"
            );
            let hint = "remove it, or set fourEyes to false";
            push(faults, path("autoApproveAfter"), message, hint);
        }
    }
}

fn soft_reboot(path: &str, policy: &Policy, faults: &mut Vec<Fault>) {
    if policy.soft_reboot && !policy.allow_reboot {
        let message = "means nothing where allowReboot is false";
        let hint = "set allowReboot to true as well, or remove it";
        push(faults, format!("{path}.softReboot"), message, hint);
    }
}

/// Waves fit into the group, and each ends further on than what comes before it.
fn waves(name: &GroupName, group: &GroupConfig, faults: &mut Vec<Fault>) {
    let policy = &group.policy;
    let size = group.machines.len();
    let path = format!("updateGroups.{name}.waves");
    let canary = super::canary::size_in(group);
    let mut before = canary;
    for (index, share) in policy.waves.iter().enumerate() {
        let end = share.at_least(size);
        if end > size {
            let message = format!("a wave up to {share} is bigger than its group of {size}");
            let hint = "make it smaller, or write it as a percentage";
            push(faults, path.clone(), message, hint);
        } else if end < canary && before == canary {
            let message =
                format!("of a group of {size}, {share} is less than the canary of {canary}");
            let hint = "let the first wave end behind the canary, which it includes";
            push(faults, format!("{path}[{index}]"), message, hint);
            continue;
        } else if end < before {
            let message = format!("of a group of {size}, {share} is less than the wave before");
            let hint = "let each wave end further on";
            push(faults, path.clone(), message, hint);
        }
        before = end;
    }
}

/// 1 January 2070. Until then what ends by itself has ended, and what comes again and again is left.
const PROBE: Timestamp = Timestamp(3_155_760_000_000);

/// Whoever obeys these rules must be able to begin sometimes, and each window must be good for something.
fn times(path: &str, policy: &Policy, config: &FleetConfig, faults: &mut Vec<Fault>) {
    let needs = policy.expected_duration;
    // An update that fills its window to the last second never begins.
    let is_long = |window: &Window| window.nominal_length() >= needs + TO_BEGIN;
    for window in policy.windows.iter().filter(|window| !is_long(window)) {
        let message = format!(
            "the window {window} is shorter than the {} s an update is expected to take and the {} s in \
             which it may begin",
            needs.as_secs(),
            TO_BEGIN.as_secs()
        );
        let hint = "make it longer, or lower expectedDuration";
        push(faults, format!("{path}.maintenanceWindow"), message, hint);
    }
    let long = policy.windows.iter().filter(|window| is_long(window));
    // Where none is long enough that is said already.
    if policy.avoid.is_empty() || (!policy.windows.is_empty() && long.count() == 0) {
        return;
    }
    let opens = |policy: &Policy| {
        let openings = Openings::of(policy, &config.calendars);
        openings.can_go(PROBE, needs).is_some()
    };
    let path = |key: &str| format!("{path}.{key}");
    let calendars = policy.avoid.join(", ");
    if !opens(policy) {
        let message = format!(
            "{calendars} never leave the {} s that an update is expected to take",
            needs.as_secs()
        );
        let hint = "avoid less, or make maintenanceWindow longer";
        push(faults, path("avoid"), message, hint);
        return;
    }
    for window in &policy.windows {
        let alone = Policy {
            windows: vec![window.clone()],
            ..policy.clone()
        };
        // Too short by itself is said already.
        if is_long(window) && !opens(&alone) {
            let message = format!(
                "of the window {window}, {calendars} never leave the {} s that an update is \
                 expected to take",
                needs.as_secs()
            );
            let hint = "move it, or avoid less";
            push(faults, path("maintenanceWindow"), message, hint);
        }
    }
}

/// Machines that are kept apart are in groups; one that is not may be a slip of the pen.
fn apart(config: &FleetConfig, faults: &mut Vec<Fault>) {
    let strangers = config.apart.keys();
    for machine in strangers.filter(|machine| !config.group_of.contains_key(*machine)) {
        let message = format!("{machine} is in no group");
        let names = config.group_of.keys().map(MachineName::as_str);
        let hint = nearest(machine.as_str(), names, "machines");
        push(faults, "updateSettings.apart".to_owned(), message, &hint);
    }
}

/// Machines that run a coordinator are in groups, each named once.
fn coordinators(config: &FleetConfig, faults: &mut Vec<Fault>) {
    for (index, machine) in config.coordinators.iter().enumerate() {
        let path = format!("updateSettings.coordinators[{index}]");
        if !config.group_of.contains_key(machine) {
            let names = config.group_of.keys().map(MachineName::as_str);
            let hint = nearest(machine.as_str(), names, "machines");
            push(faults, path, format!("{machine} is in no group"), &hint);
        } else if config.coordinators[..index].contains(machine) {
            let message = format!("{machine} is named twice");
            push(faults, path, message, "name it once");
        }
    }
}

fn cycles(config: &FleetConfig, faults: &mut Vec<Fault>) {
    // Of a group that depends on itself that is said already.
    let others = config.groups.iter().map(|(name, group)| {
        let others = group.policy.dependencies.iter().filter(|on| *on != name);
        (name, others.cloned().collect::<Vec<_>>())
    });
    let others: Vec<(&GroupName, Vec<GroupName>)> = others.collect();
    let groups: Vec<(&GroupName, &[GroupName])> = others
        .iter()
        .map(|(name, others)| (*name, others.as_slice()))
        .collect();
    let ordered = in_dependency_order(&groups);
    let stuck: Vec<&str> = groups
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !ordered.contains(name))
        .map(GroupName::as_str)
        .collect();
    if !stuck.is_empty() {
        let message = format!("groups depend on each other: {}", stuck.join(", "));
        push(
            faults,
            "updateGroups".to_owned(),
            message,
            "remove one of their dependencies",
        );
    }
}
