//! One event: its properties, and the times it comes to.

use std::collections::BTreeSet;

use common::text::tame_line;
use jiff::{
    SignedDuration,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

use super::{
    EVENTS_MAX, IcsError,
    lines::{Line, lines},
};
use crate::window;

mod rule;

/// Longest event.
const LENGTH_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Longest summary that is kept, in bytes.
const SUMMARY_MAX: usize = 120;

/// A clock time, and whose clock it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct When {
    pub(super) civil: DateTime,
    /// `None`: of whoever avoids the calendar.
    pub(super) zone: Option<TimeZone>,
    /// Whether it is a day as a whole.
    whole_day: bool,
}

/// One `VEVENT`.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    /// Where it begins, from 1.
    pub(super) line: usize,
    pub(super) uid: String,
    pub(super) summary: String,
    pub(super) cancelled: bool,
    /// The time of its series that it takes the place of.
    pub(super) instance: Option<When>,
    start: Option<When>,
    end: Option<When>,
    length: Option<SignedDuration>,
    rule: Option<(usize, String)>,
    also: Vec<When>,
    except: Vec<When>,
}

/// Every event of a text.
pub(super) fn events(text: &str) -> Result<Vec<Event>, IcsError> {
    let mut inside: Vec<String> = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    let mut seen = false;
    for line in lines(text)? {
        match line.name.as_str() {
            "BEGIN" => {
                let component = line.value.trim().to_uppercase();
                if inside.is_empty() && component != "VCALENDAR" {
                    return Err(IcsError::new(line.number, "VCALENDAR must begin first"));
                }
                seen = true;
                inside.push(component);
                if inside == ["VCALENDAR", "VEVENT"] {
                    if events.len() == EVENTS_MAX {
                        let what = format!("more than {EVENTS_MAX} events");
                        return Err(IcsError::new(line.number, what));
                    }
                    events.push(Event {
                        line: line.number,
                        ..Event::default()
                    });
                }
                // Time zones hold parts of their own; nothing goes deeper.
                if inside.len() > 8 {
                    return Err(IcsError::new(line.number, "is nested too deeply"));
                }
            }
            "END" => {
                let begun = inside.pop();
                let ends = line.value.trim().to_uppercase();
                if begun != Some(ends) {
                    return Err(IcsError::new(line.number, "ends what has not begun"));
                }
            }
            _ if inside.is_empty() => {
                return Err(IcsError::new(line.number, "VCALENDAR must begin first"));
            }
            _ if inside == ["VCALENDAR", "VEVENT"] => {
                if let Some(event) = events.last_mut() {
                    event.learn(&line)?;
                }
            }
            _ => {}
        }
    }
    if !seen || !inside.is_empty() {
        let what = "the text does not end with END:VCALENDAR";
        return Err(IcsError::new(text.lines().count().max(1), what));
    }
    Ok(events)
}

impl Event {
    fn learn(&mut self, line: &Line) -> Result<(), IcsError> {
        match line.name.as_str() {
            "UID" => self.uid.clone_from(&line.value),
            "SUMMARY" => {
                let text = line.value.replace("\\,", ",").replace("\\;", ";");
                self.summary = tame_line(&text.replace("\\n", " "), SUMMARY_MAX);
            }
            "STATUS" => self.cancelled = line.value.trim().eq_ignore_ascii_case("CANCELLED"),
            "DTSTART" => self.start = Some(when(line, &line.value)?),
            "DTEND" => self.end = Some(when(line, &line.value)?),
            "RECURRENCE-ID" => self.instance = Some(when(line, &line.value)?),
            "DURATION" => self.length = Some(duration(line)?),
            "RRULE" if self.rule.is_some() => {
                return Err(IcsError::new(line.number, "is a second rule of one event"));
            }
            "RRULE" => self.rule = Some((line.number, line.value.clone())),
            "EXRULE" => {
                let what = "EXRULE is not understood; it was taken out of iCalendar";
                return Err(IcsError::new(line.number, what));
            }
            "RDATE" | "EXDATE" => {
                let list = match line.name.as_str() {
                    "RDATE" => &mut self.also,
                    _ => &mut self.except,
                };
                for value in line.value.split(',') {
                    list.push(when(line, value)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Its times, each from when until when by the clock that it begins with. Those of the series
    /// that were moved are left out.
    pub(super) fn times(&self, moved: &[When]) -> Result<Vec<(When, DateTime)>, IcsError> {
        let Some(start) = &self.start else {
            return Err(IcsError::new(self.line, "the event has no DTSTART"));
        };
        let length = self.length_from(start)?;
        if length.is_zero() {
            return Ok(Vec::new());
        }
        let mut begins: BTreeSet<DateTime> = match &self.rule {
            None => BTreeSet::from([start.civil]),
            Some((line, text)) => rule::times(text, start, *line)?,
        };
        begins.extend(self.also.iter().map(|also| also.by_the_clock_of(start)));
        for except in self.except.iter().chain(moved) {
            let clock = except.by_the_clock_of(start);
            if except.whole_day {
                begins.retain(|begin| begin.date() != clock.date());
            } else {
                begins.remove(&clock);
            }
        }
        let times = begins.into_iter().filter_map(|civil| {
            let end = civil.checked_add(length).ok()?;
            let begin = When {
                civil,
                ..start.clone()
            };
            Some((begin, end))
        });
        Ok(times.collect())
    }

    fn length_from(&self, start: &When) -> Result<SignedDuration, IcsError> {
        let length = match (&self.end, self.length) {
            (Some(end), _) if end.zone.is_some() != start.zone.is_some() => {
                let what = "begins and ends by the clocks of different zones";
                return Err(IcsError::new(self.line, what));
            }
            (Some(end), _) => end.by_the_clock_of(start).duration_since(start.civil),
            (None, Some(length)) => length,
            (None, None) if start.whole_day => SignedDuration::from_hours(24),
            // A moment without length.
            (None, None) => SignedDuration::ZERO,
        };
        if length.is_negative() {
            return Err(IcsError::new(self.line, "the event ends before it begins"));
        }
        if length > LENGTH_MAX {
            return Err(IcsError::new(self.line, "the event is longer than a year"));
        }
        Ok(length)
    }
}

impl When {
    /// What the other one's clock shows at this time.
    fn by_the_clock_of(&self, other: &Self) -> DateTime {
        match (&self.zone, &other.zone) {
            (Some(here), Some(there)) if here != there => {
                let at = here.to_ambiguous_zoned(self.civil).compatible();
                at.map_or(self.civil, |at| at.with_time_zone(there.clone()).datetime())
            }
            _ => self.civil,
        }
    }
}

/// `20261224`, `20261224T090000`, `20261224T080000Z`, with `TZID` and `VALUE`.
fn when(line: &Line, value: &str) -> Result<When, IcsError> {
    let value = value.trim();
    let wrong = || {
        let value = tame_line(value, 40);
        IcsError::new(line.number, format!("{value:?} is not a date or a time"))
    };
    if line.parameter("VALUE") == Some("PERIOD") {
        let what = "periods are not understood; write an event of its own";
        return Err(IcsError::new(line.number, what));
    }
    let (civil, utc, whole_day) = clock(value).ok_or_else(wrong)?;
    let zone = match (utc, line.parameter("TZID")) {
        (true, _) => Some(TimeZone::UTC),
        (false, Some(name)) if !whole_day => {
            let zone = zone_of(name).map_err(|error| {
                let what = "export the calendar in UTC, or with names of IANA or Windows";
                IcsError::new(line.number, format!("{error}; {what}"))
            })?;
            Some(zone)
        }
        (false, _) => None,
    };
    Ok(When {
        civil,
        zone,
        whole_day,
    })
}

/// The zone of an IANA name, or of one of Windows' own, which Outlook and Exchange write: of these the zone that
/// Unicode's CLDR says where no country is known (`windowsZones.xml`, territory 001).
fn zone_of(name: &str) -> Result<TimeZone, window::WindowError> {
    window::zone(name.trim_start_matches('/')).or_else(|error| {
        let known = localzone::win_zone_to_iana(name.trim(), Some("001"));
        known.map_or(Err(error), window::zone)
    })
}

/// The clock time, whether it is UTC, and whether it is a day as a whole.
fn clock(value: &str) -> Option<(DateTime, bool, bool)> {
    let number = |text: &str| -> Option<i16> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let part = |from: usize, to: usize| number(value.get(from..to)?);
    let small = |from: usize, to: usize| i8::try_from(part(from, to)?).ok();
    let year = part(0, 4).filter(|year| (1900..9000).contains(year))?;
    let date = Date::new(year, small(4, 6)?, small(6, 8)?).ok()?;
    let rest = value.get(8..)?;
    if rest.is_empty() {
        return Some((date.to_datetime(Time::midnight()), false, true));
    }
    let utc = rest.ends_with('Z');
    if !rest.starts_with('T') || rest.len() != 7 + usize::from(utc) {
        return None;
    }
    // A leap second is the one before it.
    let time = Time::new(small(9, 11)?, small(11, 13)?, small(13, 15)?.min(59), 0).ok()?;
    Some((date.to_datetime(time), utc, false))
}

fn duration(line: &Line) -> Result<SignedDuration, IcsError> {
    let value = line.value.trim().trim_start_matches('+');
    let span: Option<jiff::Span> = value.starts_with('P').then(|| value.parse().ok()).flatten();
    let length = span.and_then(|span| {
        let day = jiff::SpanRelativeTo::days_are_24_hours();
        span.to_duration(day).ok()
    });
    length.ok_or_else(|| IcsError::new(line.number, "is not a duration such as P1D or PT2H"))
}
