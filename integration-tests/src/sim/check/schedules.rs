//! Runs of schedules: none begins when it has become too late for it, and that somebody is busy is no reason
//! for the others.

use std::time::Duration;

use coordinator_core::{
    Change, Fleet, Request,
    schedule::{CATCH_UP, ON_TIME, ScheduleRun, ScheduleStep},
};

use super::super::driver::Ask;

/// What is wrong with a change of a run, against the state before it.
pub(super) fn check(before: &Fleet, ask: &Ask, change: &Change) -> Option<String> {
    let Change::Schedule { schedule, step } = change else {
        return None;
    };
    if let ScheduleStep::Began { run } = step
        && begins_too_late(before, schedule.as_str(), run)
    {
        return Some(format!(
            "a run of {schedule} begins although it is too late"
        ));
    }
    let ScheduleStep::Ended {
        succeeded: false,
        skipped: false,
        text,
        ..
    } = step
    else {
        return None;
    };
    let Ask::Other(Request::ScheduleResolved {
        schedule: answered,
        targets: Ok(targets),
        ..
    }) = ask
    else {
        return None;
    };
    // In the same moment a run of another one may have had its time.
    if answered != schedule {
        return None;
    }
    let run = before.facts().courses.get(schedule)?.run.as_ref()?;
    let mut named = targets
        .iter()
        .filter_map(|(machine, _)| before.group_of(machine));
    let somebody = named.any(|group| run.groups.is_empty() || run.groups.contains(group));
    let held = before.facts().stop.is_some();
    (somebody && !held).then(|| format!("the run of {schedule} has targets and fails: {text}"))
}

/// Whether the instant for which it was planned has been over for too long, by what the document says.
fn begins_too_late(before: &Fleet, schedule: &str, run: &ScheduleRun) -> bool {
    let config = before.facts().config.as_ref();
    let keys = config.map(|config| &config.document["schedules"][schedule]);
    let seconds = |key: &str| {
        keys.and_then(|keys| keys[key].as_u64())
            .map(Duration::from_secs)
    };
    let within = seconds("catchUpWithin").unwrap_or(CATCH_UP).max(ON_TIME);
    let jitter = seconds("jitter").unwrap_or_default();
    run.planned
        .is_some_and(|planned| run.began_at > planned + jitter + within)
}
