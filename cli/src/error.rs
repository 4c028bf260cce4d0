//! What can go wrong, what it says, and the exit status it ends with.

use std::{error::Error, fmt};

use common::{
    error_chain::Chain,
    text::{REASON_MAX, tame, tame_line},
};
use platform::{
    channel::{ConnectError, TlsFault},
    enrol::EnrolError,
    identity::IdentityError,
    sources::SourceError,
};
use tonic::{Code, Status};

/// Metadata key under which the coordinator says what to try next.
const HINT_KEY: &str = "lab-hint";

/// Longest hint shown, in bytes.
const HINT_MAX: usize = 512;

/// How a command ends. The numbers are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The answer is yes, or it is done.
    Yes,
    /// The answer is no.
    No,
    /// Wrong usage or bad configuration.
    Usage,
    /// The coordinator cannot be reached.
    Unreachable,
    /// Refused: role, emergency stop, policy.
    Refused,
    /// No such machine, group or rollout.
    NotFound,
    /// Something changed meanwhile.
    Changed,
    /// Rolled back: the machines are fine, the target is not.
    RolledBack,
    /// A bug in `lab` or in the coordinator.
    Bug,
    /// `--timeout` passed; what was begun goes on.
    Timeout,
    /// Interrupted; what was begun goes on.
    Interrupted,
}

impl Exit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Yes,
        Self::No,
        Self::Usage,
        Self::Unreachable,
        Self::Refused,
        Self::NotFound,
        Self::Changed,
        Self::RolledBack,
        Self::Bug,
        Self::Timeout,
        Self::Interrupted,
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Yes => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::NotFound => 5,
            Self::Changed => 6,
            Self::RolledBack => 9,
            Self::Bug => 70,
            Self::Timeout => 124,
            Self::Interrupted => 130,
        }
    }

    /// What it means, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Yes => "yes, or done",
            Self::No => "the answer is no: a check failed, a rollout failed or paused itself",
            Self::Usage => "wrong usage or bad configuration",
            Self::Unreachable => "the coordinator cannot be reached",
            Self::Refused => "refused: role, emergency stop, policy",
            Self::NotFound => "no such machine, group or rollout",
            Self::Changed => "changed meanwhile: the plan or the revision no longer holds",
            Self::RolledBack => "rolled back: the machines are fine, the target is not",
            Self::Bug => "a bug",
            Self::Timeout => "--timeout passed; what was begun goes on",
            Self::Interrupted => "interrupted; what was begun goes on",
        }
    }
}

/// The text of `lab help exit-codes`.
pub fn exit_codes() -> String {
    let lines = Exit::ALL.map(|exit| format!("{:>4}  {}\n", exit.code(), exit.meaning()));
    format!("Exit statuses of lab:\n\n{}", lines.concat())
}

/// Why a command could not do what it was asked: what, where, and what to try next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabError {
    /// The exit status.
    pub exit: Exit,
    /// What was wrong, in one sentence.
    pub what: String,
    /// Where: a file, a key path, a machine. One line each.
    pub places: Vec<String>,
    /// The next thing to try.
    pub hint: Option<String>,
}

impl From<SourceError> for LabError {
    fn from(error: SourceError) -> Self {
        let SourceError {
            what,
            places,
            hint,
            bug,
        } = error;
        Self {
            exit: if bug { Exit::Bug } else { Exit::Usage },
            what,
            places,
            hint,
        }
    }
}

impl LabError {
    /// An error without place or hint.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            places: Vec::new(),
            hint: None,
        }
    }

    /// Wrong usage or bad configuration.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Adds a place.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.places.push(place.to_string());
        self
    }

    /// Sets what to try next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether asking again later may help: nobody answered, or not in time.
    pub fn is_passing(&self) -> bool {
        self.exit == Exit::Unreachable
    }

    /// An answer of the coordinator that is not what was hoped for.
    pub fn from_status(status: &Status) -> Self {
        let hint = status
            .metadata()
            .get(HINT_KEY)
            .and_then(|value| value.to_str().ok())
            .map(|hint| tame_line(hint, HINT_MAX));
        if let Some(fault) = TlsFault::find(status) {
            return Self::from_tls(&fault, "the coordinator");
        }
        // What this side found out by itself has a cause; what the coordinator says has none.
        let local = Error::source(status).is_some();
        let exit = if local {
            Exit::Unreachable
        } else {
            exit_of(status.code())
        };
        let said = tame(status.message().trim(), REASON_MAX);
        let what = if exit == Exit::Unreachable {
            let said = if said.is_empty() {
                String::new()
            } else {
                format!(": {said}")
            };
            format!("the coordinator does not answer{said}")
        } else if exit == Exit::Bug {
            format!("the coordinator failed ({:?}): {said}", status.code())
        } else if said.is_empty() {
            format!("the coordinator refused ({:?})", status.code())
        } else {
            said
        };
        Self {
            exit,
            what,
            places: Vec::new(),
            hint: hint.or_else(|| default_hint(status.code()).map(str::to_owned)),
        }
    }

    fn from_tls(fault: &TlsFault, address: &str) -> Self {
        let exit = match fault {
            TlsFault::WeExpired | TlsFault::WeUnknown | TlsFault::WeRefused(_) => Exit::Refused,
            TlsFault::WrongCa
            | TlsFault::WrongPin
            | TlsFault::WrongName
            | TlsFault::ServerExpired
            | TlsFault::ServerNotYetValid
            | TlsFault::Other(_) => Exit::Unreachable,
        };
        let hint = match fault {
            TlsFault::WeExpired | TlsFault::WeUnknown | TlsFault::WeRefused(_) => {
                "ask an administrator for a token (lab token create --operator=NAME --role=ROLE) \
                 and run `lab identity enrol`"
            }
            TlsFault::WrongCa | TlsFault::WrongPin | TlsFault::WrongName => {
                "check --coordinator and --identity: they may belong to two different fleets"
            }
            TlsFault::ServerExpired | TlsFault::ServerNotYetValid => {
                "compare this machine's clock with the coordinator's"
            }
            TlsFault::Other(_) => "check host and port: lab talks to port 7443",
        };
        Self::new(exit, fault.to_string()).at(address).hint(hint)
    }
}

/// The exit status for a gRPC code.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Yes,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::ResourceExhausted => Exit::Refused,
        Code::NotFound => Exit::NotFound,
        Code::Aborted => Exit::Changed,
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Exit::Bug,
    }
}

fn default_hint(code: Code) -> Option<&'static str> {
    match exit_of(code) {
        Exit::Unreachable => Some("is lab-coordinator running, and is --coordinator right?"),
        Exit::Changed => Some("look at it again: lab update status"),
        Exit::NotFound => Some("see what there is: lab machines, lab update status --all"),
        Exit::Bug if code == Code::Unimplemented => Some("the coordinator is older than this lab"),
        Exit::Bug => Some("its journal has more: journalctl -u lab-coordinator"),
        Exit::Yes
        | Exit::No
        | Exit::Usage
        | Exit::Refused
        | Exit::RolledBack
        | Exit::Timeout
        | Exit::Interrupted => None,
    }
}

impl From<ConnectError> for LabError {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Tls { address, source } => Self::from_tls(source, address),
            ConnectError::Dial { .. }
            | ConnectError::Deadline { .. }
            | ConnectError::Http { .. } => Self::new(Exit::Unreachable, Chain(&error).to_string())
                .hint("is lab-coordinator running, and is --coordinator right?"),
        }
    }
}

impl From<IdentityError> for LabError {
    fn from(error: IdentityError) -> Self {
        Self::usage(Chain(&error).to_string())
    }
}

impl From<EnrolError> for LabError {
    fn from(error: EnrolError) -> Self {
        let chain = Chain(&error).to_string();
        match error {
            EnrolError::Connect(error) => error.into(),
            EnrolError::NoAnswer(_) => Self::new(Exit::Unreachable, chain)
                .hint("try again; the token may still be good: lab token list"),
            EnrolError::Refused(_) => Self::new(Exit::Refused, chain)
                .hint("a token works once and expires; make a new one: lab token create"),
            EnrolError::Prepare(_)
            | EnrolError::Reply(_)
            | EnrolError::OtherCa
            | EnrolError::NotOurs => Self::new(Exit::Bug, chain),
        }
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.what)?;
        for place in &self.places {
            writeln!(f, "  where: {place}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "  hint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_ones_scripts_know() {
        let codes = Exit::ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 9, 70, 124, 130]);
        insta::assert_snapshot!("exit_codes", exit_codes());
    }

    #[test]
    fn answers_of_the_coordinator_become_exit_codes() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::Unavailable, 3),
            (Code::DeadlineExceeded, 3),
            (Code::PermissionDenied, 4),
            (Code::Unauthenticated, 4),
            (Code::FailedPrecondition, 4),
            (Code::ResourceExhausted, 4),
            (Code::NotFound, 5),
            (Code::Aborted, 6),
            (Code::Internal, 70),
            (Code::Unimplemented, 70),
        ] {
            let error = LabError::from_status(&Status::new(code, "because"));
            assert_eq!(error.exit.code(), exit, "{code:?}");
            assert!(error.what.contains("because"));
        }
    }

    #[test]
    fn an_error_says_what_where_and_what_next() {
        let mut status = Status::not_found("no machine \"web-9\"\u{1b}[2J");
        let hint = "did you mean web-09?".parse().expect("ASCII");
        status.metadata_mut().insert(HINT_KEY, hint);
        let error = LabError::from_status(&status).at("--machine=web-9");
        insta::assert_snapshot!("error", error.to_string());
    }

    #[test]
    fn a_refused_certificate_is_a_refusal_and_a_wrong_server_is_not() {
        let tls = |source| {
            let address = "ctl:7443".to_owned();
            LabError::from(ConnectError::Tls { address, source }).exit
        };
        assert_eq!(tls(TlsFault::WeExpired), Exit::Refused);
        assert_eq!(tls(TlsFault::WrongCa), Exit::Unreachable);
    }
}
