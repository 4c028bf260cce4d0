//! Dialling the coordinator: TCP, TLS with the caller's identity, HTTP/2, gRPC on top.
//!
//! TLS is ours rather than tonic's, for three things: the name that is verified does not depend on
//! the address that is dialled, one provider of cryptography, and errors that say what was wrong.

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::{
    identity::Identity,
    tls::{SERVER_NAME, server_name},
};

/// How long a server that accepted us may take to say its first word. HTTP/2 servers greet at once;
/// waiting for it shows here, and not in some later call, that our certificate was refused.
const GREETING: Duration = Duration::from_secs(1);

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the look-up of the name to the end of the TLS handshake.
    pub connect: Duration,
    /// A quiet connection is asked this often whether it is still there.
    pub keepalive: Duration,
    /// And is given up when it does not answer within this.
    pub keepalive_answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            // Waking up is what an idle agent costs its machine; the coordinator asks more often.
            keepalive: Duration::from_secs(45),
            keepalive_answer: Duration::from_secs(10),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection: refused, no route, no such host.
    #[error("no connection to {address}")]
    Dial {
        /// What was dialled.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody answered, but TLS did not come about.
    #[error("no secure connection to {address}")]
    Tls {
        /// What was dialled.
        address: String,
        /// What was wrong.
        #[source]
        source: TlsFault,
    },
    /// It took too long.
    #[error("{address} did not answer within {} s", .after.as_secs_f32())]
    Deadline {
        /// What was dialled.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection ended while HTTP/2 was being set up.
    #[error("the connection to {address} ended at once")]
    Http {
        /// What was dialled.
        address: String,
        /// What was wrong.
        #[source]
        source: tonic::transport::Error,
    },
}

/// What was wrong with TLS, in the words of this system.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// Signed by a CA that is not ours.
    #[error("the server's certificate is not from this fleet's CA")]
    WrongCa,
    /// The CA is not the one that the enrolment token names.
    #[error("the server's CA is not the one that the enrolment token names")]
    WrongPin,
    /// Ours, but not the coordinator's.
    #[error("the server's certificate is not the coordinator's: it lacks the name {SERVER_NAME}")]
    WrongName,
    /// It has ended, as this machine's clock has it.
    #[error("the server's certificate has expired, or this machine's clock is wrong")]
    ServerExpired,
    /// It begins in the future, as this machine's clock has it.
    #[error("the server's certificate is not valid yet, or this machine's clock is wrong")]
    ServerNotYetValid,
    /// The server says that our certificate has ended.
    #[error("the coordinator says that our certificate has expired")]
    WeExpired,
    /// The server does not know our CA.
    #[error("the coordinator does not know the CA of our certificate")]
    WeUnknown,
    /// The server refuses our certificate for another reason: revoked, another use.
    #[error("the coordinator refuses our certificate ({0:?})")]
    WeRefused(AlertDescription),
    /// Everything else: no TLS at all, no common version, a broken stream.
    #[error("TLS failed: {0}")]
    Other(String),
}

impl TlsFault {
    /// The fault behind an error, wherever in its chain of causes it is.
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(fault) = error.downcast_ref::<Self>() {
                return Some(fault.clone());
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of(error));
            }
            // The source of an io::Error is its content's source, not its content.
            let content = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            cause = match content {
                Some(content) => Some(content),
                None => error.source(),
            };
        }
        None
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "foreign and open; whatever is not told apart is shown as it is"
    )]
    fn of_io(error: &io::Error) -> Self {
        Self::find(error).unwrap_or_else(|| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                Self::Other("the other end closed the connection".to_owned())
            }
            _ => Self::Other(error.to_string()),
        })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "foreign and open; whatever is not told apart is shown as it is"
    )]
    fn of(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(fault) => Self::of_server_certificate(fault),
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            other => Self::Other(other.to_string()),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "foreign and open; whatever is not told apart is shown as it is"
    )]
    fn of_server_certificate(fault: &CertificateError) -> Self {
        match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::WrongCa,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::ServerExpired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::ServerNotYetValid
            }
            CertificateError::Other(other) => {
                let ours = other.0.downcast_ref::<Self>().cloned();
                ours.unwrap_or_else(|| Self::Other(fault.to_string()))
            }
            other => Self::Other(other.to_string()),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "foreign and open; whatever is not told apart is shown as it is"
    )]
    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateExpired => Self::WeExpired,
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Self::WeUnknown,
            AlertDescription::CertificateRevoked
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => Self::WeRefused(alert),
            other => Self::Other(format!("the server sent the alert {other:?}")),
        }
    }
}

/// Dials `address` (`host:port`) over TCP as `identity`.
///
/// The channel dials again by itself when the connection is lost; only the first dial is answered
/// here.
pub async fn connect(
    address: &str,
    identity: &Identity,
    timeouts: Timeouts,
) -> Result<Channel, ConnectError> {
    connect_with(dial_tcp, address, identity, timeouts).await
}

/// As [`connect`], over streams that `dial` makes from an address.
pub async fn connect_with<D, F, S>(
    dial: D,
    address: &str,
    identity: &Identity,
    timeouts: Timeouts,
) -> Result<Channel, ConnectError>
where
    D: Fn(String) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    connect_tls(dial, address, identity.client_config(), timeouts).await
}

/// TCP as the product dials: every address of the name in turn, small writes sent at once.
pub(crate) async fn dial_tcp(address: String) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The one way to a channel, whatever the streams and the TLS settings are.
pub(crate) async fn connect_tls<D, F, S>(
    dial: D,
    address: &str,
    tls: ClientConfig,
    timeouts: Timeouts,
) -> Result<Channel, ConnectError>
where
    D: Fn(String) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // TLS is made by the connector, so to hyper this is a plain connection.
    let endpoint = Endpoint::from_shared(format!("http://{SERVER_NAME}"))
        .expect("the constant is a host name")
        .http2_keep_alive_interval(timeouts.keepalive)
        .keep_alive_timeout(timeouts.keepalive_answer)
        .keep_alive_while_idle(true);
    let connector = Connector {
        dial,
        address: address.to_owned(),
        tls: TlsConnector::from(Arc::new(tls)),
        deadline: timeouts.connect,
    };
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|source| ours(source, address))
}

/// The [`ConnectError`] that the connector gave, out of what tonic wrapped around it.
fn ours(error: tonic::transport::Error, address: &str) -> ConnectError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(carried) = inner.downcast_ref::<Carried>()
            && let Some(error) = carried.take()
        {
            return error;
        }
        cause = inner.source();
    }
    ConnectError::Http {
        address: address.to_owned(),
        source: error,
    }
}

/// Carries a [`ConnectError`] through tonic, which lends its causes but does not give them back.
#[derive(Debug)]
struct Carried {
    text: String,
    /// Kept beside the error, so that later failures of the channel still tell it.
    fault: Option<TlsFault>,
    error: Mutex<Option<ConnectError>>,
}

impl Carried {
    fn take(&self) -> Option<ConnectError> {
        self.error.lock().ok()?.take()
    }
}

impl From<ConnectError> for Carried {
    fn from(error: ConnectError) -> Self {
        Self {
            text: common::error_chain::Chain(&error).to_string(),
            fault: TlsFault::find(&error),
            error: Mutex::new(Some(error)),
        }
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Carried {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.as_ref().map(|fault| fault as _)
    }
}

/// Makes one TLS stream after the other.
#[derive(Clone)]
struct Connector<D> {
    dial: D,
    address: String,
    tls: TlsConnector,
    deadline: Duration,
}

type Secure<S> = TokioIo<BufReader<TlsStream<S>>>;

impl<D, F, S> tower::Service<http::Uri> for Connector<D>
where
    D: Fn(String) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Response = Secure<S>;
    type Error = Carried;
    type Future = Pin<Box<dyn Future<Output = Result<Secure<S>, Carried>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Carried>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self {
            dial,
            address,
            tls,
            deadline,
        } = self.clone();
        Box::pin(async move {
            let late = ConnectError::Deadline {
                address: address.clone(),
                after: deadline,
            };
            let made = timeout(deadline, secure(dial, address, tls)).await;
            Ok(made.unwrap_or(Err(late))?)
        })
    }
}

async fn secure<D, F, S>(
    dial: D,
    address: String,
    tls: TlsConnector,
) -> Result<Secure<S>, ConnectError>
where
    D: Fn(String) -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = match dial(address.clone()).await {
        Ok(stream) => stream,
        Err(source) => return Err(ConnectError::Dial { address, source }),
    };
    let refused = |error: io::Error| ConnectError::Tls {
        source: TlsFault::of_io(&error),
        address: address.clone(),
    };
    let stream = tls.connect(server_name(), stream).await.map_err(refused)?;
    // In TLS 1.3 a server judges our certificate after the handshake has ended for us. Its greeting
    // says that it accepted; what it says instead is the reason. Nothing is lost by reading it
    // here: it stays in the buffer.
    let mut stream = BufReader::new(stream);
    match timeout(GREETING, stream.fill_buf()).await {
        Ok(Ok([])) => Err(refused(io::ErrorKind::UnexpectedEof.into())),
        Ok(Err(error)) => Err(refused(error)),
        Ok(Ok(_)) | Err(_) => Ok(TokioIo::new(stream)),
    }
}
