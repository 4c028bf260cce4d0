//! The accept loop: who may connect, for how long, and who is sent away.
//!
//! Ours rather than tonic's for what tonic cannot do: deadlines for the TLS handshake and for the
//! first request (a connection that says nothing would stay for ever), caps on connections, an age
//! at which a connection is ended gracefully that differs between connections, and ending at once
//! those whose certificate was revoked.

mod caps;
mod places;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use platform::identity::Subject;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::body::Body;
use x509_parser::prelude::FromDer as _;

use self::places::Place;
pub use self::{
    caps::{Cap, Caps},
    places::Connections,
};

/// From the TCP connection to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// From there to the first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How long calls may take to end after that, and when the coordinator stops.
const LAST_CALLS: Duration = Duration::from_secs(600);
const STOPPING: Duration = Duration::from_secs(3);

/// The same when it is hung up on: enough to read why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Calls at one time on one connection: a poll, a watch, a renewal and a few more.
const STREAMS: u32 = 32;

/// Size of all headers of a request, in bytes.
const HEADERS: u32 = 16 * 1024;

/// Streams reset before they were answered, and those we reset, until the connection is ended:
/// what "rapid reset" attacks need many of.
const RESETS: usize = 20;
const OWN_RESETS: usize = 100;

/// How long connections last.
#[derive(Clone, Copy, Debug)]
pub struct Lasting {
    /// Age at which a connection is ended, so that no certificate is looked at for ever; a tenth
    /// more or less, so that a fleet that connected together does not come back together.
    pub age: Duration,
    /// A quiet connection is asked this often whether it is still there, …
    pub keepalive: Duration,
    /// … and given up without an answer.
    pub keepalive_answer: Duration,
}

impl Lasting {
    /// What both doors have.
    pub const USUAL: Self = Self {
        age: Duration::from_secs(3600),
        keepalive: Duration::from_secs(30),
        keepalive_answer: Duration::from_secs(10),
    };

    /// The age of this connection. Spread by who it is; nothing depends on it being random.
    fn age_of(&self, peer: &Peer) -> Duration {
        let spread = match &peer.identity {
            Some((_, serial)) => serial.bytes().fold(0u32, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u32::from(byte))
            }),
            None => 0,
        };
        self.age * 9 / 10 + self.age / 5 * (spread % 1000) / 1000
    }
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Subject and serial number of its certificate, where one was shown.
    pub identity: Option<(Subject, String)>,
    /// Whether it has asked anything yet.
    asked: AtomicBool,
    hung_up: Notify,
}

impl Peer {
    /// One who has not asked yet.
    pub fn new(address: IpAddr, identity: Option<(Subject, String)>) -> Self {
        Self {
            address,
            identity,
            asked: AtomicBool::new(false),
            hung_up: Notify::new(),
        }
    }

    /// Ends its connection, after what it is being told just now.
    pub fn hang_up(&self) {
        self.hung_up.notify_one();
    }
}

/// What answers requests.
pub trait Answers: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(
        &self,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// A listener's fixed parts.
#[derive(Clone)]
pub struct Listener<A> {
    /// TLS of this listener.
    pub tls: TlsAcceptor,
    /// What answers.
    pub answers: A,
    /// Who is connected, and how many may be.
    pub connections: Arc<Connections>,
    /// How long each lasts.
    pub lasting: Lasting,
    /// Becomes true when the coordinator stops.
    pub stopping: watch::Receiver<bool>,
}

impl<A: Answers> Listener<A> {
    /// Serves streams with the address they come from, until there are no more or the coordinator
    /// stops.
    pub async fn serve<I, S>(mut self, incoming: I)
    where
        I: Stream<Item = io::Result<(S, IpAddr)>>,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut incoming = pin!(incoming);
        loop {
            let next = tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => return,
                next = incoming.next() => next,
            };
            let (stream, address) = match next {
                Some(Ok(accepted)) => accepted,
                None => return,
                Some(Err(error)) => {
                    // Out of descriptors, for one: others must end first.
                    tracing::warn!("a connection could not be accepted: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some((place, ended)) = self.connections.enter(address, Instant::now()) else {
                continue;
            };
            tokio::spawn(self.clone().connection(stream, address, place, ended));
        }
    }

    async fn connection<S>(
        self,
        stream: S,
        address: IpAddr,
        place: Place,
        mut ended: oneshot::Receiver<()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = tokio::select! {
            biased;
            _ = &mut ended => return,
            handshake = timeout(HANDSHAKE, self.tls.accept(stream)) => handshake,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%address, "no TLS: {error}");
                return;
            }
            Err(_) => {
                tracing::debug!(%address, "no TLS within {} s", HANDSHAKE.as_secs());
                return;
            }
        };
        let Ok(identity) = identity_of(&stream) else {
            tracing::debug!(%address, "a certificate of our CA without a name of ours");
            return;
        };
        if !place.name(identity.as_ref()) {
            return;
        }
        let peer = Arc::new(Peer::new(address, identity));
        self.http(stream, peer, ended).await;
        drop(place);
    }

    async fn http<S>(mut self, stream: TlsStream<S>, peer: Arc<Peer>, ended: oneshot::Receiver<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (answers, asker) = (self.answers, peer.clone());
        let service = hyper::service::service_fn(move |request| {
            let (answers, peer) = (answers.clone(), asker.clone());
            peer.asked.store(true, Ordering::Relaxed);
            async move { Ok::<_, Infallible>(answers.answer(peer, request).await) }
        });
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(HEADERS)
                .max_pending_accept_reset_streams(RESETS)
                .max_local_error_reset_streams(OWN_RESETS)
                .keep_alive_interval(self.lasting.keepalive)
                .keep_alive_timeout(self.lasting.keepalive_answer)
                .serve_connection(TokioIo::new(stream), service)
        );
        let silent = async {
            sleep(FIRST_REQUEST).await;
            if peer.asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let last_calls = tokio::select! {
            biased;
            // Dropped here, and with it the socket: nothing more is answered.
            _ = ended => return,
            _ = connection.as_mut() => return,
            () = silent => {
                tracing::debug!(address = %peer.address, "a connection asked nothing");
                return;
            }
            () = peer.hung_up.notified() => LAST_WORD,
            () = sleep(self.lasting.age_of(&peer)) => LAST_CALLS,
            () = stopped(&mut self.stopping) => STOPPING,
        };
        connection.as_mut().graceful_shutdown();
        let hurried = async {
            stopped(&mut self.stopping).await;
            sleep(STOPPING).await;
        };
        tokio::select! {
            biased;
            _ = connection => {}
            () = sleep(last_calls) => {}
            () = hurried => {}
        }
    }
}

/// Waits until the coordinator stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that whoever would say so is gone.
    stopping.wait_for(|stopping| *stopping).await.ok();
}

/// Subject and serial number of the certificate that the other end showed.
fn identity_of<S>(stream: &TlsStream<S>) -> Result<Option<(Subject, String)>, ()> {
    let (_, session) = stream.get_ref();
    let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else {
        return Ok(None);
    };
    let subject = Subject::of(leaf).map_err(drop)?;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf).map_err(drop)?;
    Ok(Some((subject, common::text::hex(parsed.raw_serial()))))
}
