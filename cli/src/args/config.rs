//! `lab update-config …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use common::{GroupName, MachineName};

use crate::config_edit::Place;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum UpdateConfig {
    /// The configuration in force, or an older revision.
    Show(Show),
    /// Set one key of a group, of a machine, of a policy, or else of updateSettings.
    #[command(after_help = "Examples:\n  \
        lab update-config set --group=dev --key=maintenanceWindow --value=02:00-06:00\n  \
        lab update-config set --machine=db-01 --key=expectedDuration --value=40m\n  \
        lab update-config set --key=maxParallel --value=5\n\n\
        The value is read as JSON where it is JSON, and as text otherwise.")]
    Set(Set),
    /// Remove one key of a group, of a machine, of a policy, or else of updateSettings.
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

/// At most one of these.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub struct Whose {
    /// What this group has.
    #[arg(long)]
    pub group: Option<GroupName>,
    /// What this machine has of its own.
    #[arg(long)]
    pub machine: Option<MachineName>,
    /// What this policy has, one of updatePolicies.
    #[arg(long)]
    pub policy: Option<String>,
}

impl Whose {
    /// Where that is; `None` where it is said of nobody.
    pub fn place(&self) -> Option<Place<'_>> {
        let group = self.group.as_ref().map(|name| Place::Group(name.as_str()));
        let machine = self
            .machine
            .as_ref()
            .map(|name| Place::Machine(name.as_str()));
        let policy = self.policy.as_deref().map(Place::Policy);
        group.or(machine).or(policy)
    }
}

/// `lab update-config show`
#[derive(Args, Debug)]
pub struct Show {
    /// Only that part.
    #[command(flatten)]
    pub whose: Whose,
    /// An older revision.
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
}

/// `lab update-config set`
#[derive(Args, Debug)]
pub struct Set {
    /// Whose key.
    #[command(flatten)]
    pub whose: Whose,
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
    /// Whose key.
    #[command(flatten)]
    pub whose: Whose,
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
