//! Alarms: machines that have run the same for too long, or have something newer that they do not run.
//! They are told once, and again when they have ended and begin anew; nothing waits for them.

use std::time::Duration;

use common::{MachineName, StorePath, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{change::Change, decide::Draft, fleet::Fleet, machine::Machine};

/// Machines told of at once. What is due beside them is told in the next moment.
const TOLD_AT_ONCE: usize = 500;

/// Machines named in a text.
const NAMED: usize = 5;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// It has run the same for too long.
    NotUpdated,
    /// It has obtained something else than it runs, or would boot something else, and has not gone
    /// there for too long.
    NotApplied,
}

/// How long each may last before it is told; zero: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarms {
    /// How long a machine may run the same.
    pub not_updated: Duration,
    /// How long it may have something else than it runs.
    pub not_applied: Duration,
}

impl Default for Alarms {
    /// Most fleets update every week, and once a month at the latest.
    fn default() -> Self {
        let days = |n: u64| Duration::from_secs(n * 24 * 3600);
        Self {
            not_updated: days(30),
            not_applied: days(7),
        }
    }
}

impl Alarm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::NotUpdated, Self::NotApplied];

    /// The kind, as in JSON and in the history.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NotUpdated => "not-updated",
            Self::NotApplied => "not-applied",
        }
    }

    /// What it says of machines, after their names.
    pub fn says(self) -> &'static str {
        match self {
            Self::NotUpdated => "not updated",
            Self::NotApplied => "staged, not applied",
        }
    }
}

impl Alarms {
    /// How long it may last; `None`: for ever.
    pub(crate) fn after(&self, alarm: Alarm) -> Option<Duration> {
        let after = match alarm {
            Alarm::NotUpdated => self.not_updated,
            Alarm::NotApplied => self.not_applied,
        };
        (!after.is_zero()).then_some(after)
    }
}

impl Machine {
    /// Since when this holds of the machine; `None`: it does not, or nobody knows since when.
    pub fn since(&self, alarm: Alarm) -> Option<Timestamp> {
        match alarm {
            Alarm::NotUpdated => self.runs_since,
            Alarm::NotApplied => self.unapplied_since,
        }
    }

    /// Since when it holds and is still to be told.
    pub(crate) fn untold(&self, alarm: Alarm) -> Option<Timestamp> {
        let told = self.told.contains(&alarm);
        self.since(alarm).filter(|_| !told)
    }

    /// Takes in what a report, taken over just now, says of what it runs.
    pub(crate) fn look_at_what_runs(&mut self, before: Option<&StorePath>, at: Option<Timestamp>) {
        let Some(report) = &self.report else { return };
        let running = report.running.as_ref();
        if running != before || self.runs_since.is_none() {
            self.runs_since = at.filter(|_| running.is_some());
            self.told.remove(&Alarm::NotUpdated);
        }
        let staged = report.staged.as_ref().map(|staged| &staged.path);
        let mut others = staged.into_iter().chain(&report.profile);
        let waits = running.is_some() && others.any(|other| Some(other) != running);
        if !waits {
            self.unapplied_since = None;
            self.told.remove(&Alarm::NotApplied);
        } else if self.unapplied_since.is_none() {
            self.unapplied_since = at;
        }
    }
}

impl Fleet {
    /// Tells what has lasted for too long.
    pub(crate) fn look_at_alarms(&mut self, now: Timestamp, draft: &mut Draft) {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): nobody looks.
        if self.has(crate::bug::Bug::NoAlarms) {
            return;
        }
        for alarm in Alarm::ALL {
            let lasting = self.index().lasting.get(&alarm).into_iter().flatten();
            let due = lasting.take_while(|(due, _)| *due <= now);
            let since = |machine| self.facts().machines.get(machine)?.since(alarm);
            let machines: Vec<(MachineName, Timestamp)> = due
                .filter_map(|(_, machine)| Some((machine.clone(), since(machine)?)))
                .take(TOLD_AT_ONCE)
                .collect();
            if machines.is_empty() {
                continue;
            }
            let change = Change::Alarmed {
                alarm,
                machines,
                at: now,
            };
            self.commit(draft, change);
        }
    }

    /// When the next one has lasted for too long.
    pub(crate) fn alarm_deadline(&self, now: Timestamp) -> Timestamp {
        let lasting = self.index().lasting.values();
        let due = lasting
            .filter_map(|lasting| lasting.first())
            .map(|(due, _)| *due);
        due.min().map_or(Timestamp::MAX, |due| due.max(now))
    }

    /// The alarms that hold of a machine, and since when.
    pub fn alarms_of(&self, machine: &MachineName, now: Timestamp) -> Vec<(Alarm, Timestamp)> {
        let known = self.facts().machines.get(machine);
        let known = known.filter(|_| self.group_of(machine).is_some());
        let holds = |alarm: Alarm| {
            let after = self.terms_of(machine).alarms.after(alarm)?;
            let since = known?.since(alarm)?;
            (since + after <= now).then_some((alarm, since))
        };
        Alarm::ALL.into_iter().filter_map(holds).collect()
    }
}

/// What people are told: who, and for how many days the longest of them.
pub fn text(alarm: Alarm, machines: &[(MachineName, Timestamp)], at: Timestamp) -> String {
    let longest = machines.iter().map(|(_, since)| at.since(*since)).max();
    let days = longest.unwrap_or_default().as_secs() / (24 * 3600);
    let named: Vec<&str> = machines
        .iter()
        .take(NAMED)
        .map(|(m, _)| m.as_str())
        .collect();
    let mut names = named.join(", ");
    if let Some(others @ 1..) = machines.len().checked_sub(NAMED) {
        names.push_str(&format!(" and {others} more"));
    }
    let says = alarm.says();
    format!("{names}: {says} for {days} days; `lab machines list`, `lab why MACHINE`")
}
