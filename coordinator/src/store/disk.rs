//! The one way to the disk: sled, and the sync that sled leaves out.
//!
//! sled's own `flush` only asks the kernel to write (`sync_file_range`) and does not wait for the
//! disk: a power cut loses what it called durable, and can leave a store that does not open. So a
//! commit is a transaction, a flush, and then `fdatasync` on a descriptor of our own of sled's only
//! data file.

#[cfg(feature = "seeded-bugs")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use sled::{
    Transactional as _, Tree,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{StoreError, beside::file};

/// sled's files, for one thread.
pub(super) struct Disk {
    pub(super) db: sled::Db,
    path: PathBuf,
    /// sled's data file, opened by us only to sync it.
    data: File,
    #[cfg(feature = "seeded-bugs")]
    forgets_to_sync: Arc<AtomicBool>,
}

impl Disk {
    /// The files of an open sled in this directory.
    pub(super) fn new(db: sled::Db, directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("db");
        Ok(Self {
            db,
            data: File::open(&path).map_err(file("open", &path))?,
            path,
            #[cfg(feature = "seeded-bugs")]
            forgets_to_sync: Arc::default(),
        })
    }

    /// The same files for another thread. Opened anew: that a page could not be written, the kernel
    /// says once to everybody who has the file open. Two threads with one opening between them would
    /// share that one word, and whoever asks second would take a lost page for durable.
    pub(super) fn for_another_thread(&self) -> Result<Self, StoreError> {
        Ok(Self {
            db: self.db.clone(),
            data: File::open(&self.path).map_err(file("open", &self.path))?,
            path: self.path.clone(),
            #[cfg(feature = "seeded-bugs")]
            forgets_to_sync: self.forgets_to_sync.clone(),
        })
    }

    /// From here on takes sled's flush for durable: a known mistake that a power cut must show.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn forget_to_sync(&self) {
        self.forgets_to_sync.store(true, Ordering::Relaxed);
    }

    /// Makes everything written so far survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(engine("flush"))?;
        #[cfg(feature = "seeded-bugs")]
        if self.forgets_to_sync.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.data
            .sync_data()
            .map_err(|source| engine("sync")(sled::Error::Io(source)))
    }

    /// All of `write` or nothing, durable when this returns.
    pub(super) fn commit(
        &self,
        trees: &[&Tree],
        write: impl Fn(&[TransactionalTree]) -> Result<(), ConflictableTransactionError<()>>,
    ) -> Result<(), StoreError> {
        let written = trees.transaction(|trees| write(trees));
        written.map_err(|error| match error {
            TransactionError::Abort(()) => {
                StoreError::Content("a transaction gave up by itself".to_owned())
            }
            TransactionError::Storage(source) => engine("write")(source),
        })?;
        self.sync()
    }
}

/// For `map_err`: sled failed.
pub(super) fn engine(what: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |source| {
        if let sled::Error::Io(error) = &source
            && error.kind() == io::ErrorKind::StorageFull
        {
            return StoreError::Full;
        }
        StoreError::Engine { what, source }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    /// Whether two descriptors are one opening of the file shows in where they stand in it.
    #[test]
    fn every_thread_has_the_data_file_opened_for_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let db = sled::open(directory.path()).expect("sled");
        let mut one = Disk::new(db, directory.path()).expect("the files");
        let mut other = one.for_another_thread().expect("the files");
        one.data.seek(SeekFrom::Start(7)).expect("moved");
        assert_eq!(other.data.stream_position().expect("a position"), 0);
    }
}
