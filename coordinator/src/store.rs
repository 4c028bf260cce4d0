//! What the coordinator keeps: facts, history and audit log, behind two narrow traits.
//!
//! [`Store`] belongs to the driver alone: one batch at a time is made durable, and only then does
//! anybody hear of it. [`Archive`] is for readers and never changes anything.

mod beside;
mod disk;
mod format;
pub mod memory;
pub mod sled;
mod snapshot;

use std::{path::PathBuf, sync::Arc};

use common::{GroupName, MachineName, Timestamp};
use coordinator_core::{
    Change, Fleet, FleetConfig, fleet::Facts, history::Entry, invariants, request::AuditEntry,
};
use serde::{Deserialize, Serialize};

use crate::audit::{AuditCheck, AuditRecord};

/// Journal entries after which a snapshot is taken: reading so many back takes well below a second.
const SNAPSHOT_EVERY: u64 = 4096;

/// Everything of one turn of the driver that must be durable before anybody hears of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// When it was decided.
    pub at: Timestamp,
    /// Facts, in order.
    pub changes: Vec<Change>,
    /// What the history keeps of them.
    pub history: Vec<Entry>,
    /// What the audit log keeps of the requests.
    pub audit: Vec<AuditEntry>,
}

impl Batch {
    /// A batch of that moment, with nothing in it.
    pub fn at(at: Timestamp) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.history.is_empty() && self.audit.is_empty()
    }
}

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was decided.
    pub at: Timestamp,
    /// Facts, in order.
    pub changes: Vec<Change>,
}

/// What a store gives back at start.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The newest snapshot; that of an empty fleet when there is none.
    pub snapshot: Facts,
    /// The journal after it.
    pub records: Vec<Record>,
}

impl Loaded {
    /// The fleet as it was, by the same `apply` that made it; refuses a state that breaks an
    /// invariant.
    pub fn replay(self, now: Timestamp) -> Result<Fleet, StoreError> {
        let mut fleet = Fleet::load(self.snapshot, now);
        for change in self.records.iter().flat_map(|record| &record.changes) {
            fleet.apply(change);
        }
        // Loaded once more as a whole: holders of leases get their full term from here.
        let fleet = Fleet::load(fleet.facts().clone(), now);
        let violations = invariants::check(&fleet);
        if violations.is_empty() {
            return Ok(fleet);
        }
        let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
        Err(StoreError::Invariant(texts.join("; ")))
    }
}

/// Makes facts durable. Only the driver has one.
pub trait Store: Send {
    /// Reads snapshot and journal; never the history.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Makes a batch durable as one: after a crash all of it is there, or nothing. When this
    /// returns `Ok`, it survives a power cut.
    fn append(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Begins to keep the facts as they are now; when they are durable, the journal before them is
    /// forgotten. An error on the way is told by a later call.
    fn snapshot(&mut self, facts: &Facts) -> Result<(), StoreError>;

    /// Journal entries after which a snapshot is to be taken.
    fn snapshot_every(&self) -> u64 {
        SNAPSHOT_EVERY
    }

    /// Number of journal entries after the newest snapshot, one in the making included.
    fn journal_len(&self) -> u64;

    /// The door for readers.
    fn archive(&self) -> Arc<dyn Archive>;
}

/// Reads what was kept. Sees only what is in the store, durable or about to be; callers ask for
/// the past, not for the outcome of a request.
pub trait Archive: Send + Sync {
    /// History entries that fit, newest first, looking on from a place where a look before ended.
    /// One look goes over a bounded number of entries, and may find none of a machine that is
    /// seldom in them.
    fn history(&self, query: &HistoryQuery, from: Option<Place>) -> Result<Page, StoreError>;

    /// Audit records since then, newest first, at most `limit`.
    fn audit(&self, since: Timestamp, limit: usize) -> Result<Vec<AuditRecord>, StoreError>;

    /// Reads the whole audit chain again.
    fn verify_audit(&self) -> Result<AuditCheck, StoreError>;

    /// The configuration of that revision.
    fn config(&self, revision: u64) -> Result<Option<ConfigRevision>, StoreError>;

    /// The newest revisions of the configuration, newest first, at most `limit`.
    fn configs(&self, limit: usize) -> Result<Vec<ConfigRevision>, StoreError>;
}

/// What one look into the history found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// What fits, newest first.
    pub entries: Vec<Entry>,
    /// Where to look on, if there is more to look at.
    pub next: Option<Place>,
}

/// Where a look into the history ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Vec<u8>);

/// Which history entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Not older than this.
    pub since: Timestamp,
    /// At most so many.
    pub limit: usize,
    /// Of these groups; with `machines` empty too: everything.
    pub groups: Vec<GroupName>,
    /// Of these machines.
    pub machines: Vec<MachineName>,
}

impl HistoryQuery {
    /// Whether an entry fits, apart from its time.
    fn fits(&self, entry: &Entry) -> bool {
        let everything = self.groups.is_empty() && self.machines.is_empty();
        let of_group = entry
            .group
            .as_ref()
            .is_some_and(|g| self.groups.contains(g));
        let of_machine = entry
            .machine
            .as_ref()
            .is_some_and(|m| self.machines.contains(m));
        everything || of_group || of_machine
    }
}

/// A fleet configuration that is or was in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigRevision {
    /// Rises by one.
    pub revision: u64,
    /// The document.
    pub document: serde_json::Value,
    /// Who set it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

impl ConfigRevision {
    /// The revision that a fact brings into force, if it does.
    fn of(change: &Change) -> Option<Self> {
        let Change::ConfigSet {
            revision,
            config,
            by,
            at,
            ..
        } = change
        else {
            return None;
        };
        let FleetConfig { document, .. } = &**config;
        Some(Self {
            revision: *revision,
            document: document.clone(),
            by: by.clone(),
            at: *at,
        })
    }
}

/// Why something could not be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's directory or files cannot be used.
    #[error("failed to {what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
    /// There is no space left, and no ballast that could be given up.
    #[error("the disk of the state directory is full: free some space there and start again")]
    Full,
    /// Another process has it open.
    #[error("the store {path} is in use: is another lab-coordinator running?", path = .0.display())]
    InUse(PathBuf),
    /// It does not open although its files are there.
    #[error(
        "the store {path} does not open ({reason}); put a backup of it in place and run \
         `lab-coordinator --config FILE restore`",
        path = path.display()
    )]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What the storage engine said.
        reason: String,
    },
    /// The storage engine failed.
    #[error("failed to {what} the store")]
    Engine {
        /// What was tried.
        what: &'static str,
        /// Why it did not work.
        #[source]
        source: ::sled::Error,
    },
    /// Written by a newer version.
    #[error(
        "the store has format {found}.x and this program reads up to {known}.x: \
         run the newer version that wrote it"
    )]
    Newer {
        /// Its major format number.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// An entry is missing, cut short, or not what it should be.
    #[error(
        "the store is damaged: {0}; put a backup of it in place and run \
         `lab-coordinator --config FILE restore`"
    )]
    Content(String),
    /// A value cannot be written as JSON.
    #[error("failed to encode {what}")]
    Encode {
        /// What kind of value.
        what: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// What was read back contradicts itself.
    #[error("the stored fleet breaks its own rules ({0}); this is a bug or a damaged store")]
    Invariant(String),
}
