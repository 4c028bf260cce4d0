//! What was measured on the machine.

use common::{BootId, Generation, StorePath};
use serde::{Deserialize, Serialize};

use crate::input::Answer;

/// What is true of the machine, read from it and from nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: BootId,
    /// `/run/current-system`, resolved; `None` when it cannot be told.
    pub running: Option<StorePath>,
    /// `/run/booted-system`, resolved.
    pub booted: Option<StorePath>,
    /// The system profile, resolved.
    pub profile: Option<StorePath>,
    /// What the boot loader starts next, where it can be asked.
    #[serde(default)]
    pub next_boot: NextBoot,
    /// Number of the profile's current generation; 0 when unknown.
    pub generation: u64,
    /// Newest generations of the system profile, newest first; the report carries the first
    /// [`common::report::GENERATIONS_MAX`].
    pub generations: Vec<Generation>,
    /// Free bytes in the store's file system.
    pub store_free_bytes: u64,
}

impl Facts {
    /// The system that the next boot starts, as far as anybody can say: by the boot loader, and where
    /// that does not say, or names no system of NixOS, by the profile.
    ///
    /// The boot loader's word counts for more. The two differ when somebody has set the profile and
    /// installed no boot loader, has chosen a default in the boot menu, or when a system that did not
    /// boot has used up its tries: the profile then names what the machine would *not* start, or what
    /// does not boot at all. Going back to that would leave the machine worse than it was.
    pub fn boot_default(&self) -> Option<&StorePath> {
        match &self.next_boot {
            NextBoot::System(path) => Some(path),
            NextBoot::Unknown | NextBoot::Other(_) => self.profile.as_ref(),
        }
    }

    /// Whether nothing says that the next boot starts another system of NixOS than this one.
    pub fn boots_next(&self, system: &StorePath) -> bool {
        self.profile.as_ref() == Some(system) && self.boot_default() == Some(system)
    }
}

/// What the boot loader starts next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextBoot {
    /// It cannot be asked.
    #[default]
    Unknown,
    /// This system.
    System(StorePath),
    /// An entry that is no system of NixOS, by its id.
    Other(String),
}

/// Somebody who may answer over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// The coordinator.
    Coordinator,
    /// The gateway of a default route.
    Gateway,
    /// Where Nix fetches from.
    Substituter,
}

impl Reach {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Coordinator, Self::Gateway, Self::Substituter];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Gateway => "gateway",
            Self::Substituter => "substituter",
        }
    }
}

/// What the agent finds when its process starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The machine.
    pub facts: Facts,
    /// The unit of the step that [`crate::Durable::open_step`] names; [`UnitState::Absent`] when
    /// it names none.
    pub unit: UnitState,
    /// Whether the dead-man timer of the attempt's lease went off *and acted* (or is acting):
    /// its program leaves a mark before it changes anything.
    pub dead_man_fired: bool,
}

/// What became of a step's unit while nobody watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// There is no such unit: never begun, or its result was lost with the boot.
    Absent,
    /// Still at work.
    Running,
    /// Ended, and this is its answer.
    Ended(Box<Answer>),
}
