//! Who may speak: enrolment tokens and issued certificates. Hashes and serial numbers only, no
//! secret is ever here.

use std::{collections::BTreeMap, fmt, time::Duration};

use common::{MachineName, OperatorName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    change::Change,
    returns::{Approval, Return},
};

/// How long tokens and replaced certificates are kept after they ended, to be looked up.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The same for the newest certificate of a name.
pub const NEWEST_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// A certificate is renewed after this part of its life at the earliest: 1 in so many.
const RENEWED_AFTER: u32 = 4;

/// Certificates of one name in that time, at most. Some more than one, so that a machine whose
/// answers are lost or whose disk is full still gets through; few enough that a stolen key does not
/// fill the registry.
const RENEWALS_MAX: usize = 8;

/// What an operator may do. Each role includes what is said of it in `docs/security.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Looks, prepares, starts, stops.
    Operator,
    /// Looks, approves, stops.
    Approver,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Approver, Self::Admin];

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

/// Whom a token or a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// A machine, which can act only for itself.
    Machine(MachineName),
    /// A person or program with a role.
    Operator {
        /// Its name.
        name: OperatorName,
        /// What it may do.
        role: Role,
    },
}

impl Holder {
    /// The name alone.
    pub fn name(&self) -> &str {
        match self {
            Self::Machine(name) => name.as_str(),
            Self::Operator { name, .. } => name.as_str(),
        }
    }

    /// Kind and name, to tell holders apart whatever their role.
    fn key(&self) -> (bool, &str) {
        (matches!(self, Self::Machine(_)), self.name())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(name) => write!(f, "machine {name}"),
            Self::Operator { name, role } => write!(f, "operator {name} ({})", role.word()),
        }
    }
}

/// Who asks, from the certificate of the connection and the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its name.
    pub name: OperatorName,
    /// Its role.
    pub role: Role,
    /// Serial number of its certificate.
    pub serial: String,
}

/// Who did something, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// An operator.
    Operator(Actor),
    /// A machine, for itself.
    Machine {
        /// Its name.
        name: MachineName,
        /// Serial number of its certificate.
        serial: String,
    },
    /// Whoever showed this token; its id.
    Token(String),
    /// Somebody who showed nothing that is known here.
    Stranger,
    /// The coordinator itself.
    System,
}

impl Who {
    /// The holder of the certificate with this serial number.
    pub fn holding(holder: &Holder, serial: &str) -> Self {
        let serial = serial.to_owned();
        match holder.clone() {
            Holder::Machine(name) => Self::Machine { name, serial },
            Holder::Operator { name, role } => Self::Operator(Actor { name, role, serial }),
        }
    }
}

/// A one-time token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of its secret, hexadecimal.
    pub secret_hash: String,
    /// Whom it makes.
    pub holder: Holder,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// Open, or how it ended.
    pub state: TokenState,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    /// Not used yet; whether it has expired is a question of the time.
    Open,
    /// Traded for a certificate.
    Used,
    /// Taken back.
    Revoked,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Whose.
    pub holder: Holder,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// All tokens and certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// By id (`t1`, `t2`, …).
    pub tokens: BTreeMap<String, Token>,
    /// By serial number, hexadecimal.
    pub certificates: BTreeMap<String, Certificate>,
    /// Number of the next token.
    pub next_token: u64,
    /// Machines that ask to return after their certificate has ended, were allowed to, or did with
    /// their newest certificate. States of before there were any do not say it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub returns: BTreeMap<MachineName, Return>,
}

impl Registry {
    /// The holder of a certificate that is good now.
    pub fn holder(&self, serial: &str, now: Timestamp) -> Option<&Holder> {
        let certificate = self.certificates.get(serial)?;
        (!certificate.revoked && now < certificate.expires_at).then_some(&certificate.holder)
    }

    /// Whether the certificate with this serial number may be traded for another one now, or why not.
    pub fn may_renew(&self, serial: &str, now: Timestamp) -> Result<&Holder, String> {
        let (Some(holder), Some(certificate)) =
            (self.holder(serial, now), self.certificates.get(serial))
        else {
            return Err("this certificate is expired or revoked".to_owned());
        };
        let life = certificate.expires_at.since(certificate.issued_at);
        let span = life / RENEWED_AFTER;
        if now < certificate.issued_at + span {
            return Err(format!(
                "this certificate is too new: it is renewed after a quarter of its life of {} s",
                life.as_secs()
            ));
        }
        let of_name = self.certificates.values();
        let lately = of_name
            .filter(|other| other.holder.key() == holder.key() && now < other.issued_at + span);
        if lately.count() >= RENEWALS_MAX {
            return Err(format!(
                "{holder} got {RENEWALS_MAX} certificates within a quarter of their life; \
                 try again later"
            ));
        }
        Ok(holder)
    }

    /// The open, unexpired token with this secret. The hash is of 160 random bits, so looking it
    /// up by value tells a guesser nothing.
    pub fn open_token(&self, secret_hash: &str, now: Timestamp) -> Option<(&String, &Token)> {
        self.tokens.iter().find(|(_, token)| {
            token.secret_hash == secret_hash
                && token.state == TokenState::Open
                && now < token.expires_at
        })
    }

    /// The token with this secret, whatever became of it.
    pub fn token_of(&self, secret_hash: &str) -> Option<(&String, &Token)> {
        let mut tokens = self.tokens.iter();
        tokens.find(|(_, token)| token.secret_hash == secret_hash)
    }

    /// Makes a fact true, if it is one about identities. Readers outside the fleet follow with a
    /// registry of their own, so nothing is copied as a whole.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::TokenCreated { id, token } => {
                self.next_token += 1;
                self.tokens.insert(id.clone(), token.clone());
            }
            Change::TokenRevoked { id } => self.end_token(id, TokenState::Revoked),
            Change::CertificateIssued {
                serial,
                certificate,
                token,
            } => {
                self.end_return_by(serial, &certificate.holder);
                self.certificates
                    .insert(serial.clone(), certificate.clone());
                if let Some(token) = token {
                    self.end_token(token, TokenState::Used);
                }
            }
            Change::CertificateRevoked { serial } => {
                if let Some(certificate) = self.certificates.get_mut(serial) {
                    certificate.revoked = true;
                    // Whoever takes back any certificate of a machine does not want it back unasked.
                    if let Holder::Machine(machine) = &certificate.holder {
                        self.returns.remove(machine);
                    }
                }
            }
            Change::IdentitiesForgotten {
                tokens,
                certificates,
            } => {
                for id in tokens {
                    self.tokens.remove(id);
                }
                for serial in certificates {
                    self.certificates.remove(serial);
                }
                self.forget_returns(certificates);
            }
            Change::ReturnAsked {
                machine,
                serial,
                key,
                from,
                at,
            } => {
                let asked = Return {
                    serial: serial.clone(),
                    key: key.clone(),
                    from: from.clone(),
                    at: *at,
                    open: true,
                    approval: None,
                    answer: None,
                };
                self.ask_return(machine, asked);
            }
            Change::ReturnApproved {
                machine,
                by,
                at,
                until,
            } => {
                let (by, at, until) = (by.clone(), *at, *until);
                self.approve_return(machine, Approval { by, at, until });
            }
            Change::ReturnAnswered { machine, serial } => self.answer_return(machine, serial),
            Change::ReturnWithdrawn { machine } => {
                self.returns.remove(machine);
            }
            Change::ConfigSet { .. }
            | Change::Reported { .. }
            | Change::Alarmed { .. }
            | Change::Retried { .. }
            | Change::TargetQuarantined { .. }
            | Change::TargetReleased { .. }
            | Change::Pinned { .. }
            | Change::RolloutCreated { .. }
            | Change::ApprovalAsked { .. }
            | Change::Approved { .. }
            | Change::Traffic { .. }
            | Change::WaveOpened { .. }
            | Change::WaveSoaking { .. }
            | Change::WaveClosed { .. }
            | Change::WaveHeld { .. }
            | Change::Promoted { .. }
            | Change::GroupFinished { .. }
            | Change::LeaseGranted { .. }
            | Change::LeaseOverdue { .. }
            | Change::LeaseRevived { .. }
            | Change::LeaseEnded { .. }
            | Change::LeaseLost { .. }
            | Change::Recovered { .. }
            | Change::Arrived { .. }
            | Change::Declined { .. }
            | Change::Skipped { .. }
            | Change::RolloutPaused { .. }
            | Change::NothingToTakeBack { .. }
            | Change::RolloutResumed { .. }
            | Change::RolloutAborted { .. }
            | Change::RolloutEnded { .. }
            | Change::Stopped { .. }
            | Change::StopLifted { .. }
            | Change::Restored { .. }
            | Change::Forgotten { .. }
            | Change::Quarantined { .. }
            | Change::Released { .. }
            | Change::WindowMissed { .. }
            | Change::AnalysisBegan { .. }
            | Change::Measured { .. }
            | Change::Schedule { .. } => {}
        }
    }

    fn end_token(&mut self, id: &str, state: TokenState) {
        if let Some(token) = self.tokens.get_mut(id) {
            token.state = state;
        }
    }

    /// Tokens and certificates that nobody has to know of any more, at most `limit` altogether:
    /// their ids and serial numbers.
    ///
    /// The newest certificate of a name is kept much longer than others, and that of a machine
    /// `in_fleet` for ever: should the clock jump far ahead, the fleet can still come back.
    pub fn outdated(
        &self,
        now: Timestamp,
        in_fleet: impl Fn(&MachineName) -> bool,
        limit: usize,
    ) -> (Vec<String>, Vec<String>) {
        let outdated = |end: Timestamp, kept: Duration| end + kept <= now;
        let tokens = self.tokens.iter();
        let tokens = tokens.filter(|(_, token)| outdated(token.expires_at, KEPT));
        let tokens: Vec<String> = tokens.map(|(id, _)| id.clone()).take(limit).collect();

        let mut newest: BTreeMap<(bool, &str), (Timestamp, &String)> = BTreeMap::new();
        for (serial, certificate) in &self.certificates {
            let issued = (certificate.issued_at, serial);
            let of_name = newest.entry(certificate.holder.key()).or_insert(issued);
            *of_name = issued.max(*of_name);
        }
        let certificates = self.certificates.iter().filter(|(serial, certificate)| {
            let is_newest = newest[&certificate.holder.key()].1 == *serial;
            match &certificate.holder {
                _ if !is_newest => outdated(certificate.expires_at, KEPT),
                Holder::Machine(name) if in_fleet(name) => false,
                Holder::Machine(_) | Holder::Operator { .. } => {
                    outdated(certificate.expires_at, NEWEST_KEPT)
                }
            }
        });
        let certificates = certificates.map(|(serial, _)| serial.clone());
        let certificates = certificates.take(limit - tokens.len()).collect();
        (tokens, certificates)
    }
}
