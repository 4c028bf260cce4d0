//! Windows minus calendars, drawn at random, against the clock on the wall.

use common::Timestamp;
use coordinator_core::{
    calendar::{Calendar, ics::Events},
    opening::{Openings, State},
    window,
};
use proptest::prelude::*;

use crate::oracle::{MINUTE_MS, Wall};

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Santiago",
    "Africa/Casablanca",
    "Pacific/Apia",
];

/// Days before a change of the clocks somewhere.
const BEGINS: [i64; 5] = [
    1_774_400_000_000,
    1_761_100_000_000,
    1_775_000_000_000,
    1_772_700_000_000,
    1_767_000_000_000,
];

const DAYS: i64 = 18;

/// What is open for so long may be open for longer than is said.
const LONG: std::time::Duration = std::time::Duration::from_secs(14 * 24 * 3600);

#[derive(Clone, Debug)]
struct Drawn {
    from: i64,
    to: i64,
    days: Vec<i64>,
}

impl Drawn {
    fn window(&self) -> window::Window {
        let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let text = format!("{}-{}", clock(self.from), clock(self.to));
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let days = self
            .days
            .iter()
            .map(|day| window::day(names[usize::try_from(*day).expect("a day")]).expect("a day"));
        text.parse::<window::Window>()
            .expect("a window")
            .on_days(days)
    }
}

fn windows(most: usize) -> impl Strategy<Value = Vec<Drawn>> {
    // An end at the last of them is the midnight after the day.
    let (quarter, end) = (0i64..96, 0i64..=96);
    let days = prop_oneof![Just(Vec::new()), proptest::collection::vec(0i64..7, 1..4)];
    let one = (quarter, end, days).prop_filter_map("empty", |(from, to, days)| {
        let (from, to) = (from * 15, to * 15);
        (from != to).then_some(Drawn { from, to, days })
    });
    proptest::collection::vec(one, 0..=most)
}

/// An event of an iCalendar text: from when, in quarters of an hour after the beginning, for how many,
/// and whether by the clock of whoever avoids it.
#[derive(Clone, Debug)]
struct Event {
    after: i64,
    quarters: i64,
    floating: bool,
}

fn civil(minutes: i64) -> String {
    let at = jiff::Timestamp::from_second(minutes * 60).expect("a time");
    at.strftime("%Y%m%dT%H%M%S").to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn openings_are_windows_without_what_is_avoided(
        zone in proptest::sample::select(ZONES.to_vec()),
        begin in proptest::sample::select(BEGINS.to_vec()),
        open in windows(3),
        hours in windows(2),
        frozen in proptest::collection::vec((0i64..DAYS, 0i64..4), 0..3),
        events in proptest::collection::vec(
            (0i64..DAYS * 96, 1i64..200, any::<bool>())
                .prop_map(|(after, quarters, floating)| Event { after, quarters, floating }),
            0..4,
        ),
        needs in 1u64..600,
    ) {
        let begin = Timestamp(begin.div_euclid(MINUTE_MS * 15) * MINUTE_MS * 15);
        let first_minute = begin.0 / MINUTE_MS;
        let first_day = first_minute.div_euclid(24 * 60);
        // What is avoided, as it is written.
        let dates: Vec<_> = frozen.iter().map(|(after, more)| {
            let day = |day: i64| civil(day * 24 * 60)[..8].to_owned();
            let dash = |text: String| format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]);
            let (from, to) = (day(first_day + after), day(first_day + after + more));
            format!("{}/{}", dash(from), dash(to)).parse().expect("days")
        }).collect();
        let mut text = "BEGIN:VCALENDAR\r\n".to_owned();
        for event in &events {
            let (from, to) = (first_minute + event.after * 15, first_minute + (event.after + event.quarters) * 15);
            let zulu = if event.floating { "" } else { "Z" };
            text.push_str(&format!(
                "BEGIN:VEVENT\r\nDTSTART:{}{zulu}\r\nDTEND:{}{zulu}\r\nEND:VEVENT\r\n",
                civil(from), civil(to),
            ));
        }
        text.push_str("END:VCALENDAR\r\n");
        let calendar = Calendar::new(
            hours.iter().map(Drawn::window).collect(),
            dates,
            Events::parse(&text).expect("a calendar"),
        );
        let these: Vec<_> = open.iter().map(Drawn::window).collect();
        let openings = Openings::new(&these, vec![("c", &calendar)], window::zone(zone).expect("a zone"));

        // What the clock says, for each minute.
        let mut wall = Wall::at(zone, begin);
        let minutes = usize::try_from(DAYS * 24 * 60).expect("a number");
        let mut is_open = Vec::with_capacity(minutes);
        for _ in 0..minutes {
            let inside = |w: &Drawn| wall.inside(w.from, w.to, &w.days);
            let days_off = frozen.iter().any(|(after, more)| {
                (first_day + after..=first_day + after + more).contains(&wall.day())
            });
            let in_event = events.iter().any(|event| {
                let from = first_minute + event.after * 15;
                let to = from + event.quarters * 15;
                if event.floating {
                    wall.between(from, to)
                } else {
                    (from..to).contains(&(wall.now.0 / MINUTE_MS))
                }
            });
            let blocked = hours.iter().any(inside) || days_off || in_event;
            is_open.push((open.is_empty() || open.iter().any(inside)) && !blocked);
            wall.next();
        }
        let at = |minute: usize| Timestamp(begin.0 + i64::try_from(minute).expect("small") * MINUTE_MS);
        for minute in (0..minutes).step_by(41) {
            let now = at(minute);
            let shuts = (minute..minutes).find(|later| !is_open[*later]);
            match (openings.at(now), is_open[minute]) {
                (State::Open { until }, true) => {
                    // Beyond what was walked, anything may be; and what is open for two weeks, for longer.
                    let shut = shuts.map_or(until.max(at(minutes - 1)), at);
                    let is_long = until.since(now) >= LONG && until <= shut;
                    prop_assert!(until == shut || is_long, "{now:?}");
                }
                (State::Shut { .. }, false) => {}
                (found, open) => prop_assert!(false, "at {now:?} it is {found:?}, and really {open}"),
            }
            // A search that finds nothing goes on for years.
            if minute % 10 != 0 {
                continue;
            }
            // The first stretch that is long enough, and is known to its end.
            let mut from = minute;
            let slow = loop {
                let Some(opens) = (from..minutes).find(|later| is_open[*later]) else { break None };
                let shuts = (opens..minutes).find(|later| !is_open[*later]);
                match shuts {
                    Some(shuts) if shuts - opens < usize::try_from(needs).expect("small") => from = shuts,
                    shuts => break Some((opens, shuts)),
                }
            };
            let fast = openings.next(now, std::time::Duration::from_secs(needs * 60));
            match slow {
                Some((opens, Some(_))) => prop_assert_eq!(fast.map(|(from, _)| from), Some(at(opens))),
                Some((opens, None)) => prop_assert!(fast.is_none_or(|(from, _)| from >= at(opens))),
                None => prop_assert!(fast.is_none_or(|(from, _)| from >= at(minutes - 1))),
            }
        }
    }
}
