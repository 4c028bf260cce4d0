//! Maintenance windows once more, read off the wall clock of the zone: slower and simpler than the
//! coordinator's own arithmetic, and without anything of it.

use common::Timestamp;
use coordinator_core::{policy::Policy, window};
use jiff::{ToSpan as _, Zoned, tz::TimeZone};

/// Why a machine may not go at this time, when its windows forbid it.
pub(crate) fn outside(policy: &Policy, now: Timestamp) -> Option<String> {
    if policy.windows.is_empty() {
        return None;
    }
    let zone = window::zone(&policy.timezone).ok()?;
    let now = jiff::Timestamp::from_millisecond(now.as_millis())
        .ok()?
        .to_zoned(zone.clone());
    let end = now
        .checked_add(jiff::SignedDuration::try_from(policy.expected_duration).ok()?)
        .ok()?;
    let within = |at: &Zoned| {
        policy
            .windows
            .iter()
            .any(|window| shows_inside(&window.to_string(), at))
    };
    // In an hour that comes twice, a clock that was not put back counts as well.
    let twice = zone.to_ambiguous_zoned(now.datetime()).is_ambiguous();
    let before = now.checked_sub(2.hours()).ok()?.offset();
    let not_put_back = now.with_time_zone(TimeZone::fixed(before));
    if twice && within(&not_put_back) {
        return None;
    }
    // On the day on which the clocks change, only the beginning is held against the wall clock.
    let steady = now.offset() == end.offset();
    let last = end.checked_sub(1.second()).ok()?;
    if within(&now) && (!steady || within(&last)) {
        return None;
    }
    Some(format!("at {now}, outside of its window"))
}

/// Whether a clock on the wall shows a time within `[Mon ]02:00-06:00`.
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
