//! What an agent reports about its machine. Everything here was measured there.

use serde::{Deserialize, Serialize};

use crate::{BootId, CleanedUp, Epoch, Health, LeaseId, RolloutId, StorePath, Target, TrafficDone};

/// Most generations a report carries.
pub const GENERATIONS_MAX: usize = 32;

/// Most packages that a report names as changed.
pub const CHANGES_MAX: usize = 24;

/// Most versions that it names of each of them.
pub const CHANGE_VERSIONS_MAX: usize = 4;

/// What is true of a machine now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineReport {
    /// Version of the agent.
    pub agent_version: String,
    /// The boot this was measured in.
    pub boot_id: BootId,
    /// Rises with every report of one boot: an older report never replaces a newer one.
    pub sequence: u64,
    /// `/run/current-system`, resolved.
    pub running: Option<StorePath>,
    /// `/run/booted-system`, resolved.
    pub booted: Option<StorePath>,
    /// The system profile, resolved: what the next boot starts.
    pub profile: Option<StorePath>,
    /// Number of the profile's current generation; 0 when unknown.
    pub generation: u64,
    /// Newest generations first, at most [`GENERATIONS_MAX`].
    pub generations: Vec<Generation>,
    /// What the machine's own checks say.
    pub health: Health,
    /// Number of the check request that `health` answers; 0 for the periodic check.
    pub health_request: u64,
    /// Highest epoch seen.
    pub epoch: Epoch,
    /// What is staged.
    pub staged: Option<Staged>,
    /// The attempt in progress.
    pub attempt: Option<AttemptStatus>,
    /// Free bytes in the store's file system.
    pub store_free_bytes: u64,
    /// The lease of the last attempt that ended here; 0 before the first.
    pub last_lease: LeaseId,
    /// What the machine could not stage, and does not try again for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<Declined>,
    /// What came of the last cleanup; `None` from agents that do not clean up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaned_up: Option<CleanedUp>,
    /// What came of the last order about its traffic; `None` from a machine without a script for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficDone>,
}

/// A target that a machine does not stage for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined {
    /// What was asked for.
    pub target: Target,
    /// Number of the wish that it answers; a newer wish for the same is tried at once.
    pub wish: u64,
    /// What stands in the way.
    pub kind: DeclinedKind,
    /// The same as one line.
    pub reason: String,
}

/// Why a target is not staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeclinedKind {
    /// It could not be obtained, or a check of the machine said no.
    StagingFailed,
    /// It failed on this machine before.
    BadTarget,
    /// The machine's own configuration does not allow it.
    NotAllowed,
}

/// An entry of the system profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation {
    /// N of `system-N-link`.
    pub number: u64,
    /// Where it points.
    pub path: StorePath,
}

/// A target that is on the machine: obtained, checked, and kept from garbage collection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Staged {
    /// What was asked for.
    pub target: Target,
    /// The system closure it came to.
    pub path: StorePath,
    /// Whether going there takes a reboot.
    pub needs_reboot: bool,
    /// Why, e.g. `kernel`, `initrd`, `inhibitor:dbus-implementation`.
    pub reboot_reasons: Vec<String>,
    /// Whether a soft-reboot is enough for that; `false` from agents that do not say it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft_reboot: bool,
    /// What going there changes; `None` when that could not be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// What going to a target changes, compared with what ran when it was staged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Changes {
    /// What ran then.
    pub from: StorePath,
    /// How much larger the target's closure is, in bytes.
    pub bytes: i64,
    /// Packages, the most important first, at most [`CHANGES_MAX`].
    pub packages: Vec<PackageChange>,
    /// How many more packages change.
    pub more: u32,
}

/// What becomes of one package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackageChange {
    /// Its name, without a version.
    pub name: String,
    /// In which way it changes.
    pub kind: ChangeKind,
    /// Its versions before, oldest first; empty when it has none or was not there.
    pub before: Vec<String>,
    /// Its versions after.
    pub after: Vec<String>,
    /// How much larger it is, in bytes.
    pub bytes: i64,
}

/// In which way a package changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its newest version is a newer one.
    Upgraded,
    /// Its newest version is an older one.
    Downgraded,
    /// Its newest version is the same.
    Resized,
}

impl ChangeKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Added,
        Self::Removed,
        Self::Upgraded,
        Self::Downgraded,
        Self::Resized,
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Upgraded => "upgraded",
            Self::Downgraded => "downgraded",
            Self::Resized => "resized",
        }
    }
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptStatus {
    /// The rollout it belongs to; `None` while staging ahead of one.
    pub rollout: Option<RolloutId>,
    /// Its lease; 0 before there is one.
    pub lease: LeaseId,
    /// Name of the step, as in `agent.proto`.
    pub step: String,
    /// Whether the machine can no longer come back without a trace.
    pub past_no_return: bool,
}
