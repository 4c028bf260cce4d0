//! Why a demo did not come about, or not to its end.

use std::{io, path::PathBuf, time::Duration};

use coordinator_core::config::{Fault, Faults};

/// Why a demo did not come about, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file could not be used.
    #[error("cannot {what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The fleet configuration is no JSON.
    #[error("{path} is not JSON", path = path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: serde_json::Error,
    },
    /// Nix could not read the fleet configuration.
    #[error("{path} cannot be read through Nix: {said} (the same as JSON needs no Nix)", path = path.display())]
    Nix {
        /// Which file.
        path: PathBuf,
        /// What Nix said, or why it could not be asked.
        said: String,
    },
    /// The fleet configuration has faults.
    #[error("the fleet configuration has faults:\n{}", listed(&.0.0))]
    Config(#[from] Faults),
    /// `--fail` names a machine that is not in the fleet.
    #[error("--fail: there is no machine {0} in this fleet")]
    NoMachine(common::MachineName),
    /// A program could not be started.
    #[error("cannot start {what}")]
    Start {
        /// Which.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A program of the demo ended although it should not have.
    #[error("{what} ended: {status}\n{log}")]
    Ended {
        /// Which.
        what: String,
        /// Its status.
        status: String,
        /// The end of what it wrote.
        log: String,
    },
    /// A script that builds a system failed.
    #[error("a system could not be built: {0}")]
    Build(String),
    /// No connection to our own coordinator.
    #[error("no connection to the coordinator")]
    Connect(#[source] platform::channel::ConnectError),
    /// The administrator's identity that the coordinator made cannot be used.
    #[error("the administrator's identity cannot be used")]
    Identity(#[source] platform::identity::IdentityError),
    /// The coordinator said no.
    #[error("the coordinator refuses to {what}: {said}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        said: String,
    },
    /// It took too long.
    #[error("{what}: not within {} s{hint}", limit.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// What it waits for, if known.
        hint: String,
    },
    /// The fleet's windows never open.
    #[error("the windows of group {0} never open")]
    NeverOpens(common::GroupName),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl DemoError {
    /// For `map_err`: a file operation failed.
    pub(super) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

fn listed(faults: &[Fault]) -> String {
    let lines = faults.iter().map(|fault| format!("  {fault}"));
    lines.collect::<Vec<_>>().join("\n")
}
