//! Tokens and certificates: what operators ask of them, and lists of them.

use std::time::Duration;

use common::Timestamp;
use coordinator_core::{
    identity::{Certificate, Holder, Registry, Role, Token, TokenState},
    request::{OperatorRequest, Which},
    returns::Return,
};
use lab_proto::operator as wire;

use super::{Malformed, name, operator::text, optional, time};

/// Longest life of a token, and the one it has when nothing is said.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Whom a token is to make, and how long it is good.
pub(crate) fn token(message: &wire::CreateTokenRequest) -> Result<(Holder, Duration), Malformed> {
    let machine = optional("machine", &message.machine)?;
    let operator = optional("operator", &message.operator)?;
    let holder = match (machine, operator) {
        (Some(machine), None) if message.role.is_empty() => Holder::Machine(machine),
        (Some(_), None) => return Err(Malformed::new("role", "a machine has none")),
        (None, Some(name)) => Holder::Operator {
            name,
            role: role(&message.role)?,
        },
        (None, None) | (Some(_), Some(_)) => {
            return Err(Malformed::new(
                "machine",
                "name either a machine or an operator",
            ));
        }
    };
    let life = match message.valid_for_s {
        0 => TOKEN_LIFE,
        seconds => Duration::from_secs(seconds),
    };
    if life > TOKEN_LIFE_MAX {
        return Err(Malformed::new(
            "valid_for_s",
            "a token is good for at most 7 days",
        ));
    }
    Ok((holder, life))
}

fn role(word: &str) -> Result<Role, Malformed> {
    let known = Role::ALL.into_iter().find(|role| role.word() == word);
    known.ok_or_else(|| {
        let words = Role::ALL.map(Role::word).join(", ");
        Malformed::new("role", format!("{word:?} is not a role: {words}"))
    })
}

pub(crate) fn revoke_token(message: wire::RevokeTokenRequest) -> OperatorRequest {
    OperatorRequest::RevokeToken {
        id: text(&message.id),
        reason: text(&message.reason),
    }
}

pub(crate) fn revoke_identity(
    message: &wire::RevokeIdentityRequest,
) -> Result<OperatorRequest, Malformed> {
    let which = match (message.serial.as_str(), message.name.as_str()) {
        ("", "") => return Err(Malformed::new("serial", "give a serial number or a name")),
        (serial, "") => Which::Serial(text(serial)),
        ("", name) => Which::Name(text(name)),
        (_, _) => {
            return Err(Malformed::new(
                "serial",
                "give a serial number or a name, not both",
            ));
        }
    };
    Ok(OperatorRequest::RevokeIdentity {
        which,
        reason: text(&message.reason),
    })
}

pub(crate) fn approve_identity(
    message: &wire::ApproveIdentityRequest,
) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::ApproveReturn {
        machine: name("name", &message.name)?,
        key: (!message.key.is_empty()).then(|| text(&message.key)),
        reason: text(&message.reason),
    })
}

fn kind_and_role(holder: &Holder) -> (&'static str, &'static str) {
    match holder {
        Holder::Machine(_) => ("machine", ""),
        Holder::Operator { role, .. } => ("operator", role.word()),
    }
}

/// Tokens, newest first.
pub(crate) fn tokens(registry: &Registry, now: Timestamp) -> wire::TokenList {
    let mut tokens: Vec<(&String, &Token)> = registry.tokens.iter().collect();
    tokens.sort_by_key(|(id, _)| std::cmp::Reverse(id.trim_start_matches('t').parse::<u64>().ok()));
    let tokens = tokens.into_iter().map(|(id, token)| {
        let (kind, role) = kind_and_role(&token.holder);
        let state = match token.state {
            TokenState::Open if now >= token.expires_at => "expired",
            TokenState::Open => "open",
            TokenState::Used => "used",
            TokenState::Revoked => "revoked",
        };
        wire::Token {
            id: id.clone(),
            name: token.holder.name().to_owned(),
            kind: kind.to_owned(),
            role: role.to_owned(),
            expires_at: time(token.expires_at),
            state: state.to_owned(),
            created_by: token.created_by.clone(),
        }
    });
    wire::TokenList {
        tokens: tokens.collect(),
    }
}

/// What a machine asks with its newest certificate, if this is the one.
fn asked_with<'a>(
    registry: &'a Registry,
    serial: &str,
    certificate: &Certificate,
) -> Option<&'a Return> {
    let Holder::Machine(machine) = &certificate.holder else {
        return None;
    };
    let asked = registry.returns.get(machine).filter(|asked| asked.open)?;
    (asked.held() == serial).then_some(asked)
}

/// Certificates, newest first.
pub(crate) fn identities(registry: &Registry, now: Timestamp) -> wire::IdentityList {
    let mut certificates: Vec<(&String, &Certificate)> = registry.certificates.iter().collect();
    certificates.sort_by_key(|(_, certificate)| std::cmp::Reverse(certificate.issued_at));
    let identities = certificates.into_iter().map(|(serial, certificate)| {
        let (kind, role) = kind_and_role(&certificate.holder);
        let asked = asked_with(registry, serial, certificate);
        let state = match certificate.revoked {
            true => "revoked",
            false if now < certificate.expires_at => "valid",
            false => match asked {
                Some(asked) if asked.approved(now).is_some() => "may-return",
                Some(_) => "asks-to-return",
                None => "expired",
            },
        };
        let approval = asked.and_then(|asked| asked.approved(now));
        wire::Identity {
            asked_at: asked.map_or_else(String::new, |asked| time(asked.at)),
            asked_from: asked.map_or_else(String::new, |asked| asked.from.clone()),
            key: asked.map_or_else(String::new, |asked| asked.key.clone()),
            approved_by: approval.map_or_else(String::new, |approval| approval.by.clone()),
            approved_until: approval.map_or_else(String::new, |approval| time(approval.until)),
            serial: serial.clone(),
            name: certificate.holder.name().to_owned(),
            kind: kind.to_owned(),
            role: role.to_owned(),
            issued_at: time(certificate.issued_at),
            expires_at: time(certificate.expires_at),
            state: state.to_owned(),
        }
    });
    wire::IdentityList {
        identities: identities.collect(),
    }
}
