//! Runs that clean up: who is asked, what comes of it, and what is told.

use std::{collections::BTreeMap, time::Duration};

use common::{CleanUp, CleanedUp, MachineName, ScheduleName, Timestamp};

use super::{
    ScheduleRun,
    due::{TO_HEAR, UnderWay},
};
use crate::{decide::Draft, fleet::Fleet, wait::WaitReason};

/// How many of the newest generations stay where the configuration does not say.
pub const KEEP: u32 = 5;

/// Up to which age generations stay where it does not say.
pub const KEEP_FOR: Duration = Duration::from_secs(14 * 24 * 3600);

/// How long machines have for a cleanup: an hour by their own limit, and some time before it for an
/// attempt that is under way.
const CLEANED_WITHIN: Duration = Duration::from_secs(90 * 60);

/// A cleanup that a machine is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CleanUpWanted {
    /// What is to be kept.
    cleanup: CleanUp,
    /// Nobody waits for it any more from here on.
    until: Timestamp,
}

impl Fleet {
    /// Asks every machine of the run that is there and can clean up. Its number is the run's, which is
    /// a fact: asking the same again, by another process, asks nobody for anything new.
    pub(super) fn ask_to_clean_up(
        &mut self,
        run: &ScheduleRun,
        cleanup: CleanUp,
        now: Timestamp,
        draft: &mut Draft,
    ) -> UnderWay {
        let until = now + CLEANED_WITHIN + TO_HEAR;
        let mut begun = UnderWay::new(run.number, until);
        begun.request = run.number;
        for machine in self.machines_of(&run.groups) {
            let known = self.facts().machines.get(&machine);
            let report = known.and_then(|known| known.report.as_ref());
            match report {
                Some(_) if self.is_offline(&machine, now) => begun.offline.push(machine),
                Some(report) if report.cleaned_up.is_none() => begun.unable.push(machine),
                Some(_) => begun.machines.push(machine),
                None => begun.offline.push(machine),
            }
        }
        for machine in &begun.machines {
            let wanted = self.hearsay.cleanups.entry(machine.clone()).or_default();
            wanted.insert(run.number, CleanUpWanted { cleanup, until });
        }
        draft.wake.extend(begun.machines.iter().cloned());
        begun
    }

    /// The cleanup that a machine is to be asked for now, and its number.
    pub(crate) fn cleanup_wanted(
        &self,
        machine: &MachineName,
        now: Timestamp,
    ) -> Option<(u64, CleanUp)> {
        let (request, wanted) = self.open_cleanup(machine, now)?;
        Some((request, wanted.cleanup))
    }

    /// The machine is not to clean up first.
    pub(crate) fn cleaned_up(
        &self,
        machine: &MachineName,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        match self.open_cleanup(machine, now) {
            Some((_, wanted)) => Err(WaitReason::CleaningUp {
                until: Some(wanted.until),
                zone: self.zone_of(machine),
            }),
            None => Ok(()),
        }
    }

    /// What a machine is to be asked for next that it has not answered. One that is away on account
    /// of a failure is left as it is: somebody is to look at it first. What must not wait does not wait
    /// for a cleanup.
    fn open_cleanup(&self, machine: &MachineName, now: Timestamp) -> Option<(u64, CleanUpWanted)> {
        let wanted = self.hearsay.cleanups.get(machine)?;
        let failed = self.facts().machines.get(machine)?.failed.as_ref();
        let engaged = self.engagement(machine);
        if engaged.is_some_and(|(rollout, _)| rollout.immediate) {
            return None;
        }
        let mut open = wanted.iter().filter(|(_, wanted)| now < wanted.until);
        let (request, wanted) = open.next().filter(|_| failed.is_none())?;
        Some((*request, *wanted))
    }

    /// A machine says what came of its last cleanup.
    pub(crate) fn has_cleaned_up(
        &mut self,
        machine: &MachineName,
        done: &CleanedUp,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        if !self.forget_cleanup(machine, done.request) {
            return;
        }
        for run in self.hearsay.under_way.values_mut() {
            if run.request == done.request && run.machines.contains(machine) {
                run.answers.insert(machine.clone(), done.clone());
            }
        }
        self.has_answered(machine, now, draft);
    }

    /// The machine is not to be asked for this any more; whether it was.
    pub(super) fn forget_cleanup(&mut self, machine: &MachineName, request: u64) -> bool {
        let Some(wanted) = self.hearsay.cleanups.get_mut(machine) else {
            return false;
        };
        let known = wanted.remove(&request).is_some();
        if wanted.is_empty() {
            self.hearsay.cleanups.remove(machine);
        }
        known
    }

    /// What came of the run, once all have answered or had their time.
    pub(super) fn all_cleaned_up(
        &mut self,
        name: &ScheduleName,
        run: &ScheduleRun,
        now: Timestamp,
        draft: &mut Draft,
    ) -> Option<(bool, String)> {
        let asked = self.under_way(name, run, now, draft);
        if now < asked.until && asked.answers.len() < asked.machines.len() {
            return None;
        }
        Some(summary(&asked))
    }
}

/// Whether all is as it should be, and a sentence. Who is offline is cleaned up another time.
fn summary(run: &UnderWay) -> (bool, String) {
    let done = || run.answers.values().filter(|done| done.failure.is_none());
    let removed: u64 = run
        .answers
        .values()
        .map(|done| u64::from(done.removed))
        .sum();
    let freed = run.answers.values().map(|done| done.freed_bytes);
    let freed = freed.fold(0, u64::saturating_add);
    let mut text = format!(
        "cleaned up {}, {} removed, {} freed",
        counted(done().count(), "machine"),
        counted(usize::try_from(removed).unwrap_or(usize::MAX), "generation"),
        size(freed)
    );
    let failures = run.answers.iter().filter_map(|(machine, done)| {
        let why = done.failure.as_ref()?;
        Some(format!("{machine} ({why})"))
    });
    let silent = run.machines.iter();
    let silent = silent.filter(|machine| !run.answers.contains_key(*machine));
    let names = |machines: &[MachineName]| machines.iter().map(ToString::to_string).collect();
    let parts: [(&str, Vec<String>); 4] = [
        ("failed", failures.collect()),
        ("silent", silent.map(ToString::to_string).collect()),
        ("its agent cannot clean up", names(&run.unable)),
        ("offline", names(&run.offline)),
    ];
    let succeeded = parts[..3].iter().all(|(_, who)| who.is_empty());
    for (what, who) in parts {
        if !who.is_empty() {
            text.push_str(&format!("; {what}: {}", who.join(", ")));
        }
    }
    (succeeded, text)
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Bytes for a person: `1.4 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut shown = format!("{bytes} B");
    let mut unit: u64 = 1;
    for name in UNITS {
        unit *= 1024;
        if bytes < unit {
            break;
        }
        let tenths = u128::from(bytes) * 10 / u128::from(unit);
        shown = format!("{}.{} {name}", tenths / 10, tenths % 10);
    }
    shown
}

/// Machines that are to be asked, by the numbers of the runs that want it.
pub(crate) type CleanUps = BTreeMap<MachineName, BTreeMap<u64, CleanUpWanted>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_units_that_fit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
