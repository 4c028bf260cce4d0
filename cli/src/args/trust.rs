//! `lab token …`, `lab identity …`, `lab audit …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use common::{MachineName, OperatorName};

use super::parse::Span;

/// `lab token`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; it is shown once.
    #[command(after_help = "Examples:\n  \
        lab token create --machine=web-01\n  \
        lab token create --operator=geir --role=admin --valid-for=1d")]
    Create(CreateToken),
    /// All tokens, without their secrets.
    List,
    /// Make a token useless.
    Revoke(RevokeToken),
}

/// `lab token create`
#[derive(Args, Debug)]
pub struct CreateToken {
    /// For this machine.
    #[arg(
        long,
        conflicts_with = "operator",
        required_unless_present = "operator"
    )]
    pub machine: Option<MachineName>,
    /// For this operator.
    #[arg(long, requires = "role")]
    pub operator: Option<OperatorName>,
    /// What the operator may do.
    #[arg(long, value_enum, conflicts_with = "machine")]
    pub role: Option<Role>,
    /// How long the token can be used: seconds, or 1h; at most 7d.
    #[arg(long, default_value = "1h", value_name = "SECONDS")]
    pub valid_for: Span,
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Look.
    Viewer,
    /// Run rollouts.
    Operator,
    /// Approve what others run.
    Approver,
    /// Everything.
    Admin,
}

impl Role {
    /// As on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

/// `lab token revoke`
#[derive(Args, Debug)]
pub struct RevokeToken {
    /// The token's id, from `lab token list`.
    pub id: String,
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab identity`
#[derive(Debug, Subcommand)]
pub enum Identity {
    /// All certificates that were handed out, and which machines ask to return.
    List,
    /// Let a machine return whose certificate ended while it was away.
    #[command(after_help = "Example:\n  lab identity approve web-01\n\n\
        The machine gets one certificate, for the key that it has, within 7 days. \
        `lab identity list` shows who asks, since when and with which key; the journal of the \
        machine's agent names the key too. `lab identity revoke` takes an approval back.")]
    Approve(ApproveIdentity),
    /// Make certificates useless: one by its serial, or all of a name.
    Revoke(RevokeIdentity),
    /// Get an identity of one's own with a token.
    #[command(after_help = "Example:\n  \
        lab identity enrol --coordinator=ctl.example.org --token-file=token.txt\n\n\
        The private key is made here and never leaves this machine. `--token-file=-` reads \
        standard input.")]
    Enrol(Enrol),
}

/// `lab identity approve`
#[derive(Args, Debug)]
pub struct ApproveIdentity {
    /// The machine.
    pub name: MachineName,
    /// Why; kept in the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `lab identity revoke`
#[derive(Args, Debug)]
pub struct RevokeIdentity {
    /// Every certificate of this machine or operator.
    #[arg(required_unless_present = "serial", conflicts_with = "serial")]
    pub name: Option<String>,
    /// The certificate with this serial.
    #[arg(long)]
    pub serial: Option<String>,
    /// Why; kept in the audit log.
    #[arg(long)]
    pub reason: String,
}

/// `lab identity enrol`
#[derive(Args, Debug)]
pub struct Enrol {
    /// The token. Others on this machine can see it in the process list: prefer --token-file.
    #[arg(
        long,
        conflicts_with = "token_file",
        required_unless_present = "token_file"
    )]
    pub token: Option<String>,
    /// File with the token; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The enrolment service; without it: the coordinator's host, port 7444.
    #[arg(long, value_name = "HOST:PORT")]
    pub enrol_address: Option<String>,
    /// Replace an identity that is there already.
    #[arg(long)]
    pub replace: bool,
}

/// `lab audit`
#[derive(Args, Debug)]
pub struct Audit {
    /// What to do; without it, the records.
    #[command(subcommand)]
    pub verb: Option<AuditVerb>,
    /// At most N records.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: u32,
    /// Only the last N days.
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub days: u32,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Read the whole chain again and say whether it is intact.
    Verify,
}
