//! Who gets a connection at all.

mod bed;

use std::{sync::Arc, time::Duration};

use bed::Bed;
use coordinator::{Server, store::memory::MemoryStore};
use lab_proto::operator::{StatusRequest, operator_client::OperatorClient};
use platform::{
    channel::{self, ConnectError, Timeouts, TlsFault},
    identity::{Identity, SERVER_NAME, provider},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::Code;

/// A client certificate of the fleet's own CA, made outside of the coordinator.
fn forged(bed: &Bed, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let read =
        |name: &str| std::fs::read_to_string(bed.directory.path().join(name)).expect("readable");
    let ca_key = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = client("spiffe://lab-updater/operator/admin");
    change(&mut params);
    let leaf = params.signed_by(&key, &issuer).expect("signed");
    (
        key.serialize_pem(),
        format!("{}{}", leaf.pem(), read("ca.pem")),
    )
}

fn client(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(4000, 1, 1);
    params
}

/// Handshake as a raw TLS client; `None` for the certificate: shows none.
async fn handshake(
    bed: &Bed,
    shown: Option<(String, String)>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<(), String> {
    let ca = std::fs::read(bed.directory.path().join("ca.pem")).expect("readable");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&ca).expect("PEM"))
        .expect("a CA");
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((key, chain)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(bed.server.address()).await.expect("TCP");
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    // In TLS 1.3 the server's verdict on our certificate comes with its first data.
    let mut first = [0; 1];
    match timeout(Duration::from_secs(5), stream.read(&mut first)).await {
        Ok(Ok(1)) => Ok(()),
        Ok(Ok(_)) => Err("closed".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("silence".to_owned()),
    }
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

#[tokio::test]
async fn a_certificate_of_the_fleet_is_required() {
    let bed = Bed::start().await;
    let own = bed.admin_identity();
    let good = (own.key_pem().to_owned(), own.to_pem());
    assert_eq!(handshake(&bed, Some(good.clone()), TLS13).await, Ok(()));

    let none = handshake(&bed, None, TLS13).await.expect_err("refused");
    assert!(none.contains("CertificateRequired"), "{none}");
    let old = handshake(&bed, Some(good), TLS12)
        .await
        .expect_err("refused");
    assert!(old.contains("ProtocolVersion"), "{old}");

    let expired = forged(&bed, |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1)
    });
    let expired = handshake(&bed, Some(expired), TLS13)
        .await
        .expect_err("refused");
    assert!(expired.contains("CertificateExpired"), "{expired}");
    let early = forged(&bed, |params| {
        params.not_before = rcgen::date_time_ymd(3999, 1, 1)
    });
    assert!(handshake(&bed, Some(early), TLS13).await.is_err());
    // A certificate for servers is none for clients.
    let server = forged(&bed, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(handshake(&bed, Some(server), TLS13).await.is_err());
    // Names that are not of this system, or more than one.
    for names in [
        vec![],
        vec!["spiffe://elsewhere/x"],
        vec!["spiffe://lab-updater/root/x"],
        vec!["spiffe://lab-updater/machine/*"],
        vec![
            "spiffe://lab-updater/operator/admin",
            "spiffe://lab-updater/machine/web-01",
        ],
    ] {
        let odd = forged(&bed, |params| {
            let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
            params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        });
        assert!(
            handshake(&bed, Some(odd), TLS13).await.is_err(),
            "{names:?}"
        );
    }
    // A common name is no name here, whatever it says.
    let common = forged(&bed, |params| {
        params.subject_alt_names.clear();
        let name = "spiffe://lab-updater/operator/admin";
        params.distinguished_name.push(DnType::CommonName, name);
    });
    assert!(handshake(&bed, Some(common), TLS13).await.is_err());
    // Neither a leaf that calls itself a CA, nor the CA itself.
    let ca = forged(&bed, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert!(handshake(&bed, Some(ca), TLS13).await.is_err());
    let read = |name: &str| std::fs::read_to_string(bed.directory.path().join(name));
    let itself = (read("ca.key").expect("a key"), read("ca.pem").expect("PEM"));
    assert!(handshake(&bed, Some(itself), TLS13).await.is_err());
    let mut admin = bed.admin.clone();
    let status = admin.get_status(StatusRequest::default()).await;
    status.expect("it answers others");
}

/// The leaf certificate that the coordinator shows.
async fn shown_by(server: &Server, identity: &Identity) -> Vec<u8> {
    let client = identity.client_config();
    let stream = TcpStream::connect(server.address()).await.expect("TCP");
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = connector.connect(name, stream).await.expect("trusted");
    let shown = stream.get_ref().1.peer_certificates().expect("a chain");
    shown[0].to_vec()
}

#[tokio::test]
async fn the_coordinator_renews_its_own_certificate() {
    let directory = TempDir::new().expect("a directory");
    let mut config = bed::config_in(&directory);
    config.lives.coordinator = Duration::from_secs(3);
    let server = Server::start_with(&config, Box::new(MemoryStore::new()))
        .await
        .expect("a coordinator");
    let admin = Identity::load(&directory.path().join("admin.pem")).expect("an identity");
    let first = shown_by(&server, &admin).await;
    // An ended one would not be trusted.
    tokio::time::sleep(config.lives.coordinator + Duration::from_secs(1)).await;
    assert_ne!(shown_by(&server, &admin).await, first);
}

#[tokio::test]
async fn another_ca_is_not_ours() {
    let bed = Bed::start().await;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let other = CertifiedIssuer::self_signed(params, key).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let leaf = client("spiffe://lab-updater/operator/admin").signed_by(&key, &other);
    let chain = format!("{}{}", leaf.expect("signed").pem(), other.pem());
    let shown = (key.serialize_pem(), chain.clone());
    assert!(handshake(&bed, Some(shown), TLS13).await.is_err());
    // And whoever belongs to another fleet notices that we are not its coordinator.
    let identity = Identity::from_parts(&key.serialize_pem(), &chain).expect("sound");
    let address = bed.server.address().to_string();
    let error = channel::connect(&address, &identity, Timeouts::default()).await;
    let error = error.expect_err("another fleet");
    assert!(
        matches!(
            error,
            ConnectError::Tls {
                source: TlsFault::WrongCa,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_good_certificate_that_was_never_issued_opens_nothing() {
    let bed = Bed::start().await;
    let (key, chain) = forged(&bed, |_| {});
    let identity = Identity::from_parts(&key, &chain).expect("sound");
    let channel = bed::dial(&bed.server, &identity).await;
    let refused = OperatorClient::new(channel)
        .get_status(StatusRequest::default())
        .await;
    assert_eq!(
        refused.expect_err("not in the registry").code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn whoever_says_nothing_is_sent_away() {
    let bed = Bed::start().await;
    // No TLS at all: plaintext HTTP/2.
    let mut plain = TcpStream::connect(bed.server.address()).await.expect("TCP");
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("written");
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(5), plain.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "plaintext is kept");
    // A connection without a word.
    let began = Instant::now();
    let mut silent = TcpStream::connect(bed.server.address()).await.expect("TCP");
    let closed = timeout(Duration::from_secs(20), silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "silence is kept");
    assert!(began.elapsed() >= Duration::from_secs(4));
    assert_eq!(
        bed.server.connections(),
        1,
        "only the administrator's is left"
    );
}

#[tokio::test]
async fn whoever_asks_nothing_is_sent_away() {
    let bed = Bed::start().await;
    let own = bed.admin_identity();
    let _quiet = bed::dial(&bed.server, &own).await;
    let before = bed.server.connections();
    let emptied = async {
        while bed.server.connections() >= before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), emptied)
        .await
        .expect("closed");
}
