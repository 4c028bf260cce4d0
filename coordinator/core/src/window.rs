//! Maintenance windows: when a group may be disrupted, in its own time zone.
//!
//! A window belongs to the day it begins on. Its ends are instants, computed from the calendar of
//! its zone: where a clock time does not exist (spring), it means the instant of the change; where
//! it exists twice (autumn), it means the first time. A window that comes out empty is skipped. A whole
//! day, `00:00-24:00`, is as long as the day is.

use std::{collections::BTreeSet, fmt, str::FromStr};

use common::Timestamp;
use jiff::{
    ToSpan as _, Zoned,
    civil::{Date, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

/// How far ahead an opening is looked for. A weekly window opens at least once in it, even when a
/// change of the clocks swallows one.
const LOOKAHEAD_DAYS: i64 = 15;

/// How the end of a day is written, where it is not the beginning of the next one.
const MIDNIGHT_AFTER: &str = "24:00";

/// Clock times at which disruption may begin and must have ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "StoredWindow", into = "StoredWindow")]
pub struct Window {
    start: Time,
    /// On the next day, unless it is later than the start; the whole day begins and ends at midnight.
    end: Time,
    /// Days it begins on, Monday = 1; empty means every day.
    days: BTreeSet<i8>,
}

/// The journal's form of a window.
#[derive(Serialize, Deserialize)]
struct StoredWindow {
    times: String,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    days: BTreeSet<i8>,
}

impl TryFrom<StoredWindow> for Window {
    type Error = WindowError;

    fn try_from(stored: StoredWindow) -> Result<Self, WindowError> {
        Ok(Self {
            days: stored.days,
            ..stored.times.parse()?
        })
    }
}

impl From<Window> for StoredWindow {
    fn from(window: Window) -> Self {
        Self {
            times: window.times(),
            days: window.days,
        }
    }
}

/// Why a text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not `HH:MM-HH:MM`.
    #[error("{0:?} is not a window like \"02:00-06:00\"")]
    Shape(String),
    /// Begins and ends at the same time.
    #[error("the window {0:?} is empty: it ends when it begins")]
    Empty(String),
    /// Not a day of the week.
    #[error("{0:?} is not a day of the week (Mon, Tue, Wed, Thu, Fri, Sat, Sun)")]
    Day(String),
    /// Not in the IANA time zone database.
    #[error("{0:?} is not an IANA time zone like \"Europe/Berlin\"")]
    Zone(String),
}

/// Whether a window is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// Open until this instant.
    Open {
        /// When it shuts.
        until: Timestamp,
    },
    /// Shut; opens at this instant, if it ever does.
    Closed {
        /// When it opens next.
        opens_at: Option<Timestamp>,
    },
}

/// The zone of that name, from the database built into the program, so that a decision does not
/// depend on the host.
pub fn zone(name: &str) -> Result<TimeZone, WindowError> {
    TimeZoneDatabase::bundled()
        .get(name)
        .map_err(|_| WindowError::Zone(name.to_owned()))
}

impl FromStr for Window {
    type Err = WindowError;

    /// Reads `HH:MM-HH:MM`. An end at `24:00` is the midnight after the day, as `00:00` is; but only
    /// `00:00-24:00` is a whole day, and `00:00-00:00` says nothing.
    fn from_str(text: &str) -> Result<Self, WindowError> {
        let shape = || WindowError::Shape(text.to_owned());
        let (start, end) = text.split_once('-').ok_or_else(shape)?;
        let clock = |text: &str| -> Option<Time> {
            let (hour, minute) = text.trim().split_once(':')?;
            if hour.len() != 2 || minute.len() != 2 {
                return None;
            }
            Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        let at_24 = end.trim() == MIDNIGHT_AFTER;
        let start = clock(start).ok_or_else(shape)?;
        let end = match at_24 {
            true => Time::midnight(),
            false => clock(end).ok_or_else(shape)?,
        };
        if start == end && !at_24 {
            return Err(WindowError::Empty(text.to_owned()));
        }
        Ok(Self {
            start,
            end,
            days: BTreeSet::new(),
        })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for day in &self.days {
            write!(f, "{} ", day_name(*day))?;
        }
        f.write_str(&self.times())
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(i8);

/// The day of this name: all of it, or its first three letters.
pub fn day(text: &str) -> Result<Day, WindowError> {
    let word = text.trim().to_lowercase();
    let is = |day: &str| word == day || word == day[..3];
    let index = FULL_DAYS.iter().position(|day| is(day));
    let day = index.and_then(|index| i8::try_from(index + 1).ok());
    day.map(Day)
        .ok_or_else(|| WindowError::Day(text.to_owned()))
}

/// As documents were read once, by the first three letters whatever followed.
pub(crate) fn day_by_its_beginning(text: &str) -> Option<Day> {
    let start: String = text.trim().chars().take(3).collect();
    day(&start).ok()
}

const FULL_DAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn day_name(day: i8) -> &'static str {
    usize::try_from(day - 1)
        .ok()
        .and_then(|index| DAYS.get(index))
        .copied()
        .unwrap_or("?")
}

impl Window {
    /// The same window, beginning only on these days; of none at all: every day.
    #[must_use]
    pub fn on_days(mut self, days: impl IntoIterator<Item = Day>) -> Self {
        self.days.extend(days.into_iter().map(|Day(day)| day));
        self
    }

    /// Length on a day without a change of the clocks; a day at most.
    pub fn nominal_length(&self) -> std::time::Duration {
        let minutes = |time: Time| i64::from(time.hour()) * 60 + i64::from(time.minute());
        let length = match (minutes(self.end) - minutes(self.start)).rem_euclid(24 * 60) {
            0 => 24 * 60,
            length => length,
        };
        std::time::Duration::from_secs(u64::try_from(length * 60).unwrap_or(0))
    }

    fn times(&self) -> String {
        let start = self.start.strftime("%H:%M");
        if self.start == self.end {
            return format!("{start}-{MIDNIGHT_AFTER}");
        }
        format!("{start}-{}", self.end.strftime("%H:%M"))
    }

    /// The window that begins on this day, as instants, unless it is none or comes out empty.
    fn on(&self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        if !self.days.is_empty() && !self.days.contains(&weekday(date)) {
            return None;
        }
        let end_date = if self.end > self.start {
            date
        } else {
            date.tomorrow().ok()?
        };
        let start = instant(date, self.start, zone)?;
        let end = instant(end_date, self.end, zone)?;
        (start < end).then_some((start, end))
    }

    /// Whether the window is open at this instant, and until or from when.
    pub fn state(&self, now: Timestamp, zone: &TimeZone) -> WindowState {
        let Some(today) = local(now, zone).map(|zoned| zoned.date()) else {
            return WindowState::Closed { opens_at: None };
        };
        // Yesterday's window may reach into today.
        for days in -1..=LOOKAHEAD_DAYS {
            let Ok(date) = today.checked_add(days.days()) else {
                continue;
            };
            match self.on(date, zone) {
                Some((start, end)) if start <= now && now < end => {
                    return WindowState::Open { until: end };
                }
                Some((start, _)) if now < start => {
                    return WindowState::Closed {
                        opens_at: Some(start),
                    };
                }
                Some(_) | None => {}
            }
        }
        WindowState::Closed { opens_at: None }
    }
}

/// The state of several windows together; no windows at all means always open.
pub fn state_of(windows: &[Window], now: Timestamp, zone: &TimeZone) -> WindowState {
    let mut state = match windows {
        [] => {
            return WindowState::Open {
                until: Timestamp::MAX,
            };
        }
        [first, ..] => first.state(now, zone),
    };
    for window in windows {
        state = match (state, window.state(now, zone)) {
            (WindowState::Open { until: a }, WindowState::Open { until: b }) => {
                WindowState::Open { until: a.max(b) }
            }
            (open @ WindowState::Open { .. }, WindowState::Closed { .. })
            | (WindowState::Closed { .. }, open @ WindowState::Open { .. }) => open,
            (WindowState::Closed { opens_at: a }, WindowState::Closed { opens_at: b }) => {
                WindowState::Closed {
                    opens_at: [a, b].into_iter().flatten().min(),
                }
            }
        };
    }
    state
}

/// An instant by the clocks of a zone: `Mon 2026-11-23 03:00 Europe/Oslo`.
pub fn clock(at: Timestamp, name: &str) -> String {
    let zone = zone(name).unwrap_or(TimeZone::UTC);
    let name = if name.is_empty() { "UTC" } else { name };
    local(at, &zone).map_or_else(
        || "the end of time".to_owned(),
        |at| format!("{} {name}", at.strftime("%a %Y-%m-%d %H:%M")),
    )
}

fn weekday(date: Date) -> i8 {
    Weekday::to_monday_one_offset(date.weekday())
}

pub(crate) fn local(now: Timestamp, zone: &TimeZone) -> Option<Zoned> {
    let instant = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?;
    Some(instant.to_zoned(zone.clone()))
}

/// The instant at which the zone's clocks show this time, by the rule in the module's first lines.
pub(crate) fn instant(date: Date, time: Time, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
    let instant = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.earlier().ok()?,
        AmbiguousOffset::Fold { .. } => {
            let first = ambiguous.earlier().ok()?;
            // Next to the last change that a zone's table has, a fold may be told of that never was:
            // in Nuuk the clocks stood still where from 2024 on they are put back. The clock decides.
            if zone.to_datetime(first) == date.to_datetime(time) {
                first
            } else {
                ambiguous.later().ok()?
            }
        }
        // Read with the offset before the change, the time lies after the change, and no other
        // change lies between.
        AmbiguousOffset::Gap { .. } => {
            let after = ambiguous.later().ok()?;
            // `preceding` looks strictly before, and the gap's first time is the change itself.
            let just_after = after.checked_add(1.second()).ok()?;
            zone.preceding(just_after)
                .next()
                .map_or(after, |change| change.timestamp())
        }
    };
    Some(Timestamp(instant.as_millisecond()))
}

#[cfg(test)]
mod tests;
