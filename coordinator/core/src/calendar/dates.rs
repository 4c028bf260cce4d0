//! Days of a calendar: one day, several in a row, the same ones of every year, and those that move
//! with Easter.

use std::{fmt, str::FromStr};

use common::Timestamp;
use jiff::{
    ToSpan as _,
    civil::{Date, Time},
    tz::TimeZone,
};

use crate::window;

/// Longest range, in days: one that is longer is more likely a slip of the pen than a wish.
const RANGE_MAX: i32 = 366;

/// Farthest that days lie from Easter: as far as Septuagesima and Corpus Christi, and some more.
const EASTER_MAX: i16 = 100;

/// How many years ahead the next 29 February may be.
const LEAP_GAP: i16 = 8;

/// Whole days, the first and the last of them included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Days {
    kind: Kind,
    /// As it was written.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Once(Date, Date),
    /// Month and day; an end before the beginning is in the next year.
    Yearly(MonthDay, MonthDay),
    /// Days after Easter Sunday.
    Easter(i16, i16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MonthDay {
    month: i8,
    day: i8,
}

/// Why a text does not name days.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DaysError {
    /// None of the forms.
    #[error("{0:?} is not a day, nor a range of days")]
    Shape(String),
    /// Begins and never ends, or the other way round.
    #[error("{0:?} has no end")]
    Endless(String),
    /// Ends before it begins.
    #[error("{0:?} ends before it begins")]
    Backwards(String),
    /// Goes on for more than a year.
    #[error("{0:?} is longer than a year")]
    TooLong(String),
}

enum One {
    Date(Date),
    Yearly(MonthDay),
    Easter(i16),
}

fn one(text: &str) -> Option<One> {
    if let Some(offset) = text.strip_prefix("easter") {
        if offset.is_empty() {
            return Some(One::Easter(0));
        }
        let digits = offset.strip_prefix(['+', '-'])?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let offset: i16 = offset.parse().ok()?;
        return (offset.abs() <= EASTER_MAX).then_some(One::Easter(offset));
    }
    let digits = |text: &str, count: usize| {
        let good = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| text.parse::<i16>().ok()).flatten()
    };
    let parts: Vec<&str> = text.split('-').collect();
    let small = |text: &str| i8::try_from(digits(text, 2)?).ok();
    match parts.as_slice() {
        [year, month, day] => {
            let date = Date::new(digits(year, 4)?, small(month)?, small(day)?).ok()?;
            // The days before and after must exist as well.
            (1970..=9000)
                .contains(&date.year())
                .then_some(One::Date(date))
        }
        [month, day] => {
            let (month, day) = (small(month)?, small(day)?);
            // In a leap year every day of a year exists.
            Date::new(2000, month, day).ok()?;
            Some(One::Yearly(MonthDay { month, day }))
        }
        _ => None,
    }
}

impl FromStr for Days {
    type Err = DaysError;

    /// Reads `2026-12-24`, `2026-12-24/2027-01-02`, `12-25`, `12-24/01-02`, `easter-2`,
    /// `easter-2/easter+1`.
    fn from_str(text: &str) -> Result<Self, DaysError> {
        let given = || text.to_owned();
        let (first, last) = text.split_once('/').unwrap_or((text, text));
        if first.trim().is_empty() || last.trim().is_empty() {
            return Err(match text.contains('/') {
                true => DaysError::Endless(given()),
                false => DaysError::Shape(given()),
            });
        }
        let read = |part: &str| one(part.trim()).ok_or_else(|| DaysError::Shape(given()));
        let kind = match (read(first)?, read(last)?) {
            (One::Date(first), One::Date(last)) if last < first => {
                return Err(DaysError::Backwards(given()));
            }
            (One::Date(first), One::Date(last)) => {
                if first.until(last).map_or(i32::MAX, |span| span.get_days()) >= RANGE_MAX {
                    return Err(DaysError::TooLong(given()));
                }
                Kind::Once(first, last)
            }
            (One::Yearly(first), One::Yearly(last)) => Kind::Yearly(first, last),
            (One::Easter(first), One::Easter(last)) if last < first => {
                return Err(DaysError::Backwards(given()));
            }
            (One::Easter(first), One::Easter(last)) => Kind::Easter(first, last),
            (One::Date(_) | One::Yearly(_) | One::Easter(_), _) => {
                return Err(DaysError::Shape(given()));
            }
        };
        let text = given();
        Ok(Self { kind, text })
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Days {
    /// The first time these days come that is not over at this instant.
    pub(crate) fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let span = |(first, last): (Date, Date)| {
            let midnight = |date| window::instant(date, Time::midnight(), zone);
            let (start, end) = (midnight(first)?, midnight(last.tomorrow().ok()?)?);
            (start < end && now < end).then_some((start, end))
        };
        if let Kind::Once(first, last) = self.kind {
            return span((first, last));
        }
        let this = window::local(now, zone)?.year();
        // What began last year may reach into this one.
        let mut years = this.checked_sub(1)?..=this.checked_add(LEAP_GAP + 1)?;
        years.find_map(|year| span(self.of(year)?))
    }

    /// The days of which the first lies in this year, or belongs to its Easter.
    fn of(&self, year: i16) -> Option<(Date, Date)> {
        match self.kind {
            Kind::Once(first, last) => Some((first, last)),
            Kind::Yearly(first, last) if first == last => {
                // 29 February is nowhere in other years.
                let date = Date::new(year, first.month, first.day).ok()?;
                Some((date, date))
            }
            Kind::Yearly(first, last) => {
                let end = if last < first { year + 1 } else { year };
                // A range that begins on 29 February begins on 1 March in other years, and one that
                // ends there ends on 28 February.
                let begins = Date::new(year, first.month, first.day);
                let begins = begins.or_else(|_| Date::new(year, 3, 1)).ok()?;
                let ends = Date::new(end, last.month, last.day);
                let ends = ends.or_else(|_| Date::new(end, 2, 28)).ok()?;
                (begins <= ends).then_some((begins, ends))
            }
            Kind::Easter(first, last) => {
                let easter = easter(year)?;
                let day = |offset: i16| easter.checked_add(i64::from(offset).days()).ok();
                Some((day(first)?, day(last)?))
            }
        }
    }
}

/// Easter Sunday of the western churches, by the anonymous Gregorian computus (Meeus, "Astronomical
/// Algorithms", chapter 8).
fn easter(year: i16) -> Option<Date> {
    let year32 = i32::from(year);
    let golden = year32 % 19;
    let (century, in_century) = (year32 / 100, year32 % 100);
    let moon = (century - (century + 8) / 25 + 1) / 3;
    let epact = (19 * golden + century - century / 4 - moon + 15) % 30;
    let weekday = (32 + 2 * (century % 4) + 2 * (in_century / 4) - epact - in_century % 4) % 7;
    let late = (golden + 11 * epact + 22 * weekday) / 451;
    let days = epact + weekday - 7 * late + 114;
    let (month, day) = (
        i8::try_from(days / 31).ok()?,
        i8::try_from(days % 31 + 1).ok()?,
    );
    Date::new(year, month, day).ok()
}

#[cfg(test)]
mod tests {
    use jiff::civil::{Weekday, date};

    use super::*;

    #[test]
    fn what_is_no_day_is_refused_with_its_reason() {
        let kind = |text: &str| text.parse::<Days>().map(|days| days.to_string());
        for good in [
            "2026-12-24",
            "2026-12-24/2027-01-02",
            "12-25",
            "12-24/01-02",
            "02-29",
            "easter",
            "easter-2/easter+1",
        ] {
            assert_eq!(kind(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "02-30",
            "1-1",
            "12-24/2026-01-02",
            "easter2",
            "easter-",
            "easter+101",
            "easter/12-26",
            "a/b",
            "2026-12-24T10:00",
            "0001-01-01",
        ] {
            assert_eq!(kind(bad), Err(DaysError::Shape(bad.into())), "{bad}");
        }
        for endless in ["2026-12-24/", "/2026-12-24", "/"] {
            assert_eq!(kind(endless), Err(DaysError::Endless(endless.into())));
        }
        for back in ["2026-12-24/2026-12-23", "easter+1/easter-2"] {
            assert_eq!(kind(back), Err(DaysError::Backwards(back.into())));
        }
        let long = "2026-01-01/2027-01-02";
        assert_eq!(kind(long), Err(DaysError::TooLong(long.into())));
    }

    /// Against another way: Gauss' rule with its two exceptions, over four centuries.
    #[test]
    fn easter_is_where_gauss_has_it() {
        for year in 1800..2200_i16 {
            let y = i32::from(year);
            let (a, b, c, k) = (y % 19, y % 4, y % 7, y / 100);
            let p = (13 + 8 * k) / 25;
            let m = (15 - p + k - k / 4) % 30;
            let n = (4 + k - k / 4) % 7;
            let d = (19 * a + m) % 30;
            let e = (2 * b + 4 * c + 6 * d + n) % 7;
            let exception = e == 6 && (d == 29 || (d == 28 && (11 * m + 11) % 30 < 19));
            let days = d + e - if exception { 7 } else { 0 };
            let gauss = date(year, 3, 22).checked_add(i64::from(days).days());
            let found = easter(year).expect("a date");
            assert_eq!(Ok(found), gauss.map_err(|_| ()), "{year}");
            assert_eq!(found.weekday(), Weekday::Sunday);
        }
        assert_eq!(easter(2026), Some(date(2026, 4, 5)));
    }

    /// Each day of the range, asked one by one.
    #[test]
    fn yearly_days_come_every_year_and_a_leap_day_when_there_is_one() {
        let zone = TimeZone::UTC;
        let noon = |day: Date| {
            let noon = day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).expect("noon");
            Timestamp(noon.timestamp().as_millisecond())
        };
        let inside = |days: &Days, day: Date| {
            let next = days.next(noon(day), &zone);
            next.is_some_and(|(start, _)| start <= noon(day))
        };
        type Slow = fn(Date) -> bool;
        let table: [(&str, Slow); 5] = [
            ("12-25", |d| (d.month(), d.day()) == (12, 25)),
            ("12-24/01-02", |d| {
                (d.month() == 12 && d.day() >= 24) || (d.month() == 1 && d.day() <= 2)
            }),
            ("02-29", |d| (d.month(), d.day()) == (2, 29)),
            ("02-29/03-01", |d| {
                (d.month(), d.day()) == (2, 29) || (d.month(), d.day()) == (3, 1)
            }),
            ("01-01/12-31", |_| true),
        ];
        for (text, slow) in table {
            let days: Days = text.parse().expect(text);
            let mut day = date(2094, 1, 1);
            // Over 2100, which is no leap year.
            while day < date(2106, 1, 1) {
                assert_eq!(inside(&days, day), slow(day), "{text} on {day}");
                day = day.tomorrow().expect("a day");
            }
        }
    }
}
