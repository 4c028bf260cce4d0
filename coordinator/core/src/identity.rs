//! Who may speak: enrolment tokens and issued certificates. Hashes and serial numbers only, no
//! secret is ever here.

use std::collections::BTreeMap;

use common::{MachineName, OperatorName, Timestamp};
use serde::{Deserialize, Serialize};

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
}

impl Registry {
    /// The holder of a certificate that is good now.
    pub fn holder(&self, serial: &str, now: Timestamp) -> Option<&Holder> {
        let certificate = self.certificates.get(serial)?;
        (!certificate.revoked && now < certificate.expires_at).then_some(&certificate.holder)
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
}
