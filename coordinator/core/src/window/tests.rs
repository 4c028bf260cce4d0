//! What a window is, and when it is open.

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
fn a_whole_day_is_as_long_as_the_day() {
    // 2026-03-07 is a Saturday. In the night after it the clocks of New York and, at midnight, those of
    // Havana are put forward; on 2026-11-01 and on 2025-11-02 they are put back.
    for (days, zone, now, expected) in [
        (
            &["sat"][..],
            "UTC",
            "2026-03-06T23:59:59Z",
            "closed until 2026-03-07T00:00:00Z",
        ),
        (
            &["sat"],
            "UTC",
            "2026-03-07T00:00:00Z",
            "open until 2026-03-08T00:00:00Z",
        ),
        (
            &["sat"],
            "UTC",
            "2026-03-08T00:00:00Z",
            "closed until 2026-03-14T00:00:00Z",
        ),
        (
            &[],
            "UTC",
            "2026-03-08T00:00:00Z",
            "open until 2026-03-09T00:00:00Z",
        ),
        (
            &["sun"],
            "America/New_York",
            "2026-03-08T05:00:00Z",
            "open until 2026-03-09T04:00:00Z",
        ),
        (
            &["sun"],
            "America/New_York",
            "2026-11-01T04:00:00Z",
            "open until 2026-11-02T05:00:00Z",
        ),
        (
            &["sun"],
            "America/Havana",
            "2026-03-08T04:59:59Z",
            "closed until 2026-03-08T05:00:00Z",
        ),
        (
            &["sun"],
            "America/Havana",
            "2026-03-08T05:00:00Z",
            "open until 2026-03-09T04:00:00Z",
        ),
        (
            &["sun"],
            "America/Havana",
            "2025-11-02T04:00:00Z",
            "open until 2025-11-03T05:00:00Z",
        ),
    ] {
        check("00:00-24:00", days, zone, now, expected);
    }
}

#[test]
fn what_is_written_means_the_same_when_it_is_read_again() {
    for (text, shown, hours) in [
        ("00:00-24:00", "00:00-24:00", 24),
        ("22:00-24:00", "22:00-00:00", 2),
        ("22:00-00:00", "22:00-00:00", 2),
        ("00:00-23:00", "00:00-23:00", 23),
        ("23:00-22:00", "23:00-22:00", 23),
    ] {
        let window: Window = text.parse().expect(text);
        assert_eq!(window.to_string(), shown);
        assert_eq!(shown.parse(), Ok(window.clone()), "{text}");
        let length = std::time::Duration::from_secs(hours * 3600);
        assert_eq!(window.nominal_length(), length, "{text}");
        let window = window.on_days([day("sat").expect("a day")]);
        let stored = serde_json::to_string(&window).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Window>(&stored).expect("a window"),
            window
        );
    }
    // As journals have had them from the beginning.
    let old = r#"{"times":"22:00-00:00","days":[6]}"#;
    let old: Window = serde_json::from_str(old).expect("a window");
    assert_eq!(old.to_string(), "Sat 22:00-00:00");
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
        "00:00-00:00",
        "24:00-02:00",
        "24:00-24:00",
        "02:00-24:01",
        "02:00-24",
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
