//! One object of the document after the other: what each key holds, and what is wrong with it.

use std::{str::FromStr, time::Duration};

use serde_json::{Map, Value};

use super::Fault;
use crate::policy::{self, PARALLEL_MAX};

/// Longest duration that means something here: a year.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// One object, its path, and the keys that nobody has asked for yet.
pub(super) struct Section<'a> {
    pub(super) path: String,
    pub(super) map: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

/// Where faults are gathered.
pub(super) type Faults = Vec<Fault>;

pub(super) fn fault(
    faults: &mut Faults,
    path: &str,
    message: impl Into<String>,
    hint: impl Into<String>,
) {
    faults.push(Fault {
        path: path.to_owned(),
        message: message.into(),
        hint: hint.into(),
    });
}

impl<'a> Section<'a> {
    pub(super) fn of(map: &'a Map<String, Value>, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            map,
            asked: Vec::new(),
        }
    }

    pub(super) fn new(value: &'a Value, path: &str, faults: &mut Faults) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self::of(map, path)),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                fault(
                    faults,
                    path,
                    "an object is expected here",
                    "write keys and values in { }",
                );
                None
            }
        }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of a key, which from now on is a known one. One that is null is not set: Nix writes so
    /// what a module leaves open.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.peek(key)
    }

    /// The value of a key, without making it a known one.
    pub(super) fn peek(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    /// What is set here under names of the operator's own.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter().filter(|(_, value)| !value.is_null())
    }

    /// The values of a key that has one or a list of them, each with its path.
    pub(super) fn one_or_more(&mut self, key: &'static str) -> Vec<(String, &'a Value)> {
        let path = self.path_of(key);
        match self.get(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let items = items.iter().enumerate();
                items
                    .map(|(index, item)| (format!("{path}[{index}]"), item))
                    .collect()
            }
            Some(one) => vec![(path, one)],
        }
    }

    /// Names every key that nobody asked for.
    pub(super) fn finish(self, faults: &mut Faults) {
        self.finish_with(&[], faults);
    }

    /// The same; these keys were asked for only to be refused, and are no suggestions.
    pub(super) fn finish_with(self, refused: &[&str], faults: &mut Faults) {
        for key in self.map.keys() {
            if self.asked.contains(&key.as_str()) {
                continue;
            }
            let known = self.asked.iter().copied();
            let known = known.filter(|key| !refused.contains(key));
            let hint = nearest(key, known, "known keys");
            let message = "is not a key of the configuration";
            fault(faults, &self.path_of(key), message, hint);
        }
    }

    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        faults: &mut Faults,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(key)?;
        match read(value) {
            Ok(value) => Some(value),
            Err(message) => {
                fault(faults, &self.path_of(key), message, hint);
                None
            }
        }
    }

    pub(super) fn bool(&mut self, key: &'static str, faults: &mut Faults) -> Option<bool> {
        let hint = "write true or false, without quotes";
        self.parsed(key, hint, faults, |value| {
            value
                .as_bool()
                .ok_or_else(|| format!("{value} must be true or false"))
        })
    }

    /// A number of machines: as such, or as a percentage of so many, such as `"25%"`. No machine, as a
    /// percentage, is refused in new documents where one is needed, and is one in older ones: they were
    /// in force with it.
    pub(super) fn machines(
        &mut self,
        key: &'static str,
        min: u32,
        share: Share,
        faults: &mut Faults,
    ) -> Option<u32> {
        let hint = format!(
            "write a whole number from {min} to {PARALLEL_MAX}, without quotes, or a percentage such as \"25%\""
        );
        let nobody = |value: &Value| value.as_str().is_some_and(|text| percent_of(text) == Ok(0));
        if min > 0 && self.map.get(key).is_some_and(nobody) {
            let message = "0% is nobody, and it takes a machine at least";
            fault(faults, &self.path_of(key), message, hint.clone());
        }
        self.parsed(key, &hint, faults, |value| {
            if let Some(percent) = value.as_str() {
                return Ok(share.of(percent_of(percent)?).max(min));
            }
            let number = value
                .as_u64()
                .ok_or_else(|| format!("{value} is not a whole number"))?;
            u32::try_from(number)
                .ok()
                .filter(|number| (min..=PARALLEL_MAX).contains(number))
                .ok_or_else(|| format!("{number} is not between {min} and {PARALLEL_MAX}"))
        })
    }

    /// A number of machines, or a part of them, that is not known here of how many.
    pub(super) fn share(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
    ) -> Option<policy::Share> {
        let hint = "write a whole number, without quotes, or a percentage such as \"5%\"";
        self.parsed(key, hint, faults, share)
    }

    pub(super) fn duration(&mut self, key: &'static str, faults: &mut Faults) -> Option<Duration> {
        self.parsed(key, DURATION, faults, duration)
    }

    /// A duration that is of no use when it is shorter than this. It is taken all the same: only new
    /// documents are refused for it.
    pub(super) fn duration_from(
        &mut self,
        key: &'static str,
        min: Duration,
        faults: &mut Faults,
    ) -> Option<Duration> {
        let duration = self.duration(key, faults)?;
        if duration < min {
            let min = min.as_secs();
            let message = format!("{} s is too short to be meant", duration.as_secs());
            fault(
                faults,
                &self.path_of(key),
                message,
                format!("write at least {min} s, or leave it out"),
            );
        }
        Some(duration)
    }

    pub(super) fn text(&mut self, key: &'static str, faults: &mut Faults) -> Option<String> {
        self.parsed(key, "write a text in quotes", faults, |value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("{value} must be a string"))
        })
    }

    /// A list of names; each bad one is a fault of its own.
    pub(super) fn names<T: FromStr>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
    ) -> Option<Vec<T>>
    where
        T::Err: std::fmt::Display,
    {
        let value = self.get(key)?;
        let path = self.path_of(key);
        let Some(items) = value.as_array() else {
            let hint = "write a list such as [ \"one\" \"two\" ]; in JSON with commas between";
            fault(faults, &path, "a list is expected here", hint);
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
                Err(message) => {
                    let hint = "write a name in quotes";
                    fault(faults, &format!("{path}[{index}]"), message, hint);
                }
            }
        }
        Some(names)
    }
}

/// What a percentage of machines comes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// Of so many, and no more than that.
    AtMost(usize),
    /// Of so many, and no less than that.
    AtLeast(usize),
}

impl Share {
    fn of(self, percent: u32) -> u32 {
        let percent = policy::Share::Percent(percent);
        let share = match self {
            Self::AtMost(of) => percent.at_most(of),
            Self::AtLeast(of) => u32::try_from(percent.at_least(of)).unwrap_or(PARALLEL_MAX),
        };
        share.min(PARALLEL_MAX)
    }
}

/// A number of machines, or a part of them.
pub(super) fn share(value: &Value) -> Result<policy::Share, String> {
    if let Some(text) = value.as_str() {
        return Ok(policy::Share::Percent(percent_of(text)?));
    }
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number <= PARALLEL_MAX);
    let number = number.ok_or_else(|| format!("{value} is not a number of machines"))?;
    Ok(policy::Share::Machines(number))
}

/// A percentage: a whole number from 0 to 100 and a percent sign.
fn percent_of(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    number
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| format!("{text:?} is not a whole number, nor a percentage from 0% to 100%"))
}

/// How durations are written.
const DURATION: &str = "write whole seconds, or a text such as \"90s\", \"30m\" or \"1h30m\"";

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

/// What may have been meant by a word that is not known: the nearest of those that are, or all.
pub(super) fn nearest<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    what: &str,
) -> String {
    match known.clone().min_by_key(|known| distance(known, word)) {
        // Not if nothing of the word is left.
        Some(near) if distance(near, word) <= 3.min(word.len().saturating_sub(1)) => {
            format!("did you mean {near:?}?")
        }
        Some(_) => format!("{what}: {}", known.collect::<Vec<_>>().join(", ")),
        None => String::new(),
    }
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
