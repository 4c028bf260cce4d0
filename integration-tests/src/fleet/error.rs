//! Why something with the fleet did not work.

use std::{io, path::PathBuf, time::Duration};

use common::{
    closure::StorePathError,
    id::{MachineName, NameError},
};

use super::host::Missing;

/// Why something with the fleet did not work.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The host cannot run a fleet.
    #[error("{0}")]
    Host(Missing),
    /// A fleet of this name runs already.
    #[error("the fleet {0} is already up (`fleet down` ends it)")]
    AlreadyUp(String),
    /// No fleet of this name runs.
    #[error("no fleet {0} is up (`fleet up` starts one)")]
    NotUp(String),
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
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended with another status than 0.
    #[error("`{command}` {status}: {output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// The supervisor answered no.
    #[error("{0}")]
    Refused(String),
    /// The supervisor answered something that is no answer.
    #[error("the supervisor's answer is not understood")]
    Answer(#[source] serde_json::Error),
    /// The machine is not running.
    #[error("{0} is not running")]
    Off(MachineName),
    /// The fleet has no machine of this name.
    #[error("the fleet has no machine {0}")]
    Unknown(MachineName),
    /// Not a usable machine name.
    #[error("not a machine name")]
    Name(#[from] NameError),
    /// Nix printed something that is no store path.
    #[error("Nix printed something that is no store path")]
    StorePath(#[from] StorePathError),
    /// Waited long enough.
    #[error("{what}: not within {} s", limit.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
    },
}

impl FleetError {
    /// For `map_err`: a file operation failed.
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
