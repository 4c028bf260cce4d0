//! What is done with a store while no coordinator runs: look at the journal, check it, and declare
//! that it came from a backup.

use std::{fmt, io::Write, path::Path};

use common::{Epoch, Timestamp};
use serde::Serialize;

use crate::store::{Batch, Store, StoreError, sled::SledStore};

/// What `journal check` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Journal entries after the snapshot.
    pub records: usize,
    /// Facts in them.
    pub changes: usize,
    /// The fencing number.
    pub epoch: Epoch,
    /// Machines known.
    pub machines: usize,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records,
            changes,
            epoch,
            machines,
        } = self;
        write!(
            f,
            "{records} entries with {changes} facts after the snapshot; epoch {epoch}, {machines} machines"
        )
    }
}

/// Writes the snapshot and every journal entry after it, one JSON document a line.
pub fn dump(store: &Path, out: &mut impl Write) -> Result<(), StoreError> {
    let loaded = SledStore::open(store)?.load()?;
    line(out, "the snapshot", &loaded.snapshot)?;
    for record in &loaded.records {
        line(out, "a journal entry", record)?;
    }
    Ok(())
}

fn line<T: Serialize>(
    out: &mut impl Write,
    what: &'static str,
    value: &T,
) -> Result<(), StoreError> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|source| StoreError::Encode { what, source })?;
    writeln!(out, "{text}").map_err(|source| StoreError::File {
        what: "write to",
        path: "the standard output".into(),
        source,
    })
}

/// Reads everything back, and checks it against the fleet's own rules.
pub fn check(store: &Path, now: Timestamp) -> Result<Checked, StoreError> {
    let loaded = SledStore::open(store)?.load()?;
    let records = loaded.records.len();
    let changes = loaded
        .records
        .iter()
        .map(|record| record.changes.len())
        .sum();
    let fleet = loaded.replay(now)?;
    Ok(Checked {
        records,
        changes,
        epoch: fleet.facts().epoch,
        machines: fleet.facts().machines.len(),
    })
}

/// Declares that the store came from a backup: whatever was issued since the backup is void, and
/// an emergency stop holds until an operator has looked. The epoch from here on.
pub fn restore(store: &Path, now: Timestamp) -> Result<Epoch, StoreError> {
    let mut store = SledStore::open(store)?;
    let mut fleet = store.load()?.replay(now)?;
    let mut batch = Batch::at(now);
    batch.changes = fleet.restored(now);
    for change in &batch.changes {
        fleet.apply(change);
    }
    let epoch = fleet.facts().epoch;
    batch.history.push(coordinator_core::history::Entry {
        at: now,
        kind: "restored".to_owned(),
        text: format!("from a backup; epoch {epoch}"),
        ..Default::default()
    });
    store.append(&batch)?;
    Ok(epoch)
}
