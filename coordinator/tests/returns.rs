//! A machine whose certificate ended while it was away, over real TLS: it asks, somebody approves, it
//! is back; and whoever is not that machine gets nothing.

mod bed;

use std::sync::Arc;

use bed::{Ahead, Bed, DOCUMENT, OLD, dial, plain_tls, poll, report, viewer};
use coordinator::{
    Config,
    ca::{Ca, Serial, SigningRequest},
    store::{Record, Store as _},
};
use coordinator_core::{fleet::Facts, identity::Holder};
use lab_proto::{
    agent::agent_client::AgentClient,
    enrolment::{AskToReturnRequest, enrolment_client::EnrolmentClient},
    operator::{
        ApproveIdentityRequest, AuditRequest, HistoryRequest, Identity as Listed,
        ListIdentitiesRequest, RevokeIdentityRequest, SetConfigRequest,
    },
};
use platform::{
    channel::{self, Timeouts},
    clock::Clock,
    enrol::{EnrolError, ask_to_return, key_hash},
    identity::{Identity, KeyAndRequest},
};
use tempfile::TempDir;
use tonic::{Code, Status};

/// Longer than a machine's certificate lives, and less than an operator's.
const AWAY: u64 = 8;

/// A fleet with a machine that was away for too long.
async fn away() -> (Bed, Arc<Ahead>, Identity) {
    let (mut bed, ahead) = Bed::start_ahead().await;
    bed.configure().await;
    let token = bed.token("dev-01").await;
    let identity = bed.enrol(&token).await;
    ahead.by(AWAY);
    (bed, ahead, identity)
}

/// Asks as the agent does.
async fn ask(bed: &Bed, old: &Identity) -> Result<Option<Identity>, EnrolError> {
    let address = bed.server.enrol_address().to_string();
    let channel = channel::connect(&address, old, Timeouts::default()).await;
    ask_to_return(channel.expect("a connection"), old).await
}

/// Asks with anything.
async fn send(bed: &Bed, certificate: &str, request: &str) -> Result<bool, Status> {
    let address = bed.server.enrol_address().to_string();
    let channel = plain_tls(bed.directory.path(), &address).await;
    let asked = AskToReturnRequest {
        certificate_pem: certificate.to_owned(),
        certificate_request_pem: request.to_owned(),
    };
    let answer = EnrolmentClient::new(channel).ask_to_return(asked).await?;
    Ok(answer.into_inner().pending)
}

fn request_of(identity: &Identity) -> String {
    let own = KeyAndRequest::again(identity.key_pem());
    own.expect("a request").request_pem
}

async fn approve(bed: &mut Bed, key: &str) -> Result<String, Status> {
    let asked = ApproveIdentityRequest {
        name: "dev-01".into(),
        key: key.into(),
        reason: "it was in the workshop".into(),
    };
    let done = bed.admin.approve_identity(asked).await?;
    Ok(done.into_inner().text)
}

async fn listed(bed: &mut Bed, serial: &str) -> Listed {
    let list = bed.admin.list_identities(ListIdentitiesRequest {}).await;
    let mut list = list.expect("identities").into_inner().identities;
    list.retain(|identity| identity.serial == serial);
    list.pop().expect("listed")
}

/// Everything that is kept.
fn kept(bed: &Bed) -> (Facts, Vec<Record>) {
    let loaded = bed.store.clone().load().expect("loaded");
    (loaded.snapshot, loaded.records)
}

#[tokio::test]
async fn a_machine_that_was_away_for_too_long_asks_and_is_let_back_once() {
    let (mut bed, ahead, old) = away().await;
    assert_eq!(listed(&mut bed, old.serial()).await.state, "expired");
    assert!(ask(&bed, &old).await.expect("heard").is_none());
    let asks = listed(&mut bed, old.serial()).await;
    assert_eq!(asks.state, "asks-to-return");
    assert_eq!(asks.asked_from, "127.0.0.1");
    let hash = key_hash(&old.chain()[0]).expect("a key");
    let key: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(asks.key, key);
    assert!(ask(&bed, &old).await.expect("heard").is_none());

    let other = approve(&mut bed, "00").await.expect_err("another key");
    assert_eq!(other.code(), Code::Aborted);
    approve(&mut bed, &key).await.expect("approved");
    let may = listed(&mut bed, old.serial()).await;
    assert_eq!(
        (may.state.as_str(), may.approved_by.as_str()),
        ("may-return", "admin")
    );
    let new = ask(&bed, &old).await.expect("heard").expect("let back");
    assert_eq!(new.subject(), old.subject());
    assert_eq!(key_hash(&new.chain()[0]), Some(hash), "the key stays");
    let life = new.not_after().since(new.not_before());
    assert_eq!(life.as_secs() / 3600, 7 * 24);
    let mut agent = AgentClient::new(dial(&bed.server, &new).await);
    agent.poll(poll(report(1, OLD))).await.expect("a member");
    assert_eq!(listed(&mut bed, old.serial()).await.state, "expired");
    assert_eq!(listed(&mut bed, new.serial()).await.state, "valid");

    // The answer was lost: the same comes again, and no more of them.
    let again = ask(&bed, &old).await.expect("heard").expect("let back");
    assert_eq!(again.serial(), new.serial());
    assert!(again.not_after() <= new.not_after());

    let audit = bed.admin.get_audit(AuditRequest::default()).await;
    let records = audit.expect("an audit log").into_inner().records;
    let found: Vec<(&str, &str, &str)> = records
        .iter()
        .map(|record| {
            let (actor, action) = (record.actor.as_str(), record.action.as_str());
            (actor, action, record.result.as_str())
        })
        .collect();
    let refused = format!("refused: dev-01 asks with another key now: {key}");
    let expected = [
        ("dev-01", "return", "done"),
        ("admin", "approve-identity", "done"),
        ("admin", "approve-identity", refused.as_str()),
        ("dev-01", "ask-to-return", "done"),
        ("t1", "enrol", "done"),
    ];
    assert_eq!(found[..expected.len()], expected);
    let history = bed.admin.get_history(HistoryRequest::default()).await;
    let entries = history.expect("a history").into_inner().entries;
    let told: Vec<&str> = entries.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(told[..2], ["return-approved", "return-asked"]);

    // Away for too long again: that takes another approval.
    ahead.by(AWAY);
    assert!(ask(&bed, &new).await.expect("heard").is_none());
}

#[tokio::test]
async fn who_is_not_the_machine_gets_one_answer_and_leaves_nothing() {
    let (mut bed, ahead, old) = away().await;
    let (certificate, request) = (old.certificate_pem(), request_of(&old));
    let vera = bed.token_for(viewer("vera")).await;
    let vera = bed.enrol(&vera).await;
    let stranger = KeyAndRequest::generate().expect("a key");

    let elsewhere = TempDir::new().expect("a directory");
    let other = Ca::open(elsewhere.path()).expect("a CA");
    let signing = SigningRequest::parse(&request).expect("a request");
    let serial = Serial::random().expect("random");
    let holder = Holder::Machine("dev-01".parse().expect("a name"));
    // With the machine's name and the very serial number that the registry knows, for another key.
    let theirs = SigningRequest::parse(&stranger.request_pem).expect("a request");
    let known = Serial::parse(old.serial()).expect("a serial number");
    let foreign = other.sign(&theirs, &holder, &known).expect("signed");
    let foreign = Identity::from_parts(&stranger.key_pem, &foreign).expect("sound");
    // Signed by our CA, and never written down: a CA key that was copied.
    let own = Ca::open(bed.directory.path()).expect("the CA");
    let unknown = own.sign(&signing, &holder, &serial).expect("signed");
    let unknown = Identity::from_parts(old.key_pem(), &unknown).expect("sound");
    let coordinator = own.coordinator().expect("an identity");
    ahead.by(30);

    let table = [
        (
            "another CA",
            foreign.certificate_pem(),
            stranger.request_pem.as_str(),
        ),
        ("another key", certificate, &stranger.request_pem),
        ("an operator", vera.certificate_pem(), &request_of(&vera)),
        (
            "a coordinator",
            coordinator.certificate_pem(),
            &request_of(&coordinator),
        ),
        ("not registered", unknown.certificate_pem(), &request),
        ("no certificate", "", &request),
        (
            "garbage",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &request,
        ),
        ("the CA itself", old.ca_pem(), &request),
    ];
    let before = kept(&bed);
    for (what, certificate, request) in table {
        let refused = send(&bed, certificate, request).await.expect_err(what);
        assert_eq!(
            refused.code(),
            Code::PermissionDenied,
            "{what}: {refused:?}"
        );
        assert_eq!(
            refused.message(),
            "this certificate is no way back",
            "{what}"
        );
    }
    let bad = send(&bed, certificate, "no request").await;
    assert_eq!(bad.expect_err("refused").code(), Code::InvalidArgument);
    let large = certificate.repeat(20);
    let large = send(&bed, &large, &request).await.expect_err("refused");
    assert_eq!(large.code(), Code::OutOfRange, "{large:?}");
    assert!(kept(&bed) == before, "facts came of it");
    assert!(
        send(&bed, certificate, &request)
            .await
            .expect("the machine")
    );
}

#[tokio::test]
async fn an_address_that_guesses_is_barred() {
    let (bed, _ahead, old) = away().await;
    for _ in 0..10 {
        let refused = send(&bed, "", &request_of(&old)).await;
        assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
    }
    let barred = send(&bed, old.certificate_pem(), &request_of(&old)).await;
    assert_eq!(barred.expect_err("barred").code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn what_is_replaced_revoked_or_not_ended_is_no_way_back() {
    let (mut bed, _ahead, old) = away().await;
    ask(&bed, &old).await.expect("heard");
    approve(&mut bed, "").await.expect("approved");
    let token = bed.token("dev-01").await;
    let new = bed.enrol(&token).await;
    let replaced = ask(&bed, &old).await.err();
    assert!(
        matches!(replaced, Some(EnrolError::Refused(_))),
        "{replaced:?}"
    );
    let good = send(&bed, new.certificate_pem(), &request_of(&new)).await;
    assert_eq!(good.expect_err("refused").code(), Code::FailedPrecondition);
    assert_eq!(
        approve(&mut bed, "").await.expect_err("nobody").code(),
        Code::NotFound
    );

    let (mut bed, _ahead, old) = away().await;
    ask(&bed, &old).await.expect("heard");
    approve(&mut bed, "").await.expect("approved");
    let revoke = RevokeIdentityRequest {
        name: "dev-01".into(),
        reason: "stolen".into(),
        ..RevokeIdentityRequest::default()
    };
    bed.admin.revoke_identity(revoke).await.expect("revoked");
    let revoked = ask(&bed, &old).await.err();
    assert!(
        matches!(revoked, Some(EnrolError::Refused(_))),
        "{revoked:?}"
    );
}

#[tokio::test]
async fn a_machine_that_left_the_configuration_is_not_let_back() {
    let (mut bed, _ahead, old) = away().await;
    let document = DOCUMENT.replace("\"dev-01\", ", "");
    let set = SetConfigRequest {
        document,
        ..SetConfigRequest::default()
    };
    bed.admin.set_config(set).await.expect("accepted");
    let gone = ask(&bed, &old).await.err();
    assert!(matches!(gone, Some(EnrolError::Refused(_))), "{gone:?}");
}

#[tokio::test]
async fn questions_and_approvals_outlive_the_coordinator() {
    let (mut bed, ahead, old) = away().await;
    ask(&bed, &old).await.expect("heard");
    bed = restarted(bed, &ahead).await;
    assert_eq!(listed(&mut bed, old.serial()).await.state, "asks-to-return");
    approve(&mut bed, "").await.expect("approved");
    bed = restarted(bed, &ahead).await;
    let new = ask(&bed, &old).await.expect("heard").expect("let back");
    bed = restarted(bed, &ahead).await;
    let again = ask(&bed, &old).await.expect("heard").expect("let back");
    assert_eq!(again.serial(), new.serial());
}

async fn restarted(bed: Bed, ahead: &Arc<Ahead>) -> Bed {
    let Bed {
        server,
        directory,
        store,
        admin,
    } = bed;
    drop(admin);
    server.stop().await.expect("a calm end");
    let config = Config {
        clock: Clock::given(ahead.clone()),
        ..bed::config_in(&directory)
    };
    Bed::start_as(&config, store, directory).await
}
