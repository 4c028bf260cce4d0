//! Everything that is wrong with a configuration, each fault with its key path.

use std::{fmt, path::Path, time::Duration};

use super::raw::RawDuration;

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
    pub(super) fn add(&mut self, key: &str, fault: impl fmt::Display) {
        self.0.push(format!("{key}: {fault}"));
    }

    /// The duration within its range, or a fault and the default.
    pub(super) fn duration(
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

    pub(super) fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(
                key,
                format_args!("{} is not an absolute path", path.display()),
            );
        }
    }

    pub(super) fn address(&mut self, key: &str, address: &str) {
        let good = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !good {
            self.add(key, format_args!("{address:?} is not host:port"));
        }
    }
}
