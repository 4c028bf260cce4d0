//! Every window of every zone over ten years, minute by minute.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use common::Timestamp;
use coordinator_core::{
    calendar::{Calendar, ics::Events},
    opening::{Openings, State},
    window::{self, Window, WindowState},
};
use jiff::tz::TimeZoneDatabase;

use crate::oracle::{Spans, Wall, days_since_1970};

/// Times about which clocks change, in minutes of the day, with their days.
const WINDOWS: [(i64, i64, &[i64]); 12] = [
    (60, 120, &[]),
    (150, 195, &[]),
    (22 * 60 + 30, 135, &[]),
    (23 * 60 + 30, 30, &[]),
    (0, 45, &[6]),
    (120, 180, &[5, 6]),
    (6 * 60, 18 * 60, &[0, 2]),
    (180, 179, &[]),
    (0, 24 * 60, &[]),
    (0, 24 * 60, &[6]),
    (0, 24 * 60, &[1, 4, 5]),
    (21 * 60, 24 * 60, &[]),
];

/// Hours of a calendar; the second of them are all of some days.
const AVOIDED: [(i64, i64, &[i64]); 2] = [(390, 420, &[]), (0, 24 * 60, &[3])];

/// 1 January 2020.
const BEGIN: Timestamp = Timestamp(1_577_836_800_000);

fn window((from, to, days): (i64, i64, &[i64])) -> Window {
    let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let text = format!("{}-{}", clock(from), clock(to));
    let window: Window = text.parse().expect("a window");
    let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days = days.iter().map(|day| {
        let name = names[usize::try_from(*day).expect("a day")];
        window::day(name).expect("a day")
    });
    window.on_days(days)
}

/// What is avoided: some hours, days of every year, of 2024, and about Easter.
fn calendar() -> Calendar {
    let dates = [
        "03-29",
        "2024-10-20/2024-11-05",
        "12-30/01-02",
        "02-29",
        "easter-1/easter+1",
    ];
    let dates = dates.map(|text| text.parse().expect(text));
    Calendar::new(
        AVOIDED.map(window).to_vec(),
        dates.to_vec(),
        Events::default(),
    )
}

/// Days on which `calendar` says no, of the ten years.
fn avoided_days() -> Vec<i64> {
    let mut days: Vec<i64> = Vec::new();
    for year in 1992..=2030 {
        days.push(days_since_1970(year, 3, 29));
        let begin = days_since_1970(year, 12, 30);
        days.extend(begin..=days_since_1970(year + 1, 1, 2));
        if year % 4 == 0 {
            days.push(days_since_1970(year, 2, 29));
        }
    }
    days.extend(days_since_1970(2024, 10, 20)..=days_since_1970(2024, 11, 5));
    // Easter Sundays, from an almanac.
    let easters = [
        (2020, 4, 12),
        (2021, 4, 4),
        (2022, 4, 17),
        (2023, 4, 9),
        (2024, 3, 31),
        (2025, 4, 20),
        (2026, 4, 5),
        (2027, 3, 28),
        (2028, 4, 16),
        (2029, 4, 1),
        (2030, 4, 21),
    ];
    for (year, month, day) in easters {
        let sunday = days_since_1970(year, month, day);
        days.extend(sunday - 1..=sunday + 1);
    }
    days.sort_unstable();
    days
}

/// Holds windows and openings of one zone against its clock for so many days. How many there were.
fn judge(zone: &str, begin: Timestamp, days: i64) -> usize {
    let end = Timestamp(begin.0 + days * 24 * 3_600_000);
    let avoided = avoided_days();
    let mut slow = vec![Spans::default(); WINDOWS.len()];
    let mut slow_opening = Spans::default();
    let mut wall = Wall::at(zone, begin);
    while wall.now < end {
        let inside = WINDOWS.map(|(from, to, days)| wall.inside(from, to, days));
        for (spans, inside) in slow.iter_mut().zip(inside) {
            spans.saw(wall.now, inside);
        }
        let hours = AVOIDED
            .iter()
            .any(|(from, to, days)| wall.inside(*from, *to, days));
        let blocked = avoided.binary_search(&wall.day()).is_ok() || hours;
        slow_opening.saw(wall.now, (inside[2] || inside[6]) && !blocked);
        wall.next();
    }
    let in_zone = window::zone(zone).expect("a zone");
    let mut count = 0;
    for (which, slow) in WINDOWS.iter().zip(&slow) {
        let window = window(*which);
        let mut fast = Spans::default();
        let mut now = begin;
        while now < end {
            match window.state(now, &in_zone) {
                WindowState::Open { until } => {
                    fast.add(now, until);
                    now = until;
                }
                WindowState::Closed { opens_at } => now = opens_at.expect("it opens"),
            }
        }
        // What is still open at the end is not in the slow ones.
        assert_same(&format!("{window} in {zone}"), &fast, slow);
        count += slow.found.len();
    }
    let (calendar, windows) = (calendar(), [window(WINDOWS[2]), window(WINDOWS[6])]);
    let openings = Openings::new(&windows, vec![("days", &calendar)], in_zone);
    let mut fast = Spans::default();
    let mut now = begin;
    while now < end {
        match openings.at(now) {
            State::Open { until } => {
                fast.add(now, until);
                now = until;
            }
            State::Shut { until, .. } => now = until.expect("it opens"),
        }
    }
    assert_same(&format!("openings in {zone}"), &fast, &slow_opening);
    count + slow_opening.found.len()
}

#[track_caller]
fn assert_same(what: &str, fast: &Spans, slow: &Spans) {
    for (fast, slow) in fast.found.iter().zip(&slow.found) {
        assert_eq!(fast, slow, "{what}");
    }
    let more = fast.found.len() - slow.found.len();
    assert!(more <= 1, "{what}: {more} more than there are");
}

/// Clocks that change by an hour and by half of one, at midnight, twice a year in Ramadan, by law from one
/// week to the next, and not at all.
#[test]
fn windows_are_what_the_clock_on_the_wall_says() {
    for zone in [
        "Europe/Berlin",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Africa/Casablanca",
        "Asia/Gaza",
        "Asia/Kolkata",
    ] {
        // From the autumn of 2023 on, for a year.
        judge(zone, Timestamp(1_696_118_400_000), 380);
    }
    // Clocks that stood still on a day on which they are put back from the next year on.
    judge("America/Nuuk", Timestamp(1_696_118_400_000), 60);
    // A day that Samoa left out, and one that Kwajalein did.
    judge("Pacific/Apia", Timestamp(1_322_697_600_000), 60);
    judge("Pacific/Kwajalein", Timestamp(745_200_000_000), 30);
}

/// The stage `clocks` of `.ci/run`; on as many processors as there are.
#[test]
#[ignore = "takes minutes: every zone over ten years"]
fn every_zone_over_ten_years() {
    let database = TimeZoneDatabase::bundled();
    let zones: Vec<_> = database.available().collect();
    let next = AtomicUsize::new(0);
    let judge_some = || {
        let mut windows = 0;
        while let Some(zone) = zones.get(next.fetch_add(1, Ordering::Relaxed)) {
            windows += judge(zone.as_str(), BEGIN, 3653);
        }
        windows
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let windows: usize = thread::scope(|scope| {
        let judges: Vec<_> = (0..processors).map(|_| scope.spawn(judge_some)).collect();
        let judged = judges.into_iter().map(|judge| judge.join());
        judged.map(|windows| windows.expect("no difference")).sum()
    });
    println!("{} zones, {windows} windows and openings", zones.len());
}
