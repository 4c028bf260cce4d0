//! Tokens and certificates: what is kept of them, for how long, and what the audit log says.

use std::time::Duration;

use common::Timestamp;
use coordinator_core::{
    Decision, Reply, Request,
    identity::{Holder, KEPT, NEWEST_KEPT, Role, Who},
    request::{AuditEntry, OperatorRequest, Refusal, Which},
};
use serde_json::json;

use crate::fleet::{World, minutes, name};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn world() -> World {
    let groups = json!({ "one": { "machines": ["a", "b"] } });
    World::new(groups, json!({}))
}

fn hash(number: u64) -> String {
    format!("{number:064x}")
}

impl World {
    /// A token for a machine, with this secret, good for an hour: its id.
    fn token(&mut self, machine: &str, secret: u64) -> String {
        match self.ask(OperatorRequest::CreateToken {
            secret_hash: hash(secret),
            holder: Holder::Machine(name(machine)),
            expires_at: self.now + minutes(60),
        }) {
            Reply::Token(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn enrol(&mut self, secret: u64, serial: &str) -> (Reply, Option<AuditEntry>) {
        let decision = self.handle(Request::Enrol {
            secret_hash: hash(secret),
            from: "192.0.2.7".to_owned(),
            serial: serial.to_owned(),
            expires_at: self.now + 7 * DAY,
        });
        (decision.reply, decision.audit)
    }

    fn ask_to_renew(&mut self, serial: &str, new: &str) -> Decision {
        self.handle(Request::RenewCertificate {
            serial: serial.to_owned(),
            new_serial: new.to_owned(),
            expires_at: self.now + 7 * DAY,
        })
    }

    fn renewed(&mut self, serial: &str, new: &str) -> Option<AuditEntry> {
        let decision = self.ask_to_renew(serial, new);
        assert!(
            matches!(decision.reply, Reply::Certify(_)),
            "{:?}",
            decision.reply
        );
        decision.audit
    }

    fn serials(&self) -> Vec<&str> {
        let certificates = &self.fleet.facts().registry.certificates;
        certificates.keys().map(String::as_str).collect()
    }

    fn tokens(&self) -> Vec<&str> {
        let tokens = &self.fleet.facts().registry.tokens;
        tokens.keys().map(String::as_str).collect()
    }

    fn bootstrap(&mut self, serial: &str, expires_at: Timestamp) -> Option<AuditEntry> {
        let holder = Holder::Operator {
            name: "admin".parse().expect("a name"),
            role: Role::Admin,
        };
        let decision = self.handle(Request::Bootstrap {
            holder,
            serial: serial.to_owned(),
            expires_at,
        });
        decision.audit
    }
}

#[test]
fn what_ended_is_forgotten_after_a_while_and_numbers_are_not_used_again() {
    let mut world = world();
    assert_eq!(world.token("a", 1), "t1");
    assert!(matches!(world.enrol(1, "51").0, Reply::Certify(_)));
    world.now = world.now + 3 * DAY;
    world.renewed("51", "52");
    assert_eq!(
        (world.tokens(), world.serials()),
        (vec!["t1"], vec!["51", "52"])
    );
    // The first certificate ended on day 7; it is looked up for a week more.
    world.now = world.now + 6 * DAY;
    world.renewed("52", "53");
    assert_eq!(
        (world.tokens(), world.serials()),
        (vec![], vec!["51", "52", "53"])
    );
    world.now = world.now + 5 * DAY;
    world.renewed("53", "54");
    assert_eq!(world.serials(), ["52", "53", "54"]);
    assert_eq!(world.token("a", 2), "t2");
}

#[test]
fn a_fleet_whose_clock_jumped_ahead_can_come_back() {
    let mut world = world();
    for (secret, machine, serial) in [(1, "a", "51"), (2, "b", "52")] {
        world.token(machine, secret);
        world.enrol(secret, serial);
    }
    let back = world.now;
    world.bootstrap("4f", back + 30 * DAY);
    world.now = back + 50 * 365 * DAY;
    world.token("a", 3);
    // The tokens are gone, the machines' newest certificates are not, an operator's is.
    assert_eq!(
        (world.tokens(), world.serials()),
        (vec!["t3"], vec!["51", "52"])
    );
    for serial in ["51", "52"] {
        assert!(world.fleet.facts().registry.holder(serial, back).is_some());
    }
}

#[test]
fn the_newest_certificate_of_a_name_outlives_its_fleet_for_a_while() {
    let mut world = world();
    let end = world.now + DAY;
    world.bootstrap("4f", end);
    world.now = end + KEPT;
    world.bootstrap("5f", world.now + DAY);
    assert_eq!(world.serials(), ["5f"]);
    world.now = world.now + DAY + NEWEST_KEPT - Duration::from_millis(1);
    world.token("a", 1);
    assert_eq!(world.serials(), ["5f"]);
    world.now = world.now + minutes(60);
    world.token("a", 2);
    assert_eq!(world.serials(), [""; 0]);
}

#[test]
fn outdated_ones_are_looked_for_once_an_hour_and_forgotten_in_bounded_parts() {
    let mut world = world();
    for secret in 0..10 {
        world.token("a", secret);
    }
    let registry = &world.fleet.facts().registry;
    let ended = world.now + minutes(60) + KEPT;
    assert_eq!(registry.outdated(ended, |_| true, 4).0.len(), 4);
    assert_eq!(
        registry.outdated(ended - minutes(1), |_| true, 4).0.len(),
        0
    );
    world.now = ended - minutes(1);
    world.token("a", 10);
    world.now = ended;
    world.token("a", 11);
    assert_eq!(world.tokens().len(), 12);
    world.now = ended + minutes(60);
    world.token("a", 12);
    assert_eq!(world.tokens().len(), 3);
}

#[test]
fn enrolments_and_renewals_are_audited() {
    let mut world = world();
    let id = world.token("a", 1);
    let entry = world.enrol(1, "51").1.expect("audited");
    assert_eq!(entry.who, Who::Token(id));
    assert_eq!(entry.action, "enrol");
    assert_eq!(entry.object, "machine a from 192.0.2.7, certificate 51");
    assert_eq!(entry.result, "done");
    world.now = world.now + 2 * DAY;
    let entry = world.renewed("51", "52").expect("audited");
    let serial = "51".to_owned();
    assert_eq!(
        entry.who,
        Who::Machine {
            name: name("a"),
            serial
        }
    );
    assert_eq!(entry.object, "machine a, certificate 52");
    let entry = world.bootstrap("4f", world.now + DAY).expect("audited");
    assert_eq!(entry.who, Who::System);
    assert_eq!(entry.object, "operator admin (admin), certificate 4f");
    world.now = world.now + DAY / 4;
    let entry = world.renewed("4f", "50").expect("audited");
    assert!(matches!(entry.who, Who::Operator(actor) if actor.role == Role::Admin));
}

#[test]
fn a_certificate_is_renewed_after_a_quarter_of_its_life_and_not_before() {
    let mut world = world();
    world.token("a", 1);
    world.enrol(1, "51");
    world.now = world.now + 7 * DAY / 4 - Duration::from_millis(1);
    let early = world.ask_to_renew("51", "52");
    assert!(matches!(&early.reply, Reply::Refused(Refusal::NotNow(text)) if text.contains("new")));
    assert!(early.changes.is_empty() && early.audit.is_none());
    world.now = world.now + Duration::from_millis(1);
    world.renewed("51", "52");
}

#[test]
fn a_stolen_key_does_not_fill_the_registry_nor_lock_its_machine_out() {
    let mut world = world();
    for (secret, machine, serial) in [(1, "a", "51"), (2, "b", "52")] {
        world.token(machine, secret);
        world.enrol(secret, serial);
    }
    // All through the second half of a life, once a minute.
    world.now = world.now + 7 * DAY / 2;
    let end = world.now + 7 * DAY / 2;
    let mut renewed = Vec::new();
    while world.now < end {
        let new = format!("a{}", renewed.len());
        match world.ask_to_renew("51", &new).reply {
            Reply::Certify(_) => renewed.push(world.now),
            Reply::Refused(Refusal::NotNow(_)) => {}
            other => panic!("{other:?}"),
        }
        world.now = world.now + minutes(1);
    }
    assert_eq!(renewed.len(), 16);
    // The second eight come when the first are a quarter of a life old.
    assert_eq!(renewed[8], renewed[0] + 7 * DAY / 4);
    // Nobody else notices.
    world.now = end - minutes(1);
    world.renewed("52", "62");
}

#[test]
fn a_stranger_cannot_fill_the_audit_log() {
    let mut world = world();
    let (reply, entry) = world.enrol(9, "51");
    assert!(reply.refusal().is_some());
    let entry = entry.expect("audited");
    assert_eq!(entry.who, Who::Stranger);
    assert_eq!(entry.result, "refused: the token is unknown");
    // Other tokens, the same minute: counted only.
    for secret in 10..100 {
        assert_eq!(world.enrol(secret, "51").1, None);
    }
    // One that is known has a record of its own.
    let id = world.token("a", 1);
    world.enrol(1, "51");
    let entry = world.enrol(1, "52").1.expect("audited");
    assert_eq!(entry.who, Who::Token(id));
    assert_eq!(entry.object, "machine a from 192.0.2.7");
    assert_eq!(entry.result, "refused: the token is used already");
    assert_eq!(world.enrol(1, "52").1, None);
    world.now = world.now + minutes(1);
    let entry = world.enrol(200, "51").1.expect("audited");
    assert_eq!(
        entry.result,
        "refused: the token is unknown, and 90 more since the last record"
    );
    let entry = world.enrol(1, "51").1.expect("audited");
    assert_eq!(
        entry.result,
        "refused: the token is used already, and 1 more since the last record"
    );
}

#[test]
fn expired_and_revoked_tokens_are_told_apart_in_the_audit_log_only() {
    let mut world = world();
    world.token("a", 1);
    let id = world.token("b", 2);
    let reason = "lost".to_owned();
    world.done(OperatorRequest::RevokeToken { id, reason });
    world.now = world.now + minutes(60);
    let (expired, expired_entry) = world.enrol(1, "51");
    let (revoked, revoked_entry) = world.enrol(2, "52");
    assert_eq!(expired, revoked);
    let result = |entry: Option<AuditEntry>| entry.expect("audited").result;
    assert_eq!(result(expired_entry), "refused: the token is expired");
    assert_eq!(result(revoked_entry), "refused: the token is revoked");
}

#[test]
fn a_certificate_that_was_revoked_stays_so_while_it_is_kept() {
    let mut world = world();
    world.token("a", 1);
    world.enrol(1, "51");
    world.done(OperatorRequest::RevokeIdentity {
        which: Which::Name("a".to_owned()),
        reason: "stolen".to_owned(),
    });
    world.now = world.now + 400 * DAY;
    world.token("a", 2);
    assert!(world.fleet.facts().registry.certificates["51"].revoked);
}

#[track_caller]
fn said(world: &mut World, request: OperatorRequest) -> String {
    match world.ask(request) {
        Reply::Done(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_revoked_or_forgotten_is_said_in_a_sentence() {
    let mut world = world();
    let id = world.token("b", 2);
    let revoke = OperatorRequest::RevokeToken {
        id: id.clone(),
        reason: "lost".to_owned(),
    };
    assert_eq!(
        said(&mut world, revoke.clone()),
        format!("token {id} is revoked")
    );
    assert_eq!(
        said(&mut world, revoke),
        format!("token {id} was revoked already")
    );

    world.token("a", 1);
    world.enrol(1, "51");
    let revoke = OperatorRequest::RevokeIdentity {
        which: Which::Name("a".to_owned()),
        reason: "stolen".to_owned(),
    };
    assert_eq!(said(&mut world, revoke.clone()), "1 certificate is revoked");
    let again = said(&mut world, revoke);
    assert_eq!(again, "nothing to revoke: it was revoked already");

    let forget = |machine: &str| OperatorRequest::ForgetMachine {
        machine: name(machine),
        reason: "sold".to_owned(),
    };
    let rollout = world.execute();
    world.go("a");
    let text = said(&mut world, forget("a"));
    let freed = format!("its slot is free, and its turn in rollout {rollout} counts as failed");
    assert_eq!(
        text,
        format!("a is forgotten until it reports again: {freed}")
    );
    assert_eq!(world.place(&rollout, "a"), "failed");
    let text = said(&mut world, forget("b"));
    assert_eq!(
        text,
        "b is forgotten until it reports again: it held no slot"
    );
}
