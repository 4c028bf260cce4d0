//! The agent's configuration: read, checked as a whole, and turned into types that cannot be wrong.
//!
//! Every fault is reported, each with its key path; nothing is used unless there is none.

mod raw;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use common::MachineName;
use platform::clock::Clock;

use raw::{RawCheck, RawConfig, RawDuration, RawExecutorKind};

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
    /// What carries out the steps.
    pub executor: ExecutorConfig,
    /// The machine's own scripts.
    pub hooks: Hooks,
    /// Deadlines, reserves and resource limits.
    pub limits: Limits,
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
    /// Runs while staging; a failure (no fresh backup) refuses the attempt.
    pub backup_check: Option<PathBuf>,
    /// Longest time for each of them.
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
    /// Longest time from asking for a reboot until the agent runs again.
    pub boot_timeout: Duration,
    /// When systemd takes the machine back at the latest, counted from the beginning of an attempt;
    /// `None`: after the longest that an attempt can take.
    pub attempt_timeout: Option<Duration>,
    /// Time units get to calm down before failed ones are counted.
    pub settle: Duration,
    /// Memory for fetching and building, in bytes; `None`: no limit.
    pub memory_max: Option<u64>,
    /// Processes and threads for fetching and building; `None`: no limit.
    pub tasks_max: Option<u64>,
    /// Bytes that must stay free in the store after staging.
    pub store_reserve_bytes: u64,
    /// Bytes that must stay free in /boot after installing the target's kernel.
    pub boot_reserve_bytes: u64,
}

/// One health check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name in reports.
    pub name: String,
    /// Longest time it may take; taking longer is failing.
    pub timeout: Duration,
    /// What it looks at.
    pub probe: Probe,
}

/// What a health check looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A systemd unit is active.
    Unit {
        /// Full name, with its suffix.
        unit: String,
    },
    /// A GET is answered.
    Http {
        /// http or https.
        url: String,
        /// The status it must have; `None`: any 2xx.
        status: Option<u16>,
        /// Text that the first [`crate::health::BODY_MAX`] bytes of the body must contain.
        contains: Option<String>,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A program exits with 0.
    Command {
        /// Absolute path and arguments.
        command: Vec<String>,
    },
    /// Free space in a file system.
    Disk {
        /// Any path in it.
        path: PathBuf,
        /// At least this many bytes.
        free_bytes_min: u64,
    },
    /// Available memory, as the kernel estimates it.
    Memory {
        /// At least this many bytes.
        available_bytes_min: u64,
    },
    /// The one-minute load average.
    Load {
        /// At most this much per processor.
        per_cpu_max: f64,
    },
    /// Serious journal entries since the attempt began (or within the check interval).
    Journal {
        /// syslog priority that counts, and everything more severe: 2 is critical.
        priority: u8,
        /// At most this many.
        entries_max: u32,
    },
    /// At least one of these addresses accepts a connection.
    Network {
        /// `host:port` each.
        addresses: Vec<String>,
    },
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

/// A list of faults, each `key: what is wrong`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl Faults {
    fn add(&mut self, key: &str, fault: impl fmt::Display) {
        self.0.push(format!("{key}: {fault}"));
    }

    /// The duration within its range, or a fault and the default.
    fn duration(
        &mut self,
        key: &str,
        raw: Option<&RawDuration>,
        default: Duration,
        max: Duration,
    ) -> Duration {
        let Some(raw) = raw else { return default };
        match raw.read() {
            Some(duration) if duration <= max => duration,
            Some(_) => {
                self.add(
                    key,
                    format_args!("{} is too long, at most {} s", raw.shown(), max.as_secs()),
                );
                default
            }
            None => {
                let shown = raw.shown();
                self.add(
                    key,
                    format_args!("{shown} is no duration such as 90, \"30m\", \"1h30m\""),
                );
                default
            }
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(
                key,
                format_args!("{} is not an absolute path", path.display()),
            );
        }
    }

    fn address(&mut self, key: &str, address: &str) {
        let good = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !good {
            self.add(key, format_args!("{address:?} is not host:port"));
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Port of the enrolment service, beside the coordinator's.
const ENROL_PORT: u16 = 7444;

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

    fn check(raw: RawConfig) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let machine = machine_name(&mut faults, raw.machine.as_deref());
        faults.address("coordinator", &raw.coordinator);
        let enrol = raw.enrol.unwrap_or_else(|| beside(&raw.coordinator));
        faults.address("enrol", &enrol);
        let state_dir = raw
            .state_dir
            .unwrap_or_else(|| "/var/lib/lab-updater".into());
        faults.absolute("state_dir", &state_dir);
        if let Some(token_file) = &raw.token_file {
            faults.absolute("token_file", token_file);
        }
        let poll_hold = faults.duration("poll_hold", raw.poll_hold.as_ref(), MINUTE, 10 * MINUTE);
        if poll_hold < Duration::from_secs(1) {
            faults.add("poll_hold", "less than 1 s would be a flood of polls");
        }
        let check_interval = faults.duration(
            "check_interval",
            raw.check_interval.as_ref(),
            5 * MINUTE,
            DAY,
        );
        let executor = executor(&mut faults, raw.executor);
        let hooks = hooks(&mut faults, raw.hooks);
        let limits = limits(&mut faults, &raw.limits);
        let checks = checks(&mut faults, raw.checks);
        let clock = Clock::from_settings(
            raw.clock.speed.unwrap_or(1.0),
            raw.clock.start.as_deref(),
            raw.clock.real_start.as_deref(),
        )
        .unwrap_or_else(|error| {
            faults.add("clock", error);
            None
        });
        match machine {
            Some(machine) if faults.0.is_empty() => Ok(Self {
                machine,
                coordinator: raw.coordinator,
                enrol,
                token_file: raw.token_file,
                state_dir,
                poll_hold,
                check_interval,
                executor,
                hooks,
                limits,
                checks,
                clock,
            }),
            Some(_) | None => Err(faults),
        }
    }
}

/// The enrolment service on the coordinator's host.
fn beside(coordinator: &str) -> String {
    let host = coordinator
        .rsplit_once(':')
        .map_or(coordinator, |(host, _)| host);
    format!("{host}:{ENROL_PORT}")
}

fn machine_name(faults: &mut Faults, given: Option<&str>) -> Option<MachineName> {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let Some(name) = given.map(str::to_owned).or(host) else {
        faults.add("machine", "not given, and the host has no usable name");
        return None;
    };
    name.parse()
        .map_err(|error| faults.add("machine", format_args!("{name:?}: {error}")))
        .ok()
}

fn executor(faults: &mut Faults, raw: raw::RawExecutor) -> ExecutorConfig {
    match raw.kind.unwrap_or(RawExecutorKind::System) {
        RawExecutorKind::System => {
            if raw.root.is_some() || raw.cache.is_some() {
                faults.add("executor", "root and cache belong to kind = \"directory\"");
            }
            ExecutorConfig::System
        }
        RawExecutorKind::Directory => {
            let mut path = |key: &str, path: Option<PathBuf>| {
                let path = path.unwrap_or_default();
                faults.absolute(key, &path);
                path
            };
            ExecutorConfig::Directory {
                root: path("executor.root", raw.root),
                cache: path("executor.cache", raw.cache),
            }
        }
    }
}

fn hooks(faults: &mut Faults, raw: raw::RawHooks) -> Hooks {
    let timeout = faults.duration("hooks.timeout", raw.timeout.as_ref(), 5 * MINUTE, DAY);
    let mut path = |key: &str, path: Option<PathBuf>| {
        if let Some(path) = &path {
            faults.absolute(key, path);
        }
        path
    };
    Hooks {
        pre_update: path("hooks.pre_update", raw.pre_update),
        post_update: path("hooks.post_update", raw.post_update),
        rollback: path("hooks.rollback", raw.rollback),
        backup_check: path("hooks.backup_check", raw.backup_check),
        timeout,
    }
}

fn limits(faults: &mut Faults, raw: &raw::RawLimits) -> Limits {
    const MIB: u64 = 1024 * 1024;
    let mut duration = |key: &str, raw: &Option<RawDuration>, default, max| {
        faults.duration(key, raw.as_ref(), default, max)
    };
    let limits = Limits {
        stage_timeout: duration("limits.stage_timeout", &raw.stage_timeout, 2 * HOUR, DAY),
        stage_pause: duration("limits.stage_pause", &raw.stage_pause, MINUTE / 2, HOUR),
        switch_timeout: duration(
            "limits.switch_timeout",
            &raw.switch_timeout,
            30 * MINUTE,
            DAY,
        ),
        boot_timeout: duration("limits.boot_timeout", &raw.boot_timeout, 15 * MINUTE, DAY),
        attempt_timeout: raw.attempt_timeout.as_ref().map(|raw| {
            let raw = Some(raw.clone());
            duration("limits.attempt_timeout", &raw, HOUR, DAY)
        }),
        settle: duration("limits.settle", &raw.settle, MINUTE / 2, HOUR),
        memory_max: raw.memory_max,
        tasks_max: raw.tasks_max,
        store_reserve_bytes: raw.store_reserve_bytes.unwrap_or(1024 * MIB),
        boot_reserve_bytes: raw.boot_reserve_bytes.unwrap_or(16 * MIB),
    };
    if limits.memory_max.is_some_and(|bytes| bytes < 64 * MIB) {
        faults.add(
            "limits.memory_max",
            "less than 64 MiB: not even a download fits",
        );
    }
    if limits.tasks_max.is_some_and(|tasks| tasks < 16) {
        faults.add("limits.tasks_max", "fewer than 16: Nix itself needs more");
    }
    limits
}

fn checks(faults: &mut Faults, raw: Vec<RawCheck>) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("checks[{index}]");
        let check = check(faults, &key, raw);
        if check.name.trim().is_empty() || check.name.len() > 100 {
            faults.add(&key, "the name must have 1 to 100 bytes");
        }
        if checks.iter().any(|other| other.name == check.name) {
            faults.add(&key, format_args!("the name {:?} is taken", check.name));
        }
        checks.push(check);
    }
    checks
}

/// Takes one check over and looks at its values.
fn check(faults: &mut Faults, key: &str, raw: RawCheck) -> Check {
    let (name, timeout, probe) = match raw {
        RawCheck::Unit {
            name,
            timeout,
            unit,
        } => {
            if !unit.contains('.') || unit.contains(['/', ' ', '*']) {
                faults.add(
                    key,
                    format_args!("{unit:?} is no unit name such as nginx.service"),
                );
            }
            (name, timeout, Probe::Unit { unit })
        }
        RawCheck::Http {
            name,
            timeout,
            url,
            status,
            contains,
        } => {
            let good = reqwest::Url::parse(&url)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !good {
                faults.add(key, format_args!("{url:?} is no http or https URL"));
            }
            (
                name,
                timeout,
                Probe::Http {
                    url,
                    status,
                    contains,
                },
            )
        }
        RawCheck::Tcp {
            name,
            timeout,
            address,
        } => {
            faults.address(key, &address);
            (name, timeout, Probe::Tcp { address })
        }
        RawCheck::Command {
            name,
            timeout,
            command,
        } => {
            match command.first() {
                Some(program) => faults.absolute(key, Path::new(program)),
                None => faults.add(key, "the command is empty"),
            }
            (name, timeout, Probe::Command { command })
        }
        RawCheck::Disk {
            name,
            timeout,
            path,
            free_bytes_min,
        } => {
            faults.absolute(key, &path);
            (
                name,
                timeout,
                Probe::Disk {
                    path,
                    free_bytes_min,
                },
            )
        }
        RawCheck::Memory {
            name,
            timeout,
            available_bytes_min,
        } => (
            name,
            timeout,
            Probe::Memory {
                available_bytes_min,
            },
        ),
        RawCheck::Load {
            name,
            timeout,
            per_cpu_max,
        } => {
            if !per_cpu_max.is_finite() || per_cpu_max <= 0.0 {
                faults.add(key, "per_cpu_max must be above 0");
            }
            (name, timeout, Probe::Load { per_cpu_max })
        }
        RawCheck::Journal {
            name,
            timeout,
            priority,
            entries_max,
        } => {
            let priority = priority.unwrap_or(2);
            if priority > 7 {
                faults.add(key, "priority is a syslog priority, 0 to 7");
            }
            let entries_max = entries_max.unwrap_or(0);
            (
                name,
                timeout,
                Probe::Journal {
                    priority,
                    entries_max,
                },
            )
        }
        RawCheck::Network {
            name,
            timeout,
            addresses,
        } => {
            if addresses.is_empty() {
                faults.add(key, "addresses is empty: nothing could ever answer");
            }
            addresses
                .iter()
                .for_each(|address| faults.address(key, address));
            (name, timeout, Probe::Network { addresses })
        }
    };
    let ten_seconds = Duration::from_secs(10);
    let timeout = faults.duration(
        &format!("{key}.timeout"),
        timeout.as_ref(),
        ten_seconds,
        HOUR,
    );
    Check {
        name,
        timeout,
        probe,
    }
}

#[cfg(test)]
mod tests;
