//! `lab token`, `lab identity`, `lab audit`, and who heard an emergency stop.

use lab_proto::operator::{
    Audit, AuditRecord, CreateTokenReply, EmergencyStopReply, Identity, IdentityList, TokenList,
    VerifyAuditReply,
};

use super::{Look, counted, marked};

/// A fresh token: the only time it is shown.
pub fn created_token(reply: &CreateTokenReply, look: &Look) -> String {
    format!(
        "{}\n\ntoken {} can be used once, until {}; it is not shown again\n",
        reply.token,
        reply.id,
        look.when(&reply.expires_at)
    )
}

/// All tokens.
pub fn tokens(list: &TokenList, look: &Look) -> String {
    if list.tokens.is_empty() {
        return "no tokens; make one: lab token create --machine=NAME\n".to_owned();
    }
    look.columns(
        0,
        list.tokens.iter().map(|token| {
            let state = match token.state.as_str() {
                "open" => "✔ open".to_owned(),
                state => marked(state),
            };
            vec![
                token.id.clone(),
                state,
                who(&token.kind, &token.name, &token.role),
                format!("until {}", look.when(&token.expires_at)),
                format!("by {}", token.created_by),
            ]
        }),
    )
}

/// All certificates.
pub fn identities(list: &IdentityList, look: &Look) -> String {
    if list.identities.is_empty() {
        return "no certificates were handed out\n".to_owned();
    }
    let mut text = look.columns(
        0,
        list.identities.iter().map(|identity| {
            vec![
                who(&identity.kind, &identity.name, &identity.role),
                marked(&identity.state),
                format!("until {}", look.when(&identity.expires_at)),
                identity.serial.clone(),
            ]
        }),
    );
    for identity in &list.identities {
        let name = &identity.name;
        text.push_str(&match identity.state.as_str() {
            "asks-to-return" => format!(
                "{name} asked to return {}: lab identity approve {name}\n",
                look.ago(&identity.asked_at)
            ),
            "may-return" => format!(
                "{name} may return until {}, approved by {}\n",
                look.when(&identity.approved_until),
                identity.approved_by
            ),
            _ => continue,
        });
    }
    text
}

/// The question before a machine is let back in.
pub fn asks_to_return(identity: &Identity, look: &Look) -> String {
    format!(
        "{} asked {}, from {}. Its certificate is of {} and ended {}.\n\
         It asks with the key {}.\n\
         Let it return?",
        who(&identity.kind, &identity.name, &identity.role),
        look.ago(&identity.asked_at),
        identity.asked_from,
        look.when(&identity.issued_at),
        look.when(&identity.expires_at),
        identity.key
    )
}

fn who(kind: &str, name: &str, role: &str) -> String {
    match role {
        "" => format!("{kind} {name}"),
        role => format!("{kind} {name} ({role})"),
    }
}

/// The audit records.
pub fn audit(audit: &Audit, look: &Look) -> String {
    if audit.records.is_empty() {
        return "no records in that time\n".to_owned();
    }
    look.columns(
        0,
        audit.records.iter().map(|record| {
            let because = match record.reason.as_str() {
                "" => String::new(),
                reason => format!(" ({reason})"),
            };
            vec![
                record.sequence.to_string(),
                look.stamp(&record.at),
                actor(record),
                format!(
                    "{} {}{because}: {}",
                    record.action, record.object, record.result
                ),
            ]
        }),
    )
}

fn actor(record: &AuditRecord) -> String {
    match record.actor_kind.as_str() {
        "" | "operator" => format!("{} ({})", record.actor, record.role),
        "stranger" => "a stranger".to_owned(),
        "system" => "the coordinator".to_owned(),
        kind => format!("{kind} {}", record.actor),
    }
}

/// Whether the audit chain is intact.
pub fn verified_audit(reply: &VerifyAuditReply) -> String {
    let records = counted(
        usize::try_from(reply.records).unwrap_or(usize::MAX),
        "record",
    );
    if reply.intact {
        format!("✔ intact: {records}, head {}\n", reply.head)
    } else {
        format!("✖ broken: {} (of {records})\n", reply.fault)
    }
}

/// Who acknowledged a stop, who finishes, who is silent.
pub fn stop(reply: &EmergencyStopReply, look: &Look) -> String {
    let mut text = format!("✖ stopped; epoch {}\n", reply.epoch);
    text.push_str(&look.columns(
        2,
        reply.machines.iter().map(|machine| {
            vec![
                machine.machine.clone(),
                marked(&machine.state),
                machine.step.clone(),
            ]
        }),
    ));
    let silent = reply
        .machines
        .iter()
        .filter(|machine| machine.state == "silent")
        .count();
    if silent > 0 {
        text.push_str(&format!(
            "{} silent: nothing new begins there either, because only the coordinator gives leases\n",
            counted(silent, "machine")
        ));
    }
    text.push_str("lift it: lab resume --reason=…\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::{StopProgress, Token};

    #[test]
    fn a_stop_tells_who_heard_it() {
        let machine = |machine: &str, state: &str, step: &str| StopProgress {
            machine: machine.into(),
            state: state.into(),
            step: step.into(),
        };
        let machines = vec![
            machine("dev-01", "acknowledged", ""),
            machine("log-server", "finishing", "judging"),
            machine("db-primary", "silent", ""),
        ];
        insta::assert_snapshot!(
            "stop",
            stop(&EmergencyStopReply { epoch: 5, machines }, &look())
        );
    }

    #[test]
    fn trust_in_tables() {
        let token = Token {
            id: "t-3".into(),
            name: "web-01".into(),
            kind: "machine".into(),
            expires_at: "2026-11-22T13:00:00Z".into(),
            state: "open".into(),
            created_by: "geir".into(),
            ..Token::default()
        };
        let identity = Identity {
            serial: "3fa29c".into(),
            name: "geir".into(),
            kind: "operator".into(),
            role: "admin".into(),
            expires_at: "2026-11-29T12:00:00Z".into(),
            state: "revoked".into(),
            ..Identity::default()
        };
        let asks = Identity {
            serial: "41b7".into(),
            name: "web-01".into(),
            kind: "machine".into(),
            issued_at: "2026-08-17T12:00:00Z".into(),
            expires_at: "2026-08-24T12:00:00Z".into(),
            state: "asks-to-return".into(),
            asked_at: "2026-11-22T11:00:00Z".into(),
            asked_from: "192.0.2.7".into(),
            key: "9f2c".into(),
            ..Identity::default()
        };
        let may = Identity {
            name: "web-02".into(),
            state: "may-return".into(),
            approved_by: "geir".into(),
            approved_until: "2026-11-29T11:00:00Z".into(),
            ..asks.clone()
        };
        let question = asks_to_return(&asks, &look());
        let record = AuditRecord {
            sequence: 12,
            at: "2026-11-22T11:00:00Z".into(),
            actor: "geir".into(),
            role: "admin".into(),
            action: "EmergencyStop".into(),
            object: "fleet".into(),
            reason: "bad release".into(),
            result: "done".into(),
            ..AuditRecord::default()
        };
        let by = |kind: &str, actor: &str, action: &str, object: &str, result: &str| AuditRecord {
            actor_kind: kind.into(),
            actor: actor.into(),
            role: String::new(),
            action: action.into(),
            object: object.into(),
            reason: String::new(),
            result: result.into(),
            ..record.clone()
        };
        let records = vec![
            record.clone(),
            by(
                "machine",
                "web-01",
                "renew-certificate",
                "machine web-01, certificate 5b",
                "done",
            ),
            by(
                "token",
                "t3",
                "enrol",
                "machine web-01 from 10.0.0.7, certificate 5a",
                "done",
            ),
            by(
                "stranger",
                "",
                "enrol",
                "somebody from 10.0.0.9",
                "refused: the token is unknown",
            ),
            by(
                "system",
                "",
                "bootstrap",
                "operator admin (admin), certificate 4f",
                "done",
            ),
        ];
        let intact = VerifyAuditReply {
            intact: true,
            records: 12,
            head: "9c1f".into(),
            ..VerifyAuditReply::default()
        };
        let broken = VerifyAuditReply {
            fault: "record 7 does not fit record 6".into(),
            intact: false,
            ..intact.clone()
        };
        let whole = [
            tokens(
                &TokenList {
                    tokens: vec![token],
                },
                &look(),
            ),
            identities(
                &IdentityList {
                    identities: vec![asks, may, identity],
                },
                &look(),
            ),
            question,
            audit(&Audit { records }, &look()),
            verified_audit(&intact),
            verified_audit(&broken),
        ];
        insta::assert_snapshot!("trust", whole.join("\n"));
    }
}
