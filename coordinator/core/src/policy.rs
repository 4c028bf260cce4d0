//! The rules of one group, frozen into a rollout when it is created, with every number's unit,
//! range and reason.

use std::time::Duration;

use common::{GroupName, MachineName};
use serde::{Deserialize, Serialize};

use crate::{analysis::Gate, traffic::BlueGreen, window::Window};

/// Most machines of a fleet that may be away together, whatever is configured.
pub const PARALLEL_MAX: u32 = 10_000;

/// Named bundles of defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// No canary, no soak, one failure is taken.
    Aggressive,
    /// One canary that soaks, no failure is taken.
    Conservative,
    /// Conservative, and a person says yes before the group begins.
    ManualApproval,
}

impl Preset {
    /// Every preset, in the order in which the documentation names them.
    pub const ALL: [Self; 3] = [Self::Aggressive, Self::Conservative, Self::ManualApproval];

    /// The one of this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.word() == word)
    }

    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Aggressive => "aggressive",
            Self::Conservative => "conservative",
            Self::ManualApproval => "manual-approval",
        }
    }

    /// Machines of the first wave; 0 means no canary.
    pub fn canary(self) -> u32 {
        match self {
            Self::Aggressive => 0,
            Self::Conservative | Self::ManualApproval => 1,
        }
    }

    /// How long a canary must stay healthy. Ten minutes see a crash loop and a filling disk, and
    /// leave time in an hour's window.
    pub fn canary_soak(self) -> Duration {
        match self {
            Self::Aggressive => Duration::ZERO,
            Self::Conservative | Self::ManualApproval => Duration::from_secs(600),
        }
    }

    /// Machines of the group that may fail before the rollout pauses.
    pub fn max_failures(self) -> u32 {
        match self {
            Self::Aggressive => 1,
            Self::Conservative | Self::ManualApproval => 0,
        }
    }

    /// Whether a person must say yes.
    pub fn needs_approval(self) -> bool {
        match self {
            Self::Aggressive | Self::Conservative => false,
            Self::ManualApproval => true,
        }
    }
}

/// How many of a number of machines: so many, or a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// So many.
    Machines(u32),
    /// So many of a hundred; 100 at most.
    Percent(u32),
}

impl Share {
    /// What it comes to of so many, a part of a machine counting as none.
    pub fn at_most(self, of: usize) -> u32 {
        match self {
            Self::Machines(number) => number,
            Self::Percent(percent) => {
                let of = u64::try_from(of).unwrap_or(u64::MAX);
                let share = of.saturating_mul(percent.into()) / 100;
                u32::try_from(share).unwrap_or(u32::MAX)
            }
        }
    }

    /// What it comes to of so many, a part of a machine counting as a whole one.
    pub fn at_least(self, of: usize) -> usize {
        match self {
            Self::Machines(number) => usize::try_from(number).unwrap_or(usize::MAX),
            Self::Percent(percent) => {
                let percent = usize::try_from(percent).unwrap_or(100);
                of.saturating_mul(percent).div_ceil(100)
            }
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machines(number) => write!(f, "{number}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// After which waves a group waits until somebody lets it go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseAfter {
    /// None.
    #[default]
    Never,
    /// The canary.
    Canary,
    /// Every wave but the last, which nothing follows.
    EachWave,
}

impl PauseAfter {
    /// Every choice, in the order in which the documentation names them.
    pub const ALL: [Self; 3] = [Self::Never, Self::Canary, Self::EachWave];

    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Canary => "canary",
            Self::EachWave => "each-wave",
        }
    }
}

/// What counts before the order in which the document names a group's machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Machines whose last attempt did not end as it should come after the others.
    FailedLast,
    /// Machines whose updates are expected to take longer come before the others.
    LongestFirst,
}

impl Order {
    /// Every choice, in the order in which the documentation names them.
    pub const ALL: [Self; 2] = [Self::FailedLast, Self::LongestFirst];

    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::FailedLast => "failed-last",
            Self::LongestFirst => "longest-first",
        }
    }
}

impl Policy {
    /// Whether both let the same begin at the same times.
    pub fn same_times(&self, other: &Self) -> bool {
        self.windows == other.windows
            && self.timezone == other.timezone
            && self.avoid == other.avoid
            && self.expected_duration == other.expected_duration
    }

    /// How many of so many are the canary, if nobody names them and there are enough to come after it.
    pub fn canary_of(&self, machines: usize) -> usize {
        let share = match self.canary_percent {
            Some(percent) => Share::Percent(percent),
            None => Share::Machines(self.canary),
        };
        share.at_least(machines)
    }

    /// Whether somebody is asked after a wave like this before the next one opens.
    pub fn pauses_after(&self, canary: bool) -> bool {
        match self.pause_after {
            PauseAfter::Never => false,
            PauseAfter::Canary => canary,
            PauseAfter::EachWave => true,
        }
    }

    /// The soak that follows a wave like this, unless it is the last.
    pub fn soak_after(&self, canary: bool) -> Duration {
        match &self.blue_green {
            Some(sides) => sides.watch,
            None if canary => self.canary_soak,
            None => self.soak,
        }
    }
}

/// What one group's part of a rollout obeys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Where the defaults came from.
    pub preset: Preset,
    /// Machines of the group that may be away together; at least 1.
    pub max_parallel: u32,
    /// Machines of the group that may fail before the rollout pauses itself.
    pub max_failures: u32,
    /// Size of the first wave; 0: none. Where it is written as a percentage, what that is of the whole group.
    pub canary: u32,
    /// That percentage, which counts of those who go in the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_percent: Option<u32>,
    /// The machines of the first wave, where they are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canary_machines: Vec<MachineName>,
    /// How much of the group is done when each wave after the canary closes: growing, the canary
    /// included; what is left then is the last wave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Share>,
    /// After which waves somebody must let the group go on.
    #[serde(default)]
    pub pause_after: PauseAfter,
    /// What counts before the order in which the document names the machines; the first counts most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<Order>,
    /// Healthy time after the canary wave.
    pub canary_soak: Duration,
    /// Healthy time after each other wave but the last.
    pub soak: Duration,
    /// Healthy time after the group before groups that depend on it begin.
    pub stagger: Duration,
    /// When machines may be away; empty: always.
    pub windows: Vec<Window>,
    /// IANA name of the zone of the windows.
    pub timezone: String,
    /// Names of the calendars in whose times nothing begins. What is in them is said by the
    /// configuration in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<String>,
    /// Whether machines may reboot by themselves.
    pub allow_reboot: bool,
    /// Whether a soft-reboot will do, where that brings the target.
    #[serde(default)]
    pub soft_reboot: bool,
    /// Whether a person must say yes before the group begins.
    pub needs_approval: bool,
    /// What one such answer is about.
    #[serde(default, skip_serializing_if = "ApprovalOf::is_of_the_group")]
    pub approval_of: ApprovalOf,
    /// How long an answer to that is waited for.
    pub approval_expiry: Duration,
    /// After how long without an answer it counts as given; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_after: Option<Duration>,
    /// Groups that must be finished first.
    pub dependencies: Vec<GroupName>,
    /// How long a machine may take to become healthy.
    pub health_timeout: Duration,
    /// Whether a machine that fails goes back by itself.
    pub rollback_on_failure: bool,
    /// Whether machines that were updated go back by themselves when too many others of the group fail.
    #[serde(default)]
    pub takes_back: bool,
    /// How often a machine whose attempt failed tries again in the same rollout.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// How long it waits before the first of those; twice as long before each other.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub retry_after: Duration,
    /// What an attempt is expected to take where a machine has not shown yet what it takes: it must
    /// fit into what is left of the window.
    pub expected_duration: Duration,
    /// What must pass before a wave may close.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Its two sides, where one is updated while the other holds the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<Box<BlueGreen>>,
}

/// What one approval is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalOf {
    /// All of the group.
    #[default]
    Group,
    /// Its next wave.
    Wave,
    /// Every group of the rollout of which this is said.
    Rollout,
}

impl ApprovalOf {
    /// Whether it is about the group.
    pub fn is_of_the_group(&self) -> bool {
        *self == Self::Group
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}
