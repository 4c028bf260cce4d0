//! `schedules`: what is done again and again, one section for each.

use std::{collections::BTreeMap, time::Duration};

use common::{CleanUp, GroupName, ScheduleName, cleanup::KEEP_MIN};
use serde_json::Value;

use super::{
    FleetConfig,
    section::{Faults, Section, fault, nearest},
    settings::source,
};
use crate::schedule::{CATCH_UP, CronFault, KEEP, KEEP_FOR, Schedule, ScheduledAction, When};

/// What only `cleanup` has a meaning for.
const CLEANUP_KEYS: [&str; 3] = ["keep", "keepFor", "collectGarbage"];

const CRON: &str = "write minute, hour, day, month and day of the week, such as \"0 2 * * 0\" for \
                    Sundays at 02:00, or @daily";

/// Reads them; what is understood is taken even where a fault says that it may not be.
pub(super) fn schedules(
    value: &Value,
    timezone: &str,
    faults: &mut Faults,
) -> BTreeMap<ScheduleName, Schedule> {
    let mut found = BTreeMap::new();
    let Some(section) = Section::new(value, "schedules", faults) else {
        return found;
    };
    for (key, value) in section.entries() {
        let path = section.path_of(key);
        match key.parse::<ScheduleName>() {
            Ok(name) => {
                if let Some(schedule) = schedule(value, &path, timezone, faults) {
                    found.insert(name, schedule);
                }
            }
            Err(error) => {
                let hint = "give the schedule another name";
                fault(faults, &path, error.to_string(), hint);
            }
        }
    }
    found
}

fn schedule(value: &Value, path: &str, timezone: &str, faults: &mut Faults) -> Option<Schedule> {
    let mut s = Section::new(value, path, faults)?;
    let zone = s.text("timezone", faults);
    let jitter = s.duration("jitter", faults).unwrap_or_default();
    let when = when(&mut s, zone.as_deref().unwrap_or(timezone), jitter, faults);
    let catch_up = s.duration("catchUpWithin", faults).unwrap_or(CATCH_UP);
    let groups: Option<Vec<GroupName>> = s.names("groups", faults);
    if groups.as_ref().is_some_and(Vec::is_empty) {
        let hint = "leave it out for all groups";
        fault(faults, &s.path_of("groups"), "names no group", hint);
    }
    let reason = s.text("reason", faults).unwrap_or_default();
    let action = action(&mut s, faults);
    s.finish(faults);
    Some(Schedule {
        when: when?,
        catch_up,
        action: action?,
        groups: groups.unwrap_or_default(),
        reason,
    })
}

fn when(
    s: &mut Section<'_>,
    timezone: &str,
    jitter: Duration,
    faults: &mut Faults,
) -> Option<When> {
    let path = s.path_of("cron");
    let Some(cron) = s.text("cron", faults) else {
        if !s.has("cron") {
            fault(faults, &path, "is missing", CRON);
        }
        return None;
    };
    let mut say = |error: &CronFault| {
        let (key, hint) = match error {
            CronFault::Syntax { .. } => ("cron", CRON),
            CronFault::Never(_) => (
                "cron",
                "name a day that exists; the 30th of February does not",
            ),
            CronFault::Jitter { .. } => ("jitter", "make it shorter, or leave it out"),
            CronFault::Zone(_) => (
                "timezone",
                "write an IANA name such as \"Europe/Berlin\" or \"UTC\"",
            ),
        };
        fault(faults, &s.path_of(key), error.to_string(), hint);
    };
    let when = When::new(&cron, timezone, jitter)
        .map_err(|error| say(&error))
        .ok()?;
    if let Err(error) = when.judge() {
        say(&error);
    }
    Some(when)
}

fn action(s: &mut Section<'_>, faults: &mut Faults) -> Option<ScheduledAction> {
    let path = s.path_of("action");
    let hint = "write one of: update, health-check, cleanup";
    let own = s.get("source");
    if let Some(value) = own {
        source(value, &s.path_of("source"), faults);
    }
    let Some(word) = s.text("action", faults) else {
        if !s.has("action") {
            fault(faults, &path, "is missing", hint);
        }
        return None;
    };
    let action = match word.as_str() {
        "update" => ScheduledAction::Update {
            source: own.cloned(),
        },
        "health-check" => ScheduledAction::HealthCheck,
        "cleanup" => ScheduledAction::CleanUp(cleanup(s, faults)),
        _ => {
            fault(faults, &path, format!("{word:?} is not an action"), hint);
            return None;
        }
    };
    let mut senseless = Vec::new();
    if own.is_some() && !matches!(action, ScheduledAction::Update { .. }) {
        senseless.push("source");
    }
    if !matches!(action, ScheduledAction::CleanUp(_)) {
        senseless.extend(CLEANUP_KEYS.iter().filter(|key| s.get(key).is_some()));
    }
    for key in senseless {
        let message = format!("means nothing for {word}");
        fault(faults, &s.path_of(key), message, "leave it out");
    }
    Some(action)
}

fn cleanup(s: &mut Section<'_>, faults: &mut Faults) -> CleanUp {
    let [keep, keep_for, collect] = CLEANUP_KEYS;
    let hint = "write a whole number, at least 2: the newest generation and one to go back to";
    let generations = s.parsed(keep, hint, faults, |value| {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| *number >= KEEP_MIN);
        number.ok_or_else(|| format!("{value} is no such number"))
    });
    let generations = generations.unwrap_or(KEEP);
    let younger = s.duration(keep_for, faults).unwrap_or(KEEP_FOR);
    CleanUp {
        generations,
        younger_s: younger.as_secs(),
        collect: s.bool(collect, faults).unwrap_or(true),
    }
}

/// What a schedule says against the rest of the configuration.
pub(super) fn check(config: &FleetConfig, faults: &mut Faults) {
    for (name, schedule) in &config.schedules {
        for (index, group) in schedule.groups.iter().enumerate() {
            if !config.groups.contains_key(group) {
                let groups = config.groups.keys().map(GroupName::as_str);
                let hint = nearest(group.as_str(), groups, "groups");
                let path = format!("schedules.{name}.groups[{index}]");
                fault(faults, &path, format!("there is no group {group}"), hint);
            }
        }
        let own = matches!(
            &schedule.action,
            ScheduledAction::Update { source: Some(_) }
        );
        let updates = matches!(&schedule.action, ScheduledAction::Update { .. });
        let fleets = config.document.pointer("/updateSettings/source");
        if updates && !own && fleets.is_none_or(Value::is_null) {
            let message = "nothing says what the machines are to run";
            let hint = "name a source here, or updateSettings.source for all";
            fault(faults, &format!("schedules.{name}.source"), message, hint);
        }
    }
}
