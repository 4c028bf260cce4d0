//! The subcommands that a program needs which starts a fleet: it is the fleet's supervisor too, and its
//! small servers inside the machines.

use std::{net::SocketAddr, path::PathBuf};

use clap::Subcommand;
use common::id::MachineName;

use super::{FleetError, file_server, post_server, supervisor, supervisor::Means};

/// A part of a fleet that is a process of its own.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// The process that owns a fleet; started by `up`.
    #[command(hide = true)]
    Supervise {
        /// The fleet's name.
        #[arg(long)]
        run: String,
        /// The root file system that all machines share.
        #[arg(long)]
        image: PathBuf,
        /// A machine.
        #[arg(long = "machine")]
        machines: Vec<MachineName>,
        /// Bytes that each machine may write.
        #[arg(long)]
        disk: Option<u64>,
        /// Where the machines' own files are; in memory unless it is given.
        #[arg(long)]
        files: Option<PathBuf>,
        /// Bytes of memory that each machine may use.
        #[arg(long)]
        memory: Option<u64>,
    },
    /// A small static HTTP server; runs inside the machines.
    #[command(hide = true)]
    ServeFiles {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
        /// What it serves.
        #[arg(long)]
        root: PathBuf,
    },
    /// A webhook that writes down what it is sent; runs inside the machines.
    #[command(hide = true)]
    TakePosts {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
        /// Where it writes.
        #[arg(long)]
        into: PathBuf,
    },
}

impl Part {
    /// Plays the part, to its end.
    ///
    /// # Errors
    /// When it cannot be played.
    pub fn play(&self) -> Result<(), FleetError> {
        match self {
            Self::Supervise {
                run,
                image,
                machines,
                disk,
                files,
                memory,
            } => {
                let means = Means {
                    image,
                    disk: *disk,
                    files: files.as_deref(),
                    memory: *memory,
                };
                supervisor::supervise(run, machines, means)
            }
            Self::ServeFiles { listen, root } => {
                let served = file_server::serve(*listen, root.clone());
                served.map_err(FleetError::file("serve", root))
            }
            Self::TakePosts { listen, into } => {
                let taken = post_server::take(*listen, into);
                taken.map_err(FleetError::file("serve", into))
            }
        }
    }
}
