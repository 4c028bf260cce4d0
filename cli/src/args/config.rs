//! `lab update-config …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use common::GroupName;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum UpdateConfig {
    /// The configuration in force, or an older revision.
    Show(Show),
    /// Set one key, of a group or of updateSettings.
    #[command(after_help = "Examples:\n  \
        lab update-config set --group=dev --key=maintenanceWindow --value=02:00-06:00\n  \
        lab update-config set --key=maxParallel --value=5\n\n\
        The value is read as JSON where it is JSON, and as text otherwise.")]
    Set(Set),
    /// Remove one key, of a group or of updateSettings.
    Unset(Unset),
    /// Replace the whole configuration by a file (.nix or .json).
    #[command(after_help = "Example:\n  lab update-config import update-config.nix")]
    Import(Import),
    /// Say what is wrong with a file, without changing anything.
    Check(File),
    /// Show what a file would change.
    Diff(File),
    /// Who changed the configuration, and when.
    Log(Log),
}

/// `lab update-config show`
#[derive(Args, Debug)]
pub struct Show {
    /// Only this group.
    #[arg(long)]
    pub group: Option<GroupName>,
    /// An older revision.
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
}

/// `lab update-config set`
#[derive(Args, Debug)]
pub struct Set {
    /// The group; otherwise updateSettings.
    #[arg(long)]
    pub group: Option<GroupName>,
    /// The key; dots go deeper.
    #[arg(long)]
    pub key: String,
    /// Its value.
    #[arg(long, allow_hyphen_values = true)]
    pub value: String,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab update-config unset`
#[derive(Args, Debug)]
pub struct Unset {
    /// The group; otherwise updateSettings.
    #[arg(long)]
    pub group: Option<GroupName>,
    /// The key; dots go deeper.
    #[arg(long)]
    pub key: String,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab update-config import`
#[derive(Args, Debug)]
pub struct Import {
    /// The file: .nix, or JSON.
    pub file: PathBuf,
    /// Refuse unless this revision is in force.
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// A file to look at.
#[derive(Args, Debug)]
pub struct File {
    /// The file: .nix, or JSON.
    pub file: PathBuf,
}

/// `lab update-config log`
#[derive(Args, Debug)]
pub struct Log {
    /// At most N revisions.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub limit: u32,
}
