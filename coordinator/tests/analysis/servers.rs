//! Servers that answer as a test wants it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

/// What a server does with every connection.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// A status and a body.
    Http(&'static str, &'static str),
    /// 200, after a while.
    Late(Duration),
    /// There.
    Redirect(SocketAddr),
    /// These bytes, whatever is asked.
    Raw(&'static [u8]),
    /// Nothing.
    Silence,
    /// 200, and a body without end.
    Endless,
    /// 200, and one byte after the other.
    Trickle,
}

pub(crate) async fn listens() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

/// An address that nobody listens on, and nobody else is given: on 127.0.0.1 another test could take the
/// port before whoever it is for does.
pub(crate) async fn closed() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 255, "one network has no more addresses");
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 + high % 64, low, number);
    let listener = TcpListener::bind((host, 0)).await.expect("a port");
    listener.local_addr().expect("bound")
}

/// A server that answers everybody so.
pub(crate) async fn answers(answer: Answer) -> SocketAddr {
    let listener = listens().await;
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    });
    address
}

/// An answer of HTTP.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

async fn serve(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut asked = [0; 4096];
    let _some = stream.read(&mut asked).await?;
    match answer {
        Answer::Http(status, body) => {
            let text = response(status, "", body);
            stream.write_all(text.as_bytes()).await?;
        }
        Answer::Late(delay) => {
            sleep(delay).await;
            stream
                .write_all(response("200 OK", "", "").as_bytes())
                .await?;
        }
        Answer::Redirect(there) => {
            let to = format!("location: http://{there}/\r\n");
            stream
                .write_all(response("302 Found", &to, "").as_bytes())
                .await?;
        }
        Answer::Raw(bytes) => stream.write_all(bytes).await?,
        Answer::Silence => sleep(Duration::from_secs(60)).await,
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
        Answer::Trickle => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(b"x").await?;
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    stream.shutdown().await
}

/// A TLS server whose certificate ends so many days from now; one may ask for a certificate as well.
pub(crate) async fn tls(days: i64, asks: bool) -> SocketAddr {
    let provider = platform::identity::provider();
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.not_before = (now - 90 * day).into();
    let distance = day * u32::try_from(days.unsigned_abs()).expect("few");
    params.not_after = if days < 0 {
        now - distance
    } else {
        now + distance
    }
    .into();
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed");
    let der: CertificateDer<'static> = certificate.der().clone();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
        builder.with_client_cert_verifier(verifier.expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let config = builder.with_single_cert(vec![der], key).expect("it fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = listens().await;
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
        }
    });
    address
}
