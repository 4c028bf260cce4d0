//! What can be typed: declarations and nothing else.

pub mod config;
#[cfg(test)]
mod handbook;
pub mod machines;
pub mod parse;
pub mod schedule;
pub mod targets;
pub mod traffic;
pub mod trust;
pub mod update;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use common::{GroupName, MachineName};
use lab_proto::operator::Selection;

use self::parse::Span;

/// Keeps a fleet of NixOS machines up to date: in waves, with leases, health checks and rollback.
#[derive(Debug, Parser)]
#[command(
    name = "lab",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Examples:\n  \
        lab update prepare --group=dev --flake=.\n  \
        lab update execute --group=dev --parallel=3\n  \
        lab update verify --group=dev\n  \
        lab update status\n  \
        lab why web-01\n\n\
        Exit statuses: lab help exit-codes"
)]
pub struct Lab {
    /// The connection and the form of the output.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Coordinator to talk to; the port is 7443 unless given. Without it: what `lab identity
    /// enrol` noted in the configuration directory.
    #[arg(
        long,
        global = true,
        env = "LAB_COORDINATOR",
        value_name = "HOST:PORT",
        help_heading = "Global options"
    )]
    pub coordinator: Option<String>,
    /// Identity file: private key, certificate, CA. Without it: identity.pem in the user's
    /// configuration directory (~/.config/lab).
    #[arg(
        long = "identity",
        id = "identity_file",
        global = true,
        env = "LAB_IDENTITY",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub identity: Option<PathBuf>,
    /// For people, or one JSON document for programs.
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Global options"
    )]
    pub output: Format,
    /// Do not ask; answer every question with yes.
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub yes: bool,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text and tables.
    #[default]
    Human,
    /// One JSON document with stable field names.
    Json,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plan, prepare, run, follow and undo rollouts.
    #[command(subcommand)]
    Update(update::Update),
    /// Ask machines to run their health checks now, and wait for the answers.
    #[command(after_help = "Example:\n  lab health-check --group=dev --timeout=120")]
    HealthCheck(HealthCheck),
    /// What happened: rollouts, attempts, stops, configuration.
    #[command(after_help = "Example:\n  lab update-history --group=dev --days=7")]
    UpdateHistory(UpdateHistory),
    /// Send a message over the configured channels.
    #[command(
        after_help = "Example:\n  lab notify --level=error --message='Update failed for dev'"
    )]
    Notify(Notify),
    /// Read and change the fleet configuration.
    #[command(subcommand)]
    UpdateConfig(config::UpdateConfig),
    /// What is done again and again, at times of its own.
    #[command(subcommand)]
    Schedule(schedule::Schedule),
    /// Where the traffic of groups with two sides is; move it, and take it back.
    Traffic(traffic::Traffic),
    /// The machines and what they run.
    Machines(machines::Machines),
    /// What machines are to run: targets that were put aside.
    #[command(subcommand)]
    Targets(targets::Targets),
    /// Why a machine does not go now, and what would change it.
    #[command(after_help = "Example:\n  lab why db-primary")]
    Why(Why),
    /// Stop the fleet: no machine begins anything until `lab resume`.
    #[command(after_help = "Examples:\n  \
        lab emergency-stop --reason='bad release'\n  \
        lab emergency-stop --group=critical --mode=rollback --reason='bad release'")]
    EmergencyStop(EmergencyStop),
    /// Lift an emergency stop.
    #[command(after_help = "Example:\n  lab resume --reason='release withdrawn'")]
    Resume(Resume),
    /// One-time enrolment tokens for machines and operators.
    #[command(subcommand)]
    Token(trust::Token),
    /// Certificates: list, revoke, get one's own, let a machine return.
    #[command(subcommand)]
    Identity(trust::Identity),
    /// Who did what, in a chain that shows tampering.
    Audit(trust::Audit),
    /// Completion script for a shell.
    #[command(after_help = "Example:\n  lab completions bash > /etc/bash_completion.d/lab")]
    Completions(Completions),
    /// The manual page, or one page for every command.
    Man(Man),
    /// Help for a command, or a topic: exit-codes.
    Help(Help),
}

/// Which machines: all, unless groups or machines are named.
#[derive(Args, Clone, Debug, Default)]
pub struct Select {
    /// Machines of these groups.
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub group: Vec<GroupName>,
    /// These machines.
    #[arg(long, value_delimiter = ',', value_name = "MACHINE")]
    pub machine: Vec<MachineName>,
}

impl Select {
    /// As the coordinator wants it.
    pub fn selection(&self) -> Selection {
        Selection {
            groups: self.group.iter().map(ToString::to_string).collect(),
            machines: self.machine.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `lab health-check`
#[derive(Args, Debug)]
pub struct HealthCheck {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// How long to wait for the answers: seconds, or 5m.
    #[arg(long, default_value = "300", value_name = "SECONDS")]
    pub timeout: Span,
}

/// `lab update-history`
#[derive(Args, Debug)]
pub struct UpdateHistory {
    /// Which machines.
    #[command(flatten)]
    pub select: Select,
    /// Only the last N days.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3660))]
    pub days: u32,
    /// At most N entries.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// `lab notify`
#[derive(Args, Debug)]
pub struct Notify {
    /// How bad it is.
    #[arg(long, value_enum, default_value_t)]
    pub level: Level,
    /// What to say.
    #[arg(long)]
    pub message: String,
    /// Only over this channel; otherwise over all of the configuration.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub channel: String,
}

/// How bad a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// For whoever looks for the cause of something.
    Debug,
    /// Good to know.
    #[default]
    Info,
    /// Somebody should look at it.
    Warning,
    /// Somebody has to act.
    Error,
}

/// `lab why`
#[derive(Args, Debug)]
pub struct Why {
    /// The machine.
    pub machine: MachineName,
}

/// `lab emergency-stop`
#[derive(Args, Debug)]
pub struct EmergencyStop {
    /// Only these groups; otherwise the whole fleet.
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub group: Vec<GroupName>,
    /// What machines past the point of no return do.
    #[arg(long, value_enum, default_value_t)]
    pub mode: StopMode,
    /// Why; kept in the history.
    #[arg(long)]
    pub reason: String,
}

/// What machines past the point of no return do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StopMode {
    /// Finish, judge, report.
    #[default]
    Finish,
    /// Go back to where they came from.
    Rollback,
}

/// `lab resume`
#[derive(Args, Debug)]
pub struct Resume {
    /// Why it is safe again; kept in the history.
    #[arg(long)]
    pub reason: String,
}

/// `lab completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// `lab man`
#[derive(Args, Debug)]
pub struct Man {
    /// Write one page for every command into this directory instead.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// `lab help`
#[derive(Args, Debug)]
pub struct Help {
    /// A command, or exit-codes.
    pub words: Vec<String>,
}

#[cfg(test)]
mod tests;
