//! How connections end, over real TLS and HTTP/2: of age, and when nobody is there any more.

use std::net::Ipv4Addr;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use platform::identity::{ALPN, SERVER_NAME, provider};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::{ca::Ca, tls};

/// Answers with nothing, after this long.
#[derive(Clone)]
struct After(Duration);

impl Answers for After {
    async fn answer(&self, _: Arc<Peer>, _: Request<Incoming>) -> Response<Body> {
        sleep(self.0).await;
        Response::new(Body::empty())
    }
}

type Wire = tokio_rustls::client::TlsStream<DuplexStream>;

/// A door for strangers, and the way to it.
struct Door {
    connections: Arc<Connections>,
    ca: Ca,
    knock: mpsc::UnboundedSender<io::Result<(DuplexStream, IpAddr)>>,
    _going: watch::Sender<bool>,
}

impl Door {
    fn open(lasting: Lasting, answers: After) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = Ca::open(directory.path()).expect("a CA");
        let own = tls::OwnCertificate::new(&ca.coordinator().expect("an identity"));
        let config = tls::for_strangers(own.expect("a certificate")).expect("TLS");
        let connections = Connections::new(Caps::STRANGERS);
        let (going, stopping) = watch::channel(false);
        let listener = Listener {
            tls: TlsAcceptor::from(Arc::new(config)),
            answers,
            connections: connections.clone(),
            lasting,
            stopping,
        };
        let (knock, incoming) = mpsc::unbounded_channel();
        tokio::spawn(listener.serve(UnboundedReceiverStream::new(incoming)));
        Self {
            connections,
            ca,
            knock,
            _going: going,
        }
    }

    async fn enter(&self) -> (SendRequest<Bytes>, Connection<Wire>) {
        let (here, there) = tokio::io::duplex(64 * 1024);
        let from = IpAddr::from(Ipv4Addr::LOCALHOST);
        self.knock.send(Ok((there, from))).expect("open");
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).expect("PEM");
        roots.add(ca).expect("a CA");
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let wire = connector.connect(name, here).await.expect("trusted");
        h2::client::handshake(wire).await.expect("HTTP/2")
    }
}

/// Asks for something, and waits for the answer.
async fn ask(client: &SendRequest<Bytes>) -> Result<(), h2::Error> {
    let request = Request::get("https://coordinator/").body(());
    let mut client = client.clone().ready().await?;
    let (answer, _) = client.send_request(request.expect("a request"), true)?;
    answer.await.map(drop)
}

#[tokio::test]
async fn a_connection_ends_of_age_and_what_was_asked_before_is_answered() {
    let lasting = Lasting {
        age: Duration::from_secs(1),
        ..Lasting::USUAL
    };
    let door = Door::open(lasting, After(Duration::from_millis(1500)));
    let (client, connection) = door.enter().await;
    let began = Instant::now();
    let ended = tokio::spawn(connection);
    ask(&client).await.expect("begun before its age");
    // The client would go on; the coordinator ends it.
    let ended = timeout(Duration::from_secs(10), ended).await;
    assert!(ended.is_ok(), "it goes on");
    assert!(began.elapsed() >= Duration::from_millis(1500));
    ask(&client).await.expect_err("it is over");
    assert_eq!(door.connections.count(), 0);
}

#[test]
fn a_fleet_that_came_together_does_not_come_back_together() {
    let age = |serial: u32| {
        let subject = Subject::Machine("web-01".parse().expect("a name"));
        let identity = Some((subject, format!("{serial:032x}")));
        Lasting::USUAL.age_of(&Peer::new(Ipv4Addr::LOCALHOST.into(), identity))
    };
    let usual = Lasting::USUAL.age;
    let ages: std::collections::BTreeSet<Duration> = (0..100).map(age).collect();
    assert!(
        ages.iter()
            .all(|age| *age >= usual * 9 / 10 && *age <= usual * 11 / 10)
    );
    assert!(ages.len() > 50, "{ages:?}");
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_word_is_given_up() {
    let lasting = Lasting {
        keepalive: Duration::from_millis(200),
        keepalive_answer: Duration::from_millis(300),
        ..Lasting::USUAL
    };
    let door = Door::open(lasting, After(Duration::ZERO));
    let (alive, connection) = door.enter().await;
    tokio::spawn(connection);
    ask(&alive).await.expect("an answer");
    let (half_dead, mut connection) = door.enter().await;
    tokio::select! {
        answer = ask(&half_dead) => answer.expect("an answer"),
        _ = &mut connection => panic!("ended"),
    }
    assert_eq!(door.connections.count(), 2);
    // From here on nobody reads what comes over it, as when a machine has lost its power.
    let given_up = async {
        while door.connections.count() > 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), given_up)
        .await
        .expect("given up");
    ask(&alive).await.expect("whoever answers stays");
    drop((half_dead, connection));
}
