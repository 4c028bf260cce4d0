//! The coordinator's disk: a journal with a synced and an unsynced part, and snapshots.

use common::Timestamp;
use coordinator_core::{Change, Fleet, fleet::Facts};

/// Changes after which the facts are written as a whole.
const SNAPSHOT_EVERY: usize = 400;

/// What is on the coordinator's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    snapshot: Facts,
    synced: Vec<Change>,
    unsynced: Vec<Change>,
    /// Changes that were ever made durable.
    pub(crate) durable: u64,
    /// Whether nothing more can be written.
    pub(crate) full: bool,
    backup: Option<Facts>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            snapshot: Facts::default(),
            synced: Vec::new(),
            unsynced: Vec::new(),
            durable: 0,
            full: false,
            backup: None,
        }
    }

    pub(crate) fn append(&mut self, changes: &[Change]) {
        self.unsynced.extend_from_slice(changes);
    }

    pub(crate) fn sync(&mut self) {
        self.durable += self.unsynced.len() as u64;
        self.synced.append(&mut self.unsynced);
    }

    /// The power goes: what was not synced is lost, or happens to survive.
    pub(crate) fn crash(&mut self, unsynced_survives: bool) {
        if unsynced_survives {
            self.sync();
        }
        self.unsynced.clear();
    }

    /// Writes the facts as a whole, from time to time.
    pub(crate) fn maybe_snapshot(&mut self, facts: &Facts) {
        if self.synced.len() >= SNAPSHOT_EVERY {
            self.snapshot = facts.clone();
            self.synced.clear();
        }
    }

    /// Copies what is durable now.
    pub(crate) fn back_up(&mut self) {
        let mut fleet = Fleet::load(self.snapshot.clone(), Timestamp(0));
        self.synced.iter().for_each(|change| fleet.apply(change));
        self.backup = Some(fleet.facts().clone());
    }

    /// Whether there is a copy.
    pub(crate) fn has_backup(&self) -> bool {
        self.backup.is_some()
    }

    /// A new disk with what was copied, declared to be restored. False when nothing ever was.
    pub(crate) fn restore(&mut self, now: Timestamp) -> bool {
        let Some(backup) = self.backup.clone() else {
            return false;
        };
        let changes = Fleet::load(backup.clone(), now).restored(now);
        self.snapshot = backup;
        self.synced = changes;
        self.unsynced.clear();
        self.full = false;
        true
    }

    /// What a start finds, read through the form in which it is stored. With the tail left out it
    /// is the known bug of a recovery that trusts an old snapshot.
    pub(crate) fn recover(&self, leave_out_tail: bool) -> Result<Facts, serde_json::Error> {
        let snapshot: Facts = serde_json::from_slice(&serde_json::to_vec(&self.snapshot)?)?;
        let mut fleet = Fleet::load(snapshot, Timestamp(0));
        if !leave_out_tail {
            for change in &self.synced {
                let stored = serde_json::to_vec(change)?;
                fleet.apply(&serde_json::from_slice(&stored)?);
            }
        }
        Ok(fleet.facts().clone())
    }
}
