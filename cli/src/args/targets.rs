//! `lab targets …`

use clap::{Args, Subcommand};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Targets {
    /// Targets in quarantine: since when, by whom and why.
    List,
    /// Let no machine be updated to a target until it is released. Those that are at it finish.
    #[command(after_help = "Example:\n  \
        lab targets quarantine 'git+https://git.example.org/fleet?rev=4e5a…' --reason='breaks DNS'")]
    Quarantine(Quarantine),
    /// Let machines be updated to a target again, from the next rollout on.
    Release(Release),
}

/// `lab targets quarantine`
#[derive(Args, Debug)]
pub struct Quarantine {
    /// A closure, a flake reference (all its attributes), or a channel, as `lab update plan` and
    /// `lab machines show` name it.
    pub target: String,
    /// Why; everybody is told.
    #[arg(long)]
    pub reason: String,
}

/// `lab targets release`
#[derive(Args, Debug)]
pub struct Release {
    /// The target.
    pub target: String,
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}
