//! Maintenance windows once more, read off the wall clock of the zone: slower and simpler than the
//! coordinator's own arithmetic, and without anything of it.

use std::time::Duration;

use common::Timestamp;
use coordinator_core::{policy::Policy, window};
use jiff::{ToSpan as _, Zoned, tz::TimeZone};
use serde_json::Value;

use super::events::{self, Event};

/// Why a machine that needs so long may not go at this time, when its windows or what it avoids forbid
/// it. The document says what is avoided.
pub(crate) fn outside(
    policy: &Policy,
    document: &Value,
    needs: Duration,
    now: Timestamp,
) -> Option<String> {
    let zone = window::zone(&policy.timezone).ok()?;
    let now = jiff::Timestamp::from_millisecond(now.as_millis())
        .ok()?
        .to_zoned(zone.clone());
    let end = now
        .checked_add(jiff::SignedDuration::try_from(needs).ok()?)
        .ok()?;
    let avoided = avoided(policy, document);
    let events = events(policy, document);
    let within = |clocks: &[&Zoned]| {
        let windows = &policy.windows;
        let inside = |window: &window::Window| {
            let window = window.to_string();
            clocks.iter().any(|clock| shows_inside(&window, clock))
        };
        let open = windows.is_empty() || windows.iter().any(inside);
        let forbids = |entry: &String| clocks.iter().all(|clock| forbids(entry, clock));
        let happens = |event: &Event| clocks.iter().all(|clock| event.forbids(clock));
        open && !avoided.iter().any(forbids) && !events.iter().any(happens)
    };
    // In an hour that comes twice, a clock that was not put back counts as well: of two times, one may be
    // of the first hour and the other after it.
    let twice = zone.to_ambiguous_zoned(now.datetime()).is_ambiguous();
    let before = now.checked_sub(2.hours()).ok()?.offset();
    let not_put_back = now.with_time_zone(TimeZone::fixed(before));
    if twice && within(&[&now, &not_put_back]) {
        return None;
    }
    // On the day on which the clocks change, only the beginning is held against the wall clock.
    let steady = now.offset() == end.offset();
    let last = end.checked_sub(1.second()).ok()?;
    if within(&[&now]) && (!steady || within(&[&last])) {
        return None;
    }
    Some(format!("at {now}, outside of its window"))
}

/// Whether the windows of the policy are open, with nothing avoided; `None` in an hour that comes twice, where a
/// clock on the wall does not tell.
pub(crate) fn is_open(policy: &Policy, now: Timestamp) -> Option<bool> {
    let zone = window::zone(&policy.timezone).ok()?;
    let now = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?;
    let now = now.to_zoned(zone.clone());
    if zone.to_ambiguous_zoned(now.datetime()).is_ambiguous() {
        return None;
    }
    let shows = |window: &window::Window| shows_inside(&window.to_string(), &now);
    Some(policy.windows.iter().any(shows))
}

/// The entries of the calendars that the policy avoids, as they are written.
fn avoided(policy: &Policy, document: &Value) -> Vec<String> {
    let calendars = &document["updateSettings"]["calendars"];
    let entries = policy.avoid.iter().flat_map(|name| {
        let calendar = &calendars[name];
        [&calendar["hours"], &calendar["dates"]]
    });
    let texts = entries.filter_map(Value::as_array).flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The events of those calendars.
fn events(policy: &Policy, document: &Value) -> Vec<Event> {
    let calendars = &document["updateSettings"]["calendars"];
    let texts = policy
        .avoid
        .iter()
        .filter_map(|name| calendars[name]["ics"].as_str());
    texts.flat_map(events::of).collect()
}

/// Whether an entry forbids what the wall shows: `09:10-09:50`, `2026-12-24/2026-12-26`, `12-24`.
fn forbids(entry: &str, at: &Zoned) -> bool {
    if entry.contains(':') {
        return shows_inside(entry, at);
    }
    let today = at.strftime("%Y-%m-%d").to_string();
    match entry.split_once('/') {
        Some((from, to)) => from <= today.as_str() && today.as_str() <= to,
        None => today.ends_with(&format!("-{entry}")),
    }
}

/// Whether a clock on the wall shows a time within `[Mon ]02:00-06:00`; no clock shows the 24:00 of `00:00-24:00`.
fn shows_inside(window: &str, at: &Zoned) -> bool {
    let mut days: Vec<&str> = window.split(' ').collect();
    let Some((from, to)) = days.pop().and_then(|times| times.split_once('-')) else {
        return false;
    };
    let on = |at: &Zoned| {
        let day = at.strftime("%a").to_string();
        days.is_empty() || days.contains(&day.as_str())
    };
    let clock = at.strftime("%H:%M").to_string();
    let clock = clock.as_str();
    if from < to {
        return from <= clock && clock < to && on(at);
    }
    let yesterday = at.yesterday().ok();
    (from <= clock && on(at)) || (clock < to && yesterday.is_some_and(|day| on(&day)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_shows_whole_days_as_well() {
        // 2026-03-07 is a Saturday.
        for (window, at, inside) in [
            ("00:00-24:00", "2026-03-07T00:00[UTC]", true),
            ("00:00-24:00", "2026-03-07T23:59[UTC]", true),
            ("Sat 00:00-24:00", "2026-03-07T23:59[UTC]", true),
            ("Sat 00:00-24:00", "2026-03-08T00:00[UTC]", false),
            ("Sat 00:00-24:00", "2026-03-06T23:59[UTC]", false),
            ("Sat 22:00-24:00", "2026-03-07T22:00[UTC]", true),
            ("Sat 22:00-24:00", "2026-03-08T00:00[UTC]", false),
            ("Sat 22:00-00:00", "2026-03-07T23:59[UTC]", true),
            ("Sat 22:00-00:00", "2026-03-08T00:00[UTC]", false),
        ] {
            let clock: Zoned = at.parse().expect(at);
            assert_eq!(shows_inside(window, &clock), inside, "{window} at {at}");
        }
    }
}
