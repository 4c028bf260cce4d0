//! The configuration file as it is written: every key, nothing checked but its type.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) machine: Option<String>,
    pub(super) coordinator: String,
    pub(super) enrol: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) poll_hold: Option<RawDuration>,
    pub(super) check_interval: Option<RawDuration>,
    pub(super) boot_directory: Option<PathBuf>,
    #[serde(default)]
    pub(super) executor: RawExecutor,
    #[serde(default)]
    pub(super) targets: RawTargets,
    #[serde(default)]
    pub(super) hooks: RawHooks,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) conditions: Vec<RawCheck>,
    #[serde(default)]
    pub(super) checks: Vec<RawCheck>,
    #[serde(default)]
    pub(super) clock: RawClock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExecutor {
    pub(super) kind: Option<RawExecutorKind>,
    pub(super) root: Option<PathBuf>,
    pub(super) cache: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawExecutorKind {
    System,
    Directory,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTargets {
    #[serde(default)]
    pub(super) flakes: Vec<String>,
    #[serde(default)]
    pub(super) channels: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHooks {
    pub(super) pre_update: Option<PathBuf>,
    pub(super) post_update: Option<PathBuf>,
    pub(super) rollback: Option<PathBuf>,
    pub(super) backup_check: Option<PathBuf>,
    pub(super) traffic: Option<PathBuf>,
    pub(super) timeout: Option<RawDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) stage_timeout: Option<RawDuration>,
    pub(super) stage_pause: Option<RawDuration>,
    pub(super) switch_timeout: Option<RawDuration>,
    pub(super) reboot_wait: Option<RawDuration>,
    pub(super) boot_timeout: Option<RawDuration>,
    pub(super) attempt_timeout: Option<RawDuration>,
    pub(super) settle: Option<RawDuration>,
    pub(super) memory_max: Option<u64>,
    pub(super) tasks_max: Option<u64>,
    pub(super) switch_tasks_max: Option<u64>,
    pub(super) hook_tasks_max: Option<u64>,
    pub(super) store_reserve_bytes: Option<u64>,
    pub(super) boot_reserve_bytes: Option<u64>,
    pub(super) memory_reserve_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum RawCheck {
    Unit {
        name: String,
        timeout: Option<RawDuration>,
        unit: String,
    },
    Http {
        name: String,
        timeout: Option<RawDuration>,
        url: String,
        status: Option<u16>,
        contains: Option<String>,
    },
    Tcp {
        name: String,
        timeout: Option<RawDuration>,
        address: String,
    },
    Command {
        name: String,
        timeout: Option<RawDuration>,
        command: Vec<String>,
    },
    Disk {
        name: String,
        timeout: Option<RawDuration>,
        path: PathBuf,
        free_bytes_min: u64,
    },
    File {
        name: String,
        timeout: Option<RawDuration>,
        path: PathBuf,
        age_max: RawDuration,
    },
    Memory {
        name: String,
        timeout: Option<RawDuration>,
        available_bytes_min: u64,
    },
    Load {
        name: String,
        timeout: Option<RawDuration>,
        per_cpu_max: f64,
    },
    Journal {
        name: String,
        timeout: Option<RawDuration>,
        priority: Option<u8>,
        entries_max: Option<u32>,
    },
    Network {
        name: String,
        timeout: Option<RawDuration>,
        addresses: Vec<String>,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClock {
    pub(super) speed: Option<f64>,
    pub(super) start: Option<String>,
    pub(super) real_start: Option<String>,
}

/// Whole seconds, or text such as `"30m"`, `"1h30m"`, `"500ms"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawDuration {
    Seconds(u64),
    Text(String),
}

impl RawDuration {
    /// The duration, or `None` when the text is none. Never zero, and at most a year: a longer
    /// one is a mistake, and arithmetic with it would meet the limits of time.
    pub(super) fn read(&self) -> Option<Duration> {
        const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
        let duration = match self {
            Self::Seconds(seconds) => Duration::from_secs(*seconds),
            Self::Text(text) => parse_duration(text)?,
        };
        (!duration.is_zero() && duration <= YEAR).then_some(duration)
    }

    /// As it was written, for an error.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        }
    }
}

/// One or more `<digits><unit>` with the units ms, s, m, h, d; their sum.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let read = |text: &str| RawDuration::Text(text.to_owned()).read();
        assert_eq!(read("30m"), Some(Duration::from_secs(1800)));
        assert_eq!(read("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(read("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
        for bad in [
            "",
            "0s",
            "-5m",
            "5",
            "1e309s",
            "m",
            "9999999999999999999d",
            "4000d",
            "5 m x",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(
            RawDuration::Seconds(300).read(),
            Some(Duration::from_secs(300))
        );
        assert_eq!(RawDuration::Seconds(0).read(), None);
    }
}
