//! Files that are not sled's business: the ballast for the day when the disk is full, the mark of a
//! store that is being made, and what sled leaves behind and then stumbles over.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::StoreError;

/// Size of the ballast, in bytes. sled does not open on a full disk; giving this back lets it, and
/// lets it write what an operator needs to make room.
const BALLAST: usize = 16 * 1024 * 1024;

/// Bytes kept aside for the day when the disk is full.
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub(super) fn beside(store: &Path) -> Self {
        Self {
            path: store.with_file_name("ballast"),
        }
    }

    /// Gives the bytes back. Without a ballast there is nothing that can be done here.
    pub(super) fn release(&self) -> Result<(), StoreError> {
        if !self.path.exists() {
            return Err(StoreError::Full);
        }
        fs::remove_file(&self.path).map_err(file("remove", &self.path))
    }

    /// Makes the file when it is not there. That it cannot be made is worth a word, not a failure.
    pub(super) fn keep(&self) {
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

/// The mark of a store that is being made: set before its first file, taken away when all of it is
/// durable. While it is there, nobody was told anything, and what is left of the store is nothing.
pub(super) struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    pub(super) fn beside(store: &Path) -> Self {
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push(".unfinished");
        Self {
            path: store.with_file_name(name),
        }
    }

    /// Clears away a store whose making was cut short.
    pub(super) fn clear(&self, store: &Path) -> Result<(), StoreError> {
        if !self.path.exists() {
            return Ok(());
        }
        tracing::warn!(
            "the store {} was never finished; it is made anew",
            store.display()
        );
        match fs::remove_dir_all(store) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file("remove", store)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn begin(&self) -> Result<(), StoreError> {
        let made = File::create(&self.path).and_then(|file| file.sync_all());
        made.map_err(file("create", &self.path))?;
        sync_parent(&self.path)
    }

    /// Durable when this returns: a mark that came back would take the store with it.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(file("remove", &self.path))?;
        sync_parent(&self.path)
    }
}

/// Removes what sled was writing as its snapshot when it ended. Such a file sorts as the newest, and
/// sled takes it for one and does not open: it is written as `.generating`, and what is left out at
/// opening is another ending. Nothing is lost with it, everything is in the log as well.
pub(super) fn clear_half_snapshots(store: &Path) -> Result<(), StoreError> {
    let Ok(db) = File::open(store.join("db")) else {
        return Ok(());
    };
    // Held until the end. Somebody else's files stay; that the store is in use, opening it says.
    if db.try_lock().is_err() {
        return Ok(());
    }
    for entry in fs::read_dir(store).map_err(file("read", store))? {
        let path = entry.map_err(file("read", store))?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == "generating")
        {
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let opened = File::open(path).and_then(|directory| directory.sync_all());
    opened.map_err(file("sync", path))
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// For `map_err`: a file operation failed.
pub(super) fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| {
        if source.kind() == io::ErrorKind::StorageFull {
            return StoreError::Full;
        }
        StoreError::File {
            what,
            path: path.clone(),
            source,
        }
    }
}
