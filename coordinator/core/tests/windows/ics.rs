//! iCalendar texts: what people export, and what somebody would send to do harm.

use common::Timestamp;
use coordinator_core::{
    calendar::{
        Calendar, Says,
        ics::{Events, IcsError, TEXT_MAX},
    },
    window,
};

fn text(events: &str) -> String {
    format!("BEGIN:VCALENDAR\nVERSION:2.0\n{events}END:VCALENDAR\n")
}

fn event(lines: &str) -> String {
    text(&format!("BEGIN:VEVENT\n{lines}\nEND:VEVENT\n"))
}

fn at(time: &str) -> Timestamp {
    let time: jiff::Timestamp = time.parse().expect(time);
    Timestamp(time.as_millisecond())
}

/// The entry that says no, for a group in Berlin.
fn says(calendar: &str, time: &str) -> Option<String> {
    let events = Events::parse(calendar).expect("a calendar");
    let calendar = Calendar::new(Vec::new(), Vec::new(), events);
    match calendar.says(at(time), &window::zone("Europe/Berlin").expect("a zone")) {
        Says::Blocked { entry, .. } => Some(entry),
        Says::Free { .. } => None,
    }
}

#[track_caller]
fn table(calendar: &str, blocked: &[&str], free: &[&str]) {
    for time in blocked {
        assert!(says(calendar, time).is_some(), "{time} is free\n{calendar}");
    }
    for time in free {
        assert_eq!(says(calendar, time), None, "{time}\n{calendar}");
    }
}

#[test]
fn a_whole_day_is_one_of_whoever_avoids_it() {
    let one = event("SUMMARY:Christmas\\, first\nDTSTART;VALUE=DATE:20261225");
    table(
        &one,
        &["2026-12-24T23:00:00Z", "2026-12-25T22:59:00Z"],
        &["2026-12-24T22:59:00Z", "2026-12-25T23:00:00Z"],
    );
    let entry = says(&one, "2026-12-25T12:00:00Z");
    assert_eq!(entry.as_deref(), Some("Christmas, first"));
    // The last day is not one of it.
    let three = event("DTSTART;VALUE=DATE:20261224\nDTEND;VALUE=DATE:20261227");
    table(&three, &["2026-12-26T22:59:00Z"], &["2026-12-26T23:00:00Z"]);
}

#[test]
fn a_zone_of_its_own_is_kept_and_follows_the_clocks() {
    // Ten o'clock in New York, before and after its clocks change, and Berlin's at other days.
    let weekly = event(
        "DTSTART;TZID=America/New_York:20260302T100000\nDTEND;TZID=America/New_York:20260302T110000\n\
         RRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=4",
    );
    table(
        &weekly,
        &[
            "2026-03-02T15:00:00Z",
            "2026-03-09T14:00:00Z",
            "2026-03-23T14:30:00Z",
        ],
        &[
            "2026-03-09T15:00:00Z",
            "2026-03-16T15:00:00Z",
            "2026-03-30T14:00:00Z",
        ],
    );
    let utc = event("DTSTART:20260302T100000Z\nDURATION:PT90M");
    table(
        &utc,
        &["2026-03-02T11:29:00Z"],
        &["2026-03-02T11:30:00Z", "2026-03-02T09:59:00Z"],
    );
}

#[test]
fn a_series_has_its_exceptions_and_what_was_moved() {
    let series = text(
        "BEGIN:VEVENT\nUID:a\nDTSTART:20260302T080000\nDURATION:PT1H\n\
         RRULE:FREQ=DAILY;UNTIL=20260306T080000\nEXDATE:20260304T080000\n\
         RDATE:20260310T080000\nEND:VEVENT\n\
         BEGIN:VEVENT\nUID:a\nRECURRENCE-ID:20260305T080000\nDTSTART:20260305T200000\n\
         DURATION:PT1H\nEND:VEVENT\n\
         BEGIN:VEVENT\nUID:b\nSTATUS:CANCELLED\nDTSTART:20260307T080000\nDURATION:PT1H\nEND:VEVENT\n",
    );
    table(
        &series,
        &[
            "2026-03-02T07:30:00Z",
            "2026-03-05T19:30:00Z",
            "2026-03-06T07:30:00Z",
            "2026-03-10T07:30:00Z",
        ],
        &[
            "2026-03-04T07:30:00Z",
            "2026-03-05T07:30:00Z",
            "2026-03-07T07:30:00Z",
        ],
    );
}

#[test]
fn rules_of_every_kind_are_counted() {
    // The last Friday of each month, without end.
    let fridays = event("DTSTART;VALUE=DATE:20260130\nRRULE:FREQ=MONTHLY;BYDAY=-1FR");
    table(
        &fridays,
        &["2026-02-27T12:00:00Z", "2041-05-31T12:00:00Z"],
        &["2026-02-20T12:00:00Z"],
    );
    // Labour Day.
    let labour = event("DTSTART;VALUE=DATE:20260907\nRRULE:FREQ=YEARLY;BYMONTH=9;BYDAY=1MO");
    table(
        &labour,
        &["2027-09-06T12:00:00Z"],
        &["2027-09-07T12:00:00Z"],
    );
    let leap = event("DTSTART;VALUE=DATE:20240229\nRRULE:FREQ=YEARLY");
    table(
        &leap,
        &["2028-02-29T12:00:00Z"],
        &["2027-02-28T12:00:00Z", "2027-03-01T12:00:00Z"],
    );
    // Two that overlap are one time, and two that touch are two.
    let both = text(
        "BEGIN:VEVENT\nSUMMARY:a\nDTSTART:20260302T080000Z\nDURATION:PT2H\nEND:VEVENT\n\
         BEGIN:VEVENT\nSUMMARY:b\nDTSTART:20260302T090000Z\nDURATION:PT2H\nEND:VEVENT\n\
         BEGIN:VEVENT\nSUMMARY:c\nDTSTART:20260302T110000Z\nDURATION:PT1H\nEND:VEVENT\n",
    );
    assert_eq!(says(&both, "2026-03-02T10:30:00Z").as_deref(), Some("a"));
    assert_eq!(says(&both, "2026-03-02T11:30:00Z").as_deref(), Some("c"));
}

fn error(text: &str) -> IcsError {
    Events::parse(text).expect_err(text)
}

#[test]
fn outlook_writes_the_names_that_windows_has_for_zones() {
    // At 10:00 in winter and in summer, each for an hour; the zones without summer time as well.
    for (name, winter, summer) in [
        ("W. Europe Standard Time", "09:00", "08:00"),
        ("\"W. Europe Standard Time\"", "09:00", "08:00"),
        ("GMT Standard Time", "10:00", "09:00"),
        ("Greenwich Standard Time", "10:00", "10:00"),
        ("Pacific Standard Time", "18:00", "17:00"),
        ("India Standard Time", "04:30", "04:30"),
        ("Arab Standard Time", "07:00", "07:00"),
        ("UTC-02", "12:00", "12:00"),
    ] {
        let day = |month: u8| {
            let at = |hour: u8| format!("2026{month:02}10T{hour}0000");
            format!(
                "BEGIN:VEVENT\nDTSTART;TZID={name}:{}\nDTEND;TZID={name}:{}\nEND:VEVENT\n",
                at(10),
                at(11)
            )
        };
        let both = text(&(day(1) + &day(7)));
        let from = [
            format!("2026-01-10T{winter}:00Z"),
            format!("2026-07-10T{summer}:00Z"),
        ];
        for from in from {
            let last = Timestamp(at(&from).0 + 3_599_000);
            let [before, over] = [-1000, 3_600_000].map(|more| Timestamp(at(&from).0 + more));
            for (time, blocked) in [
                (at(&from), true),
                (last, true),
                (before, false),
                (over, false),
            ] {
                let shown = jiff::Timestamp::from_millisecond(time.0)
                    .expect("a time")
                    .to_string();
                assert_eq!(says(&both, &shown).is_some(), blocked, "{name} at {shown}");
            }
        }
    }
}

#[test]
fn every_name_of_windows_is_a_zone() {
    let zones = jiff::tz::TimeZoneDatabase::bundled();
    let names = zones.available().map(|zone| zone.to_string());
    let names: std::collections::BTreeSet<&str> = names
        .filter_map(|zone| localzone::iana_to_win_zone(&zone).map(|(name, _)| name))
        .collect();
    assert!(names.len() > 130, "{}", names.len());
    for name in names {
        let one = event(&format!("DTSTART;TZID={name}:20260310T100000"));
        assert!(Events::parse(&one).is_ok(), "{name}");
    }
}

#[test]
fn what_cannot_be_used_says_where_and_why() {
    let start = "DTSTART;VALUE=DATE:20260101";
    let rule = |rule: &str| event(&format!("{start}\nRRULE:{rule}"));
    let table = [
        (String::new(), 1, "END:VCALENDAR"),
        ("BEGIN:VCARD\nEND:VCARD\n".to_owned(), 1, "VCALENDAR must"),
        ("SUMMARY:x".to_owned(), 1, "VCALENDAR must"),
        (
            "BEGIN:VCALENDAR\nBEGIN:VEVENT\n".to_owned(),
            2,
            "END:VCALENDAR",
        ),
        (text("BEGIN:VEVENT\nEND:VTODO\n"), 4, "has not begun"),
        (text("no colon\n"), 3, "no line"),
        (event("SUMMARY:x"), 3, "no DTSTART"),
        (event("DTSTART:20260230"), 4, "not a date"),
        (event("DTSTART:20260101T1000"), 4, "not a date"),
        (
            event("DTSTART;TZID=Customized Time Zone:20260101T100000"),
            4,
            "with names of IANA or Windows",
        ),
        (
            event("DTSTART:20260101T100000\nDURATION:soon"),
            5,
            "not a duration",
        ),
        (
            event("DTSTART:20260102T100000\nDTEND:20260101T100000"),
            3,
            "before it begins",
        ),
        (
            event("DTSTART:20260102T100000Z\nDTEND:20260103T100000"),
            3,
            "different zones",
        ),
        (
            event("DTSTART;VALUE=DATE:20260101\nDTEND;VALUE=DATE:20280101"),
            3,
            "longer than a year",
        ),
        (event(&format!("{start}\nEXRULE:FREQ=DAILY")), 5, "EXRULE"),
        (
            event(&format!(
                "{start}\nRDATE;VALUE=PERIOD:20260101T000000Z/PT1H"
            )),
            5,
            "periods",
        ),
        (rule("FREQ=SECONDLY"), 5, "more often than once a day"),
        (rule("FREQ=MINUTELY;INTERVAL=5"), 5, "more often"),
        (rule("FREQ=HOURLY"), 5, "more often"),
        (rule("FREQ=DAILY;BYHOUR=1,2"), 5, "more often"),
        (rule("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30"), 5, "never comes"),
        (rule("FREQ=DAILY;UNTIL=20250101"), 5, "never comes"),
        (rule("FREQ=DAILY;UNTIL=later"), 5, "not a date"),
        (rule("FREQ=SOMETIMES"), 5, "more often"),
        (rule("INTERVAL=2"), 5, "no rule"),
        (rule("FREQ=DAILY;BYDAY=XX"), 5, "no rule"),
        (rule("FREQ=DAILY\nRRULE:FREQ=WEEKLY"), 6, "second rule"),
    ];
    for (text, line, what) in table {
        let found = error(&text);
        assert!(found.what.contains(what), "{what}: {found}\n{text}");
        assert_eq!(found.line, line, "{found}\n{text}");
    }
}

/// Whatever is sent, reading it ends.
#[test]
fn hostile_texts_are_refused_before_they_cost_much() {
    let many = |count: usize, lines: &str| {
        text(&format!("BEGIN:VEVENT\n{lines}\nEND:VEVENT\n").repeat(count))
    };
    let start = "DTSTART;VALUE=DATE:20200101";
    let texts = [
        ("x".repeat(TEXT_MAX + 1), "bytes"),
        (many(2001, start), "more than 2000 events"),
        (
            many(3, &format!("{start}\nRRULE:FREQ=DAILY")),
            "30000 times",
        ),
        (
            event(&format!("{start}\nRRULE:FREQ=DAILY;COUNT=4000000000")),
            "",
        ),
        (
            event("DTSTART;VALUE=DATE:19000101\nRRULE:FREQ=DAILY"),
            "comes more than",
        ),
        (
            many(
                2000,
                &format!("{start}\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"),
            ),
            "never comes",
        ),
        (
            many(
                2000,
                &format!("{start}\nRRULE:FREQ=MONTHLY;BYMONTHDAY=31;BYMONTH=4"),
            ),
            "never comes",
        ),
        (
            event(&format!("{start}\nRRULE:FREQ=WEEKLY;INTERVAL=99999")),
            "no rule",
        ),
        ("BEGIN:VCALENDAR\n".repeat(30_000), "nested"),
        (format!("BEGIN:VCALENDAR\nX:{}", " x\n".repeat(100_000)), ""),
    ];
    for (text, what) in texts {
        match Events::parse(&text) {
            Ok(_) => assert_eq!(what, ""),
            Err(error) => assert!(error.what.contains(what), "{what}: {error}"),
        }
    }
}
