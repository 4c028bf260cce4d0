//! Maintenance windows: when a group may be disrupted, in its own time zone.
//!
//! A window belongs to the day it begins on. Its ends are instants, computed from the calendar of
//! its zone: where a clock time does not exist (spring), it means the instant of the change; where
//! it exists twice (autumn), it means the first time. A window that comes out empty is skipped.

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

/// Clock times at which disruption may begin and must have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredWindow", into = "StoredWindow")]
pub struct Window {
    start: Time,
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

    /// Reads `HH:MM-HH:MM`; `24:00` is not a time, write `00:00`.
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
        let start = clock(start).ok_or_else(shape)?;
        let end = clock(end).ok_or_else(shape)?;
        if start == end {
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

    /// Length on a day without a change of the clocks.
    pub fn nominal_length(&self) -> std::time::Duration {
        let minutes = |time: Time| i64::from(time.hour()) * 60 + i64::from(time.minute());
        let length = (minutes(self.end) - minutes(self.start)).rem_euclid(24 * 60);
        std::time::Duration::from_secs(u64::try_from(length * 60).unwrap_or(0))
    }

    fn times(&self) -> String {
        format!(
            "{}-{}",
            self.start.strftime("%H:%M"),
            self.end.strftime("%H:%M")
        )
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

/// What several windows together were found to be, and how long that holds: it is asked for at every
/// decision and changes a few times a day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    from: Timestamp,
    /// The first instant at which any of the windows opens or shuts.
    until: Timestamp,
    state: WindowState,
}

impl Seen {
    /// Looks at the windows now.
    pub(crate) fn of(windows: &[Window], now: Timestamp, zone: &TimeZone) -> Self {
        let edges = windows.iter().map(|window| match window.state(now, zone) {
            WindowState::Open { until } => until,
            WindowState::Closed { opens_at } => opens_at.unwrap_or(now),
        });
        Self {
            from: now,
            until: edges.min().unwrap_or(Timestamp::MAX),
            state: state_of(windows, now, zone),
        }
    }

    /// What they are at this instant, if that is known.
    pub(crate) fn at(&self, now: Timestamp) -> Option<WindowState> {
        (self.from <= now && now < self.until).then_some(self.state)
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

fn weekday(date: Date) -> i8 {
    Weekday::to_monday_one_offset(date.weekday())
}

pub(crate) fn local(now: Timestamp, zone: &TimeZone) -> Option<Zoned> {
    let instant = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?;
    Some(instant.to_zoned(zone.clone()))
}

/// The instant at which the zone's clocks show this time, by the rule in the module's first lines.
fn instant(date: Date, time: Time, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
    let instant = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
            ambiguous.earlier().ok()?
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
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(
            text.parse::<jiff::Timestamp>()
                .expect(text)
                .as_millisecond(),
        )
    }

    fn show(state: WindowState) -> String {
        let time = |t: Timestamp| {
            jiff::Timestamp::from_millisecond(t.as_millis())
                .expect("in range")
                .to_string()
        };
        match state {
            WindowState::Open { until } => format!("open until {}", time(until)),
            WindowState::Closed { opens_at } => {
                format!("closed until {}", opens_at.map_or("never".into(), time))
            }
        }
    }

    #[track_caller]
    fn check(window: &str, days: &[&str], zone_name: &str, now: &str, expected: &str) {
        let window: Window = window.parse().expect(window);
        let window = window.on_days(days.iter().map(|text| day(text).expect("a day")));
        let zone = zone(zone_name).expect(zone_name);
        assert_eq!(show(window.state(at(now), &zone)), expected);
    }

    #[test]
    fn an_ordinary_night() {
        let window = "02:00-06:00";
        check(
            window,
            &[],
            "UTC",
            "2026-03-01T01:59:59Z",
            "closed until 2026-03-01T02:00:00Z",
        );
        check(
            window,
            &[],
            "UTC",
            "2026-03-01T02:00:00Z",
            "open until 2026-03-01T06:00:00Z",
        );
        check(
            window,
            &[],
            "UTC",
            "2026-03-01T06:00:00Z",
            "closed until 2026-03-02T02:00:00Z",
        );
    }

    #[test]
    fn across_midnight_it_belongs_to_the_day_it_begins_on() {
        // 2026-03-06 is a Friday.
        let (window, days) = ("22:00-04:00", ["fri"].as_slice());
        check(
            window,
            days,
            "UTC",
            "2026-03-06T01:00:00Z",
            "closed until 2026-03-06T22:00:00Z",
        );
        check(
            window,
            days,
            "UTC",
            "2026-03-07T01:00:00Z",
            "open until 2026-03-07T04:00:00Z",
        );
        check(
            window,
            days,
            "UTC",
            "2026-03-07T22:30:00Z",
            "closed until 2026-03-13T22:00:00Z",
        );
    }

    #[test]
    fn spring_swallows_what_does_not_exist() {
        // New York, 2026-03-08: 02:00 EST is 03:00 EDT.
        let zone = "America/New_York";
        check(
            "02:00-03:00",
            &[],
            zone,
            "2026-03-08T06:59:00Z",
            "closed until 2026-03-09T06:00:00Z",
        );
        check(
            "01:00-02:30",
            &[],
            zone,
            "2026-03-08T06:30:00Z",
            "open until 2026-03-08T07:00:00Z",
        );
        check(
            "02:30-04:00",
            &[],
            zone,
            "2026-03-08T07:00:00Z",
            "open until 2026-03-08T08:00:00Z",
        );
        check(
            "23:00-02:30",
            &[],
            zone,
            "2026-03-08T06:59:00Z",
            "open until 2026-03-08T07:00:00Z",
        );
    }

    #[test]
    fn autumn_means_the_first_time() {
        // New York, 2026-11-01: 02:00 EDT is 01:00 EST.
        let zone = "America/New_York";
        check(
            "00:30-01:30",
            &[],
            zone,
            "2026-11-01T05:00:00Z",
            "open until 2026-11-01T05:30:00Z",
        );
        check(
            "00:30-01:30",
            &[],
            zone,
            "2026-11-01T06:10:00Z",
            "closed until 2026-11-02T05:30:00Z",
        );
        check(
            "01:00-02:00",
            &[],
            zone,
            "2026-11-01T05:00:00Z",
            "open until 2026-11-01T07:00:00Z",
        );
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for bad in [
            "",
            "02:00",
            "2-6",
            "02:00-25:00",
            "02:00-2:30",
            "02:00-02:00",
            "a-b",
        ] {
            assert!(bad.parse::<Window>().is_err(), "{bad:?}");
        }
        assert!(zone("Mars/Olympus").is_err());
    }

    #[test]
    fn several_windows_are_open_when_one_is() {
        let windows: Vec<Window> = ["02:00-04:00", "03:00-05:00"]
            .iter()
            .map(|w| w.parse().expect("window"))
            .collect();
        let zone = zone("UTC").expect("UTC");
        let state = state_of(&windows, at("2026-03-01T03:30:00Z"), &zone);
        assert_eq!(show(state), "open until 2026-03-01T05:00:00Z");
        let state = state_of(&[], at("2026-03-01T03:30:00Z"), &zone);
        assert_eq!(
            state,
            WindowState::Open {
                until: Timestamp::MAX
            }
        );
    }

    /// Slow and independent: walks the clock minute by minute.
    #[test]
    fn minute_by_minute_agrees() {
        let zone = zone("Europe/Berlin").expect("zone");
        let window: Window = "22:30-02:15".parse().expect("window");
        // Two weeks around both changes of the clocks in 2026.
        for start in ["2026-03-25T12:00:00Z", "2026-10-20T12:00:00Z"] {
            let mut now = at(start);
            let mut open_until: Option<Timestamp> = None;
            for _ in 0..14 * 24 * 60 {
                let clock = local(now, &zone).expect("local");
                if open_until.is_some_and(|until| now >= until) {
                    open_until = None;
                }
                let minutes = clock.hour() as i64 * 60 + clock.minute() as i64;
                if minutes == 22 * 60 + 30 {
                    // Shuts at the first 02:15 (or the change that skips it) from here.
                    let mut end = now;
                    loop {
                        end = end + std::time::Duration::from_secs(60);
                        let clock = local(end, &zone).expect("local");
                        let minutes = clock.hour() as i64 * 60 + clock.minute() as i64;
                        if (2 * 60 + 15..12 * 60).contains(&minutes) {
                            break;
                        }
                    }
                    open_until = Some(end);
                }
                let fast = window.state(now, &zone);
                let slow_open = open_until.is_some();
                assert_eq!(
                    matches!(fast, WindowState::Open { .. }),
                    slow_open,
                    "{clock}"
                );
                now = now + std::time::Duration::from_secs(60);
            }
        }
    }
}
