//! Tokens: once, in time, for whom they were made.

mod bed;

use bed::{Bed, dial};
use common::token::EnrolmentToken;
use lab_proto::{
    agent::{RenewCertificateRequest, agent_client::AgentClient},
    operator::{
        AuditRecord, AuditRequest, CreateTokenRequest, ListIdentitiesRequest, ListTokensRequest,
        RenewOwnCertificateRequest, RevokeTokenRequest, StatusRequest,
        operator_client::OperatorClient,
    },
};
use platform::{
    enrol::{EnrolError, enrol},
    identity::{Identity, KeyAndRequest, Subject},
};
use tonic::Code;

async fn try_enrol(bed: &Bed, token: &EnrolmentToken) -> Result<Identity, EnrolError> {
    enrol(&bed.server.enrol_address().to_string(), token).await
}

#[tokio::test]
async fn a_token_works_once() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let token = bed.token("dev-01").await;
    let identity = try_enrol(&bed, &token).await.expect("enrolled");
    assert_eq!(
        identity.subject(),
        &Subject::Machine("dev-01".parse().expect("a name"))
    );
    let life = identity.not_after().since(identity.not_before());
    assert_eq!(life.as_secs() / 3600, 7 * 24);
    let again = try_enrol(&bed, &token).await.err();
    assert!(matches!(again, Some(EnrolError::Refused(_))), "{again:?}");
    let tokens = bed
        .admin
        .list_tokens(ListTokensRequest {})
        .await
        .expect("tokens");
    let tokens = tokens.into_inner().tokens;
    assert_eq!(
        (tokens[0].state.as_str(), tokens[0].name.as_str()),
        ("used", "dev-01")
    );
}

#[tokio::test]
async fn of_two_who_race_one_wins() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    for _ in 0..5 {
        let token = bed.token("dev-01").await;
        let (one, two) = tokio::join!(try_enrol(&bed, &token), try_enrol(&bed, &token));
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    }
    let identities = bed.admin.list_identities(ListIdentitiesRequest {}).await;
    let identities = identities.expect("identities").into_inner().identities;
    assert_eq!(
        identities
            .iter()
            .filter(|identity| identity.name == "dev-01")
            .count(),
        5
    );
}

#[tokio::test]
async fn expired_revoked_and_wrong_tokens_are_refused_alike() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let short = bed
        .token_for(CreateTokenRequest {
            machine: "dev-01".into(),
            valid_for_s: 1,
            ..CreateTokenRequest::default()
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let revoked = bed.token("dev-02").await;
    let revoke = RevokeTokenRequest {
        id: "t2".into(),
        reason: "lost".into(),
    };
    bed.admin.revoke_token(revoke).await.expect("revoked");
    let wrong = EnrolmentToken {
        secret: [7; 20],
        ..bed.token("dev-01").await
    };
    let mut texts = Vec::new();
    for token in [&short, &revoked, &wrong] {
        texts.push(
            try_enrol(&bed, token)
                .await
                .err()
                .expect("refused")
                .to_string(),
        );
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "a guesser learns something: {texts:?}");
    // A token of another fleet does not even get a word out.
    let other = EnrolmentToken {
        ca_pin: [9; 32],
        ..bed.token("dev-01").await
    };
    assert!(matches!(
        try_enrol(&bed, &other).await,
        Err(EnrolError::Connect(_))
    ));
}

#[tokio::test]
async fn guessers_are_barred_for_a_while() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let good = bed.token("dev-01").await;
    let wrong = EnrolmentToken {
        secret: [7; 20],
        ..good.clone()
    };
    for _ in 0..10 {
        assert!(try_enrol(&bed, &wrong).await.is_err());
    }
    let barred = try_enrol(&bed, &good)
        .await
        .err()
        .expect("barred")
        .to_string();
    assert!(barred.contains("too many wrong tokens"), "{barred}");
}

#[tokio::test]
async fn who_enrols_and_renews_and_who_may_not_is_in_the_audit_log() {
    let (mut bed, ahead) = Bed::start_ahead().await;
    bed.configure().await;
    let token = bed.token("dev-01").await;
    let identity = bed.enrol(&token).await;
    let mut agent = AgentClient::new(dial(&bed.server, &identity).await);
    let own = KeyAndRequest::generate().expect("a key");
    let renewal = RenewCertificateRequest {
        certificate_request_pem: own.request_pem.clone(),
    };
    let early = agent.renew_certificate(renewal.clone()).await;
    let early = early.expect_err("just enrolled");
    assert_eq!(early.code(), Code::FailedPrecondition, "{early:?}");
    ahead.by(2);
    agent.renew_certificate(renewal).await.expect("renewed");
    let wrong = EnrolmentToken {
        secret: [7; 20],
        ..token.clone()
    };
    for token in [&token, &token, &wrong, &wrong] {
        assert!(try_enrol(&bed, token).await.is_err());
    }
    let audit = bed.admin.get_audit(AuditRequest::default()).await;
    let mut records = audit.expect("an audit log").into_inner().records;
    records.reverse();
    let found: Vec<[&str; 5]> = records
        .iter()
        .map(|record| {
            let AuditRecord {
                actor_kind,
                actor,
                role,
                action,
                result,
                ..
            } = record;
            [actor_kind, actor, role, action, result].map(String::as_str)
        })
        .collect();
    let refused = |why: &str| format!("refused: the token is {why}");
    let (used, unknown) = (refused("used already"), refused("unknown"));
    let expected = [
        ["system", "", "", "bootstrap", "done"],
        ["operator", "admin", "admin", "set-config", "done"],
        ["operator", "admin", "admin", "create-token", "done"],
        ["token", "t1", "", "enrol", "done"],
        ["machine", "dev-01", "", "renew-certificate", "done"],
        ["token", "t1", "", "enrol", &used],
        ["stranger", "", "", "enrol", &unknown],
    ];
    assert_eq!(found, expected);
    let serial = identity.serial();
    let enrolled = format!("machine dev-01 from 127.0.0.1, certificate {serial}");
    assert_eq!(records[3].object, enrolled);
    assert_eq!(records[4].serial, serial);
}

#[tokio::test]
async fn certificates_are_renewed_for_the_same_name() {
    let (mut bed, ahead) = Bed::start_ahead().await;
    bed.configure().await;
    let token = bed.token("dev-01").await;
    let old = bed.enrol(&token).await;
    let mut agent = AgentClient::new(dial(&bed.server, &old).await);
    ahead.by(2);
    let own = KeyAndRequest::generate().expect("a key");
    let renewed = agent
        .renew_certificate(RenewCertificateRequest {
            certificate_request_pem: own.request_pem.clone(),
        })
        .await
        .expect("renewed")
        .into_inner();
    let new = Identity::from_parts(&own.key_pem, &renewed.certificate_chain_pem).expect("sound");
    assert_eq!(new.subject(), old.subject());
    assert_ne!(new.serial(), old.serial());
    dial(&bed.server, &new).await;
    for bad in ["", "not PEM", &own.key_pem] {
        let asked = RenewCertificateRequest {
            certificate_request_pem: bad.to_owned(),
        };
        let refused = agent.renew_certificate(asked).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_request_chooses_neither_name_nor_use() {
    let (mut bed, ahead) = Bed::start_ahead().await;
    let token = bed
        .token_for(CreateTokenRequest {
            operator: "vera".into(),
            role: "viewer".into(),
            ..CreateTokenRequest::default()
        })
        .await;
    let viewer = bed.enrol(&token).await;
    let mut client = OperatorClient::new(dial(&bed.server, &viewer).await);
    ahead.by(8);
    // A request that calls itself the administrator, the coordinator, and a CA.
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = ["coordinator.lab-updater.internal".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    let uri = "spiffe://lab-updater/operator/admin";
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(uri.try_into().expect("ASCII")));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params
        .serialize_request(&key)
        .expect("a request")
        .pem()
        .expect("PEM");
    let renewed = client
        .renew_own_certificate(RenewOwnCertificateRequest {
            certificate_request_pem: request,
        })
        .await
        .expect("renewed")
        .into_inner();
    let chain = renewed.certificate_chain_pem;
    let identity = Identity::from_parts(&key.serialize_pem(), &chain).expect("sound");
    assert_eq!(identity.subject(), viewer.subject());
    let (_, leaf) = x509_parser::parse_x509_certificate(&identity.chain()[0]).expect("X.509");
    assert!(!leaf.is_ca());
    let names = leaf
        .subject_alternative_name()
        .expect("readable")
        .expect("there");
    assert_eq!(names.value.general_names.len(), 1);
    let mut client = OperatorClient::new(dial(&bed.server, &identity).await);
    client
        .get_status(StatusRequest::default())
        .await
        .expect("still a viewer");
    let refused = client
        .list_tokens(ListTokensRequest {})
        .await
        .expect_err("only a viewer");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn the_first_administrator_is_made_once() {
    let bed = Bed::start().await;
    let file = bed.directory.path().join("admin.pem");
    let first = std::fs::read_to_string(&file).expect("readable");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("there"));
    assert_eq!(mode & 0o777, 0o600);
    // Moved to where it is used: a restart does not make another one.
    std::fs::remove_file(&file).expect("removed");
    let Bed {
        server,
        directory,
        store,
        ..
    } = bed;
    server.stop().await.expect("a calm end");
    let config = bed::config_in(&directory);
    let store = Box::new(store);
    let server = coordinator::Server::start_with(&config, store.clone())
        .await
        .expect("started");
    assert!(!file.exists());
    let identity = Identity::from_parts(&first, &first).expect("sound");
    dial(&server, &identity).await;
    server.stop().await.expect("a calm end");
    // It was promised and never written: made again.
    std::fs::write(directory.path().join("admin.pending"), "").expect("written");
    let server = coordinator::Server::start_with(&config, store)
        .await
        .expect("started");
    assert!(file.exists());
    server.stop().await.expect("a calm end");
}
