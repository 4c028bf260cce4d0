//! JSON → configuration: shapes, names, numbers. Whatever is wrong becomes a fault with its path and
//! what to write instead, and reading goes on.
//!
//! A value that is understood is taken even where a fault says that it may not be: documents that
//! are in force already are read by the same code, and mean what they meant.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use common::{GroupName, MachineName};
use serde_json::{Map, Value};

use super::{
    Fault, FleetConfig, GroupConfig, analysis, calendars, machines,
    policies::{Alone, Policies, with_policy},
    schedules,
    section::{Faults, Section, Share, fault, nearest},
    settings::{Settings, settings_of},
    terms, traffic, waves,
    windows::windows,
};
use crate::{
    policy::{ApprovalOf, Policy, Preset},
    terms::Shortest,
    window,
};

/// Anything but nothing.
pub(super) const SOME: Duration = Duration::from_secs(1);

/// What goes wrong for a moment is over by then.
const RETRY_AFTER: Duration = Duration::from_secs(600);

static NO_KEYS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// Reads the whole document, with the policies that no group names. `None` when it is too broken to be looked at further.
pub(super) fn document<'a>(
    document: &'a Value,
    faults: &mut Faults,
) -> Option<(FleetConfig, Vec<Alone<'a>>)> {
    let mut top = Section::new(document, "", faults)?;
    let empty = Value::Object(Map::new());
    let settings = top.get("updateSettings").unwrap_or(&empty);
    let groups_value = top.get("updateGroups");
    let fleet = groups_value.map_or(0, machines_in);
    let mut settings = match Section::new(settings, "updateSettings", faults) {
        Some(section) => settings_of(section, fleet, faults),
        // Said already; what else is wrong is to be said as well.
        None => settings_of(
            Section::of(&NO_KEYS, "updateSettings"),
            fleet,
            &mut Vec::new(),
        ),
    };
    if let Some(value) = top.get("analysis") {
        settings.analyses = analysis::read(value, settings.prometheus.as_deref(), faults);
    }
    let groups_or_none = groups_value.unwrap_or(&Value::Null);
    let (policies, alone) = match top.get("updatePolicies") {
        Some(value) => Policies::read(value, groups_or_none, &settings, faults),
        None => (Policies::default(), Vec::new()),
    };
    let Some(groups_value) = groups_value else {
        fault(
            faults,
            "updateGroups",
            "is missing",
            "name at least one group with its machines",
        );
        top.get("updateMachines");
        top.get("schedules");
        top.finish(faults);
        return None;
    };
    let mut groups = BTreeMap::new();
    if let Some(section) = Section::new(groups_value, "updateGroups", faults) {
        for (key, value) in section.entries() {
            let path = section.path_of(key);
            match key.parse::<GroupName>() {
                Ok(name) => {
                    if let Some(group) = group(value, &path, &policies, &settings, faults) {
                        groups.insert(name, group);
                    }
                }
                Err(error) => fault(
                    faults,
                    &path,
                    error.to_string(),
                    "give the group another name",
                ),
            }
        }
    }
    let machines = top.get("updateMachines");
    let (own, own_terms) = machines
        .map(|value| machines::read(value, &groups, &policies, &settings, faults))
        .unwrap_or_default();
    let own_terms = terms::of_machines(&groups, own_terms, settings.terms);
    let schedules = top.get("schedules");
    let schedules = schedules
        .map(|value| schedules::schedules(value, &settings.timezone, faults))
        .unwrap_or_default();
    top.finish(faults);
    let group_of = groups
        .iter()
        .flat_map(|(name, group)| {
            group
                .machines
                .iter()
                .map(move |m| (m.clone(), name.clone()))
        })
        .collect();
    let config = FleetConfig {
        document: document.clone(),
        groups,
        own,
        max_parallel: settings.max_parallel,
        terms: settings.terms,
        shortest: Shortest::of(settings.terms, own_terms.values()),
        own_terms,
        no_progress: settings.no_progress,
        max_failures: settings.max_failures,
        quarantine_target_after: settings.quarantine_target_after,
        coordinators: settings.coordinators,
        four_eyes: settings.four_eyes,
        apart: settings.apart,
        calendars: settings.calendars,
        timezone: settings.timezone,
        channels: settings.channels,
        webhooks: settings.webhooks,
        schedules,
        group_of,
    };
    Some((config, alone))
}

/// How many machines the groups name.
fn machines_in(groups: &Value) -> usize {
    let groups = groups.as_object().into_iter().flat_map(Map::values);
    let machines = groups.filter_map(|group| group.get("machines")?.as_array());
    machines.map(Vec::len).sum()
}

/// How often a machine tries again, where that is said.
pub(super) fn retries(s: &mut Section<'_>, faults: &mut Faults) -> Option<u32> {
    number(s, "retries", faults)
}

pub(super) fn number(s: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Option<u32> {
    let hint = "write a whole number without quotes, 0 for never";
    s.parsed(key, hint, faults, |value| {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("{value} is not a whole number"))
    })
}

pub(super) fn timezone(section: &mut Section<'_>, faults: &mut Faults) -> Option<String> {
    let name = section.text("timezone", faults)?;
    if let Err(error) = window::zone(&name) {
        let hint = "write an IANA name such as \"Europe/Berlin\" or \"UTC\"";
        fault(
            faults,
            &section.path_of("timezone"),
            error.to_string(),
            hint,
        );
        return None;
    }
    Some(name)
}

fn group(
    value: &Value,
    path: &str,
    policies: &Policies<'_>,
    settings: &Settings,
    faults: &mut Faults,
) -> Option<GroupConfig> {
    let own = Section::new(value, path, faults)?.map;
    let named = own.get("updatePolicy").and_then(Value::as_str);
    let named = named.and_then(|name| policies.0.get(name).copied());
    let keys = named.map_or_else(|| own.clone(), |policy| with_policy(own, policy));
    let mut s = Section::of(&keys, path);
    let all_faults = faults;
    let faults = &mut Vec::new();
    let preset = preset(&mut s, policies, faults);
    let machines = match s.names::<MachineName>("machines", faults) {
        Some(machines) => machines,
        None => {
            if !s.has("machines") {
                fault(
                    faults,
                    &s.path_of("machines"),
                    "is missing",
                    "list the group's machines",
                );
            }
            Vec::new()
        }
    };
    let mut policy = policy(&mut s, preset, machines.len(), settings, faults);
    let four_eyes = s.bool("fourEyes", faults).unwrap_or(settings.four_eyes);
    policy.blue_green = traffic::blue_green(&mut s, faults);
    if policy.blue_green.is_some() {
        policy.canary = 0;
        policy.canary_percent = None;
    }
    let terms = terms::of_both(&mut s, own, named, settings.terms, faults);
    s.finish(faults);
    // What is wrong with a key of its policy is said of the policy.
    faults.retain(|fault| is_of(fault, path, own) || !is_of(fault, path, &keys));
    all_faults.append(faults);
    Some(GroupConfig {
        machines,
        policy,
        terms,
        four_eyes,
    })
}

/// Whether it is about one of these keys of what is at that path.
pub(super) fn is_of(fault: &Fault, path: &str, keys: &Map<String, Value>) -> bool {
    let key = fault.path.strip_prefix(path).unwrap_or_default();
    let key = key.trim_start_matches('.').split(['.', '[']).next();
    let value = keys.get(key.unwrap_or_default());
    value.is_some_and(|value| !value.is_null())
}

/// The keys of a group or of a policy; percentages are of so many machines.
pub(super) fn policy(
    s: &mut Section<'_>,
    preset: Preset,
    size: usize,
    settings: &Settings,
    faults: &mut Faults,
) -> Policy {
    let (canary, canary_percent, canary_machines) = waves::canary(s, size, faults);
    let canary = canary.unwrap_or(preset.canary());
    let (needs_approval, approval_of) =
        approval(s, faults).unwrap_or((preset.needs_approval(), ApprovalOf::Group));
    let (rollback_on_failure, takes_back) = rollback(s, faults).unwrap_or(settings.rollback);
    Policy {
        preset,
        max_parallel: s
            .machines("maxParallel", 1, Share::AtMost(size), faults)
            .unwrap_or(settings.max_parallel),
        max_failures: s
            .machines("maxFailures", 0, Share::AtMost(size), faults)
            .unwrap_or(preset.max_failures()),
        canary,
        canary_percent,
        canary_machines,
        waves: waves::waves(s, faults),
        pause_after: waves::pause_after(s, faults).unwrap_or_default(),
        order: waves::order(s, faults),
        canary_soak: s
            .duration("canarySoak", faults)
            .unwrap_or(preset.canary_soak()),
        soak: s.duration("soak", faults).unwrap_or_default(),
        stagger: s
            .duration("staggerDelay", faults)
            .unwrap_or(settings.stagger),
        windows: windows(s, "maintenanceWindow", faults),
        avoid: calendars::avoid(s, &settings.calendars, faults)
            .unwrap_or_else(|| settings.avoid.clone()),
        timezone: timezone(s, faults).unwrap_or_else(|| settings.timezone.clone()),
        allow_reboot: s.bool("allowReboot", faults).unwrap_or(false),
        soft_reboot: s.bool("softReboot", faults).unwrap_or(false),
        needs_approval,
        approval_of,
        approval_expiry: s
            .duration_from("approvalExpiry", SOME, faults)
            .unwrap_or(settings.approval_expiry),
        approved_after: s.duration_from("autoApproveAfter", SOME, faults),
        dependencies: s.names("dependencies", faults).unwrap_or_default(),
        health_timeout: s
            .duration_from("healthCheckTimeout", SOME, faults)
            .unwrap_or(settings.health_timeout),
        rollback_on_failure,
        takes_back,
        retries: retries(s, faults).unwrap_or(0),
        retry_after: s
            .duration_from("retryAfter", SOME, faults)
            .unwrap_or(RETRY_AFTER),
        expected_duration: s
            .duration("expectedDuration", faults)
            .unwrap_or(settings.expected_duration),
        gates: analysis::named(s, &settings.analyses, faults),
        blue_green: None,
    }
}

/// Whether somebody is asked first, and what one answer is about: `true` for the group as a whole, `"wave"` for
/// each of its waves, `"rollout"` for every group of which this is said.
fn approval(s: &mut Section<'_>, faults: &mut Faults) -> Option<(bool, ApprovalOf)> {
    let hint = "write true or false, without quotes, or \"wave\" or \"rollout\"";
    s.parsed("requireApproval", hint, faults, |value| {
        match (value.as_bool(), value.as_str()) {
            (Some(needed), _) => Ok((needed, ApprovalOf::Group)),
            (_, Some("wave")) => Ok((true, ApprovalOf::Wave)),
            (_, Some("rollout")) => Ok((true, ApprovalOf::Rollout)),
            _ => Err(format!("{value} is not a choice")),
        }
    })
}

/// Whether a machine that fails goes back by itself, and whether others go back with it: `true` for both,
/// `false` for neither, `"machine"` for the one that fails.
pub(super) fn rollback(s: &mut Section<'_>, faults: &mut Faults) -> Option<(bool, bool)> {
    let hint = "write true or false, without quotes, or \"machine\" for the one that fails alone";
    s.parsed("rollbackOnFailure", hint, faults, |value| {
        if value.as_str() == Some("machine") {
            return Ok((true, false));
        }
        let both = value.as_bool().map(|both| (both, both));
        both.ok_or_else(|| format!("{value} is not a choice"))
    })
}

/// The preset that a group or a policy begins with: named as such, or one of these policies is.
pub(super) fn preset(s: &mut Section<'_>, policies: &Policies<'_>, faults: &mut Faults) -> Preset {
    let name = s.peek("updatePolicy").and_then(Value::as_str);
    let presets = Preset::ALL.map(Preset::word);
    let known = presets.into_iter().chain(policies.0.keys().copied());
    let hint = nearest(name.unwrap_or_default(), known, "write one of");
    let read = |value: &Value| {
        let found = value.as_str().and_then(Preset::named);
        found.ok_or_else(|| format!("{value} is not a policy"))
    };
    s.parsed("updatePolicy", &hint, faults, read)
        .unwrap_or(Preset::Conservative)
}
