//! `lab update …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use common::{GroupName, RolloutId};

use super::{
    Select,
    parse::{MachineClosure, Span},
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Update {
    /// Show what `execute` would do: waves, order, who is left out and why.
    #[command(after_help = "Example:\n  lab update plan --group=dev")]
    Plan(Plan),
    /// Say what machines are to run, and have them download and check it. Disrupts nothing.
    #[command(after_help = "Examples:\n  \
        lab update prepare --group=dev\n  \
        lab update prepare --flake=git+https://example.org/fleet --push-to=s3://cache\n  \
        lab update prepare --closure=web-01=/nix/store/…-nixos-system-web-01-26.05\n\n\
        Without a source the one in the fleet configuration is used (updateSettings.source).")]
    Prepare(Prepare),
    /// Run the update, wave by wave, and wait for its end.
    #[command(after_help = "Examples:\n  \
        lab update execute --group=dev --parallel=3\n  \
        lab update execute --dry-run\n\n\
        Interrupting only ends the waiting: the rollout goes on.")]
    Execute(Execute),
    /// Check that every machine runs its target and is healthy.
    #[command(
        after_help = "Example:\n  lab update verify --group=dev || lab update rollback --group=dev"
    )]
    Verify(Verify),
    /// Go back: to what each machine ran before, or to a generation.
    #[command(after_help = "Examples:\n  \
        lab update rollback --group=critical --immediate\n  \
        lab update rollback --group=infrastructure --to-generation=150\n  \
        lab update rollback --rollout=r7 --dry-run\n  \
        lab update rollback --machine=db-primary,web-01")]
    Rollback(Rollback),
    /// Where the rollouts stand.
    Status(Status),
    /// Follow a rollout until it ends.
    Watch(Watch),
    /// Let groups that wait for approval go.
    #[command(after_help = "Example:\n  lab update approve --group=critical")]
    Approve(Approve),
    /// Refuse groups that wait for approval.
    Reject(Approve),
    /// Let groups go on that wait or soak after a wave.
    #[command(after_help = "Examples:\n  \
        lab update promote --group=web\n  \
        lab update promote --full\n\n\
        Windows, limits, budget and health still hold.")]
    Promote(Promote),
    /// Give out no further leases. Machines that are away finish.
    Pause(Rollout),
    /// Go on with a paused rollout.
    Resume(GoOn),
    /// End a rollout. Machines that are away finish; the others stay as they are.
    Abort(Rollout),
}

/// `lab update plan`
#[derive(Args, Debug)]
pub struct Plan {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// What kind of rollout to plan.
    #[arg(long, value_enum, default_value_t)]
    pub kind: Kind,
    /// How many at once.
    #[command(flatten)]
    pub parallel: Parallel,
    /// Also try targets that failed on a machine before.
    #[arg(long)]
    pub retry_failed: bool,
    /// An emergency: past windows, soak and stagger.
    #[arg(long)]
    pub emergency: bool,
}

/// Kinds of rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// To the prepared targets.
    #[default]
    Update,
    /// Back to what each machine ran before.
    Rollback,
    /// The same systems, booted again.
    Reboot,
}

impl Kind {
    /// As on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Rollback => "rollback",
            Self::Reboot => "reboot",
        }
    }
}

/// `--parallel`
#[derive(Args, Clone, Copy, Debug)]
pub struct Parallel {
    /// At most N machines of a group away at once; never more than the configuration allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: Option<u32>,
}

/// How to wait for the end.
#[derive(Args, Clone, Copy, Debug)]
pub struct Waiting {
    /// Wait for the end. This is the default.
    #[arg(long, conflicts_with = "detach")]
    pub wait_for_completion: bool,
    /// Return at once; `lab update watch` comes back to it.
    #[arg(long)]
    pub detach: bool,
    /// Stop waiting after this long: seconds, or 2h. The rollout goes on.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<Span>,
}

/// `lab update prepare`
#[derive(Args, Debug)]
pub struct Prepare {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// Where the targets come from.
    #[command(flatten)]
    pub source: Source,
    /// Return as soon as the targets are set.
    #[arg(long)]
    pub detach: bool,
    /// Stop waiting after this long: seconds, or 2h. The machines go on.
    #[arg(long, default_value = "2h", value_name = "SECONDS")]
    pub timeout: Span,
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// Where targets come from.
#[derive(Args, Clone, Debug, Default)]
pub struct Source {
    /// This system closure for this machine; may be given more than once.
    #[arg(
        long,
        value_name = "MACHINE=PATH",
        conflicts_with_all = ["targets", "flake", "channel"]
    )]
    pub closure: Vec<MachineClosure>,
    /// JSON file: machine names and their store paths.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["flake", "channel"])]
    pub targets: Option<PathBuf>,
    /// Flake with the machines' nixosConfigurations; evaluated and built here.
    #[arg(long, value_name = "REF", conflicts_with = "channel")]
    pub flake: Option<String>,
    /// Sign what was built with this secret key.
    #[arg(
        long,
        value_name = "FILE",
        requires = "flake",
        conflicts_with = "build_on_machine"
    )]
    pub sign_key: Option<PathBuf>,
    /// Copy what was built to this binary cache.
    #[arg(
        long,
        value_name = "CACHE-URL",
        requires = "flake",
        conflicts_with = "build_on_machine"
    )]
    pub push_to: Option<String>,
    /// Pin the locked flake, and let every machine build its own system.
    #[arg(long, requires = "flake")]
    pub build_on_machine: bool,
    /// Channel from which every machine builds its own system, as the channel is by then.
    #[arg(long, value_name = "URL")]
    pub channel: Option<String>,
}

/// `lab update execute`
#[derive(Args, Debug)]
pub struct Execute {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// How many at once.
    #[command(flatten)]
    pub parallel: Parallel,
    /// Only show the plan.
    #[arg(long, conflicts_with_all = ["detach", "wait_for_completion"])]
    pub dry_run: bool,
    /// Refuse unless this plan, shown by `lab update plan`, still holds.
    #[arg(long, value_name = "PLAN")]
    pub if_plan: Option<String>,
    /// Also try targets that failed on a machine before.
    #[arg(long)]
    pub retry_failed: bool,
    /// An emergency: do not wait for windows, soak or stagger. Limits, budget, approvals and health still
    /// hold. Takes the role admin and a reason, which everybody is told.
    #[arg(long, requires = "reason")]
    pub emergency: bool,
    /// How to wait for the end.
    #[command(flatten)]
    pub waiting: Waiting,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab update verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// How long to wait for the health checks: seconds, or 5m.
    #[arg(long, default_value = "300", value_name = "SECONDS")]
    pub timeout: Span,
}

/// `lab update rollback`
#[derive(Args, Debug)]
pub struct Rollback {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// How many at once.
    #[command(flatten)]
    pub parallel: Parallel,
    /// Go to this generation; otherwise to what each machine ran before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub to_generation: Option<u64>,
    /// Take this rollout back, on every machine that still runs what it brought.
    #[arg(long, value_name = "ROLLOUT", conflicts_with = "to_generation")]
    pub rollout: Option<RolloutId>,
    /// Only show where each machine would go.
    #[arg(long, conflicts_with_all = ["detach", "wait_for_completion"])]
    pub dry_run: bool,
    /// Refuse unless this plan, shown by `--dry-run`, still holds.
    #[arg(long, value_name = "PLAN")]
    pub if_plan: Option<String>,
    /// Do not wait for windows, soak or stagger. Limits, budget and health still hold.
    #[arg(long)]
    pub immediate: bool,
    /// How to wait for the end.
    #[command(flatten)]
    pub waiting: Waiting,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab update status`
#[derive(Args, Debug)]
pub struct Status {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// Also rollouts that ended.
    #[arg(long)]
    pub all: bool,
}

/// `lab update watch`
#[derive(Args, Debug)]
pub struct Watch {
    /// The rollout; otherwise the only active one.
    pub rollout: Option<RolloutId>,
    /// Stop waiting after this long: seconds, or 2h. The rollout goes on.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<Span>,
}

/// `lab update approve`, `lab update reject`
#[derive(Args, Debug)]
pub struct Approve {
    /// The rollout; otherwise the only active one.
    pub rollout: Option<RolloutId>,
    /// Only this group; otherwise every group that waits for approval.
    #[arg(long)]
    pub group: Option<GroupName>,
    /// Kept in the history.
    #[arg(long, alias = "reason", default_value = "", hide_default_value = true)]
    pub comment: String,
}

/// `lab update promote`
#[derive(Args, Debug)]
pub struct Promote {
    /// The rollout; otherwise the only one that waits after a wave.
    pub rollout: Option<RolloutId>,
    /// Only this group; otherwise every group that waits or soaks.
    #[arg(long)]
    pub group: Option<GroupName>,
    /// To the end, without asking or soaking after any later wave.
    #[arg(long)]
    pub full: bool,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab update resume`
#[derive(Args, Debug)]
pub struct GoOn {
    /// Which rollout, and why.
    #[command(flatten)]
    pub which: Rollout,
    /// Measure the gates of the wave anew, of a rollout that a gate has paused. Otherwise that gate is
    /// accepted.
    #[arg(long)]
    pub measure_again: bool,
}

/// `lab update pause`, `lab update resume`, `lab update abort`
#[derive(Args, Debug)]
pub struct Rollout {
    /// The rollout; otherwise the only active one.
    pub rollout: Option<RolloutId>,
    /// Why; kept in the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}
