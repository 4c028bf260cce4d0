//! JSON → configuration: shapes, names, numbers. Whatever is wrong becomes a fault with its path,
//! and reading goes on.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use common::{GroupName, MachineName};
use serde_json::{Map, Value};

use super::{Fault, FleetConfig, GroupConfig};
use crate::{
    policy::{PARALLEL_MAX, Policy, Preset, Times},
    window::{self, Window},
};

/// Longest duration that means something here: a year.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// One object, its path, and the keys that nobody has asked for yet.
struct Section<'a> {
    path: String,
    map: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

/// Where faults are gathered.
type Faults = Vec<Fault>;

fn fault(faults: &mut Faults, path: &str, message: impl Into<String>, hint: impl Into<String>) {
    faults.push(Fault {
        path: path.to_owned(),
        message: message.into(),
        hint: hint.into(),
    });
}

impl<'a> Section<'a> {
    fn new(value: &'a Value, path: &str, faults: &mut Faults) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self {
                path: path.to_owned(),
                map,
                asked: Vec::new(),
            }),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                fault(faults, path, "an object is expected here", "");
                None
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of a key, which from now on is a known one.
    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Names every key that nobody asked for.
    fn finish(self, faults: &mut Faults) {
        for key in self
            .map
            .keys()
            .filter(|key| !self.asked.contains(&key.as_str()))
        {
            let near = self.asked.iter().min_by_key(|known| distance(known, key));
            let hint = match near {
                Some(near) if distance(near, key) <= 3 => format!("did you mean {near:?}?"),
                Some(_) | None => format!("known keys: {}", self.asked.join(", ")),
            };
            fault(
                faults,
                &self.path_of(key),
                "is not a key of the configuration",
                hint,
            );
        }
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(key)?;
        match read(value) {
            Ok(value) => Some(value),
            Err(message) => {
                fault(faults, &self.path_of(key), message, "");
                None
            }
        }
    }

    fn bool(&mut self, key: &'static str, faults: &mut Faults) -> Option<bool> {
        self.parsed(key, faults, |value| {
            value
                .as_bool()
                .ok_or_else(|| format!("{value} must be true or false"))
        })
    }

    fn count(&mut self, key: &'static str, min: u32, faults: &mut Faults) -> Option<u32> {
        self.parsed(key, faults, |value| {
            let number = value
                .as_u64()
                .ok_or_else(|| format!("{value} is not a whole number"))?;
            u32::try_from(number)
                .ok()
                .filter(|number| (min..=PARALLEL_MAX).contains(number))
                .ok_or_else(|| format!("{number} is not between {min} and {PARALLEL_MAX}"))
        })
    }

    fn duration(&mut self, key: &'static str, faults: &mut Faults) -> Option<Duration> {
        self.parsed(key, faults, duration)
    }

    fn text(&mut self, key: &'static str, faults: &mut Faults) -> Option<String> {
        self.parsed(key, faults, |value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("{value} must be a string"))
        })
    }

    /// A list of names; each bad one is a fault of its own.
    fn names<T: FromStr>(&mut self, key: &'static str, faults: &mut Faults) -> Option<Vec<T>>
    where
        T::Err: std::fmt::Display,
    {
        let value = self.get(key)?;
        let path = self.path_of(key);
        let Some(items) = value.as_array() else {
            fault(faults, &path, "a list is expected here", "");
            return None;
        };
        let mut names = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let parsed = match item.as_str() {
                Some(text) => text.parse().map_err(|error: T::Err| error.to_string()),
                None => Err(format!("{item} must be a string")),
            };
            match parsed {
                Ok(name) => names.push(name),
                Err(message) => fault(faults, &format!("{path}[{index}]"), message, ""),
            }
        }
        Some(names)
    }
}

/// A duration as people write it: whole seconds, or `"30m"`, `"1h30m"`; a year at most.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn duration(value: &Value) -> Result<Duration, String> {
    let bad = || format!("{value} is not a duration (whole seconds, or like \"30m\", \"1h30m\")");
    let duration = match value {
        Value::Number(number) => Duration::from_secs(number.as_u64().ok_or_else(bad)?),
        Value::String(text) => {
            // A bare number in quotes would be a guess about its unit.
            if text.chars().all(|c| c.is_ascii_digit()) {
                return Err(bad());
            }
            let parsed: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
            Duration::try_from(parsed).map_err(|_| bad())?
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(bad()),
    };
    if duration > DURATION_MAX {
        return Err(format!("{value} is longer than a year"));
    }
    Ok(duration)
}

/// How many single-character edits lie between two keys (Levenshtein), ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (
        a.to_lowercase().chars().collect(),
        b.to_lowercase().chars().collect(),
    );
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// Defaults that groups take from `updateSettings`.
struct Settings {
    max_parallel: u32,
    timezone: String,
    health_timeout: Duration,
    rollback_on_failure: bool,
    stagger: Duration,
    approval_expiry: Duration,
    expected_duration: Duration,
    times: Times,
    channels: Vec<String>,
    webhooks: BTreeMap<String, String>,
}

/// Reads the whole document. `None` when it is too broken to be looked at further.
pub(super) fn document(document: &Value, faults: &mut Faults) -> Option<FleetConfig> {
    let mut top = Section::new(document, "", faults)?;
    let empty = Value::Object(Map::new());
    let settings = top.get("updateSettings").unwrap_or(&empty);
    let settings = settings_of(settings, faults)?;
    let Some(groups_value) = top.get("updateGroups") else {
        fault(
            faults,
            "updateGroups",
            "is missing",
            "name at least one group with its machines",
        );
        top.finish(faults);
        return None;
    };
    let mut groups = BTreeMap::new();
    if let Some(section) = Section::new(groups_value, "updateGroups", faults) {
        for (key, value) in section.map {
            let path = section.path_of(key);
            match key.parse::<GroupName>() {
                Ok(name) => {
                    if let Some(group) = group(value, &path, &settings, faults) {
                        groups.insert(name, group);
                    }
                }
                Err(error) => fault(faults, &path, error.to_string(), ""),
            }
        }
    }
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
    Some(FleetConfig {
        document: document.clone(),
        groups,
        max_parallel: settings.max_parallel,
        times: settings.times,
        timezone: settings.timezone,
        channels: settings.channels,
        webhooks: settings.webhooks,
        group_of,
    })
}

fn settings_of(value: &Value, faults: &mut Faults) -> Option<Settings> {
    let mut s = Section::new(value, "updateSettings", faults)?;
    let defaults = Times::default();
    let times = Times {
        lease: s.duration("leaseTime", faults).unwrap_or(defaults.lease),
        grace: s.duration("graceTime", faults).unwrap_or(defaults.grace),
        offline_after: s
            .duration("offlineAfter", faults)
            .unwrap_or(defaults.offline_after),
        catch_up: s.duration("catchUp", faults).unwrap_or(defaults.catch_up),
        stage: s.duration("stageTimeout", faults).unwrap_or(defaults.stage),
        no_progress: s
            .duration("noProgressAfter", faults)
            .unwrap_or(defaults.no_progress),
    };
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let settings = Settings {
        max_parallel: s.count("maxParallel", 1, faults).unwrap_or(1),
        timezone: timezone(&mut s, faults).unwrap_or_else(|| "UTC".to_owned()),
        health_timeout: s
            .duration("healthCheckTimeout", faults)
            .unwrap_or(minutes(5)),
        rollback_on_failure: s.bool("rollbackOnFailure", faults).unwrap_or(true),
        stagger: s.duration("staggerDelay", faults).unwrap_or(minutes(30)),
        approval_expiry: s
            .duration("approvalExpiry", faults)
            .unwrap_or(minutes(7 * 24 * 60)),
        expected_duration: s
            .duration("expectedDuration", faults)
            .unwrap_or(minutes(10)),
        times,
        channels: s
            .names::<String>("notificationChannels", faults)
            .unwrap_or_default(),
        webhooks: webhooks(&mut s, faults),
    };
    source(&mut s, faults);
    s.finish(faults);
    Some(settings)
}

fn timezone(section: &mut Section<'_>, faults: &mut Faults) -> Option<String> {
    let name = section.text("timezone", faults)?;
    if let Err(error) = window::zone(&name) {
        fault(faults, &section.path_of("timezone"), error.to_string(), "");
        return None;
    }
    Some(name)
}

/// `channels = { ops.webhook = "https://…"; }`
fn webhooks(settings: &mut Section<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut webhooks = BTreeMap::new();
    let Some(value) = settings.get("channels") else {
        return webhooks;
    };
    let Some(channels) = Section::new(value, &settings.path_of("channels"), faults) else {
        return webhooks;
    };
    for (name, value) in channels.map {
        let Some(mut channel) = Section::new(value, &channels.path_of(name), faults) else {
            continue;
        };
        if let Some(url) = channel.text("webhook", faults) {
            if url.starts_with("https://") || url.starts_with("http://") {
                webhooks.insert(name.clone(), url);
            } else {
                let path = channel.path_of("webhook");
                fault(
                    faults,
                    &path,
                    format!("{url:?} is not an http or https address"),
                    "",
                );
            }
        }
        channel.finish(faults);
    }
    webhooks
}

/// Where `lab update prepare` finds the targets. `lab` reads it; here only its shape is checked.
fn source(settings: &mut Section<'_>, faults: &mut Faults) {
    let Some(value) = settings.get("source") else {
        return;
    };
    let Some(mut source) = Section::new(value, &settings.path_of("source"), faults) else {
        return;
    };
    let given = ["targets", "flake", "channel"]
        .into_iter()
        .filter(|key| source.text(key, faults).is_some())
        .count();
    if given != 1 {
        let message = "exactly one of targets, flake and channel must be given";
        fault(faults, &source.path.clone(), message, "");
    }
    source.text("signKey", faults);
    source.text("pushTo", faults);
    source.bool("buildOnMachine", faults);
    source.finish(faults);
}

fn group(
    value: &Value,
    path: &str,
    settings: &Settings,
    faults: &mut Faults,
) -> Option<GroupConfig> {
    let mut s = Section::new(value, path, faults)?;
    let preset = s
        .parsed("updatePolicy", faults, preset)
        .unwrap_or(Preset::Conservative);
    let machines = match s.names::<MachineName>("machines", faults) {
        Some(machines) => machines,
        None => {
            if !s.map.contains_key("machines") {
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
    let policy = Policy {
        preset,
        max_parallel: s
            .count("maxParallel", 1, faults)
            .unwrap_or(settings.max_parallel),
        max_failures: s
            .count("maxFailures", 0, faults)
            .unwrap_or(preset.max_failures()),
        canary: s.count("canary", 0, faults).unwrap_or(preset.canary()),
        canary_soak: s
            .duration("canarySoak", faults)
            .unwrap_or(preset.canary_soak()),
        soak: s.duration("soak", faults).unwrap_or_default(),
        stagger: s
            .duration("staggerDelay", faults)
            .unwrap_or(settings.stagger),
        windows: windows(&mut s, faults),
        timezone: timezone(&mut s, faults).unwrap_or_else(|| settings.timezone.clone()),
        allow_reboot: s.bool("allowReboot", faults).unwrap_or(false),
        needs_approval: s
            .bool("requireApproval", faults)
            .unwrap_or(preset.needs_approval()),
        approval_expiry: settings.approval_expiry,
        dependencies: s.names("dependencies", faults).unwrap_or_default(),
        health_timeout: s
            .duration("healthCheckTimeout", faults)
            .unwrap_or(settings.health_timeout),
        rollback_on_failure: s
            .bool("rollbackOnFailure", faults)
            .unwrap_or(settings.rollback_on_failure),
        expected_duration: s
            .duration("expectedDuration", faults)
            .unwrap_or(settings.expected_duration),
    };
    s.finish(faults);
    Some(GroupConfig { machines, policy })
}

fn preset(value: &Value) -> Result<Preset, String> {
    let known = || Preset::ALL.map(Preset::word).join(", ");
    let found = Preset::ALL
        .into_iter()
        .find(|preset| Some(preset.word()) == value.as_str());
    found.ok_or_else(|| format!("{value} is not a policy; there are {}", known()))
}

/// One window, or a list of them; each a text, or `{ times, days }`.
fn windows(group: &mut Section<'_>, faults: &mut Faults) -> Vec<Window> {
    let Some(value) = group.get("maintenanceWindow") else {
        return Vec::new();
    };
    let path = group.path_of("maintenanceWindow");
    let one = std::slice::from_ref(value);
    let items = value.as_array().map_or(one, Vec::as_slice);
    let mut windows = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = if value.is_array() {
            format!("{path}[{index}]")
        } else {
            path.clone()
        };
        windows.extend(window(item, &path, faults));
    }
    windows
}

fn window(value: &Value, path: &str, faults: &mut Faults) -> Option<Window> {
    let parsed = match value {
        Value::String(text) => text.parse(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let mut section = Section::new(value, path, faults)?;
            let times = section.text("times", faults);
            let days = section.names::<String>("days", faults).unwrap_or_default();
            section.finish(faults);
            let days = days.iter().map(String::as_str);
            times
                .unwrap_or_default()
                .parse::<Window>()
                .and_then(|window| window.on_days(days))
        }
    };
    match parsed {
        Ok(window) => Some(window),
        Err(error) => {
            fault(faults, path, error.to_string(), "");
            None
        }
    }
}
