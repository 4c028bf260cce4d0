//! The one way to the disk: sled, and the sync that sled leaves out.
//!
//! sled's own `flush` only asks the kernel to write (`sync_file_range`) and does not wait for the
//! disk: a power cut loses what it called durable, and can leave a store that does not open. So a
//! commit is a transaction, a flush, and then `fdatasync` on a descriptor of our own of sled's only
//! data file.

use std::{fs::File, io, path::Path, sync::Arc};

use sled::{
    Transactional as _, Tree,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{StoreError, beside::file};

/// sled's files. Clones are for other threads.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) db: sled::Db,
    /// sled's data file, opened by us only to sync it.
    data: Arc<File>,
    #[cfg(feature = "seeded-bugs")]
    forgets_to_sync: bool,
}

impl Disk {
    /// The files of an open sled in this directory.
    pub(super) fn new(db: sled::Db, directory: &Path) -> Result<Self, StoreError> {
        let data = directory.join("db");
        Ok(Self {
            db,
            data: Arc::new(File::open(&data).map_err(file("open", &data))?),
            #[cfg(feature = "seeded-bugs")]
            forgets_to_sync: false,
        })
    }

    /// From here on takes sled's flush for durable: a known mistake that a power cut must show.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn forget_to_sync(&mut self) {
        self.forgets_to_sync = true;
    }

    /// Makes everything written so far survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(engine("flush"))?;
        #[cfg(feature = "seeded-bugs")]
        if self.forgets_to_sync {
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
