//! Why something with the virtual machine did not work, or was not as it has to be.

use std::{io, path::PathBuf, time::Duration};

use crate::fleet::FleetError;

/// Why something with the virtual machine did not work.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The fleet that it is part of.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A file or socket could not be used.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not as it has to be.
    #[error("{0}")]
    Wrong(String),
    /// Waited long enough.
    #[error("{what}: not within {} s", limit.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
    },
}

impl VmError {
    /// For `map_err`: a file operation failed.
    pub(super) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

/// What has to be so.
pub(super) fn must(so: bool, otherwise: impl FnOnce() -> String) -> Result<(), VmError> {
    if so {
        Ok(())
    } else {
        Err(VmError::Wrong(otherwise()))
    }
}
