//! Events of a calendar: the text of an iCalendar file, and once more whether a clock shows a time of one, read
//! off that text without anything of the coordinator's own reading.

use jiff::{ToSpan as _, Zoned, civil::DateTime, tz::TimeZone};

/// What happens on these days: one of all day, one at the clock times of whoever avoids it, and two that have
/// a zone of their own.
pub(crate) fn text(day: &dyn Fn(u64) -> String, hour: u64, days: u64) -> String {
    let day = |days: u64| day(days).replace('-', "");
    let (hour, later) = (hour % 24, (hour + 5) % 23);
    let events = [
        format!(
            "DTSTART;VALUE=DATE:{}\r\nDTEND;VALUE=DATE:{}",
            day(days + 3),
            day(days + 4)
        ),
        format!(
            "DTSTART:{0}T{hour:02}2000\r\nDTEND:{0}T{hour:02}4000\r\nRRULE:FREQ=DAILY;COUNT=9",
            day(0)
        ),
        format!(
            "DTSTART:{0}T{later:02}0000Z\r\nDTEND:{0}T{1:02}0000Z\r\nRRULE:FREQ=DAILY;INTERVAL=3;COUNT=4",
            day(1),
            later + 1
        ),
        format!(
            "DTSTART;TZID=Europe/Berlin:{0}T023000\r\nDTEND;TZID=Europe/Berlin:{0}T031000\r\n\
             RRULE:FREQ=DAILY;COUNT=6\r\nEXDATE;TZID=Europe/Berlin:{1}T023000",
            day(0),
            day(2)
        ),
    ];
    let events = events.iter().enumerate().map(|(number, event)| {
        let uid = format!("UID:{number}@example.org\r\nDTSTAMP:20260101T000000Z");
        format!("BEGIN:VEVENT\r\n{uid}\r\n{event}\r\nEND:VEVENT\r\n")
    });
    let events: String = events.collect();
    let begin = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//lab//simulator//EN\r\n";
    format!("{begin}{events}END:VCALENDAR\r\n")
}

/// One event, as far as the texts above have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    start: DateTime,
    end: DateTime,
    /// None: that of whoever avoids it.
    zone: Option<TimeZone>,
    /// How often, and how many days apart.
    times: i64,
    apart: i64,
    without: Vec<DateTime>,
}

impl Event {
    /// Whether it forbids what this clock shows. In an hour that comes twice in its zone, none tells.
    pub(crate) fn forbids(&self, clock: &Zoned) -> bool {
        let own = self.zone.as_ref();
        let clock = own.map_or_else(|| clock.clone(), |zone| clock.with_time_zone(zone.clone()));
        let shows = clock.datetime();
        if own.is_some_and(|zone| zone.to_ambiguous_zoned(shows).is_ambiguous()) {
            return false;
        }
        (0..self.times).any(|time| {
            let moved = |at: DateTime| at.checked_add((time * self.apart).days());
            let (Ok(start), Ok(end)) = (moved(self.start), moved(self.end)) else {
                return false;
            };
            !self.without.contains(&start) && start <= shows && shows < end
        })
    }
}

/// The events of such a text.
pub(crate) fn of(text: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut event = Event::default();
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or_default();
        let key = key.split(';').next().unwrap_or_default();
        let at = || read(line, value);
        match key {
            "BEGIN" => {
                event = Event {
                    times: 1,
                    apart: 1,
                    ..Event::default()
                };
            }
            "DTSTART" => (event.start, event.zone) = at(),
            "DTEND" => event.end = at().0,
            "EXDATE" => event.without.push(at().0),
            "RRULE" => {
                let number = |name: &str| {
                    let mut parts = value.split(';').filter_map(|part| part.split_once('='));
                    let found = parts.find(|(key, _)| *key == name);
                    found.and_then(|(_, number)| number.parse().ok())
                };
                event.times = number("COUNT").unwrap_or(1);
                event.apart = number("INTERVAL").unwrap_or(1);
            }
            "END" if value == "VEVENT" => events.push(std::mem::take(&mut event)),
            _ => {}
        }
    }
    events
}

/// The time at the end of a line, and the zone that it names.
fn read(line: &str, value: &str) -> (DateTime, Option<TimeZone>) {
    let zone = match value.ends_with('Z') {
        true => Some("UTC"),
        false => line
            .split_once("TZID=")
            .and_then(|(_, rest)| rest.split(':').next()),
    };
    let digits = |range: std::ops::Range<usize>| {
        let digits = value
            .get(range)
            .and_then(|digits| digits.parse::<i16>().ok());
        digits.unwrap_or(0)
    };
    let small = |from: usize| i8::try_from(digits(from..from + 2)).unwrap_or(0);
    let at = DateTime::new(
        digits(0..4),
        small(4),
        small(6),
        small(9),
        small(11),
        small(13),
        0,
    );
    let zone = zone.and_then(|zone| TimeZone::get(zone).ok());
    (at.unwrap_or_default(), zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_of_an_event_or_none() {
        let day = |days: u64| format!("2026-03-{:02}", 27 + days);
        let events = of(&text(&day, 9, 0));
        assert_eq!(events.len(), 4);
        for (event, at, inside) in [
            (0, "2026-03-30T00:00[Asia/Kolkata]", true),
            (0, "2026-03-30T23:59[America/New_York]", true),
            (0, "2026-03-31T00:00[Asia/Kolkata]", false),
            (1, "2026-03-28T09:20[Asia/Kolkata]", true),
            (1, "2026-03-28T09:40[Asia/Kolkata]", false),
            (1, "2026-04-04T09:39[Asia/Kolkata]", true),
            (1, "2026-04-05T09:39[Asia/Kolkata]", false),
            (2, "2026-03-28T16:30[Europe/Berlin]", false),
            (2, "2026-03-28T14:30[UTC]", true),
            (2, "2026-03-29T14:30[UTC]", false),
            (2, "2026-03-31T16:30[Europe/Berlin]", true),
            (3, "2026-03-27T01:30[UTC]", true),
            (3, "2026-03-27T02:09[UTC]", true),
            (3, "2026-03-29T01:05[UTC]", false),
            (3, "2026-03-30T00:45[UTC]", true),
        ] {
            let clock: Zoned = at.parse().expect(at);
            assert_eq!(events[event].forbids(&clock), inside, "{event} at {at}");
        }
    }
}
