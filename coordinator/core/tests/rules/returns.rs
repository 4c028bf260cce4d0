//! A machine whose certificate has ended asks to return: what lets it, how often, and what does not.

use std::time::Duration;

use common::Timestamp;
use coordinator_core::{
    Decision, FleetConfig, Reply, Request,
    fleet::Facts,
    identity::{Certificate, Holder, Role, Who},
    request::{AskToReturn, AuditEntry, OperatorRequest, Refusal, Which},
    returns::APPROVED_FOR,
};
use serde_json::json;

use crate::fleet::{World, minutes, name};

const DAY: Duration = Duration::from_secs(24 * 3600);

const KEY: &str = "2f";

/// Machine `a` with the certificate `51`, which ended long ago.
fn away() -> World {
    let groups = json!({ "one": { "machines": ["a", "b"] } });
    let mut world = World::new(
        groups,
        json!({ "alarms": { "notUpdated": 0, "notApplied": 0 } }),
    );
    world.enrolled("a", 1, "51");
    world.now = world.now + 90 * DAY;
    world
}

impl World {
    /// A certificate by a token.
    fn enrolled(&mut self, machine: &str, secret: u64, serial: &str) {
        let secret_hash = format!("{secret:064x}");
        self.done_or_token(OperatorRequest::CreateToken {
            secret_hash: secret_hash.clone(),
            holder: Holder::Machine(name(machine)),
            expires_at: self.now + minutes(60),
        });
        let decision = self.handle(Request::Enrol {
            secret_hash,
            from: "192.0.2.7".to_owned(),
            serial: serial.to_owned(),
            expires_at: self.now + 7 * DAY,
        });
        assert!(matches!(decision.reply, Reply::Certify(_)));
    }

    fn done_or_token(&mut self, request: OperatorRequest) {
        let reply = self.ask(request);
        assert!(matches!(reply, Reply::Token(_)), "{reply:?}");
    }

    fn comes(&mut self, machine: &str, serial: &str, key: &str, new: &str) -> Decision {
        self.comes_for(7 * DAY, machine, serial, key, new)
    }

    /// The same, for a certificate that lives so long.
    fn comes_for(
        &mut self,
        life: Duration,
        machine: &str,
        serial: &str,
        key: &str,
        new: &str,
    ) -> Decision {
        self.handle(Request::AskToReturn(AskToReturn {
            machine: name(machine),
            serial: serial.to_owned(),
            key: key.to_owned(),
            from: "192.0.2.7".to_owned(),
            new_serial: new.to_owned(),
            expires_at: self.now + life,
        }))
    }

    /// Asks; the serial number of the certificate that it gets, if it gets one.
    fn returns(&mut self, serial: &str, new: &str) -> Option<String> {
        match self.comes("a", serial, KEY, new).reply {
            Reply::ReturnPending => None,
            Reply::Returns { holder, serial, .. } => {
                assert_eq!(holder, Holder::Machine(name("a")));
                Some(serial)
            }
            other => panic!("{other:?}"),
        }
    }

    fn approve(&mut self, machine: &str, key: Option<&str>) -> Reply {
        self.ask(OperatorRequest::ApproveReturn {
            machine: name(machine),
            key: key.map(str::to_owned),
            reason: "back from the workshop".to_owned(),
        })
    }

    fn approved(&mut self) {
        self.approved_for(KEY);
    }

    #[track_caller]
    fn approved_for(&mut self, key: &str) {
        let reply = self.approve("a", Some(key));
        assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    }

    fn revoke(&mut self, which: Which) {
        let reason = "stolen".to_owned();
        self.done(OperatorRequest::RevokeIdentity { which, reason });
    }
}

#[test]
fn whoever_asks_waits_until_somebody_approves_and_gets_one_certificate() {
    let mut world = away();
    let asked = world.comes("a", "51", KEY, "61");
    assert_eq!(asked.reply, Reply::ReturnPending);
    let audit = asked.audit.expect("audited");
    assert_eq!(audit.action, "ask-to-return");
    assert_eq!(audit.object, "machine a from 192.0.2.7");
    let entry = asked.history.first().expect("people are told");
    assert_eq!(entry.kind, "return-asked");
    assert!(
        entry.text.contains("lab identity approve a"),
        "{}",
        entry.text
    );

    // Asking again is for nothing: no facts, no records.
    for _ in 0..100 {
        let again = world.comes("a", "51", KEY, "62");
        assert_eq!(again.reply, Reply::ReturnPending);
        assert!(again.changes.is_empty() && again.audit.is_none() && again.history.is_empty());
    }
    world.approved();
    let decision = world.comes("a", "51", KEY, "63");
    let Reply::Returns { serial, .. } = decision.reply else {
        panic!("{:?}", decision.reply);
    };
    assert_eq!(serial, "63");
    let AuditEntry {
        who,
        action,
        object,
        result,
        ..
    } = decision.audit.expect("audited");
    let serial = "51".to_owned();
    let name = name("a");
    assert_eq!(who, Who::Machine { name, serial });
    assert_eq!(action, "return");
    assert_eq!(object, "machine a from 192.0.2.7, certificate 63");
    assert_eq!(result, "done");

    // Once it is away for too long again, the approval is used, for the new certificate and the old.
    world.now = world.now + 8 * DAY;
    let facts = world.fleet.facts().clone();
    for serial in ["51", "63"] {
        world.goes_on_from(facts.clone());
        let anew = world.comes("a", serial, KEY, "64");
        assert_eq!(anew.reply, Reply::ReturnPending, "{serial}");
        assert_eq!(anew.history[0].kind, "return-asked", "{serial}");
        assert_eq!(world.returns(serial, "65"), None);
    }
}

#[test]
fn an_approval_that_outlives_what_came_of_it_is_used_all_the_same() {
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    let reply = world.comes_for(minutes(1), "a", "51", KEY, "62").reply;
    assert!(matches!(reply, Reply::Returns { .. }), "{reply:?}");
    world.now = world.now + minutes(2);
    let facts = world.fleet.facts().clone();
    for serial in ["51", "62"] {
        world.goes_on_from(facts.clone());
        assert_eq!(world.returns(serial, "63"), None);
    }
}

#[test]
fn an_answer_that_was_lost_is_given_again_and_nothing_more() {
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    assert_eq!(world.returns("51", "62").as_deref(), Some("62"));
    for _ in 0..3 {
        let again = world.comes("a", "51", KEY, "63");
        let Reply::Returns { serial, .. } = again.reply else {
            panic!("{:?}", again.reply);
        };
        assert_eq!(serial, "62");
        assert!(again.changes.is_empty());
    }
    // With another key it is somebody else.
    let other = world.comes("a", "51", "3f", "63").reply;
    assert!(other.refusal().is_some(), "{other:?}");
    // The machine has it and renews it: the old one is no way to anything any more.
    world.now = world.now + 2 * DAY;
    let renewed = world.handle(Request::RenewCertificate {
        serial: "62".to_owned(),
        new_serial: "71".to_owned(),
        expires_at: world.now + 7 * DAY,
    });
    assert!(matches!(renewed.reply, Reply::Certify(_)));
    let late = world.comes("a", "51", KEY, "64").reply;
    assert!(late.refusal().is_some(), "{late:?}");
}

#[test]
fn an_answer_that_never_came_is_asked_for_anew() {
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    assert_eq!(world.returns("51", "62").as_deref(), Some("62"));
    world.now = world.now + 90 * DAY;
    assert_eq!(world.returns("51", "63"), None);
    world.approved();
    assert_eq!(world.returns("51", "64").as_deref(), Some("64"));
}

#[test]
fn an_approval_ends() {
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    world.now = world.now + APPROVED_FOR;
    let late = world.comes("a", "51", KEY, "62");
    assert_eq!(late.reply, Reply::ReturnPending);
    assert_eq!(late.history[0].kind, "return-asked", "people are told anew");
    assert_eq!(world.returns("51", "63"), None);
    world.approved();
    world.now = world.now + APPROVED_FOR - minutes(1);
    assert_eq!(world.returns("51", "64").as_deref(), Some("64"));
}

#[test]
fn what_is_revoked_does_not_return() {
    for which in [Which::Name("a".to_owned()), Which::Serial("51".to_owned())] {
        let mut world = away();
        world.returns("51", "61");
        world.approved();
        world.revoke(which);
        let reply = world.comes("a", "51", KEY, "62").reply;
        assert!(
            matches!(reply, Reply::Refused(Refusal::Forbidden(_))),
            "{reply:?}"
        );
        assert!(world.approve("a", None).refusal().is_some());
    }
    // Nor with the answer, if it is revoked before it came.
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    world.returns("51", "62");
    world.revoke(Which::Serial("62".to_owned()));
    let reply = world.comes("a", "51", KEY, "63").reply;
    assert!(reply.refusal().is_some(), "{reply:?}");
}

#[test]
fn whoever_revokes_any_certificate_of_a_machine_takes_its_approval_back() {
    let mut world = away();
    world.enrolled("a", 2, "52");
    world.now = world.now + 8 * DAY;
    world.returns("52", "61");
    world.approved();
    world.revoke(Which::Serial("51".to_owned()));
    assert_eq!(world.returns("52", "62"), None);
}

#[test]
fn each_reason_to_refuse_gives_the_same_answer_and_is_told_in_the_audit_log() {
    fn replaced(world: &mut World) {
        world.enrolled("a", 2, "52");
        world.now = world.now + 8 * DAY;
    }
    fn operator(world: &mut World) {
        let holder = Holder::Operator {
            name: "admin".parse().expect("a name"),
            role: Role::Admin,
        };
        let (serial, expires_at) = ("51".to_owned(), world.now);
        drop(world.handle(Request::Bootstrap {
            holder,
            serial,
            expires_at,
        }));
    }
    fn left(world: &mut World) {
        let document = json!({ "updateGroups": { "one": { "machines": ["b"] } } });
        let config = FleetConfig::parse(&document).expect("valid");
        world.ask(OperatorRequest::SetConfig {
            config: Box::new(config),
            if_revision: None,
            reason: String::new(),
        });
    }
    /// Why, the certificate, and what happened before.
    type Row = (&'static str, &'static str, fn(&mut World));
    let table: [Row; 6] = [
        ("unknown", "50", |_| {}),
        ("unknown", "51", operator),
        ("revoked", "51", |world| {
            world.revoke(Which::Name("a".to_owned()));
        }),
        ("not the machine's newest", "51", replaced),
        ("not in the configuration", "51", left),
        ("unknown", "61", |world| world.enrolled("b", 2, "61")),
    ];
    let mut answers = Vec::new();
    for (why, serial, before) in table {
        let mut world = away();
        before(&mut world);
        let decision = world.comes("a", serial, KEY, "70");
        assert!(decision.changes.is_empty(), "{why}");
        let audit = decision.audit.expect("audited");
        let expected = format!("refused: the certificate is {why}");
        assert_eq!(audit.result, expected);
        // The next ones of the same minute are counted only.
        assert_eq!(world.comes("a", serial, KEY, "70").audit, None, "{why}");
        answers.push(decision.reply);
    }
    assert!(matches!(answers[0], Reply::Refused(Refusal::Forbidden(_))));
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn a_good_certificate_is_renewed_and_not_returned_with() {
    let mut world = away();
    world.enrolled("a", 2, "52");
    let reply = world.comes("a", "52", KEY, "61").reply;
    assert!(
        matches!(reply, Reply::Refused(Refusal::NotNow(_))),
        "{reply:?}"
    );
    // The clock jumped ahead, the machine asked, the clock is right again.
    world.now = world.now + 8 * DAY;
    world.returns("52", "61");
    world.now = world.now - 8 * DAY;
    let reply = world.approve("a", None);
    assert!(
        matches!(reply, Reply::Refused(Refusal::NotNow(_))),
        "{reply:?}"
    );
}

#[test]
fn an_approval_is_for_a_machine_that_asks_and_for_its_key() {
    let mut world = away();
    for machine in ["a", "b", "nobody"] {
        let reply = world.approve(machine, None);
        assert!(
            matches!(reply, Reply::Refused(Refusal::NotFound { .. })),
            "{machine}: {reply:?}"
        );
    }
    world.returns("51", "61");
    let reply = world.approve("a", Some("3f"));
    assert!(
        matches!(reply, Reply::Refused(Refusal::Changed(_))),
        "{reply:?}"
    );
    assert_eq!(world.returns("51", "61"), None);
    let decision = world.comes("a", "51", "3f", "61");
    assert_eq!(
        decision.reply,
        Reply::ReturnPending,
        "another key asks for itself"
    );
    world.approved_for("3f");
    assert_eq!(
        world.returns("51", "61"),
        None,
        "and is approved for itself"
    );
}

#[test]
fn a_token_is_another_way_back_and_ends_the_question() {
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    world.enrolled("a", 2, "52");
    assert!(world.fleet.facts().registry.returns.is_empty());
    let reply = world.comes("a", "51", KEY, "62").reply;
    assert!(reply.refusal().is_some(), "{reply:?}");
}

#[test]
fn a_restart_forgets_nothing_and_a_restore_every_approval() {
    let mut world = away();
    world.returns("51", "61");
    world.approved();
    let facts = serde_json::to_string(world.fleet.facts()).expect("JSON");
    let facts: Facts = serde_json::from_str(&facts).expect("facts");
    world.goes_on_from(facts.clone());
    assert_eq!(world.returns("51", "62").as_deref(), Some("62"));
    world.goes_on_from(facts);
    world.restore();
    assert_eq!(world.returns("51", "63"), None);
}

#[test]
fn states_of_before_load() {
    let mut facts = serde_json::to_value(away().fleet.facts()).expect("JSON");
    let registry = facts["registry"].as_object_mut().expect("an object");
    assert!(
        !registry.contains_key("returns"),
        "nothing is written of none"
    );
    let certificate = Certificate {
        holder: Holder::Machine(name("a")),
        issued_at: Timestamp(0),
        expires_at: Timestamp(1),
        revoked: false,
    };
    registry["certificates"]["50"] = serde_json::to_value(certificate).expect("JSON");
    serde_json::from_value::<Facts>(facts).expect("loads");
}
