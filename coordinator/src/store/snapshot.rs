//! Snapshots: the facts as they are at one journal entry, in chunks, and a head that names them.
//!
//! Writing one takes a large part of a second for ten thousand machines, and the driver must not
//! stand still for that: it is done on a thread of its own while the journal goes on.

use std::{io, ops::RangeBounds, sync::Arc, thread};

use coordinator_core::fleet::Facts;
use serde::{Deserialize, Serialize};
use sled::Tree;

use super::{
    StoreError,
    disk::{Disk, engine},
    format::{Assembly, chunks, decode, encode},
    sled::chunk_in,
};

const KEY_SNAPSHOT: &[u8] = b"snapshot";

/// Chunks after which others get a turn on the disk.
const PORTION: usize = 64;

/// Which snapshot holds, and where the journal after it begins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    /// Rises by one; 0: there is none.
    pub(super) number: u64,
    pub(super) next: u64,
}

/// Where snapshots are, and the journal that they replace. Used by one thread at a time.
pub(super) struct Snapshots {
    pub(super) disk: Disk,
    pub(super) meta: Tree,
    pub(super) chunks: Tree,
    pub(super) journal: Tree,
}

/// A snapshot in the making.
pub(super) struct Writing {
    /// What will hold when it is done.
    pub(super) head: Head,
    thread: thread::JoinHandle<Result<(), StoreError>>,
}

impl Snapshots {
    /// The newest one's head.
    pub(super) fn head(&self) -> Result<Option<Head>, StoreError> {
        let kept = self.meta.get(KEY_SNAPSHOT).map_err(engine("read"))?;
        kept.map(|bytes| decode("the snapshot's head", &bytes))
            .transpose()
    }

    pub(super) fn load(&self, head: Head) -> Result<Facts, StoreError> {
        if head.number == 0 {
            return Ok(Facts::default());
        }
        let mut assembly = Assembly::default();
        for item in self.chunks.scan_prefix(head.number.to_be_bytes()) {
            let (key, value) = item.map_err(engine("read"))?;
            assembly.push(chunk_in(&key)?, &value)?;
            if assembly.is_whole() {
                // Whatever follows is of a snapshot of the same number that was broken off, from
                // before such remains were cleared away.
                break;
            }
        }
        decode("the snapshot", &assembly.finish("the snapshot")?)
    }

    /// Begins to write one.
    pub(super) fn begin(self: &Arc<Self>, head: Head, facts: Facts) -> Result<Writing, StoreError> {
        let snapshots = self.clone();
        let thread = thread::Builder::new()
            .name("snapshot".to_owned())
            .spawn(move || snapshots.write(head, &facts));
        let thread = thread.map_err(|source| engine("start a thread for")(source.into()))?;
        Ok(Writing { head, thread })
    }

    fn write(&self, head: Head, facts: &Facts) -> Result<(), StoreError> {
        let bytes = encode("the snapshot", facts)?;
        // A process that ended in the middle of this number may have written more of it than there
        // will be now.
        remove(&self.chunks, &head.number.to_be_bytes()..)?;
        // The chunks first: until the head names them, they mean nothing.
        for (number, (key, value)) in chunks(&head.number.to_be_bytes(), &bytes).enumerate() {
            self.chunks.insert(key, value).map_err(engine("write"))?;
            if number % PORTION == PORTION - 1 {
                // So that no commit beside this one finds much more than its own to write.
                self.disk.sync()?;
            }
        }
        let head_bytes = encode("the snapshot's head", &head)?;
        self.disk.commit(&[&self.meta], |trees| {
            trees[0].insert(KEY_SNAPSHOT, head_bytes.as_slice())?;
            Ok(())
        })?;
        // From here on only tidying: what is left over after a crash is tidied the next time.
        remove(&self.chunks, ..&head.number.to_be_bytes())?;
        remove(&self.journal, ..&head.next.to_be_bytes())
    }
}

impl Writing {
    /// Whether waiting for it takes no time.
    pub(super) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it is durable.
    pub(super) fn finish(self) -> Result<Head, StoreError> {
        let broke_off = |_| io::Error::other("the snapshot's thread broke off");
        let written = self.thread.join().map_err(broke_off);
        written.map_err(|source| engine("write a snapshot to")(source.into()))??;
        Ok(self.head)
    }
}

/// Removes every entry whose key is in the range.
fn remove<'a>(tree: &Tree, range: impl RangeBounds<&'a [u8; 8]>) -> Result<(), StoreError> {
    for key in tree.range::<&[u8; 8], _>(range).keys() {
        let key = key.map_err(engine("read"))?;
        tree.remove(key).map_err(engine("write"))?;
    }
    Ok(())
}
