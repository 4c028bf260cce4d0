//! The audit log's chain: every record carries a SHA-256 over itself and the hash before it, so
//! that a record cannot be changed or taken out without breaking all that follow.

use common::{
    Timestamp,
    text::{REASON_MAX, tame_line},
};
use coordinator_core::{
    identity::{Actor, Role, Who},
    request::AuditEntry,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest text in a record, in bytes: records must stay small values of the store. An object that
/// names ten thousand machines is cut.
const TEXT_MAX: usize = 512;

/// A link of the chain.
pub type Hash = [u8; 32];

/// The hash before the first record.
pub const ORIGIN: Hash = [0; 32];

/// Who asked for what and what came of it, as it is kept. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBody {
    /// Position in the log, from 1.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What kind of asker.
    #[serde(default)]
    pub actor_kind: ActorKind,
    /// Who: the name, or the id of the token; empty when the kind says it all.
    pub actor: String,
    /// In which role; operators have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Serial number of the certificate; empty when none was shown.
    pub serial: String,
    /// What was asked, one word.
    pub action: String,
    /// Of what.
    pub object: String,
    /// Why.
    pub reason: String,
    /// `done`, or why not.
    pub result: String,
}

/// What kind of asker a record names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActorKind {
    /// An operator; records of before there were kinds are all of operators.
    #[default]
    Operator,
    /// A machine.
    Machine,
    /// Whoever showed a token.
    Token,
    /// Somebody unknown.
    Stranger,
    /// The coordinator itself.
    System,
}

impl ActorKind {
    /// The word that the audit log shows.
    pub fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Machine => "machine",
            Self::Token => "token",
            Self::Stranger => "stranger",
            Self::System => "system",
        }
    }
}

/// A record and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// The record.
    pub body: AuditBody,
    /// Its hash.
    pub hash: Hash,
}

/// What reading the whole chain again found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditCheck {
    /// Records that fit.
    pub records: u64,
    /// Hash of the last one.
    pub head: Hash,
    /// The first record that does not fit, and why.
    pub fault: Option<String>,
}

/// The end of the chain: what the next record hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Records so far.
    pub records: u64,
    /// Hash of the last one.
    pub head: Hash,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            records: 0,
            head: ORIGIN,
        }
    }
}

impl Chain {
    /// Hangs an entry on the chain: its sequence number, and its hash followed by its JSON, which
    /// is how it is kept.
    pub fn link(
        &mut self,
        at: Timestamp,
        entry: &AuditEntry,
    ) -> Result<(u64, Vec<u8>), serde_json::Error> {
        let who = Named::of(&entry.who);
        let body = AuditBody {
            sequence: self.records + 1,
            at,
            actor_kind: who.kind,
            actor: who.name.to_owned(),
            role: who.role,
            serial: who.serial.to_owned(),
            action: tame_line(&entry.action, TEXT_MAX),
            object: tame_line(&entry.object, TEXT_MAX),
            reason: tame_line(&entry.reason, REASON_MAX),
            result: tame_line(&entry.result, TEXT_MAX),
        };
        let json = serde_json::to_vec(&body)?;
        self.head = hash(&self.head, &json);
        self.records += 1;
        Ok((self.records, [&self.head, json.as_slice()].concat()))
    }
}

/// Who it was, as a record says it.
struct Named<'a> {
    kind: ActorKind,
    name: &'a str,
    role: Option<Role>,
    serial: &'a str,
}

impl<'a> Named<'a> {
    fn of(who: &'a Who) -> Self {
        let plain = |kind, name| Self {
            kind,
            name,
            role: None,
            serial: "",
        };
        match who {
            Who::Operator(Actor { name, role, serial }) => Self {
                role: Some(*role),
                serial,
                ..plain(ActorKind::Operator, name.as_str())
            },
            Who::Machine { name, serial } => Self {
                serial,
                ..plain(ActorKind::Machine, name.as_str())
            },
            Who::Token(id) => plain(ActorKind::Token, id),
            Who::Stranger => plain(ActorKind::Stranger, ""),
            Who::System => plain(ActorKind::System, ""),
        }
    }
}

/// A kept record, taken apart.
pub fn read(kept: &[u8]) -> Option<AuditRecord> {
    let (hash, json) = kept.split_first_chunk::<32>()?;
    let body = serde_json::from_slice(json).ok()?;
    Some(AuditRecord { body, hash: *hash })
}

/// Follows the chain over kept records, in order, one at a time: the log may be larger than memory.
pub fn verify<R: AsRef<[u8]>, E>(
    kept: impl IntoIterator<Item = Result<R, E>>,
) -> Result<AuditCheck, E> {
    let mut check = AuditCheck {
        records: 0,
        head: ORIGIN,
        fault: None,
    };
    for record in kept {
        let record = record?;
        let record = record.as_ref();
        let number = check.records + 1;
        let fault = |what: &str| Some(format!("record {number} {what}"));
        let Some((stored, json)) = record.split_first_chunk::<32>() else {
            check.fault = fault("is cut short");
            return Ok(check);
        };
        if hash(&check.head, json) != *stored {
            check.fault = fault("or the one before it was changed: the hash does not fit");
            return Ok(check);
        }
        match serde_json::from_slice::<AuditBody>(json) {
            Ok(body) if body.sequence == number => {}
            Ok(body) => {
                check.fault = fault(&format!("says that it is number {}", body.sequence));
                return Ok(check);
            }
            Err(error) => {
                check.fault = fault(&format!("cannot be read: {error}"));
                return Ok(check);
            }
        }
        check.records = number;
        check.head = *stored;
    }
    Ok(check)
}

fn hash(before: &Hash, json: &[u8]) -> Hash {
    Sha256::new()
        .chain_update(before)
        .chain_update(json)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize) -> Vec<Vec<u8>> {
        let who = Who::Operator(Actor {
            name: "ada".parse().expect("a name"),
            role: Role::Admin,
            serial: "4f".into(),
        });
        let mut chain = Chain::default();
        (0..count)
            .map(|n| {
                let entry = AuditEntry {
                    who: who.clone(),
                    action: "pause".into(),
                    object: format!("rollout r{n}"),
                    reason: String::new(),
                    result: "done".into(),
                };
                chain.link(Timestamp(n as i64), &entry).expect("JSON").1
            })
            .collect()
    }

    fn check(kept: &[Vec<u8>]) -> AuditCheck {
        let read = kept.iter().map(Ok::<_, std::convert::Infallible>);
        verify(read).expect("readable")
    }

    #[test]
    fn an_untouched_chain_is_intact() {
        let kept = entries(5);
        let found = check(&kept);
        assert_eq!((found.records, &found.fault), (5, &None));
        assert_eq!(found.head, kept[4][..32]);
        assert_eq!(read(&kept[4]).expect("readable").body.sequence, 5);
        assert_eq!(check(&[]).records, 0);
    }

    #[test]
    fn tampering_is_found_where_it_was_done() {
        // Every byte of every record matters.
        let kept = entries(3);
        for record in 0..3 {
            for byte in 0..kept[record].len() {
                let mut changed = kept.clone();
                changed[record][byte] ^= 1;
                let found = check(&changed);
                assert_eq!(found.records, record as u64, "byte {byte}");
                assert!(found.fault.is_some());
            }
        }
    }

    #[test]
    fn records_of_before_there_were_kinds_are_read() {
        let json = br#"{"sequence":1,"at":5,"actor":"ada","role":"admin","serial":"4f",
            "action":"pause","object":"rollout r1","reason":"","result":"done"}"#;
        let kept = [&hash(&ORIGIN, json), json.as_slice()].concat();
        assert_eq!(check(std::slice::from_ref(&kept)).fault, None);
        let body = read(&kept).expect("readable").body;
        assert_eq!(
            (body.actor_kind, body.role),
            (ActorKind::Operator, Some(Role::Admin))
        );
    }

    #[test]
    fn a_record_says_who_it_was_of_every_kind() {
        let name = || "web-01".parse().expect("a name");
        let serial = || "5a".to_owned();
        let kinds = [
            (
                Who::Machine {
                    name: name(),
                    serial: serial(),
                },
                "machine",
                "web-01",
                "5a",
            ),
            (Who::Token("t7".into()), "token", "t7", ""),
            (Who::Stranger, "stranger", "", ""),
            (Who::System, "system", "", ""),
        ];
        for (who, kind, name, serial) in kinds {
            let entry = AuditEntry {
                who,
                action: "enrol".into(),
                object: String::new(),
                reason: String::new(),
                result: "done".into(),
            };
            let (_, kept) = Chain::default().link(Timestamp(5), &entry).expect("JSON");
            let body = read(&kept).expect("readable").body;
            assert_eq!(
                (
                    body.actor_kind.word(),
                    body.actor.as_str(),
                    body.serial.as_str()
                ),
                (kind, name, serial)
            );
            assert_eq!(body.role, None);
        }
    }

    #[test]
    fn records_cannot_be_taken_out_or_swapped() {
        let mut gone = entries(4);
        gone.remove(1);
        assert_eq!(check(&gone).records, 1);
        let mut swapped = entries(4);
        swapped.swap(1, 2);
        assert_eq!(check(&swapped).records, 1);
        // One who hangs a record of another place there gets the sequence wrong.
        let mut cut = entries(4);
        cut[2].truncate(20);
        assert_eq!(check(&cut).fault.as_deref(), Some("record 3 is cut short"));
    }
}
