//! Machines whose certificate has ended, and who ask to come back: what is kept of each, and whether
//! the certificate that it shows is a way back.

use std::time::Duration;

use common::{MachineName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::identity::{Certificate, Holder, Registry};

/// How long an approval holds: for a machine that was turned off again before it could ask.
pub const APPROVED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What everybody hears whose certificate is no way back, whatever is wrong with it.
pub const NO_WAY_BACK: &str = "this certificate is no way back";

/// A machine asks to return, was allowed to, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// Serial number of the certificate that has ended.
    pub serial: String,
    /// SHA-256 of its public key, hexadecimal: the new one is for the same key.
    pub key: String,
    /// The address that the machine first asked from.
    pub from: String,
    /// When it first asked.
    pub at: Timestamp,
    /// Whether it has no answer yet.
    pub open: bool,
    /// The operator's yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Serial number of the newest certificate that was issued in answer to the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl Return {
    /// Serial number of the certificate that the machine has by it: the answer's, or the ended one's.
    pub fn held(&self) -> &String {
        self.answer.as_ref().unwrap_or(&self.serial)
    }

    /// The approval that can be used now.
    pub fn approved(&self, now: Timestamp) -> Option<&Approval> {
        let approval = self.approval.as_ref();
        approval.filter(|approval| self.open && now < approval.until)
    }
}

/// An operator's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// How long it can be used.
    pub until: Timestamp,
}

/// What a certificate that has ended is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayBack<'a> {
    /// To ask, which nobody has done with it yet, or whose approval has run out.
    Ask,
    /// To wait: it was asked.
    Wait,
    /// For a new one, now.
    Go,
    /// For the one that was issued in answer and may not have arrived: its serial number.
    Again(&'a str, &'a Certificate),
}

/// Why a certificate is no way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWayBack {
    /// The registry does not have it, or not as this machine's.
    Unknown,
    /// It was taken back.
    Revoked,
    /// The machine has had another one since.
    Replaced,
    /// It is good: it is renewed as usual.
    Good,
}

impl NoWayBack {
    /// For the audit log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Replaced => "not the machine's newest",
            Self::Good => "not ended",
        }
    }
}

impl Registry {
    /// What the certificate with this serial number, which is for this key, is good for as a
    /// machine's way back. Everything is asked that is asked of a connection, but for its end.
    pub(crate) fn way_back(
        &self,
        machine: &MachineName,
        serial: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<WayBack<'_>, NoWayBack> {
        let asked = self.returns.get(machine);
        let asked = asked.filter(|asked| asked.serial == serial && asked.key == key);
        // What it was answered with is for the same key, so whoever still shows the old one shows
        // all that it takes to have the new one.
        let answer = asked.and_then(|asked| asked.answer.as_deref());
        let held = self.certificates.get_key_value(answer.unwrap_or(serial));
        let (held, certificate) = held.ok_or(NoWayBack::Unknown)?;
        let holder = Holder::Machine(machine.clone());
        if certificate.holder != holder {
            return Err(NoWayBack::Unknown);
        }
        if certificate.revoked {
            return Err(NoWayBack::Revoked);
        }
        if self.newest_of(&holder) != Some(held) {
            return Err(NoWayBack::Replaced);
        }
        if now < certificate.expires_at {
            return match answer {
                Some(answer) => Ok(WayBack::Again(answer, certificate)),
                None => Err(NoWayBack::Good),
            };
        }
        Ok(match asked.filter(|asked| asked.open) {
            None => WayBack::Ask,
            Some(asked) if asked.approved(now).is_some() => WayBack::Go,
            Some(asked) if asked.approval.is_none() => WayBack::Wait,
            Some(_) => WayBack::Ask,
        })
    }

    /// Serial number of the newest certificate of a holder.
    fn newest_of(&self, holder: &Holder) -> Option<&String> {
        let of_it = self.certificates.iter();
        let of_it = of_it.filter(|(_, certificate)| certificate.holder == *holder);
        let newest = of_it.max_by_key(|(serial, certificate)| (certificate.issued_at, *serial));
        newest.map(|(serial, _)| serial)
    }

    /// Notes a question, in place of whatever the machine asked before.
    pub(crate) fn ask_return(&mut self, machine: &MachineName, mut asked: Return) {
        let before = self.returns.remove(machine);
        // An answer that never came is still the newest certificate.
        let same = before.filter(|old| old.serial == asked.serial && old.key == asked.key);
        asked.answer = same.and_then(|old| old.answer);
        self.returns.insert(machine.clone(), asked);
    }

    /// Notes an approval, if the machine still asks.
    pub(crate) fn approve_return(&mut self, machine: &MachineName, approval: Approval) {
        if let Some(asked) = self.returns.get_mut(machine) {
            asked.approval = Some(approval);
        }
    }

    /// Notes the certificate that comes of an approval.
    pub(crate) fn answer_return(&mut self, machine: &MachineName, serial: &str) {
        if let Some(asked) = self.returns.get_mut(machine) {
            asked.open = false;
            asked.approval = None;
            asked.answer = Some(serial.to_owned());
        }
    }

    /// With any other certificate than the answer, a machine has come back in another way.
    pub(crate) fn end_return_by(&mut self, serial: &str, holder: &Holder) {
        let Holder::Machine(machine) = holder else {
            return;
        };
        let asked = self.returns.get(machine);
        if asked.is_some_and(|asked| asked.answer.as_deref() != Some(serial)) {
            self.returns.remove(machine);
        }
    }

    /// Forgets those whose certificates are forgotten.
    pub(crate) fn forget_returns(&mut self, certificates: &[String]) {
        self.returns
            .retain(|_, asked| !certificates.contains(asked.held()));
    }
}
