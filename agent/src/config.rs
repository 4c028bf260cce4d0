//! The agent's configuration: read, checked as a whole, and turned into types that cannot be wrong.
//!
//! Every fault is reported, each with its key path; nothing is used unless there is none.

mod checks;
mod faults;
mod raw;
mod read;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use common::MachineName;
use platform::clock::Clock;

use self::raw::RawConfig;
pub use self::{
    checks::{Check, Probe},
    faults::Faults,
};
use crate::targets::Allowed;

/// A configuration without faults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The machine's name; the certificate must carry the same.
    pub machine: MachineName,
    /// `host:port` of the coordinator's service.
    pub coordinator: String,
    /// `host:port` of the coordinator's enrolment service.
    pub enrol: String,
    /// Where the enrolment token lies; read only when there is no identity yet.
    pub token_file: Option<PathBuf>,
    /// The agent's own directory.
    pub state_dir: PathBuf,
    /// How long the coordinator may hold a poll, 1 s to 10 min.
    pub poll_hold: Duration,
    /// Time between periodic health checks.
    pub check_interval: Duration,
    /// Where the boot loader finds kernels.
    pub boot_directory: PathBuf,
    /// What carries out the steps.
    pub executor: ExecutorConfig,
    /// Which targets the coordinator may name besides closures.
    pub targets: Allowed,
    /// The machine's own scripts.
    pub hooks: Hooks,
    /// Deadlines, reserves and resource limits.
    pub limits: Limits,
    /// What must hold before an update, in order.
    pub conditions: Vec<Check>,
    /// Health checks, in order.
    pub checks: Vec<Check>,
    /// The scaled clock of tests and the demo; `None` in the product.
    pub clock: Option<Clock>,
}

/// What carries out the steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutorConfig {
    /// systemd and Nix.
    System,
    /// A directory stands in for the machine.
    Directory {
        /// The machine.
        root: PathBuf,
        /// A directory with `nix/store/…` from which closures are obtained.
        cache: PathBuf,
    },
}

/// The machine's own scripts, by absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Runs before the switch; a failure refuses the attempt.
    pub pre_update: Option<PathBuf>,
    /// Runs after the switch or the reboot; a failure rolls back.
    pub post_update: Option<PathBuf>,
    /// Runs after a rollback.
    pub rollback: Option<PathBuf>,
    /// Runs while staging and just before the update; a failure (no fresh backup) puts it off.
    pub backup_check: Option<PathBuf>,
    /// Runs when the machine is to take traffic or to leave it; how long it may take is told with that.
    pub traffic: Option<PathBuf>,
    /// Longest time for each of the others.
    pub timeout: Duration,
}

/// Deadlines, reserves and resource limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest time to obtain a target.
    pub stage_timeout: Duration,
    /// Pause before a target that could not be obtained is tried again.
    pub stage_pause: Duration,
    /// Longest time for a switch; units that never finish starting are why it is bounded at all.
    pub switch_timeout: Duration,
    /// How long people who are logged in, and programs that ask for time, are waited for before an
    /// attempt that reboots the machine.
    pub reboot_wait: Duration,
    /// Longest time from asking for a reboot until the agent runs again.
    pub boot_timeout: Duration,
    /// When systemd takes the machine back at the latest, counted from the beginning of an attempt;
    /// `None`: after the longest that an attempt can take.
    pub attempt_timeout: Option<Duration>,
    /// Time units get to calm down before failed ones are counted.
    pub settle: Duration,
    /// Memory for fetching and building, in bytes; `None`: three quarters of the machine's.
    pub memory_max: Option<u64>,
    /// Processes and threads for fetching and building.
    pub tasks_max: u64,
    /// Processes and threads for a switch.
    pub switch_tasks_max: u64,
    /// Processes and threads for a hook.
    pub hook_tasks_max: u64,
    /// Bytes that must stay free in the store after staging.
    pub store_reserve_bytes: u64,
    /// Bytes that must stay free in the boot directory after installing the target's kernel.
    pub boot_reserve_bytes: u64,
    /// Bytes of memory, swap included, that must be left before an update begins.
    pub memory_reserve_bytes: u64,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("{path}: {cause}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where in it, and what.
        cause: toml::de::Error,
    },
    /// Every value that is not allowed.
    #[error("{path}: {faults}")]
    Faults {
        /// Which file.
        path: PathBuf,
        /// All of them.
        faults: Faults,
    },
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        let raw: RawConfig = toml::from_str(&text).map_err(|cause| ConfigError::Syntax {
            path: path.to_owned(),
            cause,
        })?;
        Self::check(raw).map_err(|faults| ConfigError::Faults {
            path: path.to_owned(),
            faults,
        })
    }

    /// The agent's journal: where an attempt stands.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir.join("agent.json")
    }

    /// The machine's key and certificate.
    pub fn identity_file(&self) -> PathBuf {
        self.state_dir.join("identity.pem")
    }
}

#[cfg(test)]
mod tests;
