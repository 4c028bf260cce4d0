//! `lab schedule …`

use clap::{Args, Subcommand};
use common::ScheduleName;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Schedule {
    /// Every schedule: when it runs next, and what came of its last run.
    List,
    /// Run a schedule now; its next planned run stays what it is.
    #[command(after_help = "Example:\n  lab schedule run weekly --reason='new kernel'")]
    Run(Which),
    /// Leave out the next planned run of a schedule, and no other.
    #[command(after_help = "Example:\n  lab schedule skip weekly --reason='open house on Sunday'")]
    Skip(Which),
}

/// `lab schedule run`, `lab schedule skip`
#[derive(Args, Debug)]
pub struct Which {
    /// The schedule, as the configuration names it.
    pub schedule: ScheduleName,
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}
