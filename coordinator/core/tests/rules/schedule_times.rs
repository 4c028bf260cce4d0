//! When a schedule runs: changes of the clocks, jitter, days that do not exist; and random times against
//! a slow oracle that asks every minute.

use std::time::Duration;

use common::Timestamp;
use coordinator_core::schedule::{CronFault, When};
use jiff::{ToSpan as _, civil::Date, tz::AmbiguousOffset, tz::TimeZoneDatabase};
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    let instant: jiff::Timestamp = text.parse().expect(text);
    Timestamp(instant.as_millisecond())
}

fn shown(at: Timestamp) -> String {
    let instant = jiff::Timestamp::from_millisecond(at.as_millis());
    instant.expect("in range").to_string()
}

fn when(cron: &str, zone: &str) -> When {
    When::new(cron, zone, Duration::ZERO).expect(cron)
}

/// The next three instants.
#[track_caller]
fn check(cron: &str, zone: &str, from: &str, expected: [&str; 3]) {
    let when = when(cron, zone);
    let name = "x".parse().expect("a name");
    let mut after = at(from);
    for expected in expected {
        let next = when.next(&name, after).expect("there is one");
        assert_eq!(shown(next.at), expected, "{cron} {zone}");
        let last = when.last_before(next.at + Duration::from_secs(1));
        assert_eq!(last, Some(next.at), "{cron} {zone}, looking back");
        after = next.at;
    }
}

#[test]
fn the_documents_three_lines() {
    let monday = "2026-03-02T08:00:00Z";
    check(
        "0 2 * * 0",
        "UTC",
        monday,
        [
            "2026-03-08T02:00:00Z",
            "2026-03-15T02:00:00Z",
            "2026-03-22T02:00:00Z",
        ],
    );
    check(
        "0 3 * * *",
        "UTC",
        monday,
        [
            "2026-03-03T03:00:00Z",
            "2026-03-04T03:00:00Z",
            "2026-03-05T03:00:00Z",
        ],
    );
    check(
        "0 1 * * *",
        "Europe/Oslo",
        monday,
        [
            "2026-03-03T00:00:00Z",
            "2026-03-04T00:00:00Z",
            "2026-03-05T00:00:00Z",
        ],
    );
}

#[test]
fn what_does_not_exist_is_the_change_and_what_exists_twice_the_first() {
    // Clocks go from 02:00 to 03:00 at 01:00Z on 29 March, and back from 03:00 to 02:00 on 25 October.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        [
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z",
            "2026-03-31T00:30:00Z",
        ],
    );
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        [
            "2026-10-25T00:30:00Z",
            "2026-10-26T01:30:00Z",
            "2026-10-27T01:30:00Z",
        ],
    );
    // "Every" hour goes by what passes.
    check(
        "0 * * * *",
        "Europe/Berlin",
        "2026-10-24T23:30:00Z",
        [
            "2026-10-25T00:00:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T02:00:00Z",
        ],
    );
}

#[test]
fn what_is_no_time_is_refused() {
    for bad in [
        "",
        "0 2 * *",
        "0 0 2 * * 0",
        "60 2 * * *",
        "0 25 * * *",
        "0 2 * * 9",
        "@reboot",
        "soon",
    ] {
        let error = When::new(bad, "UTC", Duration::ZERO).expect_err(bad);
        assert!(matches!(error, CronFault::Syntax { .. }), "{bad}: {error}");
    }
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2 +1"] {
        let fault = when(never, "UTC").judge();
        assert_eq!(fault, Err(CronFault::Never(never.to_owned())));
    }
    for rare in ["0 0 29 2 *", "0 0 L * *", "0 0 * * 1#5", "@yearly"] {
        assert_eq!(when(rare, "UTC").judge(), Ok(()), "{rare}");
    }
    let hourly = |minutes: u64| When::new("0 * * * *", "UTC", Duration::from_secs(minutes * 60));
    assert_eq!(hourly(59).expect("read").judge(), Ok(()));
    let fault = hourly(60).expect("read").judge().expect_err("too long");
    assert!(matches!(fault, CronFault::Jitter { .. }), "{fault}");
    assert!(matches!(
        When::new("@daily", "Mars/Base", Duration::ZERO),
        Err(CronFault::Zone(_))
    ));
}

#[test]
fn jitter_is_the_same_whoever_asks_and_another_for_every_name_and_instant() {
    let when = When::new("0 2 * * *", "UTC", Duration::from_secs(3600)).expect("read");
    let spread = |name: &str| {
        let name = name.parse().expect(name);
        let mut after = at("2026-03-02T08:00:00Z");
        let dues = (0..50).map(|_| {
            let planned = when.next(&name, after).expect("daily");
            after = planned.at;
            planned.due.since(planned.at).as_secs()
        });
        dues.collect::<Vec<u64>>()
    };
    let (one, other) = (spread("one"), spread("other"));
    assert_eq!(one, spread("one"));
    assert_ne!(one, other);
    assert!(one.iter().all(|seconds| *seconds <= 3600));
    // Spread over the hour, not all in one part of it.
    for quarter in 0..4 {
        let range = quarter * 900..(quarter + 1) * 900;
        assert!(one.iter().any(|seconds| range.contains(seconds)), "{one:?}");
    }
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Sao_Paulo",
];

/// Every instant at which this clock time is shown on one of these days of the week, over so many days.
fn oracle(minute: i8, hour: i8, day: Option<i8>, zone: &str, from: Date, days: i32) -> Vec<i64> {
    let zone = TimeZoneDatabase::bundled().get(zone).expect(zone);
    let dates = (0..days).map(|n| from.checked_add(i64::from(n).days()).expect("a date"));
    let dates =
        dates.filter(|date| day.is_none_or(|day| date.weekday().to_sunday_zero_offset() == day));
    let instants = dates.map(|date| {
        let shown = date.at(hour, minute, 0, 0);
        let ambiguous = zone.to_ambiguous_timestamp(shown);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                ambiguous.earlier().expect("in range").as_millisecond()
            }
            // The first minute that shows a later time.
            AmbiguousOffset::Gap { .. } => {
                let mut at = ambiguous.earlier().expect("in range");
                at -= 4.hours();
                while at.to_zoned(zone.clone()).datetime() < shown {
                    at += 1.minute();
                }
                at.as_millisecond()
            }
        }
    });
    instants.collect()
}

proptest! {
    #[test]
    fn random_times_agree_with_a_slow_oracle(
        minute in 0_i8..60,
        hour in prop_oneof![3 => 0_i8..5, 1 => 0_i8..24],
        day in prop_oneof![1 => Just(None), 1 => (0_i8..7).prop_map(Some)],
        zone in prop::sample::select(&ZONES[..]),
        year in 2015_i16..2040,
        month in 1_i8..13,
    ) {
        let from = Date::new(year, month, 1).expect("a date");
        let expected = oracle(minute, hour, day, zone, from, 62);
        let dow = day.map_or_else(|| "*".to_owned(), |day| day.to_string());
        let when = when(&format!("{minute} {hour} * * {dow}"), zone);
        let name = "x".parse().expect("a name");
        let mut after = Timestamp(expected[0] - 1);
        let mut found = Vec::new();
        while found.len() < expected.len() {
            after = when.next(&name, after).expect("there is one").at;
            found.push(after.as_millis());
        }
        prop_assert_eq!(&found, &expected);
        // And looking back from anywhere between two of them.
        for pair in expected.windows(2) {
            let between = Timestamp(i64::midpoint(pair[0], pair[1]));
            prop_assert_eq!(when.last_before(between), Some(Timestamp(pair[0])));
        }
    }
}
