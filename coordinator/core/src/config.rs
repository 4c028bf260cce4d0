//! The fleet configuration: one document, read as a whole or refused as a whole.
//!
//! [`FleetConfig::parse`] takes the JSON of the document's `update-config.nix` as it stands. Every
//! fault is found and named with its key path, not only the first.

mod check;
mod read;

use std::{collections::BTreeMap, fmt, time::Duration};

use common::{GroupName, MachineName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::{Policy, Times};

pub use read::duration;

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
        let config = read::document(document, &mut faults);
        if let Some(config) = &config {
            check::check(config, &mut faults);
        }
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            Some(_) | None => Err(Faults(faults)),
        }
    }

    /// The machine's group and its rules.
    pub fn home_of(&self, machine: &MachineName) -> Option<(&GroupName, &GroupConfig)> {
        self.groups.get_key_value(self.group_of.get(machine)?)
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

    fn try_from(document: Value) -> Result<Self, Faults> {
        Self::parse(&document)
    }
}

impl From<FleetConfig> for Value {
    fn from(config: FleetConfig) -> Self {
        config.document
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// The document's own configuration.
    fn document() -> Value {
        json!({
          "updateGroups": {
            "dev": {
              "machines": ["dev-01", "dev-02", "test-env"],
              "updatePolicy": "aggressive",
              "maintenanceWindow": "02:00-06:00",
              "allowReboot": true
            },
            "infrastructure": {
              "machines": ["monitor-01", "log-server", "backup-01"],
              "updatePolicy": "conservative",
              "maintenanceWindow": "03:00-05:00",
              "allowReboot": true,
              "dependencies": ["dev"]
            },
            "critical": {
              "machines": ["db-primary", "web-01", "web-02"],
              "updatePolicy": "manual-approval",
              "maintenanceWindow": "04:00-05:00",
              "allowReboot": false,
              "dependencies": ["infrastructure"]
            }
          },
          "updateSettings": {
            "maxParallel": 3,
            "healthCheckTimeout": 300,
            "rollbackOnFailure": true,
            "notificationChannels": ["email", "discord"]
          }
        })
    }

    #[test]
    fn the_documents_configuration_is_read_as_it_stands() {
        let config = FleetConfig::parse(&document()).expect("valid");
        assert_eq!(config.group_of.len(), 9);
        assert_eq!(config.max_parallel, 3);
        let critical = &config.groups[&"critical".parse::<GroupName>().expect("name")];
        assert!(critical.policy.needs_approval && !critical.policy.allow_reboot);
        assert_eq!(critical.policy.health_timeout, Duration::from_secs(300));
        assert_eq!(critical.policy.stagger, Duration::from_secs(1800));
        assert_eq!(critical.policy.canary, 1);
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let config = FleetConfig::parse(&document()).expect("valid");
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(
            serde_json::from_str::<FleetConfig>(&text).expect("valid"),
            config
        );
    }

    #[track_caller]
    fn faults(change: impl FnOnce(&mut Value)) -> BTreeSet<String> {
        let mut document = document();
        change(&mut document);
        match FleetConfig::parse(&document) {
            Ok(_) => BTreeSet::new(),
            Err(Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn every_fault_is_found_at_once() {
        let found = faults(|d| {
            d["updateGroups"]["dev"]["machines"] = json!(["dev-01", "dev-01", "../x"]);
            d["updateGroups"]["dev"]["maintenanceWindow"] = json!("6-2");
            d["updateGroups"]["dev"]["maxParalel"] = json!(2);
            d["updateGroups"]["dev"]["updatePolicy"] = json!("agressive");
            d["updateGroups"]["infrastructure"]["dependencies"] = json!(["devv"]);
            d["updateSettings"]["maxParallel"] = json!(0);
            d["updateSettings"]["staggerDelay"] = json!("-5m");
            d["updateSettings"]["timezone"] = json!("Mars/Olympus");
        });
        let paths: Vec<&str> = found
            .iter()
            .filter_map(|fault| fault.split(": ").next())
            .collect();
        assert_eq!(
            paths,
            [
                "updateGroups.dev.machines[1]",
                "updateGroups.dev.machines[2]",
                "updateGroups.dev.maintenanceWindow",
                "updateGroups.dev.maxParalel",
                "updateGroups.dev.updatePolicy",
                "updateGroups.infrastructure.dependencies[0]",
                "updateSettings.maxParallel",
                "updateSettings.staggerDelay",
                "updateSettings.timezone",
            ],
            "{found:#?}"
        );
    }

    #[track_caller]
    fn one(fault: &str, change: impl FnOnce(&mut Value)) {
        let found = faults(change);
        assert!(
            found.iter().any(|f| f.contains(fault)),
            "{fault:?} not in {found:#?}"
        );
    }

    #[test]
    fn contradictions_are_refused() {
        one("did you mean \"maxParallel\"", |d| {
            d["updateSettings"]["maxparallel"] = json!(3)
        });
        one("is in group critical already", |d| {
            d["updateGroups"]["critical"]["machines"] = json!(["dev-01"]);
        });
        one("depend on each other: critical, dev, infrastructure", |d| {
            d["updateGroups"]["dev"]["dependencies"] = json!(["infrastructure"]);
        });
        one("has no machines", |d| {
            d["updateGroups"]["dev"]["machines"] = json!([])
        });
        one("is shorter than", |d| {
            d["updateGroups"]["dev"]["maintenanceWindow"] = json!("02:00-02:05");
        });
        one("bigger than its group", |d| {
            d["updateGroups"]["dev"]["canary"] = json!(4)
        });
        one("not a whole number", |d| {
            d["updateSettings"]["maxParallel"] = json!("110%")
        });
        one("not a duration", |d| {
            d["updateSettings"]["staggerDelay"] = json!("1e309s")
        });
        one("must be true or false", |d| {
            d["updateGroups"]["dev"]["allowReboot"] = json!("yes")
        });
        one("an object is expected", |d| *d = json!([]));
        one("updateGroups: is missing", |d| *d = json!({}));
        one("must have passed before", |d| {
            d["updateSettings"]["leaseTime"] = json!(5)
        });
    }
}
