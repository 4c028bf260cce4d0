//! The coordinator as a whole: every room wired to the others.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::error_chain::Chain;
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};

use crate::{
    analysis,
    ca::{Ca, CaError},
    config::Config,
    connections::{Caps, Connections},
    doors::{self, Doors},
    driver::{Driver, DriverError, Handle},
    issue::{Issuance, IssueError},
    notify, schedules,
    store::{Store, StoreError, sled::SledStore},
    tls::{OwnCertificate, TlsError},
    traffic,
};

/// Why the coordinator does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state directory cannot be made.
    #[error("failed to create {path}", path = path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The first administrator's identity.
    #[error("failed to make the first administrator's identity")]
    Bootstrap(#[source] IssueError),
    /// An address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("failed to start the driver's thread")]
    Thread(#[source] io::Error),
    /// The driver ended.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The driver's thread ended without a word: a bug.
    #[error("the driver broke off; its last words are in the journal")]
    BrokeOff,
}

/// A coordinator at work.
pub struct Server {
    address: SocketAddr,
    enrol_address: SocketAddr,
    handle: Handle,
    connections: Arc<Connections>,
    stopping: watch::Sender<bool>,
    driver: oneshot::Receiver<Result<(), DriverError>>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Opens everything and begins to serve. Returns once connections are taken.
    pub async fn start(config: &Config) -> Result<Self, ServerError> {
        create_state_dir(&config.state_dir)?;
        let directory = config.state_dir.join("store");
        // Opening may have to wait for a coordinator of this very runtime to let go.
        let opened = tokio::task::spawn_blocking(move || SledStore::open(&directory));
        let store = opened
            .await
            .map_err(|error| ServerError::Thread(error.into()))??;
        Self::start_with(config, Box::new(store)).await
    }

    /// As [`Server::start`], with another store.
    pub async fn start_with(
        config: &Config,
        mut store: Box<dyn Store>,
    ) -> Result<Self, ServerError> {
        create_state_dir(&config.state_dir)?;
        let clock = config.clock.clone();
        let ca = Arc::new(Ca::open(&config.state_dir)?.with_lives(config.lives));
        let own = ca.coordinator()?;
        let certificate = OwnCertificate::new(&own)?;

        let loaded = store.load()?;
        let archive = store.archive();
        let (tellings, told) = mpsc::channel(notify::QUEUE);
        let (driver, handle) = Driver::new(loaded, store, clock.clone(), tellings)?;
        let (measurements, wanted) = mpsc::channel(analysis::QUEUE);
        let driver = driver.running_on(config.machine.clone());
        let driver = spawn(driver.measuring(measurements))?;
        let issuance = Issuance::new(ca.clone(), handle.clone(), clock.clone());
        let admin = config.state_dir.join("admin.pem");
        if issuance
            .bootstrap(&admin)
            .await
            .map_err(ServerError::Bootstrap)?
        {
            tracing::info!("wrote an administrator's identity to {}", admin.display());
        }

        let (listener, address) = listen(config.listen).await?;
        let (enrol_listener, enrol_address) = listen(config.enrol_listen).await?;
        let (stopping, stops) = watch::channel(false);
        let Doors { members, strangers } = doors::open(doors::Rooms {
            handle: handle.clone(),
            archive,
            issuance,
            certificate: certificate.clone(),
            clock,
            rates: config.rates,
            caps: caps_within(config.caps, descriptors()),
            service_port: address.port(),
            stopping: stops,
        })?;
        let connections = members.connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(members.serve(streams(listener)));
        tasks.spawn(strangers.serve(streams(enrol_listener)));
        tasks.spawn(connections.clone().end_revoked(handle.clone()));
        tasks.spawn(notify::run(told));
        tasks.spawn(analysis::run(wanted, handle.clone()));
        tasks.spawn(schedules::run(handle.clone()));
        tasks.spawn(traffic::run(handle.clone()));
        tasks.spawn(renew_own(ca, certificate));
        Ok(Self {
            address,
            enrol_address,
            handle,
            connections,
            stopping,
            driver,
            tasks,
        })
    }

    /// Where agents and operators are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where enrolment is served.
    pub fn enrol_address(&self) -> SocketAddr {
        self.enrol_address
    }

    /// The door to the driver.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Open connections of agents and operators.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Waits until the driver ends by itself, which it does only when something is wrong.
    pub async fn failed(&mut self) -> ServerError {
        match (&mut self.driver).await {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(_) => ServerError::BrokeOff,
        }
    }

    /// Ends: no new connections, a moment for the calls that run, a last snapshot.
    pub async fn stop(self) -> Result<(), ServerError> {
        let Self {
            handle,
            stopping,
            driver,
            mut tasks,
            connections,
            ..
        } = self;
        stopping.send_replace(true);
        // Held polls and streams end with their connections, a few seconds from now at the latest.
        const PATIENCE: Duration = Duration::from_secs(8);
        let quiet = async {
            while connections.count() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, quiet).await.is_err() {
            tracing::warn!("{} connections are cut off", connections.count());
        }
        handle.stop().await;
        tasks.shutdown().await;
        match driver.await {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(ServerError::BrokeOff),
        }
    }
}

/// How many files this process may open.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    limit.map_or(usize::MAX, |(soft, _)| {
        usize::try_from(soft).unwrap_or(usize::MAX)
    })
}

/// As many connections as there are descriptors for.
fn caps_within(caps: Caps, descriptors: usize) -> Caps {
    let within = caps.within(descriptors);
    if within != caps {
        tracing::warn!(
            "this process may open {descriptors} files: at most {} machines and {} operators can \
             be connected; more takes a higher LimitNOFILE",
            within.machines.total,
            within.operators.total
        );
    }
    within
}

fn create_state_dir(path: &Path) -> Result<(), ServerError> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(|source| ServerError::StateDir {
        path: path.to_owned(),
        source,
    })
}

/// Runs the driver on a thread of its own: it blocks while a batch is made durable.
fn spawn(driver: Driver) -> Result<oneshot::Receiver<Result<(), DriverError>>, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.map_err(ServerError::Thread)?;
    let (ended, receiver) = oneshot::channel();
    let body = move || {
        let result = runtime.block_on(driver.run());
        if let Err(error) = &result {
            tracing::error!("{}", Chain(error));
        }
        // Nobody waits any more when the server was dropped.
        drop(ended.send(result));
    };
    let thread = std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(body);
    thread.map_err(ServerError::Thread)?;
    Ok(receiver)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Accepted connections and where they come from; small answers are sent at once.
fn streams(
    listener: TcpListener,
) -> impl tokio_stream::Stream<Item = io::Result<(tokio::net::TcpStream, std::net::IpAddr)>> {
    TcpListenerStream::new(listener).map(|stream| {
        let stream = stream?;
        stream.set_nodelay(true)?;
        let address = stream.peer_addr()?.ip().to_canonical();
        Ok((stream, address))
    })
}

/// Replaces the coordinator's certificate after a third of its life. Never returns.
async fn renew_own(ca: Arc<Ca>, certificate: Arc<OwnCertificate>) {
    // Certificates live in the host's time, whatever clock the fleet has.
    let clock = platform::clock::Clock::system();
    loop {
        let due = clock.now() + ca.lives().coordinator / 3;
        clock.sleep_until(due).await;
        let renewed = ca
            .coordinator()
            .map_err(ServerError::from)
            .and_then(|own| certificate.replace(&own).map_err(ServerError::from));
        match renewed {
            Ok(()) => tracing::info!("the coordinator's certificate was renewed"),
            Err(error) => tracing::error!(
                "the coordinator's certificate could not be renewed: {}",
                Chain(&error)
            ),
        }
    }
}
