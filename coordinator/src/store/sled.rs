//! The store on disk, in sled.
//!
//! sled's own `flush` only asks the kernel to write (`sync_file_range`) and does not wait for the
//! disk: a power cut loses what it called durable, and can leave a store that does not open. So
//! there is one way to the disk here, `SledStore::commit`: transaction, flush, and then
//! `fdatasync` on a descriptor of our own of sled's only data file. Values stay small, because
//! large leaves go into files of their own that sled never syncs at all; see `format::CHUNK`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{
    Timestamp,
    text::{REASON_MAX, tame_line},
};
use coordinator_core::{fleet::Facts, history::Entry};
use serde::{Deserialize, Serialize};
use sled::{
    Transactional as _, Tree,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{
    Archive, Batch, ConfigRevision, HistoryQuery, Loaded, Record, Store, StoreError,
    format::{Assembly, Format, chunks, decode, encode},
};
use crate::audit::{self, AuditCheck, AuditRecord, Chain};

/// Memory that sled may use to keep pages, in bytes. Its own default is 1 GiB.
const CACHE: u64 = 64 * 1024 * 1024;

/// Size of the ballast, in bytes. sled does not open on a full disk; giving this back lets it, and
/// lets it write what an operator needs to make room.
const BALLAST: usize = 16 * 1024 * 1024;

const KEY_FORMAT: &[u8] = b"format";
const KEY_SNAPSHOT: &[u8] = b"snapshot";

/// The coordinator's store.
pub struct SledStore {
    directory: PathBuf,
    db: sled::Db,
    /// sled's data file, opened by us only to sync it.
    data: File,
    meta: Tree,
    journal: Tree,
    snapshots: Tree,
    archive: SledArchive,
    /// Number of the next journal entry.
    next: u64,
    /// First journal entry after the newest snapshot.
    first: u64,
    /// Number of the newest snapshot; 0: none.
    snapshot: u64,
    chain: Chain,
}

/// Which snapshot holds, and where the journal after it begins.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct SnapshotHead {
    number: u64,
    next: u64,
}

impl SledStore {
    /// Opens the store in a directory of its own, making it when it is not there.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let fresh = !directory.join("db").exists();
        fs::create_dir_all(directory).map_err(file("create", directory))?;
        let ballast = Ballast::beside(directory);
        let db = match open_db(directory) {
            Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!("the disk is full; the ballast file is given up to open the store");
                ballast.release()?;
                open_db(directory)?
            }
            opened => opened?,
        };
        ballast.keep();
        let tree = |name: &str| db.open_tree(name).map_err(engine("open"));
        let (meta, journal, snapshots) = (tree("meta")?, tree("journal")?, tree("snapshot")?);
        let archive = SledArchive {
            history: tree("history")?,
            audit: tree("audit")?,
            configs: tree("config")?,
        };
        let data = directory.join("db");
        let mut store = Self {
            directory: directory.to_owned(),
            data: File::open(&data).map_err(file("open", &data))?,
            db,
            meta,
            journal,
            snapshots,
            archive,
            next: 1,
            first: 1,
            snapshot: 0,
            chain: Chain::default(),
        };
        store.read_heads(fresh)?;
        if fresh {
            store.sync()?;
            sync_directory(directory)?;
            if let Some(parent) = directory.parent() {
                sync_directory(parent)?;
            }
        }
        Ok(store)
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
                self.sync()?;
            }
        }
        if let Some(bytes) = self.meta.get(KEY_SNAPSHOT).map_err(engine("read"))? {
            let head: SnapshotHead = decode("the snapshot's head", &bytes)?;
            (self.snapshot, self.first, self.next) = (head.number, head.next, head.next);
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

    /// Makes everything written so far survive a power cut.
    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(engine("flush"))?;
        self.data.sync_data().map_err(|source| StoreError::Engine {
            what: "sync",
            source: sled::Error::Io(source),
        })
    }

    /// The one way to the disk: all of `write` or nothing, durable when this returns.
    fn commit(
        &self,
        trees: &[&Tree],
        write: impl Fn(&[TransactionalTree]) -> Result<(), ConflictableTransactionError<()>>,
    ) -> Result<(), StoreError> {
        let written = trees.transaction(|trees| write(trees));
        written.map_err(|error| match error {
            TransactionError::Abort(()) => {
                StoreError::Content("a transaction gave up by itself".to_owned())
            }
            TransactionError::Storage(source) => StoreError::Engine {
                what: "write",
                source,
            },
        })?;
        self.sync()
    }

    fn load_snapshot(&self) -> Result<Facts, StoreError> {
        if self.snapshot == 0 {
            return Ok(Facts::default());
        }
        let mut assembly = Assembly::default();
        for item in self.snapshots.scan_prefix(self.snapshot.to_be_bytes()) {
            let (key, value) = item.map_err(engine("read"))?;
            assembly.push(chunk_in(&key)?, &value)?;
        }
        decode("the snapshot", &assembly.finish("the snapshot")?)
    }

    /// The journal from `first`: every entry there, none twice.
    fn load_journal(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let mut expected = self.first;
        let mut assembly = Assembly::default();
        for item in self.journal.range(self.first.to_be_bytes()..) {
            let (key, value) = item.map_err(engine("read"))?;
            let (number, chunk) = (number_in(&key)?, chunk_in(&key)?);
            if chunk == 0 && number != self.first {
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
        if self.next > self.first {
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
        Ok(Loaded {
            snapshot: self.load_snapshot()?,
            records: self.load_journal()?,
        })
    }

    fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
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
            let key = history_key(entry.at, self.db.generate_id().map_err(engine("write"))?);
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
        self.commit(&trees, |trees| {
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
        let bytes = encode("the snapshot", facts)?;
        let head = SnapshotHead {
            number: self.snapshot + 1,
            next: self.next,
        };
        // The chunks first: until the head names them, they mean nothing.
        for (key, value) in chunks(&head.number.to_be_bytes(), &bytes) {
            self.snapshots.insert(key, value).map_err(engine("write"))?;
        }
        let head_bytes = encode("the snapshot's head", &head)?;
        self.commit(&[&self.meta], |trees| {
            trees[0].insert(KEY_SNAPSHOT, head_bytes.as_slice())?;
            Ok(())
        })?;
        (self.snapshot, self.first) = (head.number, head.next);
        // From here on only tidying: what is left over after a crash is tidied the next time.
        remove_before(&self.snapshots, head.number)?;
        remove_before(&self.journal, head.next)
    }

    fn journal_len(&self) -> u64 {
        self.next - self.first
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

/// Removes every entry whose number is below `first`.
fn remove_before(tree: &Tree, first: u64) -> Result<(), StoreError> {
    for key in tree.range(..first.to_be_bytes()).keys() {
        let key = key.map_err(engine("read"))?;
        tree.remove(key).map_err(engine("write"))?;
    }
    Ok(())
}

/// History, audit log and past configurations, for readers.
#[derive(Clone)]
struct SledArchive {
    history: Tree,
    audit: Tree,
    configs: Tree,
}

impl Archive for SledArchive {
    fn history(&self, query: &HistoryQuery) -> Result<Vec<Entry>, StoreError> {
        let since = sortable(query.since);
        let mut found = Vec::new();
        for item in self.history.range(since..).rev() {
            if found.len() >= query.limit {
                break;
            }
            let (_, value) = item.map_err(engine("read"))?;
            let entry: Entry = decode("a history entry", &value)?;
            if query.fits(&entry) {
                found.push(entry);
            }
        }
        Ok(found)
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
        let mut kept = Vec::new();
        for item in &self.audit {
            kept.push(item.map_err(engine("read"))?.1);
        }
        Ok(audit::verify(kept.iter().map(|value| &**value)))
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
fn chunk_in(key: &[u8]) -> Result<u32, StoreError> {
    let number = key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    number.ok_or_else(|| StoreError::Content("a key is cut short".to_owned()))
}

fn open_db(directory: &Path) -> Result<sled::Db, StoreError> {
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

/// Bytes kept aside for the day when the disk is full.
struct Ballast {
    path: PathBuf,
}

impl Ballast {
    fn beside(store: &Path) -> Self {
        Self {
            path: store.with_file_name("ballast"),
        }
    }

    fn release(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(file("remove", &self.path))
    }

    /// Makes the file when it is not there. That it cannot be made is worth a word, not a failure.
    fn keep(&self) {
        if self.path.exists() {
            return;
        }
        let made = File::create(&self.path).and_then(|mut file| {
            file.write_all(&vec![0x5a; BALLAST])?;
            file.sync_all()
        });
        if let Err(error) = made {
            tracing::warn!(
                "there is no room for the ballast file {}: {error}",
                self.path.display()
            );
            fs::remove_file(&self.path).ok();
        }
    }
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let opened = File::open(path).and_then(|directory| directory.sync_all());
    opened.map_err(file("sync", path))
}

fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File {
        what,
        path: path.clone(),
        source,
    }
}

fn engine(what: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |source| StoreError::Engine { what, source }
}
