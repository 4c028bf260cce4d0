//! The coordinator's disk: a journal with a synced and an unsynced part, and snapshots.

use common::Timestamp;
use coordinator_core::{Change, Fleet, FleetConfig, fleet::Facts};
use serde::{Serialize, de::DeserializeOwned};

/// Changes after which the facts are written as a whole.
const SNAPSHOT_EVERY: usize = 400;

/// What is on the coordinator's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    snapshot: Facts,
    synced: Vec<Change>,
    /// Whether the snapshot, and how many of the changes after it, have been through the form in
    /// which they are stored: once is enough, since what comes back is stored again the same.
    snapshot_read: bool,
    changes_read: usize,
    /// The configuration that last came back in a snapshot.
    config_read: Option<Box<FleetConfig>>,
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
            snapshot_read: true,
            changes_read: 0,
            config_read: None,
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
            self.snapshot_read = false;
            self.changes_read = 0;
        }
    }

    /// Copies what is durable now.
    pub(crate) fn back_up(&mut self) {
        let mut fleet = Fleet::load(self.snapshot.clone(), Timestamp(0));
        self.synced.iter().for_each(|change| fleet.apply(change));
        self.backup = Some(fleet.into_facts());
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
        self.snapshot_read = false;
        self.changes_read = 0;
        self.unsynced.clear();
        self.full = false;
        true
    }

    /// What a start finds, read through the form in which it is stored. With the tail left out it
    /// is the known bug of a recovery that trusts an old snapshot.
    pub(crate) fn recover(&mut self, leave_out_tail: bool) -> Result<Facts, serde_json::Error> {
        if !self.snapshot_read {
            self.read_snapshot()?;
            self.snapshot_read = true;
        }
        for change in &mut self.synced[self.changes_read..] {
            let back = stored(change)?;
            // One that is the same keeps the text that it shares with the machines.
            if back != *change {
                *change = back;
            }
        }
        self.changes_read = self.synced.len();
        let mut fleet = Fleet::load(self.snapshot.clone(), Timestamp(0));
        if !leave_out_tail {
            self.synced.iter().for_each(|change| fleet.apply(change));
        }
        Ok(fleet.into_facts())
    }

    /// Puts the snapshot through the form in which it is stored. Its configuration only if that has not
    /// been: reading a document anew takes longer than all the rest.
    fn read_snapshot(&mut self) -> Result<(), serde_json::Error> {
        let known = self.config_read.is_some() && self.snapshot.config == self.config_read;
        let config = self.snapshot.config.take_if(|_| known);
        let mut back: Facts = stored(&self.snapshot)?;
        if known {
            back.config = config;
        } else {
            self.config_read.clone_from(&back.config);
        }
        for (name, machine) in &mut back.machines {
            let before = self.snapshot.machines.get_mut(name);
            let before = before.and_then(|machine| machine.report.take());
            // As of a change: the text of a report that is the same stays shared.
            if machine.report == before {
                machine.report = before;
            }
        }
        self.snapshot = back;
        Ok(())
    }
}

/// This, written and read back.
fn stored<T: Serialize + DeserializeOwned>(it: &T) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&serde_json::to_vec(it)?)
}
