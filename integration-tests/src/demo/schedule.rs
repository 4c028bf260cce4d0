//! When the demo's night begins, how fast it passes and how long it takes: computed from the
//! fleet's windows, soaks and staggers before anything is started.

use std::{collections::BTreeMap, time::Duration};

use common::{GroupName, Timestamp};
use coordinator_core::{
    config::{FleetConfig, GroupConfig},
    plan::in_dependency_order,
    window::{WindowState, state_of, zone},
};

use super::{error::DemoError, options::SPEED_MAX};

/// The real time that the rollout is to take; starting and ending come on top, and all of it is to
/// stay well under a minute.
const ROLLOUT_REAL: Duration = Duration::from_secs(40);

/// Real time before the first group may go: everything is started and staged in it.
const LEAD_REAL: Duration = Duration::from_secs(4);

/// Real time that one attempt takes on a small host.
const ATTEMPT_REAL: Duration = Duration::from_millis(1500);

/// Slowest speed that is chosen by itself: below it, little happens for a long time.
const SPEED_MIN: f64 = 60.0;

/// The demo's night.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    /// The fleet's time when the demo starts its programs.
    pub(super) start: Timestamp,
    /// How many times as fast as real time the fleet lives.
    pub(super) speed: f64,
    /// The real time until everything is expected to have ended.
    pub(super) expected: Duration,
}

impl Schedule {
    /// For this fleet, in a night that is over in real time: certificates are checked by real
    /// clocks too. `speed` is chosen when it is not given.
    pub(super) fn plan(
        config: &FleetConfig,
        now: Timestamp,
        speed: Option<f64>,
    ) -> Result<Self, DemoError> {
        // A weekly window lies within eight days.
        let from = now - Duration::from_secs(8 * 24 * 3600);
        let fast = speed.unwrap_or(SPEED_MAX);
        let (first, last) = whole_night(config, from, ATTEMPT_REAL.mul_f64(fast))?;
        let speed = speed.unwrap_or_else(|| {
            let wanted = last.since(first).as_secs_f64() / ROLLOUT_REAL.as_secs_f64();
            wanted.ceil().clamp(SPEED_MIN, SPEED_MAX)
        });
        let (first, last) = whole_night(config, from, ATTEMPT_REAL.mul_f64(speed))?;
        Ok(Self {
            start: first - LEAD_REAL.mul_f64(speed),
            speed,
            expected: LEAD_REAL + last.since(first).div_f64(speed),
        })
    }
}

/// The night that begins when the first window opens: one that began in the middle of it might not get
/// done before the last one shuts.
fn whole_night(
    config: &FleetConfig,
    from: Timestamp,
    attempt: Duration,
) -> Result<(Timestamp, Timestamp), DemoError> {
    for hours in 0..24 {
        let from = from + Duration::from_secs(hours * 3600);
        let (first, last) = night(config, from, attempt)?;
        if from < first {
            return Ok((first, last));
        }
    }
    // The first may go at any time.
    night(config, from, attempt)
}

/// When the first group begins and the last one ends, when every attempt takes this long.
fn night(
    config: &FleetConfig,
    from: Timestamp,
    attempt: Duration,
) -> Result<(Timestamp, Timestamp), DemoError> {
    let dependencies: Vec<(&GroupName, &[GroupName])> = config
        .groups
        .iter()
        .map(|(name, group)| (name, group.policy.dependencies.as_slice()))
        .collect();
    let mut first: Option<Timestamp> = None;
    let mut ends: BTreeMap<&GroupName, Timestamp> = BTreeMap::new();
    for name in in_dependency_order(&dependencies) {
        let Some(group) = config.groups.get(name) else {
            continue;
        };
        let ready = group.policy.dependencies.iter().filter_map(|dependency| {
            let end = ends.get(dependency)?;
            Some(*end + config.stagger_of(dependency))
        });
        // Groups that wait for nobody begin in the same night.
        let ready = ready.max().or(first).unwrap_or(from);
        let (begin, end) = span(name, group, ready, attempt)?;
        first = Some(first.map_or(begin, |first| first.min(begin)));
        ends.insert(name, end);
    }
    let last = ends.values().max().copied().unwrap_or(from);
    Ok((first.unwrap_or(from), last))
}

/// When a group begins and ends that may begin at `ready`.
fn span(
    name: &GroupName,
    group: &GroupConfig,
    ready: Timestamp,
    attempt: Duration,
) -> Result<(Timestamp, Timestamp), DemoError> {
    let policy = &group.policy;
    let size = u32::try_from(group.machines.len()).unwrap_or(u32::MAX);
    let canary = policy.canary.min(size.saturating_sub(1));
    let mut waves = Vec::new();
    if canary > 0 {
        waves.push((canary, policy.canary_soak));
    }
    waves.push((size - canary, Duration::ZERO));
    let mut begin: Option<Timestamp> = None;
    let mut time = ready;
    for (machines, soak) in waves {
        let turns = machines.div_ceil(policy.max_parallel.max(1));
        for _ in 0..turns {
            time = opening(name, group, time)?;
            begin.get_or_insert(time);
            time = time + attempt;
        }
        time = time + soak;
    }
    Ok((begin.unwrap_or(ready), time))
}

/// The next instant from which an attempt may begin.
fn opening(name: &GroupName, group: &GroupConfig, from: Timestamp) -> Result<Timestamp, DemoError> {
    let policy = &group.policy;
    let never = || DemoError::NeverOpens(name.clone());
    let zone = zone(&policy.timezone).map_err(|_| never())?;
    let mut time = from;
    // A window that is too short now leads to its next opening, where it is long enough.
    for _ in 0..3 {
        match state_of(&policy.windows, time, &zone) {
            WindowState::Open { until } if time + policy.expected_duration <= until => {
                return Ok(time);
            }
            WindowState::Open { until } => time = until,
            WindowState::Closed { opens_at } => time = opens_at.ok_or_else(never)?,
        }
    }
    Err(never())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::fleet_file::Fleet, *};

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().expect("a time");
        Timestamp(time.as_millisecond())
    }

    #[test]
    fn the_documents_night_fits_into_a_minute() {
        let fleet = Fleet::load(None, &[]).expect("valid");
        // Whenever it is started, also while windows are open.
        for (now, night) in [
            ("2026-11-22T14:00:00Z", "2026-11-15T02:00:00Z"),
            ("2026-11-22T02:10:00Z", "2026-11-15T02:00:00Z"),
            ("2026-11-22T04:10:00Z", "2026-11-15T02:00:00Z"),
        ] {
            let schedule = Schedule::plan(&fleet.config, at(now), None).expect("a night");
            // From 02:00 to about 04:20, in one night.
            let open = schedule.start + LEAD_REAL.mul_f64(schedule.speed);
            assert_eq!(open, at(night), "{now}");
            assert!((200.0..250.0).contains(&schedule.speed), "{schedule:?}");
            let seconds = schedule.expected.as_secs_f64();
            assert!((35.0..50.0).contains(&seconds), "{schedule:?}");
        }
    }

    #[test]
    fn a_given_speed_is_kept() {
        let fleet = Fleet::load(None, &[]).expect("valid");
        let now = at("2026-11-22T14:00:00Z");
        let schedule = Schedule::plan(&fleet.config, now, Some(100.0)).expect("a night");
        assert!((schedule.speed - 100.0).abs() < f64::EPSILON);
        assert!(schedule.expected > Duration::from_secs(80));
    }

    #[test]
    fn what_does_not_fit_into_one_night_waits_for_the_next() {
        let document = json!({
            "updateGroups": {
                "first": {
                    "machines": ["a"], "maintenanceWindow": "02:00-02:30",
                    "updatePolicy": "aggressive", "staggerDelay": "1h"
                },
                "second": {
                    "machines": ["b"], "maintenanceWindow": "02:00-02:30",
                    "updatePolicy": "aggressive", "dependencies": ["first"]
                }
            }
        });
        let config = FleetConfig::parse(&document).expect("valid");
        let from = at("2026-11-15T12:00:00Z");
        let (first, last) = night(&config, from, Duration::from_secs(300)).expect("nights");
        assert_eq!(first, at("2026-11-16T02:00:00Z"));
        assert_eq!(last, at("2026-11-17T02:05:00Z"));
    }
}
