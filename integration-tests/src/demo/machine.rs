//! A directory that plays a machine: what lies in it before its agent first starts, and what can
//! be read from it without asking anybody.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use common::{GroupName, MachineName, StorePath};
use serde_json::json;

use super::error::DemoError;

/// The machine's own scripts, relative to its root.
const SCRIPTS: &str = "etc/lab-updater";

/// Where the agent's directory executor keeps what is at work, relative to the root.
const UNITS: &str = "run/lab-updater/units";

/// One machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Its name.
    pub(super) name: MachineName,
    /// Its group.
    pub(super) group: GroupName,
    root: PathBuf,
}

/// What the agent is to be told, beside what the machine's directory says.
#[derive(Clone, Debug)]
pub(super) struct AgentSettings<'a> {
    /// `host:port` of the coordinator.
    pub(super) coordinator: &'a str,
    /// `host:port` of its enrolment service.
    pub(super) enrol: &'a str,
    /// The machine's enrolment token.
    pub(super) token: &'a str,
    /// Where closures are obtained.
    pub(super) cache: &'a Path,
    /// The `[clock]` section.
    pub(super) clock: serde_json::Value,
}

impl Machine {
    /// The machine of this name below `machines`.
    pub(super) fn new(machines: &Path, name: &MachineName, group: &GroupName) -> Self {
        Self {
            name: name.clone(),
            group: group.clone(),
            root: machines.join(name.as_str()),
        }
    }

    /// Its directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Installs its first system, which must lie in its store: a profile of one generation, which
    /// is also what it boots.
    pub(super) fn install(&self, system: &StorePath) -> Result<(), DemoError> {
        for directory in ["nix/var/nix/profiles", "boot", "run", "var/lib/lab-updater"] {
            let directory = self.root.join(directory);
            fs::create_dir_all(&directory).map_err(DemoError::file("make", &directory))?;
        }
        for (link, target) in [
            ("nix/var/nix/profiles/system-1-link", system.as_str()),
            ("nix/var/nix/profiles/system", "system-1-link"),
            ("boot/default", system.as_str()),
        ] {
            let link = self.root.join(link);
            symlink(target, &link).map_err(DemoError::file("make the link", &link))?;
        }
        Ok(())
    }

    /// Writes the hooks and the health check. The hooks leave a mark in `marks` when the machine
    /// goes away and when it is back, each with the kernel's uptime, for the witness.
    pub(super) fn write_scripts(
        &self,
        marks: &Path,
        post_hook_fails: bool,
    ) -> Result<(), DemoError> {
        let mark = |word: &str| {
            format!(
                "read -r uptime idle </proc/uptime\n\
                 echo \"$uptime {} {word} $LAB_LEASE\" >>'{}'\n",
                self.name,
                marks.display()
            )
        };
        let pre = format!(
            "#!/bin/sh\n# Stop non-critical services: here, say that the machine goes away.\n{}",
            mark("pre")
        );
        let post = if post_hook_fails {
            format!(
                "#!/bin/sh\n# Restart services and verify: here, fail as asked for.\n{}\
                 echo 'the service does not answer' >&2\nexit 1\n",
                mark("post-failed")
            )
        } else {
            format!(
                "#!/bin/sh\n# Restart services and verify: here, say that the machine is back.\n{}",
                mark("post")
            )
        };
        let rollback = format!(
            "#!/bin/sh\n# Custom rollback procedures: here, say that the machine is back.\n{}",
            mark("rollback")
        );
        let check = "#!/bin/sh\n\
             # The machine's service: its system writes the file when it comes up well.\n\
             read -r answer <\"$LAB_ROOT/run/toy/www/health\" || {\n\
             \x20   echo 'the service does not answer'\n\
             \x20   exit 1\n\
             }\n\
             echo \"the service answers $answer\"\n";
        let directory = self.root.join(SCRIPTS);
        fs::create_dir_all(&directory).map_err(DemoError::file("make", &directory))?;
        for (name, text) in [
            ("pre-update", pre.as_str()),
            ("post-update", &post),
            ("rollback", &rollback),
            ("health-check", check),
        ] {
            let path = directory.join(name);
            fs::write(&path, text).map_err(DemoError::file("write", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .map_err(DemoError::file("make executable", &path))?;
        }
        Ok(())
    }

    /// Writes the agent's configuration and its token; returns the configuration's path.
    pub(super) fn write_agent_config(
        &self,
        settings: &AgentSettings<'_>,
    ) -> Result<PathBuf, DemoError> {
        let directory = self.root.join(SCRIPTS);
        let token = directory.join("token");
        fs::write(&token, settings.token).map_err(DemoError::file("write", &token))?;
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600))
            .map_err(DemoError::file("protect", &token))?;
        let config = json!({
            "machine": self.name,
            "coordinator": settings.coordinator,
            "enrol": settings.enrol,
            "token_file": token,
            "state_dir": self.root.join("var/lib/lab-updater"),
            // Four polls before silence counts: at the demo's speed a second or two apart.
            "poll_hold": "5m",
            "check_interval": "15m",
            "executor": {
                "kind": "directory",
                "root": self.root,
                "cache": settings.cache,
            },
            "hooks": {
                "pre_update": directory.join("pre-update"),
                "post_update": directory.join("post-update"),
                "rollback": directory.join("rollback"),
            },
            // A switch that hangs is to be given up while the night is young; the demo's disk is
            // not what is being watched.
            "limits": {
                "switch_timeout": "10m",
                "settle": "30s",
                "store_reserve_bytes": 0,
                "boot_reserve_bytes": 0,
            },
            "checks": [{
                "name": "service",
                "kind": "command",
                "command": [directory.join("health-check")],
                "timeout": "4m",
            }],
            "clock": settings.clock,
        });
        let path = directory.join("agent.toml");
        write_toml(&path, &config)?;
        Ok(path)
    }

    /// The system that really runs, by the machine's own link.
    pub(super) fn running(&self) -> Option<StorePath> {
        self.link("run/current-system")?.to_str()?.parse().ok()
    }

    /// The system that was booted last, by the machine's own link.
    pub(super) fn booted(&self) -> Option<StorePath> {
        self.link("run/booted-system")?.to_str()?.parse().ok()
    }

    /// Number of the profile's current generation.
    pub(super) fn generation(&self) -> Option<u64> {
        let link = self.link("nix/var/nix/profiles/system")?;
        let name = link.file_name()?.to_str()?;
        let number = name.strip_prefix("system-")?.strip_suffix("-link")?;
        number.parse().ok()
    }

    /// Whether its `switch-to-configuration` is at work this moment.
    pub(super) fn is_switching(&self) -> bool {
        let entries = fs::read_dir(self.root.join(UNITS));
        entries.into_iter().flatten().flatten().any(|unit| {
            let name = unit.file_name();
            name.to_str()
                .is_some_and(|name| name.contains("-activate-"))
                && unit.path().join("pid").exists()
                && !unit.path().join("status").exists()
        })
    }

    /// The process groups of what is at work on it, its agent excepted.
    pub(super) fn process_groups(&self) -> Vec<i32> {
        let units = fs::read_dir(self.root.join(UNITS));
        let units = units.into_iter().flatten().flatten();
        units
            .filter(|unit| !unit.path().join("status").exists())
            .filter_map(|unit| {
                let text = fs::read_to_string(unit.path().join("pid")).ok()?;
                let group: i32 = text.split(' ').next()?.parse().ok()?;
                // The number may belong to another process by now; ours know their machine.
                let environment = fs::read(format!("/proc/{group}/environ")).ok()?;
                let ours = format!("LAB_ROOT={}", self.root.display());
                let mut variables = environment.split(|byte| *byte == 0);
                variables
                    .any(|variable| variable == ours.as_bytes())
                    .then_some(group)
            })
            .collect()
    }

    fn link(&self, path: &str) -> Option<PathBuf> {
        fs::read_link(self.root.join(path)).ok()
    }
}

/// Writes a value as TOML.
pub(super) fn write_toml(path: &Path, value: &serde_json::Value) -> Result<(), DemoError> {
    let text = toml::to_string(value).map_err(|error| DemoError::Build(error.to_string()))?;
    fs::write(path, text).map_err(DemoError::file("write", path))
}
