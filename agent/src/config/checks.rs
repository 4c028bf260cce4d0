//! Health checks, and the conditions of an update, which are written alike: what they look at, and
//! what is wrong with how they are written.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{DAY, Faults, HOUR, raw::RawCheck};

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
    /// How long ago a file was written; of a directory, the newest file in it.
    File {
        /// Which.
        path: PathBuf,
        /// At most this long ago.
        age_max: Duration,
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

/// The checks below one key of the file.
pub(super) fn checks(faults: &mut Faults, list: &str, raw: Vec<RawCheck>) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("{list}[{index}]");
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
        RawCheck::File {
            name,
            timeout,
            path,
            age_max,
        } => {
            faults.absolute(key, &path);
            let key = format!("{key}.age_max");
            let age_max = faults.duration(&key, Some(&age_max), DAY, 366 * DAY);
            (name, timeout, Probe::File { path, age_max })
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
