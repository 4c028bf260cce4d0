//! `lab machines …`

use clap::{Args, Subcommand};
use common::MachineName;

use super::{
    Select,
    update::{Parallel, Waiting},
};

/// `lab machines`: without a verb, the list.
#[derive(Args, Debug)]
pub struct Machines {
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// All machines, or those of some groups.
    List(List),
    /// Everything known about one machine.
    Show(Show),
    /// Free what a machine holds and forget its failure.
    Forget(Forget),
    /// Let machines take part in no rollout until they are released. Those that are away finish.
    #[command(
        after_help = "Example:\n  lab machines quarantine web-03 --reason='its disk is failing'"
    )]
    Quarantine(Quarantine),
    /// Let machines take part in rollouts again, from the next one on.
    Release(Release),
    /// Boot machines again, in waves, under the same rules as an update.
    #[command(after_help = "Example:\n  lab machines reboot --group=critical")]
    Reboot(Reboot),
}

/// `lab machines list`
#[derive(Args, Debug)]
pub struct List {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
}

/// `lab machines show`
#[derive(Args, Debug)]
pub struct Show {
    /// The machine.
    pub machine: MachineName,
}

/// `lab machines forget`
#[derive(Args, Debug)]
pub struct Forget {
    /// The machine.
    pub machine: MachineName,
    /// Why; kept in the history.
    #[arg(long)]
    pub reason: String,
}

/// `lab machines quarantine`
#[derive(Args, Debug)]
pub struct Quarantine {
    /// The machines.
    #[arg(required = true)]
    pub machines: Vec<MachineName>,
    /// Why; everybody is told.
    #[arg(long)]
    pub reason: String,
}

/// `lab machines release`
#[derive(Args, Debug)]
pub struct Release {
    /// The machines.
    #[arg(required = true)]
    pub machines: Vec<MachineName>,
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab machines reboot`
#[derive(Args, Debug)]
pub struct Reboot {
    /// The machines.
    pub machines: Vec<MachineName>,
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// How many at once.
    #[command(flatten)]
    pub parallel: Parallel,
    /// How to wait for the end.
    #[command(flatten)]
    pub waiting: Waiting,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}
