//! The store on disk, in sled.
//!
//! `disk` is the one way there; this is what lies where. Values stay small, because large leaves go
//! into files of their own that sled never syncs at all; see `format::CHUNK`.

use std::{
    fs, io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{
    Timestamp,
    text::{REASON_MAX, tame_line},
};
use coordinator_core::{fleet::Facts, history::Entry};
use serde::Serialize;
use sled::Tree;

use super::{
    Archive, Batch, ConfigRevision, HistoryQuery, Loaded, Page, Place, Record, SNAPSHOT_EVERY,
    Store, StoreError,
    beside::{Ballast, Unfinished, clear_half_snapshots, file, sync_directory},
    disk::{Disk, engine},
    format::{Assembly, Format, chunks, decode, encode},
    snapshot::{Head, Snapshots, Writing},
};
use crate::audit::{self, AuditCheck, AuditRecord, Chain};

/// Memory that sled may use to keep pages, in bytes. Its own default is 1 GiB.
const CACHE: u64 = 64 * 1024 * 1024;

/// How long a store that is in use is waited for: sled's own threads keep the lock for a moment after
/// a store was closed, and so does a process that is just being killed.
const LET_GO: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Most entries of the history that one look goes over: a fraction of a second.
const LOOKED_MAX: usize = 10_000;

const KEY_FORMAT: &[u8] = b"format";

/// The coordinator's store.
pub struct SledStore {
    directory: PathBuf,
    disk: Disk,
    meta: Tree,
    journal: Tree,
    snapshots: Arc<Snapshots>,
    snapshot_every: u64,
    archive: SledArchive,
    /// Number of the next journal entry.
    next: u64,
    /// The newest snapshot, and the first journal entry after it.
    snapshot: Head,
    /// A newer one in the making.
    writing: Option<Writing>,
    chain: Chain,
}

impl SledStore {
    /// Opens the store in a directory of its own, making it when it is not there.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let unfinished = Unfinished::beside(directory);
        unfinished.clear(directory)?;
        let fresh = !directory.join("db").exists();
        if fresh {
            unfinished.begin()?;
        }
        fs::create_dir_all(directory).map_err(file("create", directory))?;
        let ballast = Ballast::beside(directory);
        let db = match open_db(directory) {
            Err(StoreError::Full) => {
                ballast.release()?;
                tracing::warn!(
                    "the disk is full; the ballast file was given up to open the store: free some \
                     space now, the next start keeps a new one"
                );
                open_db(directory)?
            }
            opened => {
                let db = opened?;
                // Not after it was given up: what it gave back would be taken again at once.
                ballast.keep();
                db
            }
        };
        let tree = |name: &str| db.open_tree(name).map_err(engine("open"));
        let disk = Disk::new(db.clone(), directory)?;
        let (meta, journal) = (tree("meta")?, tree("journal")?);
        let snapshots = Snapshots {
            disk: disk.for_another_thread()?,
            meta: meta.clone(),
            chunks: tree("snapshot")?,
            journal: journal.clone(),
        };
        let archive = SledArchive {
            history: tree("history")?,
            audit: tree("audit")?,
            configs: tree("config")?,
        };
        let mut store = Self {
            directory: directory.to_owned(),
            disk,
            meta,
            journal,
            snapshots: Arc::new(snapshots),
            snapshot_every: SNAPSHOT_EVERY,
            archive,
            next: 1,
            snapshot: Head { number: 0, next: 1 },
            writing: None,
            chain: Chain::default(),
        };
        store.read_heads(fresh)?;
        if fresh {
            store.disk.sync()?;
            sync_directory(directory)?;
            unfinished.end()?;
        }
        Ok(store)
    }

    /// The same store, with a snapshot after so many journal entries.
    #[must_use]
    pub fn with_snapshot_every(mut self, entries: u64) -> Self {
        self.snapshot_every = entries;
        self
    }

    /// Checks the format and finds the ends of journal and audit log.
    fn read_heads(&mut self, fresh: bool) -> Result<(), StoreError> {
        let read = engine("read");
        match self.meta.get(KEY_FORMAT).map_err(read)? {
            Some(bytes) => decode::<Format>("the format", &bytes)?.check()?,
            // sled opens a file that it cannot make sense of as an empty store. Beginning anew there
            // would hand out lease numbers a second time.
            None if !fresh => {
                return Err(StoreError::Damaged {
                    path: self.directory.clone(),
                    reason: "it is empty, though it is not new".to_owned(),
                });
            }
            None => {
                let format = encode("the format", &Format::CURRENT)?;
                self.meta
                    .insert(KEY_FORMAT, format)
                    .map_err(engine("write"))?;
                self.disk.sync()?;
            }
        }
        if let Some(head) = self.snapshots.head()? {
            (self.snapshot, self.next) = (head, head.next);
        }
        if let Some((key, _)) = self.journal.last().map_err(engine("read"))? {
            self.next = self.next.max(number_in(&key)? + 1);
        }
        if let Some((key, value)) = self.archive.audit.last().map_err(engine("read"))? {
            let damaged = || StoreError::Content("the last audit record is cut short".to_owned());
            self.chain = Chain {
                records: number_in(&key)?,
                head: *value.first_chunk().ok_or_else(damaged)?,
            };
        }
        Ok(())
    }

    /// From here on takes sled's flush for durable: a known mistake that a power cut must show.
    #[cfg(feature = "seeded-bugs")]
    pub fn forget_to_sync(&self) {
        self.disk.forget_to_sync();
    }

    /// Takes note of a snapshot that is durable meanwhile; with `wait`, of one that will be.
    fn settle(&mut self, wait: bool) -> Result<(), StoreError> {
        if let Some(writing) = self.writing.take_if(|writing| wait || writing.is_done()) {
            self.snapshot = writing.finish()?;
        }
        Ok(())
    }

    /// The journal after the snapshot: every entry there, none twice.
    fn load_journal(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let first = self.snapshot.next;
        let mut expected = first;
        let mut assembly = Assembly::default();
        for item in self.journal.range(first.to_be_bytes()..) {
            let (key, value) = item.map_err(engine("read"))?;
            let (number, chunk) = (number_in(&key)?, chunk_in(&key)?);
            if chunk == 0 && number != first {
                records.push(record_of(std::mem::take(&mut assembly), expected)?);
                expected += 1;
            }
            if number != expected {
                return Err(StoreError::Content(format!(
                    "journal entry {expected} is missing (found {number})"
                )));
            }
            assembly.push(chunk, &value)?;
        }
        if self.next > first {
            records.push(record_of(assembly, expected)?);
        }
        Ok(records)
    }
}

fn record_of(assembly: Assembly, number: u64) -> Result<Record, StoreError> {
    let what = format!("journal entry {number}");
    decode(&what, &assembly.finish(&what)?)
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.settle(true)?;
        Ok(Loaded {
            snapshot: self.snapshots.load(self.snapshot)?,
            records: self.load_journal()?,
        })
    }

    fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.settle(false)?;
        let mut writes: [Vec<(Vec<u8>, Vec<u8>)>; 4] = Default::default();
        let [journal, history, audit, configs] = &mut writes;
        if !batch.changes.is_empty() {
            let record = RecordRef {
                at: batch.at,
                changes: &batch.changes,
            };
            let bytes = encode("a journal entry", &record)?;
            journal.extend(chunks(&self.next.to_be_bytes(), &bytes));
        }
        for entry in &batch.history {
            let key = history_key(
                entry.at,
                self.disk.db.generate_id().map_err(engine("write"))?,
            );
            let mut entry = entry.clone();
            // History entries are never chunked: they must stay small values.
            entry.text = tame_line(&entry.text, REASON_MAX);
            history.push((key, encode("a history entry", &entry)?));
        }
        let mut chain = self.chain;
        for entry in &batch.audit {
            let what = "an audit record";
            let (sequence, record) = chain
                .link(batch.at, entry)
                .map_err(|source| StoreError::Encode { what, source })?;
            audit.push((sequence.to_be_bytes().to_vec(), record));
        }
        for revision in batch.changes.iter().filter_map(ConfigRevision::of) {
            let bytes = encode("a configuration", &revision)?;
            configs.extend(chunks(&revision.revision.to_be_bytes(), &bytes));
        }
        let archive = &self.archive;
        let trees = [
            &self.journal,
            &archive.history,
            &archive.audit,
            &archive.configs,
        ];
        self.disk.commit(&trees, |trees| {
            for (tree, writes) in trees.iter().zip(&writes) {
                for (key, value) in writes {
                    tree.insert(key.as_slice(), value.as_slice())?;
                }
            }
            Ok(())
        })?;
        self.chain = chain;
        if !batch.changes.is_empty() {
            self.next += 1;
        }
        Ok(())
    }

    fn snapshot(&mut self, facts: &Facts) -> Result<(), StoreError> {
        self.settle(true)?;
        let head = Head {
            number: self.snapshot.number + 1,
            next: self.next,
        };
        self.writing = Some(self.snapshots.begin(head, facts.clone())?);
        Ok(())
    }

    fn snapshot_every(&self) -> u64 {
        self.snapshot_every
    }

    fn journal_len(&self) -> u64 {
        let newest = self.writing.as_ref().map(|writing| writing.head);
        self.next - newest.unwrap_or(self.snapshot).next
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(self.archive.clone())
    }
}

/// As [`Record`], borrowed.
#[derive(Serialize)]
struct RecordRef<'a> {
    at: Timestamp,
    changes: &'a [coordinator_core::Change],
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if let Err(error) = self.settle(true) {
            // Nothing is lost: the journal still has all of it.
            tracing::error!(
                "the last snapshot was not written: {}",
                common::error_chain::Chain(&error)
            );
        }
    }
}

/// History, audit log and past configurations, for readers.
#[derive(Clone)]
struct SledArchive {
    history: Tree,
    audit: Tree,
    configs: Tree,
}

impl Archive for SledArchive {
    fn history(&self, query: &HistoryQuery, from: Option<Place>) -> Result<Page, StoreError> {
        let since = Bound::Included(sortable(query.since).to_vec());
        let until = from.map_or(Bound::Unbounded, |Place(key)| Bound::Excluded(key));
        let mut page = Page::default();
        for (looked, item) in self.history.range((since, until)).rev().enumerate() {
            if page.entries.len() >= query.limit {
                break;
            }
            let (key, value) = item.map_err(engine("read"))?;
            let entry: Entry = decode("a history entry", &value)?;
            if query.fits(&entry) {
                page.entries.push(entry);
            }
            if looked + 1 >= LOOKED_MAX && page.entries.len() < query.limit {
                page.next = Some(Place(key.to_vec()));
                break;
            }
        }
        Ok(page)
    }

    fn audit(&self, since: Timestamp, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let mut found = Vec::new();
        for item in self.audit.iter().rev().take(limit) {
            let (_, value) = item.map_err(engine("read"))?;
            let Some(record) = audit::read(&value) else {
                let text = "an audit record cannot be read; `lab audit verify` says which";
                return Err(StoreError::Content(text.to_owned()));
            };
            if record.body.at < since {
                break;
            }
            found.push(record);
        }
        Ok(found)
    }

    fn verify_audit(&self) -> Result<AuditCheck, StoreError> {
        let kept = self.audit.iter().values();
        audit::verify(kept.map(|value| value.map_err(engine("read"))))
    }

    fn config(&self, revision: u64) -> Result<Option<ConfigRevision>, StoreError> {
        let mut assembly = None;
        for item in self.configs.scan_prefix(revision.to_be_bytes()) {
            let (key, value) = item.map_err(engine("read"))?;
            assembly
                .get_or_insert_with(Assembly::default)
                .push(chunk_in(&key)?, &value)?;
        }
        let Some(assembly) = assembly else {
            return Ok(None);
        };
        let bytes = assembly.finish("a configuration")?;
        decode("a configuration", &bytes).map(Some)
    }

    fn configs(&self, limit: usize) -> Result<Vec<ConfigRevision>, StoreError> {
        let newest = match self.configs.last().map_err(engine("read"))? {
            Some((key, _)) => number_in(&key)?,
            None => return Ok(Vec::new()),
        };
        let revisions = (1..=newest).rev().take(limit);
        let found = revisions.filter_map(|revision| self.config(revision).transpose());
        found.collect()
    }
}

/// Keys of the history sort by time, then by when they were written.
fn history_key(at: Timestamp, id: u64) -> Vec<u8> {
    [sortable(at), id.to_be_bytes()].concat()
}

/// A time as bytes that sort as it does, before 1970 too.
fn sortable(at: Timestamp) -> [u8; 8] {
    (at.as_millis().cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The number that a key begins with.
fn number_in(key: &[u8]) -> Result<u64, StoreError> {
    let number = key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    number.ok_or_else(|| StoreError::Content("a key is cut short".to_owned()))
}

/// The number of a chunk that a key ends with.
pub(super) fn chunk_in(key: &[u8]) -> Result<u32, StoreError> {
    let number = key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    number.ok_or_else(|| StoreError::Content("a key is cut short".to_owned()))
}

/// Opens the database, waiting for whoever is just letting it go.
fn open_db(directory: &Path) -> Result<sled::Db, StoreError> {
    clear_half_snapshots(directory)?;
    let began = Instant::now();
    loop {
        match open_unlocked(directory) {
            Err(StoreError::InUse(_)) if began.elapsed() < LET_GO => thread::sleep(LOOK_AGAIN),
            opened => return opened,
        }
    }
}

fn open_unlocked(directory: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE)
        // Every commit flushes by itself; nothing is left for a background thread.
        .flush_every_ms(None);
    // A store that lost pages can make sled panic instead of returning an error.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    let damaged = |reason: String| StoreError::Damaged {
        path: directory.to_owned(),
        reason,
    };
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(source))) if source.kind() == io::ErrorKind::WouldBlock => {
            Err(StoreError::InUse(directory.to_owned()))
        }
        // sled wraps the failed lock in an error of its own kind.
        Ok(Err(sled::Error::Io(source))) if source.to_string().contains("lock") => {
            Err(StoreError::InUse(directory.to_owned()))
        }
        Ok(Err(sled::Error::Io(source))) => Err(file("open", directory)(source)),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(damaged(
                text.unwrap_or("the storage engine panicked").to_owned(),
            ))
        }
    }
}
