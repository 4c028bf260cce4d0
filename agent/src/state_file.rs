//! The agent's journal: one small JSON document, replaced as a whole and durable on return.
//!
//! A damaged file stops the agent: what it said may have been the only knowledge of an attempt in
//! progress, and a guess could switch a machine twice or forget a lease that was used.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use agent_core::{Durable, state::DurableError};

use crate::ballast::{Ballast, is_full};

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file system said no.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// Not the document that was written.
    #[error(
        "{path} is damaged; the agent does not guess where an attempt stood. \
         See what the machine runs, then move the file away to begin anew"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        cause: serde_json::Error,
    },
    /// Readable, but not a state to go on from.
    #[error("{path} cannot be used")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: DurableError,
    },
    /// The state has no JSON form. Cannot happen with the types it has; kept apart from disk faults.
    #[error("the state cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

/// Where an agent's state is kept. A file in the product; simulations have disks of their own.
pub trait StateStore {
    /// Reads the state; `None` on a new machine.
    fn load(&self) -> Result<Option<Durable>, StateFileError>;

    /// Replaces the state. Durable when it returns: even a power cut leaves the old or the new one.
    fn save(&self, state: &Durable) -> Result<(), StateFileError>;
}

/// The file with the agent's durable state.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The state in this file; its directory must exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn failed(&self, verb: &'static str, cause: io::Error) -> StateFileError {
        StateFileError::Io {
            verb,
            path: self.path.clone(),
            cause,
        }
    }
}

impl StateStore for StateFile {
    fn load(&self) -> Result<Option<Durable>, StateFileError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let state: Durable =
            serde_json::from_slice(&bytes).map_err(|cause| StateFileError::Damaged {
                path: self.path.clone(),
                cause,
            })?;
        let state = state.checked().map_err(|cause| StateFileError::Unusable {
            path: self.path.clone(),
            cause,
        })?;
        Ok(Some(state))
    }

    fn save(&self, state: &Durable) -> Result<(), StateFileError> {
        let bytes = serde_json::to_vec_pretty(state).map_err(StateFileError::Encode)?;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        Ballast::within(directory)
            .spare(|| replace(&self.path, &bytes), is_full)
            .map_err(|error| self.failed("write", error))
    }
}

/// Temporary file, fsync, rename, fsync of the directory.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory_of(path)
}

/// Makes the directory entry of a file durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use common::{Epoch, LeaseId};

    use super::*;

    fn file() -> (tempfile::TempDir, StateFile) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::new(dir.path().join("agent.json"));
        (dir, file)
    }

    #[test]
    fn a_new_machine_has_no_state_and_a_saved_one_comes_back() {
        let (_dir, file) = file();
        assert!(file.load().expect("readable").is_none());
        let mut state = Durable::new();
        state.epoch = Epoch(3);
        state.lease = LeaseId(12);
        file.save(&state).expect("saved");
        assert_eq!(file.load().expect("readable"), Some(state));
    }

    #[test]
    fn a_torn_temporary_file_does_not_harm() {
        let (dir, file) = file();
        let state = Durable::new();
        file.save(&state).expect("saved");
        fs::write(dir.path().join("agent.tmp"), "{\"format\":1,\"li").expect("written");
        assert_eq!(file.load().expect("readable"), Some(state.clone()));
        file.save(&state).expect("saved over it");
    }

    #[test]
    fn every_torn_write_of_the_file_itself_is_told() {
        let (dir, file) = file();
        file.save(&Durable::new()).expect("saved");
        let path = dir.path().join("agent.json");
        let whole = fs::read(&path).expect("readable");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("written");
            let error = file.load().expect_err("torn");
            assert!(
                matches!(error, StateFileError::Damaged { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn another_format_is_refused() {
        let (dir, file) = file();
        let mut state = Durable::new();
        state.format = 99;
        let path = dir.path().join("agent.json");
        fs::write(&path, serde_json::to_vec(&state).expect("JSON")).expect("written");
        let error = file.load().expect_err("a newer format");
        assert!(matches!(error, StateFileError::Unusable { .. }), "{error}");
    }

    #[test]
    fn a_state_that_cannot_be_saved_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::new(dir.path().join("missing/agent.json"));
        assert!(file.save(&Durable::new()).is_err());
    }
}
