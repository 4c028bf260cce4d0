//! Tokens and certificates.

use std::time::Duration;

use common::{MachineName, OperatorName, Timestamp};

use super::{Draft, or_refused};
use crate::{
    change::Change,
    fleet::{Fleet, RefusedEnrolments},
    identity::{Certificate, Holder, Token, TokenState, Who},
    request::{AuditEntry, Refusal, Reply, Which},
};

/// Most open tokens at one time: more are a mistake or an attack.
const OPEN_TOKENS_MAX: usize = 1000;

/// Shortest time between two audit records of refused enrolments with one token.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// Shortest time between two looks for outdated tokens and certificates.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Most of them forgotten at one time: bounds the size of the fact.
const FORGOTTEN_MAX: usize = 1000;

impl Fleet {
    pub(super) fn enrol(
        &mut self,
        now: Timestamp,
        secret_hash: &str,
        from: &str,
        serial: String,
        expires_at: Timestamp,
        draft: &mut Draft,
    ) -> Reply {
        let found = self.facts().registry.open_token(secret_hash, now);
        let Some((id, token)) = found.map(|(id, token)| (id.clone(), token.clone())) else {
            self.note_refused(now, secret_hash, from, draft);
            // One answer for unknown, used, expired and revoked: a guesser learns nothing.
            let text = "the enrolment token is not valid (unknown, used, expired or revoked)";
            return Reply::Refused(Refusal::Forbidden(text.to_owned()));
        };
        let holder = token.holder;
        draft.audit = Some(AuditEntry {
            who: Who::Token(id.clone()),
            action: "enrol".to_owned(),
            object: format!("{holder} from {from}, certificate {serial}"),
            reason: String::new(),
            result: "done".to_owned(),
        });
        self.issue(now, holder.clone(), serial, expires_at, Some(id), draft);
        Reply::Certify(holder)
    }

    /// Keeps a refused enrolment for the audit log: one record a minute for each token, and one
    /// for all that are unknown, so that a stranger cannot fill the log.
    fn note_refused(&mut self, now: Timestamp, secret_hash: &str, from: &str, draft: &mut Draft) {
        let (who, key, object, why) = match self.facts().registry.token_of(secret_hash) {
            None => (
                Who::Stranger,
                String::new(),
                "somebody".to_owned(),
                "unknown",
            ),
            Some((id, token)) => {
                let why = match token.state {
                    TokenState::Open => "expired",
                    TokenState::Used => "used already",
                    TokenState::Revoked => "revoked",
                };
                (
                    Who::Token(id.clone()),
                    id.clone(),
                    token.holder.to_string(),
                    why,
                )
            }
        };
        let Some(more) = self.worth_a_record(now, &key) else {
            return;
        };
        draft.audit = Some(AuditEntry {
            who,
            action: "enrol".to_owned(),
            object: format!("{object} from {from}"),
            reason: String::new(),
            result: format!("refused: the token is {why}{more}"),
        });
    }

    /// Whether a refusal under this key is to be recorded, or only counted; with how many were
    /// counted since the last record, in words.
    pub(super) fn worth_a_record(&mut self, now: Timestamp, key: &str) -> Option<String> {
        let refused = &mut self.hearsay.refused_enrolments;
        let before = match refused.get_mut(key) {
            Some(lately) if now.since(lately.recorded_at) < REFUSED_EVERY => {
                lately.since += 1;
                return None;
            }
            Some(lately) => lately.since,
            None => 0,
        };
        let fresh = RefusedEnrolments {
            recorded_at: now,
            since: 0,
        };
        refused.insert(key.to_owned(), fresh);
        Some(match before {
            0 => String::new(),
            before => format!(", and {before} more since the last record"),
        })
    }

    /// The coordinator makes its first administrator.
    pub(super) fn bootstrap(
        &mut self,
        now: Timestamp,
        holder: Holder,
        serial: String,
        expires_at: Timestamp,
        draft: &mut Draft,
    ) -> Reply {
        draft.audit = Some(AuditEntry {
            who: Who::System,
            action: "bootstrap".to_owned(),
            object: format!("{holder}, certificate {serial}"),
            reason: String::new(),
            result: "done".to_owned(),
        });
        self.issue(now, holder.clone(), serial, expires_at, None, draft);
        Reply::Certify(holder)
    }

    pub(super) fn renew_certificate(
        &mut self,
        now: Timestamp,
        serial: &str,
        new_serial: String,
        expires_at: Timestamp,
        draft: &mut Draft,
    ) -> Reply {
        let registry = &self.facts().registry;
        let holder = match registry.may_renew(serial, now) {
            Ok(holder) => holder.clone(),
            // Not audited: whoever asks and asks is not to fill the log.
            Err(text) if registry.holder(serial, now).is_some() => {
                return Reply::Refused(Refusal::NotNow(text));
            }
            Err(text) => return Reply::Refused(Refusal::Forbidden(text)),
        };
        draft.audit = Some(AuditEntry {
            who: Who::holding(&holder, serial),
            action: "renew-certificate".to_owned(),
            object: format!("{holder}, certificate {new_serial}"),
            reason: String::new(),
            result: "done".to_owned(),
        });
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
        self.forget_outdated(now, draft);
    }

    /// Forgets tokens and certificates that ended long ago. Asked whenever there is a new one, and
    /// done once an hour at most, because it looks at all of them.
    fn forget_outdated(&mut self, now: Timestamp, draft: &mut Draft) {
        let looked = self.hearsay.identities_looked_at;
        if looked.is_some_and(|looked| now.since(looked) < LOOK_EVERY) {
            return;
        }
        self.hearsay.identities_looked_at = Some(now);
        let in_fleet = |machine: &MachineName| self.group_of(machine).is_some();
        let registry = &self.facts().registry;
        let (tokens, certificates) = registry.outdated(now, in_fleet, FORGOTTEN_MAX);
        for id in &tokens {
            self.hearsay.refused_enrolments.remove(id);
        }
        if !tokens.is_empty() || !certificates.is_empty() {
            let forgotten = Change::IdentitiesForgotten {
                tokens,
                certificates,
            };
            self.commit(draft, forgotten);
        }
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
        self.forget_outdated(now, draft);
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
                let text = format!("token {id} is revoked");
                self.commit(draft, Change::TokenRevoked { id });
                Ok(Reply::Done(text))
            }
            Some(TokenState::Used) => Err(Refusal::NotNow(format!(
                "token {id} was used already; revoke the identity"
            ))),
            Some(TokenState::Revoked) => Ok(Reply::Done(format!("token {id} was revoked already"))),
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
        let text = match serials.len() {
            0 => "nothing to revoke: it was revoked already".to_owned(),
            1 => "1 certificate is revoked".to_owned(),
            more => format!("{more} certificates are revoked"),
        };
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
        let Some(known) = self.facts().machines.get(&machine) else {
            let name = machine.to_string();
            return Reply::Refused(Refusal::NotFound {
                what: "machine",
                name,
            });
        };
        let freed = match (self.lease_of(&machine), &known.failed) {
            (Some(lease), _) => format!(
                "its slot is free, and its turn in rollout {} counts as failed",
                lease.rollout
            ),
            (None, Some(_)) => "its slot is free".to_owned(),
            (None, None) => "it held no slot".to_owned(),
        };
        let text = format!("{machine} is forgotten until it reports again: {freed}");
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
        Reply::Done(text)
    }
}
