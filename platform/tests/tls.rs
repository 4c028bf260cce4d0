//! Real handshakes over loopback: whom a client talks to, and what it says when it does not.

mod common;

use std::time::{Duration, Instant};

use ::common::token::EnrolmentToken;
use common::{COORDINATOR, Ca, SHORT, Server, WEB, leaf, valid};
use lab_proto::enrolment::{EnrolRequest, enrolment_client::EnrolmentClient};
use platform::{
    channel::{ConnectError, Timeouts, TlsFault, connect},
    enrol::{EnrolError, ask_to_return, enrol},
    identity::{Identity, SERVER_NAME},
};
use rcgen::CertificateParams;
use rustls::AlertDescription;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

fn web(ca: &Ca) -> Identity {
    ca.identity(&leaf(&[WEB], &[]))
}

async fn fault(address: &str, identity: &Identity) -> TlsFault {
    match connect(address, identity, Timeouts::default()).await {
        Err(ConnectError::Tls { source, .. }) => source,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    }
}

#[tokio::test]
async fn the_fleets_own_coordinator_is_talked_to() {
    let ca = Ca::new();
    let identity = web(&ca);
    let mut server = Server::of(ca);
    server.clients = Some(identity.ca_pem().to_owned());
    let address = server.start().await;
    let began = Instant::now();
    let channel = connect(&address, &identity, Timeouts::default()).await;
    let mut client = EnrolmentClient::new(channel.expect("connected"));
    let answer = client.enrol(EnrolRequest::default()).await;
    assert_eq!(
        answer.expect_err("no token").code(),
        tonic::Code::PermissionDenied
    );
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "the greeting came at once"
    );
}

#[tokio::test]
async fn a_server_that_is_not_ours_is_told_apart() {
    let server_with = |params: &CertificateParams, ca: Ca| Server {
        own: ca.sign(params),
        ..Server::of(ca)
    };
    let coordinator = || leaf(&[COORDINATOR], &[SERVER_NAME]);
    for (params, expected) in [
        (valid(coordinator(), 2020, 2021), TlsFault::ServerExpired),
        (
            valid(coordinator(), 3000, 3001),
            TlsFault::ServerNotYetValid,
        ),
        (
            leaf(&[COORDINATOR], &["127.0.0.1.example"]),
            TlsFault::WrongName,
        ),
        (
            leaf(&[COORDINATOR], &["*.lab-updater.internal2"]),
            TlsFault::WrongName,
        ),
        (leaf(&[WEB], &[]), TlsFault::WrongName),
    ] {
        let ca = Ca::new();
        let identity = web(&ca);
        let address = server_with(&params, ca).start().await;
        assert_eq!(fault(&address, &identity).await, expected);
    }
    let address = Server::of(Ca::new()).start().await;
    assert_eq!(fault(&address, &web(&Ca::new())).await, TlsFault::WrongCa);
}

#[tokio::test]
async fn a_certificate_that_the_server_refuses_is_known_at_once() {
    let ca = Ca::new();
    let expired = ca.identity(&valid(leaf(&[WEB], &[]), 2020, 2021));
    let foreign_ca = Ca::new();
    let mut server = Server::of(ca);
    server.clients = Some(server.signs.pem());
    // Trusts the server, but shows a certificate of another fleet.
    let (key, chain) = foreign_ca.sign(&leaf(&[WEB], &[]));
    let stranger = Identity::from_parts(&key, &chain).expect("good in itself");
    let address = server.start().await;
    assert_eq!(fault(&address, &expired).await, TlsFault::WeExpired);
    assert_eq!(fault(&address, &stranger).await, TlsFault::WrongCa);

    let both = Ca::new();
    let mut server = Server::of(both);
    server.clients = Some(Ca::new().pem());
    let member = web(&server.signs);
    let address = server.start().await;
    let refusal = fault(&address, &member).await;
    assert!(
        matches!(
            refusal,
            TlsFault::WeUnknown | TlsFault::WeRefused(AlertDescription::BadCertificate)
        ),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn addresses_where_nobody_speaks_tls_are_told_apart() {
    let identity = web(&Ca::new());
    let timeouts = Timeouts {
        connect: SHORT,
        ..Timeouts::default()
    };
    let free = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = free.local_addr().expect("an address").to_string();
    // Accepts and says nothing.
    let error = connect(&address, &identity, timeouts).await.err();
    assert!(
        matches!(error, Some(ConnectError::Deadline { .. })),
        "{error:?}"
    );
    drop(free);
    let error = connect(&address, &identity, timeouts).await.err();
    assert!(
        matches!(error, Some(ConnectError::Dial { .. })),
        "{error:?}"
    );
    for nonsense in ["", "no-port", "127.0.0.1:99999", "[::1"] {
        let error = connect(nonsense, &identity, timeouts).await.err();
        assert!(
            matches!(error, Some(ConnectError::Dial { .. })),
            "{nonsense}: {error:?}"
        );
    }

    let web_server = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = web_server.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let (mut stream, _) = web_server.accept().await.expect("a client");
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .ok();
    });
    assert!(matches!(
        fault(&address, &identity).await,
        TlsFault::Other(_)
    ));
}

#[tokio::test]
async fn a_token_gets_an_identity() {
    for with_ca_in_chain in [true, false] {
        let ca = Ca::new();
        let (token, ca_pem) = (ca.token(), ca.pem());
        let server = Server {
            with_ca_in_chain,
            ..Server::of(ca)
        };
        let address = server.start().await;
        let identity = enrol(&address, &token).await.expect("enrolled");
        assert_eq!(identity.subject().to_string(), WEB);
        assert_eq!(identity.ca_pem(), ca_pem);
    }
}

#[tokio::test]
async fn a_server_without_the_pinned_ca_hears_nothing() {
    let enrol_error =
        async |server: Server, token: EnrolmentToken| match enrol(&server.start().await, &token)
            .await
        {
            Ok(_) => panic!("enrolled"),
            Err(error) => error,
        };
    let tls_fault = |error| {
        let EnrolError::Connect(ConnectError::Tls { source, .. }) = error else {
            panic!("{error:?}");
        };
        source
    };
    let (ca, other) = (Ca::new(), Ca::new());
    let error = enrol_error(Server::of(other), ca.token()).await;
    assert_eq!(tls_fault(error), TlsFault::WrongPin);

    // Shows the right CA's certificate, which is public, under a leaf of its own.
    let impostor = Ca::new();
    let (key, chain) = impostor.coordinator();
    let chain = chain.replace(&impostor.pem(), &ca.pem());
    let mut server = Server::of(impostor);
    server.own = (key, chain);
    assert_eq!(
        tls_fault(enrol_error(server, ca.token()).await),
        TlsFault::WrongCa
    );

    // A machine of the fleet that plays the coordinator.
    let token = ca.token();
    let mut server = Server::of(ca);
    server.own = server.signs.sign(&leaf(&[WEB], &["web-01"]));
    assert_eq!(
        tls_fault(enrol_error(server, token).await),
        TlsFault::WrongName
    );

    // The right server that hands out certificates of another CA.
    let ca = Ca::new();
    let token = ca.token();
    let mut server = Server::of(ca);
    server.signs = Ca::new();
    assert!(matches!(
        enrol_error(server, token).await,
        EnrolError::OtherCa
    ));
}

#[tokio::test]
async fn who_asks_to_return_takes_a_certificate_of_its_own_name_and_ca_only() {
    let asked = async |server: Server, old: &Identity| {
        let address = server.start().await;
        let channel = connect(&address, old, Timeouts::default()).await;
        ask_to_return(channel.expect("a connection"), old).await
    };
    let ca = Ca::new();
    let old = ca.identity(&leaf(&[WEB], &[]));
    let new = asked(Server::of(ca), &old).await.expect("heard");
    let new = new.expect("let back");
    assert_eq!(new.key_pem(), old.key_pem());
    assert_eq!(new.subject(), old.subject());

    let ca = Ca::new();
    let other = ca.identity(&leaf(&["spiffe://lab-updater/machine/db-01"], &[]));
    let refused = asked(Server::of(ca), &other).await;
    assert!(matches!(refused, Err(EnrolError::NotOurs)));

    let ca = Ca::new();
    let old = ca.identity(&leaf(&[WEB], &[]));
    let mut server = Server::of(ca);
    server.signs = Ca::new();
    let refused = asked(server, &old).await;
    assert!(matches!(refused, Err(EnrolError::NotOurs)));
}
