//! How a machine is.

use serde::{Deserialize, Serialize};

/// The verdict of a machine's health checks about itself.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// Not checked yet.
    #[default]
    Unknown,
    /// Every check passed.
    Healthy,
    /// At least one check failed.
    Unhealthy,
}

/// One check and what it found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckResult {
    /// Name from the machine's configuration.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// What it saw, in a few words; bounded by [`crate::text::DETAIL_MAX`].
    pub detail: String,
}

/// The state and the checks behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Health {
    /// What they came to.
    pub state: HealthState,
    /// Every check that ran, in the configuration's order.
    pub checks: Vec<CheckResult>,
}

impl Health {
    /// The state that these results come to: unhealthy as soon as one failed.
    pub fn of(checks: Vec<CheckResult>) -> Self {
        let failed = checks.iter().any(|check| !check.passed);
        let state = if failed {
            HealthState::Unhealthy
        } else {
            HealthState::Healthy
        };
        Self { state, checks }
    }

    /// Names of the checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.checks
            .iter()
            .filter(|check| !check.passed)
            .map(|check| check.name.as_str())
    }
}
