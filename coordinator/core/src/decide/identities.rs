//! Tokens and certificates.

use common::{MachineName, OperatorName, Timestamp};

use super::{Draft, or_refused};
use crate::{
    change::Change,
    fleet::Fleet,
    identity::{Certificate, Holder, Token, TokenState},
    request::{Refusal, Reply, Which},
};

/// Most open tokens at one time: more are a mistake or an attack.
const OPEN_TOKENS_MAX: usize = 1000;

impl Fleet {
    pub(super) fn enrol(
        &mut self,
        now: Timestamp,
        secret_hash: &str,
        serial: String,
        expires_at: Timestamp,
        draft: &mut Draft,
    ) -> Reply {
        let found = self.facts().registry.open_token(secret_hash, now);
        let Some((id, token)) = found.map(|(id, token)| (id.clone(), token.clone())) else {
            // One answer for unknown, used, expired and revoked: a guesser learns nothing.
            let text = "the enrolment token is not valid (unknown, used, expired or revoked)";
            return Reply::Refused(Refusal::Forbidden(text.to_owned()));
        };
        self.issue(
            now,
            token.holder.clone(),
            serial,
            expires_at,
            Some(id),
            draft,
        );
        Reply::Certify(token.holder)
    }

    pub(super) fn renew_certificate(
        &mut self,
        now: Timestamp,
        serial: &str,
        new_serial: String,
        expires_at: Timestamp,
        draft: &mut Draft,
    ) -> Reply {
        let Some(holder) = self.facts().registry.holder(serial, now).cloned() else {
            let text = "this certificate is expired or revoked".to_owned();
            return Reply::Refused(Refusal::Forbidden(text));
        };
        self.issue(now, holder.clone(), new_serial, expires_at, None, draft);
        Reply::Certify(holder)
    }

    pub(super) fn issue(
        &mut self,
        now: Timestamp,
        holder: Holder,
        serial: String,
        expires_at: Timestamp,
        token: Option<String>,
        draft: &mut Draft,
    ) {
        let certificate = Certificate {
            holder,
            issued_at: now,
            expires_at,
            revoked: false,
        };
        self.commit(
            draft,
            Change::CertificateIssued {
                serial,
                certificate,
                token,
            },
        );
    }

    pub(super) fn create_token(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        secret_hash: String,
        holder: Holder,
        expires_at: Timestamp,
        draft: &mut Draft,
    ) -> Reply {
        if let Holder::Machine(machine) = &holder
            && self.group_of(machine).is_none()
        {
            let (what, name) = ("machine in the configuration", machine.to_string());
            return Reply::Refused(Refusal::NotFound { what, name });
        }
        let registry = &self.facts().registry;
        let open = registry
            .tokens
            .values()
            .filter(|token| token.state == TokenState::Open && now < token.expires_at);
        if open.count() >= OPEN_TOKENS_MAX {
            let text = format!("{OPEN_TOKENS_MAX} tokens are open; revoke some");
            return Reply::Refused(Refusal::NotNow(text));
        }
        let id = format!("t{}", registry.next_token + 1);
        let created_by = by.to_string();
        let token = Token {
            secret_hash,
            holder,
            expires_at,
            created_by,
            state: TokenState::Open,
        };
        self.commit(
            draft,
            Change::TokenCreated {
                id: id.clone(),
                token,
            },
        );
        Reply::Token(id)
    }

    pub(super) fn revoke_token(&mut self, id: String, draft: &mut Draft) -> Reply {
        let result = match self
            .facts()
            .registry
            .tokens
            .get(&id)
            .map(|token| token.state)
        {
            None => Err(Refusal::NotFound {
                what: "token",
                name: id,
            }),
            Some(TokenState::Open) => {
                self.commit(draft, Change::TokenRevoked { id });
                Ok(Reply::Done(String::new()))
            }
            Some(TokenState::Used) => Err(Refusal::NotNow(format!(
                "token {id} was used already; revoke the identity"
            ))),
            Some(TokenState::Revoked) => Ok(Reply::Done("was revoked already".to_owned())),
        };
        or_refused(result)
    }

    pub(super) fn revoke_identity(&mut self, which: Which, draft: &mut Draft) -> Reply {
        let certificates = &self.facts().registry.certificates;
        let (what, name) = match &which {
            Which::Serial(serial) => ("certificate", serial.clone()),
            Which::Name(name) => ("identity", name.clone()),
        };
        let of_it = certificates
            .iter()
            .filter(|(serial, certificate)| match &which {
                Which::Serial(wanted) => *serial == wanted,
                Which::Name(name) => certificate.holder.name() == name,
            });
        let found: Vec<(String, bool)> = of_it
            .map(|(serial, certificate)| (serial.clone(), certificate.revoked))
            .collect();
        if found.is_empty() {
            return Reply::Refused(Refusal::NotFound { what, name });
        }
        let live = found
            .into_iter()
            .filter(|(_, revoked)| !revoked)
            .map(|(serial, _)| serial);
        let serials: Vec<String> = live.collect();
        let text = format!("{} certificates revoked", serials.len());
        for serial in serials {
            self.commit(draft, Change::CertificateRevoked { serial });
        }
        // Connections that use them are closed by the driver, which follows the changes.
        Reply::Done(text)
    }

    /// Frees what a machine holds and forgets its failure.
    pub(super) fn forget(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        machine: MachineName,
        reason: String,
        draft: &mut Draft,
    ) -> Reply {
        if !self.facts().machines.contains_key(&machine) {
            let name = machine.to_string();
            return Reply::Refused(Refusal::NotFound {
                what: "machine",
                name,
            });
        }
        let by = by.to_string();
        self.commit(
            draft,
            Change::Forgotten {
                machine,
                by,
                reason,
                at: now,
            },
        );
        Reply::Done(String::new())
    }
}
