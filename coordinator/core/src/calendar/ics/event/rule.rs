//! Recurrence rules, by the `rrule` crate: counted as if the event's clock were UTC's, so that neither
//! its zones nor its clock play a part.

use std::collections::BTreeSet;

use chrono::{Datelike as _, NaiveDate, TimeZone as _, Timelike as _};
use common::text::tame_line;
use jiff::civil::{DateTime, date};
use rrule::{RRule, RRuleSet, Tz, Unvalidated};

use super::{
    super::{HORIZON_YEAR, IcsError},
    When, clock,
};

/// How often something may come at most: nothing does more than once a day.
const FREQUENCIES: [&str; 4] = ["DAILY", "WEEKLY", "MONTHLY", "YEARLY"];

/// Most times of one rule that are counted.
const COUNT_MAX: u16 = u16::MAX;

/// The times of this rule from the event's beginning on.
pub(super) fn times(text: &str, start: &When, line: usize) -> Result<BTreeSet<DateTime>, IcsError> {
    let wrong = |what: String| IcsError::new(line, tame_line(&what, 200));
    let mut until = date(HORIZON_YEAR, 1, 1).at(0, 0, 0, 0);
    let mut kept: Vec<&str> = Vec::new();
    for part in text.trim().split(';').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim().to_uppercase().as_str() {
            "FREQ" if !FREQUENCIES.contains(&value.trim().to_uppercase().as_str()) => {
                let what = format!("FREQ={value} comes more often than once a day");
                return Err(wrong(what));
            }
            "BYHOUR" | "BYMINUTE" | "BYSECOND" if value.contains(',') => {
                let what = format!("{name}={value} comes more often than once a day");
                return Err(wrong(what));
            }
            // Read here: without a zone, the crate would take that of the host.
            "UNTIL" => {
                let last = last(value, start)
                    .ok_or_else(|| wrong(format!("UNTIL={value} is not a date or a time")))?;
                until = until.min(last);
                continue;
            }
            _ => {}
        }
        kept.push(part);
    }
    let bad = |error: rrule::RRuleError| wrong(format!("is no rule: {error}"));
    let rule: RRule<Unvalidated> = kept.join(";").parse().map_err(bad)?;
    let (Some(begin), Some(end)) = (to_chrono(start.civil), to_chrono(until)) else {
        return Err(wrong("begins at a time that cannot be counted".to_owned()));
    };
    let never = || wrong("never comes".to_owned());
    if end < begin {
        return Err(never());
    }
    let rule = rule.until(end).validate(begin).map_err(bad)?;
    let found = RRuleSet::new(begin).rrule(rule).limit().all(COUNT_MAX);
    if found.dates.is_empty() {
        return Err(never());
    }
    if found.limited {
        let what = format!("comes more than {COUNT_MAX} times, or too rarely to be counted");
        return Err(wrong(what));
    }
    Ok(found.dates.iter().filter_map(to_jiff).collect())
}

/// The last time that the rule may come, by the clock of the event.
fn last(value: &str, start: &When) -> Option<DateTime> {
    let (civil, utc, whole_day) = clock(value.trim())?;
    if whole_day {
        return Some(civil.date().at(23, 59, 59, 0));
    }
    let until = When {
        civil,
        zone: utc.then_some(jiff::tz::TimeZone::UTC),
        whole_day,
    };
    Some(until.by_the_clock_of(start))
}

fn to_chrono(at: DateTime) -> Option<chrono::DateTime<Tz>> {
    let part = |part: i8| u32::try_from(part).ok();
    let date = NaiveDate::from_ymd_opt(at.year().into(), part(at.month())?, part(at.day())?)?;
    let time = date.and_hms_opt(part(at.hour())?, part(at.minute())?, part(at.second())?)?;
    Some(Tz::UTC.from_utc_datetime(&time))
}

fn to_jiff(at: &chrono::DateTime<Tz>) -> Option<DateTime> {
    let part = |part: u32| i8::try_from(part).ok();
    let year = i16::try_from(at.year()).ok()?;
    let (month, day) = (part(at.month())?, part(at.day())?);
    let (hour, minute, second) = (part(at.hour())?, part(at.minute())?, part(at.second())?);
    DateTime::new(year, month, day, hour, minute, second, 0).ok()
}
