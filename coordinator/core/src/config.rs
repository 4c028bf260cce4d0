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
mod terms;
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
    calendar::Calendar,
    policy::{Policy, Share},
    schedule::Schedule,
    terms::{Shortest, Terms},
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
    /// The terms of whoever has none of its own.
    pub terms: Terms,
    /// The terms of machines that have others, be it by their group's keys or by keys of their own.
    pub own_terms: BTreeMap<MachineName, Terms>,
    /// The shortest of all of these.
    pub shortest: Shortest,
    /// A rollout that could go on but does not for this long pauses itself.
    pub no_progress: Duration,
    /// IANA name of the fleet's zone.
    pub timezone: String,
    /// Names of the channels that notifications go to.
    pub channels: Vec<String>,
    /// Webhook addresses of channels that have one.
    pub webhooks: BTreeMap<String, String>,
    /// Machines of all groups of a rollout together that may fail before it pauses itself; `None`:
    /// only each group counts.
    pub max_failures: Option<Share>,
    /// Machines that a target may fail on before it is put aside; `None`: any number.
    pub quarantine_target_after: Option<u32>,
    /// Machines that run a coordinator.
    pub coordinators: Vec<MachineName>,
    /// Whether nobody may approve a rollout of their own for a group that says nothing of it.
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
    /// The terms of those of its machines that have none of their own.
    pub terms: Terms,
    /// Whether nobody may approve a rollout of their own for it.
    pub four_eyes: bool,
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

    /// How long the machine is waited for, and what is put up with of it.
    pub fn terms_of(&self, machine: &MachineName) -> Terms {
        self.own_terms.get(machine).copied().unwrap_or(self.terms)
    }

    /// Whether nobody may approve a rollout of their own for this group.
    pub fn needs_four_eyes(&self, group: &GroupName) -> bool {
        let group = self.groups.get(group);
        group.map_or(self.four_eyes, |group| group.four_eyes)
    }

    /// Where the document sets what this key is for a machine.
    pub fn path_for_machine(&self, machine: &MachineName, key: &str) -> String {
        let of_its_group = || match self.group_of.get(machine) {
            Some(group) => self.path_for_group(group, key),
            None => format!("updateSettings.{key}"),
        };
        let own = self.path_below("updateMachines", machine.as_str(), key);
        own.unwrap_or_else(of_its_group)
    }

    /// Where the document sets what this key is for a group.
    pub fn path_for_group(&self, group: &GroupName, key: &str) -> String {
        let own = self.path_below("updateGroups", group.as_str(), key);
        own.unwrap_or_else(|| format!("updateSettings.{key}"))
    }

    /// Where the key is set under this name, or in the policy that is named there.
    fn path_below(&self, section: &str, name: &str, key: &str) -> Option<String> {
        let keys = self.document.get(section)?.get(name)?;
        let is_set = |keys: &Value| keys.get(key).is_some_and(|value| !value.is_null());
        if is_set(keys) {
            return Some(format!("{section}.{name}.{key}"));
        }
        let policy = keys.get("updatePolicy")?.as_str()?;
        let keys = self.document.get("updatePolicies")?.get(policy)?;
        is_set(keys).then(|| format!("updatePolicies.{policy}.{key}"))
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
