//! The fleet configuration: one document, read as a whole or refused as a whole.
//!
//! [`FleetConfig::parse`] takes the JSON of the document's `update-config.nix` as it stands. Every
//! fault is found and named with its key path, not only the first.

mod analysis;
mod calendars;
mod canary;
mod check;
mod machines;
mod over;
mod policies;
mod read;
mod schedules;
mod section;
mod settings;
mod traffic;
mod waves;
mod windows;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use common::{GroupName, MachineName, ScheduleName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    alarm::Alarms,
    calendar::Calendar,
    policy::{Policy, Share, Times},
    schedule::Schedule,
};

pub use section::duration;

/// Something wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// Where: `updateGroups.dev.maintenanceWindow`.
    pub path: String,
    /// What.
    pub message: String,
    /// What to try; may be empty.
    pub hint: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// A valid fleet configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct FleetConfig {
    /// The document it was read from, which is also how it is stored.
    pub document: Value,
    /// The groups, by name.
    pub groups: BTreeMap<GroupName, GroupConfig>,
    /// The rules of machines that have keys of their own: their group's, with those in their place.
    pub own: BTreeMap<MachineName, Policy>,
    /// Most machines of the fleet that may be away together; at least 1.
    pub max_parallel: u32,
    /// Times of the whole fleet.
    pub times: Times,
    /// IANA name of the fleet's zone.
    pub timezone: String,
    /// Names of the channels that notifications go to.
    pub channels: Vec<String>,
    /// Webhook addresses of channels that have one.
    pub webhooks: BTreeMap<String, String>,
    /// Machines of all groups of a rollout together that may fail before it pauses itself; `None`:
    /// only each group counts.
    pub max_failures: Option<Share>,
    /// Failed attempts in a row after which a machine is put aside; `None`: never.
    pub quarantine_after: Option<u32>,
    /// Machines that a target may fail on before it is put aside; `None`: any number.
    pub quarantine_target_after: Option<u32>,
    /// What is told of machines when it has lasted for so long.
    pub alarms: Alarms,
    /// Machines that run a coordinator.
    pub coordinators: Vec<MachineName>,
    /// Whether nobody may approve a rollout of their own.
    pub four_eyes: bool,
    /// Of each machine, those that may not be away together with it.
    pub apart: BTreeMap<MachineName, BTreeSet<MachineName>>,
    /// Times in which nothing begins, by the names under which groups avoid them.
    pub calendars: BTreeMap<String, Calendar>,
    /// What is done again and again, by name.
    pub schedules: BTreeMap<ScheduleName, Schedule>,
    /// The group of each machine.
    pub group_of: BTreeMap<MachineName, GroupName>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Its machines, in the order in which they are to go.
    pub machines: Vec<MachineName>,
    /// Its rules.
    pub policy: Policy,
}

/// A configuration that was refused, with every fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fleet configuration has {} faults, the first: {}", .0.len(), .0[0])]
pub struct Faults(pub Vec<Fault>);

impl FleetConfig {
    /// Reads a document.
    pub fn parse(document: &Value) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let read = read::document(document, &mut faults);
        if let Some((config, alone)) = &read {
            check::check(config, &mut faults);
            check::policies(alone, config, &mut faults);
        }
        match read {
            Some((config, _)) if faults.is_empty() => Ok(config),
            Some(_) | None => Err(Faults(faults)),
        }
    }

    /// The machine's group and its rules.
    pub fn home_of(&self, machine: &MachineName) -> Option<(&GroupName, &GroupConfig)> {
        self.groups.get_key_value(self.group_of.get(machine)?)
    }

    /// The rules that the machine's attempts obey: its own, or those of its group.
    pub fn policy_of(&self, machine: &MachineName) -> Option<&Policy> {
        let of_its_group = || Some(&self.home_of(machine)?.1.policy);
        self.own.get(machine).or_else(of_its_group)
    }

    /// How long time must pass after a group before its dependents begin.
    pub fn stagger_of(&self, group: &GroupName) -> Duration {
        self.groups
            .get(group)
            .map_or(Duration::ZERO, |group| group.policy.stagger)
    }
}

impl TryFrom<Value> for FleetConfig {
    type Error = Faults;

    /// Reads a document that was in force once. It obeyed the rules of its time: those of today
    /// are for new documents, and must not keep a coordinator from reading its journal.
    fn try_from(document: Value) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let read = read::document(&document, &mut faults);
        read.map(|(config, _)| config).ok_or(Faults(faults))
    }
}

impl From<FleetConfig> for Value {
    fn from(config: FleetConfig) -> Self {
        config.document
    }
}

#[cfg(test)]
mod tests;
