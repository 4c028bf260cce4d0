//! A clock on the wall, read once a minute. Nothing here asks the code that it judges: of a zone only
//! its offset at an instant is asked.
//!
//! The rule in one sentence: a clock time has come once the clock has shown it or a later one. So what
//! counts at an instant is the latest that the clock has ever shown.

use common::Timestamp;
use coordinator_core::window;
use jiff::tz::TimeZone;

pub(crate) const MINUTE_MS: i64 = 60_000;
const DAY: i64 = 24 * 60;

/// Reads the clock minute by minute.
pub(crate) struct Wall {
    zone: TimeZone,
    pub(crate) now: Timestamp,
    /// The latest that was ever shown, in minutes since the beginning of 1970.
    latest: i64,
}

impl Wall {
    /// A clock that has been looked at for some days.
    pub(crate) fn at(zone: &str, begin: Timestamp) -> Self {
        let zone = window::zone(zone).expect("a zone");
        let now = Timestamp(begin.0 - 3 * DAY * MINUTE_MS);
        let mut wall = Self {
            zone,
            now,
            latest: i64::MIN,
        };
        wall.read();
        while wall.now < begin {
            wall.next();
        }
        wall
    }

    pub(crate) fn next(&mut self) {
        self.now = Timestamp(self.now.0 + MINUTE_MS);
        self.read();
    }

    fn read(&mut self) {
        let now = jiff::Timestamp::from_millisecond(self.now.0).expect("an instant");
        let offset = i64::from(self.zone.to_offset(now).seconds());
        self.latest = self.latest.max((now.as_second() + offset).div_euclid(60));
    }

    /// Days since 1970 that have begun.
    pub(crate) fn day(&self) -> i64 {
        self.latest.div_euclid(DAY)
    }

    /// Whether a window of these minutes of the day, on these days (Monday is 0; none: all), is open. From
    /// the first to the last minute it is the whole day.
    pub(crate) fn inside(&self, from: i64, to: i64, days: &[i64]) -> bool {
        let length = if (from, to) == (0, DAY) {
            DAY
        } else {
            (to - from).rem_euclid(DAY)
        };
        [0, 1].into_iter().any(|ago| {
            let day = self.day() - ago;
            // 1 January 1970 was a Thursday.
            let on = days.is_empty() || days.contains(&(day + 3).rem_euclid(7));
            let begin = day * DAY + from;
            on && begin <= self.latest && self.latest < begin + length
        })
    }

    /// Whether the clock has shown the first and not the second of these, in minutes since 1970.
    pub(crate) fn between(&self, from: i64, to: i64) -> bool {
        from <= self.latest && self.latest < to
    }
}

/// The times in which something holds, from minute to minute.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    pub(crate) found: Vec<(Timestamp, Timestamp)>,
    since: Option<Timestamp>,
}

impl Spans {
    pub(crate) fn saw(&mut self, now: Timestamp, holds: bool) {
        match (holds, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.found.push((since, now));
                self.since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// A time that others follow at once is one with them.
    pub(crate) fn add(&mut self, from: Timestamp, to: Timestamp) {
        match self.found.last_mut() {
            Some((_, last)) if *last == from => *last = to,
            Some(_) | None => self.found.push((from, to)),
        }
    }
}

/// The days of a year's date by plain counting: days since 1970 of a day of the Gregorian calendar.
pub(crate) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let years: i64 = (1970..year).map(|year| 365 + i64::from(leap(year))).sum();
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let months = usize::try_from(month - 1).expect("a month");
    years + lengths[..months].iter().sum::<i64>() + day - 1
}
