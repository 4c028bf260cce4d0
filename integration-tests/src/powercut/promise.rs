//! What askers were told, as lines on a pipe, and what follows from it for the store.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Something that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// The machine with this number is to run version `version`. An asker names one version after
    /// the other, from 1.
    Pinned { machine: u32, version: u64 },
    /// The machine with this number got this lease.
    Granted { machine: u32, lease: u64 },
    /// And its result was taken.
    Ended { machine: u32, lease: u64 },
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned { machine, version } => write!(f, "pinned {machine} {version}"),
            Self::Granted { machine, lease } => write!(f, "granted {machine} {lease}"),
            Self::Ended { machine, lease } => write!(f, "ended {machine} {lease}"),
        }
    }
}

impl FromStr for Promise {
    type Err = ();

    /// A line that was cut short with its writer is no promise: nobody heard it to its end.
    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [word, machine, number] = words.as_slice() else {
            return Err(());
        };
        let machine = machine.parse().map_err(drop)?;
        let number = number.parse().map_err(drop)?;
        match *word {
            "pinned" => Ok(Self::Pinned {
                machine,
                version: number,
            }),
            "granted" => Ok(Self::Granted {
                machine,
                lease: number,
            }),
            "ended" => Ok(Self::Ended {
                machine,
                lease: number,
            }),
            _ => Err(()),
        }
    }
}

/// Everything that was promised since a store was new.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    /// Newest version of each machine that only gets pins.
    pub(super) pinned: BTreeMap<u32, u64>,
    /// Newest lease of each machine that takes turns.
    pub(super) granted: BTreeMap<u32, u64>,
    /// The same, ended.
    pub(super) ended: BTreeMap<u32, Ended>,
}

/// Results of one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// The newest lease.
    pub(super) lease: u64,
    /// How many.
    pub(super) count: u64,
}

impl Promises {
    pub(super) fn is_empty(&self) -> bool {
        self.pinned.is_empty() && self.granted.is_empty() && self.ended.is_empty()
    }

    pub(super) fn hear(&mut self, promise: Promise) {
        match promise {
            Promise::Pinned { machine, version } => {
                self.pinned.insert(machine, version);
            }
            Promise::Granted { machine, lease } => {
                self.granted.insert(machine, lease);
            }
            Promise::Ended { machine, lease } => {
                let ended = self.ended.entry(machine).or_default();
                ended.lease = lease;
                ended.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_cross_a_pipe() {
        for promise in [
            Promise::Pinned {
                machine: 3,
                version: 17,
            },
            Promise::Granted {
                machine: 0,
                lease: 5,
            },
            Promise::Ended {
                machine: 12,
                lease: 99,
            },
        ] {
            assert_eq!(promise.to_string().parse(), Ok(promise));
        }
        for cut in ["", "pinn", "pinned", "pinned 3", "pinned 3 ", "ended x 1"] {
            assert_eq!(cut.parse::<Promise>(), Err(()), "{cut:?}");
        }
    }
}
