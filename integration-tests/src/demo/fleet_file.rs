//! Which fleet the demo plays: the document's own, or the one in a file.

use std::{fs, path::Path, process::Command};

use common::{GroupName, MachineName};
use coordinator_core::{
    config::{FleetConfig, GroupConfig},
    plan::in_dependency_order,
    policy::Preset,
};
use serde_json::{Value, json};

use super::{
    error::DemoError,
    options::{Fail, Kind},
};

/// The document's `update-config.nix`, as JSON.
const DOCUMENT: &str = include_str!("../../../docs/examples/update-config.json");

/// A fleet, and what is to go wrong in it.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    /// Its configuration.
    pub(super) config: FleetConfig,
    /// Where it came from, for people.
    pub(super) origin: String,
    /// What goes wrong.
    pub(super) failures: Vec<(MachineName, Kind)>,
}

impl Fleet {
    /// Reads the configuration and checks that what is to fail is in it.
    pub(super) fn load(file: Option<&Path>, fail: &[Fail]) -> Result<Self, DemoError> {
        let (document, origin) = match file {
            None => {
                let path = "docs/examples/update-config.json";
                (
                    parse(DOCUMENT, Path::new(path))?,
                    "the document's own fleet".to_owned(),
                )
            }
            Some(file) => (read(file)?, file.display().to_string()),
        };
        let config = FleetConfig::parse(&document)?;
        let failures = failures(&config, fail)?;
        Ok(Self {
            config,
            origin,
            failures,
        })
    }

    /// The groups, each after those it depends on.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&GroupName, &GroupConfig)> {
        let groups = &self.config.groups;
        let dependencies: Vec<(&GroupName, &[GroupName])> = groups
            .iter()
            .map(|(name, group)| (name, group.policy.dependencies.as_slice()))
            .collect();
        let ordered = in_dependency_order(&dependencies).into_iter();
        ordered.filter_map(|name| groups.get_key_value(name))
    }

    /// The machines with their groups, in the order of [`Self::groups`] and of the lists in them.
    pub(super) fn machines(&self) -> impl Iterator<Item = (&MachineName, &GroupName)> {
        self.groups()
            .flat_map(|(name, group)| group.machines.iter().map(move |machine| (machine, name)))
    }

    /// What goes wrong on a machine.
    pub(super) fn failure_of(&self, machine: &MachineName) -> Option<Kind> {
        let of = |(failing, _): &&(MachineName, Kind)| failing == machine;
        self.failures.iter().find(of).map(|(_, kind)| *kind)
    }

    /// Whether the machine's next system has a new kernel: the last machine of each group that may
    /// reboot, so that a reboot is seen and most machines only switch.
    pub(super) fn gets_kernel(&self, machine: &MachineName) -> bool {
        self.config.home_of(machine).is_some_and(|(_, group)| {
            group.policy.allow_reboot && group.machines.last() == Some(machine)
        })
    }

    /// The configuration as the coordinator gets it: `lab update prepare` is to find the demo's
    /// targets, unless the configuration says where targets come from.
    pub(super) fn document_with_targets(&self, targets: &Path) -> Value {
        let mut document = self.config.document.clone();
        let settings = document
            .as_object_mut()
            .map(|top| top.entry("updateSettings").or_insert_with(|| json!({})));
        if let Some(Value::Object(settings)) = settings {
            let source = json!({ "targets": targets });
            settings.entry("source").or_insert(source);
        }
        document
    }
}

fn read(file: &Path) -> Result<Value, DemoError> {
    if file.extension().is_some_and(|extension| extension == "nix") {
        return read_nix(file);
    }
    let text = fs::read_to_string(file).map_err(DemoError::file("read", file))?;
    parse(&text, file)
}

fn parse(text: &str, file: &Path) -> Result<Value, DemoError> {
    serde_json::from_str(text).map_err(|source| DemoError::Json {
        path: file.to_owned(),
        source,
    })
}

fn read_nix(file: &Path) -> Result<Value, DemoError> {
    let failed = |said: String| DemoError::Nix {
        path: file.to_owned(),
        said,
    };
    let output = Command::new("nix-instantiate")
        .args(["--eval", "--strict", "--json", "--"])
        .arg(file)
        .output()
        .map_err(|error| failed(format!("nix-instantiate cannot be started: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(common::text::tame_line(&said, 400)));
    }
    parse(&String::from_utf8_lossy(&output.stdout), file)
}

fn failures(config: &FleetConfig, fail: &[Fail]) -> Result<Vec<(MachineName, Kind)>, DemoError> {
    if fail.is_empty() {
        return Ok(usual_failure(config).into_iter().collect());
    }
    let mut failures = Vec::new();
    for fail in fail {
        match fail {
            Fail::Nothing => {}
            Fail::Machine(machine, kind) => {
                if !config.group_of.contains_key(machine) {
                    return Err(DemoError::NoMachine(machine.clone()));
                }
                failures.push((machine.clone(), *kind));
            }
        }
    }
    Ok(failures)
}

/// A failure that the rollout takes in its stride: where one machine may fail and others do not.
fn usual_failure(config: &FleetConfig) -> Option<(MachineName, Kind)> {
    let takes_one = |(_, group): &&(&GroupName, &GroupConfig)| {
        group.policy.preset == Preset::Aggressive
            && group.policy.max_failures > 0
            && group.machines.len() > 1
    };
    let groups: Vec<_> = config.groups.iter().collect();
    let (_, group) = groups.iter().find(takes_one)?;
    Some((group.machines.get(1)?.clone(), Kind::Health))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_fleet_is_the_default_and_dev_takes_the_failure() {
        let fleet = Fleet::load(None, &[]).expect("valid");
        assert_eq!(fleet.machines().count(), 9);
        let failing: Vec<String> = fleet
            .failures
            .iter()
            .map(|(machine, kind)| format!("{machine}={kind}"))
            .collect();
        assert_eq!(failing, ["dev-02=health"]);
        let kernels: Vec<&str> = fleet
            .machines()
            .map(|(machine, _)| machine)
            .filter(|machine| fleet.gets_kernel(machine))
            .map(MachineName::as_str)
            .collect();
        assert_eq!(kernels, ["test-env", "backup-01"]);
    }

    #[test]
    fn only_the_source_of_targets_is_added_to_the_configuration() {
        let fleet = Fleet::load(None, &[Fail::Nothing]).expect("valid");
        assert!(fleet.failures.is_empty());
        let mut document = fleet.document_with_targets(Path::new("/t.json"));
        let settings = document["updateSettings"]
            .as_object_mut()
            .expect("settings");
        assert_eq!(
            settings.remove("source"),
            Some(json!({"targets": "/t.json"}))
        );
        assert_eq!(document, fleet.config.document);
    }

    #[test]
    fn a_failure_on_a_stranger_is_refused() {
        let fail = "nobody=health".parse().expect("a failure");
        let error = Fleet::load(None, &[fail]).expect_err("no such machine");
        assert!(error.to_string().contains("no machine nobody"), "{error}");
    }
}
