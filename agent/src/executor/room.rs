//! Whether there is room for what is to be done: in the store, where the boot loader looks, in
//! memory. Asked before anything changes; what is missing is said in bytes.

use common::{StorePath, Target};

use super::Executor;
use crate::host::{Host, HostError};

/// A place that can be too full.
#[derive(Clone, Copy, Debug)]
struct Room<'a> {
    /// What it is.
    place: &'a str,
    /// Bytes free in it.
    free: u64,
    /// Bytes that will be taken of these.
    needed: u64,
    /// Bytes that must stay free.
    reserve: u64,
}

impl Room<'_> {
    /// One line about what is missing, if anything is.
    fn shortage(self) -> Option<String> {
        let Self {
            place,
            free,
            needed,
            reserve,
        } = self;
        let missing = needed.saturating_add(reserve).saturating_sub(free);
        let needs = match needed {
            0 => String::new(),
            needed => format!("{needed} are needed and "),
        };
        (missing > 0).then(|| {
            format!("{missing} bytes are missing in {place}: {needs}{reserve} must stay free, and {free} are free")
        })
    }
}

impl<H: Host> Executor<H> {
    /// Room to obtain the target.
    pub(super) async fn check_room_for(&self, target: &Target) -> Result<(), HostError> {
        refuse([self.memory_shortage(), self.store_shortage(0)])?;
        match self.host.missing(target).await {
            Ok(None) => Ok(()),
            Ok(Some(missing)) => refuse([self.store_shortage(missing.store_bytes)]),
            Err(error) => {
                // What the caches do not say now, obtaining it will say in full.
                let error = common::error_chain::Chain(&error);
                tracing::warn!("how much {target} needs cannot be said: {error}");
                Ok(())
            }
        }
    }

    /// Room to switch to a system that is in the store.
    pub(super) fn check_room_to_switch(&self, path: &StorePath) -> Result<(), HostError> {
        refuse([
            self.memory_shortage(),
            self.store_shortage(0),
            self.boot_shortage(path),
        ])
    }

    fn store_shortage(&self, needed: u64) -> Option<String> {
        let room = Room {
            place: "/nix/store",
            free: self.host.links().free_bytes("/nix/store")?,
            needed,
            reserve: self.config.limits.store_reserve_bytes,
        };
        room.shortage()
    }

    fn boot_shortage(&self, path: &StorePath) -> Option<String> {
        let links = self.host.links();
        let directory = &self.config.boot_directory;
        let needed = links.boot_bytes_needed(path);
        if needed == 0 {
            return None;
        }
        let place = directory.display().to_string();
        let room = Room {
            place: &place,
            free: links.free_bytes(directory)?,
            needed,
            reserve: self.config.limits.boot_reserve_bytes,
        };
        room.shortage()
    }

    fn memory_shortage(&self) -> Option<String> {
        let room = Room {
            place: "memory",
            free: self.host.available_memory()?,
            needed: 0,
            reserve: self.config.limits.memory_reserve_bytes,
        };
        room.shortage()
    }
}

fn refuse<const N: usize>(shortages: [Option<String>; N]) -> Result<(), HostError> {
    let said: Vec<String> = shortages.into_iter().flatten().collect();
    if said.is_empty() {
        Ok(())
    } else {
        Err(HostError::NotReady(said.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_to_the_byte() {
        let room = Room {
            place: "/boot",
            free: 10,
            needed: 6,
            reserve: 5,
        };
        assert_eq!(
            room.shortage().as_deref(),
            Some(
                "1 bytes are missing in /boot: 6 are needed and 5 must stay free, and 10 are free"
            )
        );
        assert_eq!(Room { free: 11, ..room }.shortage(), None);
        let reserve_only = Room {
            needed: 0,
            free: 4,
            ..room
        };
        assert_eq!(
            reserve_only.shortage().as_deref(),
            Some("1 bytes are missing in /boot: 5 must stay free, and 4 are free")
        );
        let most = Room {
            needed: u64::MAX,
            ..room
        };
        assert!(most.shortage().is_some(), "no overflow");
    }
}
