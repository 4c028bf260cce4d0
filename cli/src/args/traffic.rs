//! `lab traffic …`

use clap::{Args, Subcommand};
use common::{GroupName, SideName};

use super::parse::Span;

/// `lab traffic`: where it is, and the verbs.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        lab traffic\n  \
        lab traffic move web --to=green\n  \
        lab traffic back web --yes"
)]
pub struct Traffic {
    /// What to do; without it: where the traffic of every group with two sides is.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Move the traffic of a group to one of its sides, and wait until it is there.
    #[command(after_help = "A rollout that is at work on the group pauses.\n\n\
        Example:\n  lab traffic move web --to=green --reason='blue has a bad disk'")]
    Move(Move),
    /// Move the traffic of a group back to the side on which it was before, and wait until it is there.
    #[command(after_help = "A rollout that is at work on the group pauses.\n\n\
        Example:\n  lab traffic back web --yes")]
    Back(Back),
}

/// `lab traffic move`
#[derive(Args, Debug)]
pub struct Move {
    /// The group.
    pub group: GroupName,
    /// The side that is to have it.
    #[arg(long, value_name = "SIDE")]
    pub to: SideName,
    /// What both have.
    #[command(flatten)]
    pub common: Common,
}

/// `lab traffic back`
#[derive(Args, Debug)]
pub struct Back {
    /// The group.
    pub group: GroupName,
    /// What both have.
    #[command(flatten)]
    pub common: Common,
}

/// What both verbs take.
#[derive(Args, Debug)]
pub struct Common {
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Do not wait until the traffic is there.
    #[arg(long)]
    pub detach: bool,
    /// How long to wait: seconds, or 5m. The move goes on.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<Span>,
}
