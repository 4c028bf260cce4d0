//! A coordinator in this process, and clients for it.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod lines;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Timestamp, token::EnrolmentToken};
use coordinator::{Config, Server, store::memory::MemoryStore};
use hyper_util::rt::TokioIo;
use lab_proto::{
    agent::{self, agent_client::AgentClient},
    operator::{
        CreateTokenRequest, PinTargetsRequest, PinnedTarget, SetConfigRequest,
        operator_client::OperatorClient, pinned_target,
    },
};
use platform::{
    channel::{self, Timeouts},
    clock::{Clock, TimeSource},
    identity::{Identity, SERVER_NAME, provider},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// A coordinator, its directory, and the administrator's client.
pub(crate) struct Bed {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
    pub(crate) store: MemoryStore,
    pub(crate) admin: OperatorClient<Channel>,
}

/// The wall clock, set forward as a test likes.
#[derive(Debug, Default)]
pub(crate) struct Ahead(AtomicU64);

impl Ahead {
    pub(crate) fn by(&self, days: u64) {
        self.0.fetch_add(days * 24 * 3600, Ordering::Relaxed);
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

impl TimeSource for Ahead {
    fn now(&self) -> Timestamp {
        Clock::system().now() + self.ahead()
    }

    fn uptime(&self) -> Duration {
        Clock::system().uptime() + self.ahead()
    }
}

pub(crate) fn config_in(directory: &TempDir) -> Config {
    let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    Config {
        state_dir: directory.path().to_owned(),
        machine: None,
        listen: anywhere,
        enrol_listen: anywhere,
        lives: coordinator::ca::Lives::default(),
        rates: coordinator::limits::Rates::default(),
        caps: coordinator::connections::Caps::members(1000, 1000),
        clock: Clock::system(),
    }
}

impl Bed {
    /// With a store in memory.
    pub(crate) async fn start() -> Self {
        Self::start_with(MemoryStore::new(), TempDir::new().expect("a directory")).await
    }

    /// With a clock that can be set forward.
    pub(crate) async fn start_ahead() -> (Self, Arc<Ahead>) {
        let ahead: Arc<Ahead> = Arc::default();
        let directory = TempDir::new().expect("a directory");
        let config = Config {
            clock: Clock::given(ahead.clone()),
            ..config_in(&directory)
        };
        let bed = Self::start_as(&config, MemoryStore::new(), directory).await;
        (bed, ahead)
    }

    pub(crate) async fn start_with(store: MemoryStore, directory: TempDir) -> Self {
        let config = config_in(&directory);
        Self::start_as(&config, store, directory).await
    }

    pub(crate) async fn start_as(config: &Config, store: MemoryStore, directory: TempDir) -> Self {
        let server = Server::start_with(config, Box::new(store.clone()))
            .await
            .expect("a coordinator");
        let admin = Identity::load(&directory.path().join("admin.pem")).expect("an identity");
        let admin = OperatorClient::new(dial(&server, &admin).await);
        Self {
            server,
            directory,
            store,
            admin,
        }
    }

    pub(crate) fn admin_identity(&self) -> Identity {
        Identity::load(&self.directory.path().join("admin.pem")).expect("an identity")
    }

    /// One group, two machines, one of which may be away.
    pub(crate) async fn configure(&mut self) {
        let reply = self
            .admin
            .set_config(SetConfigRequest {
                document: DOCUMENT.to_owned(),
                ..SetConfigRequest::default()
            })
            .await
            .expect("accepted")
            .into_inner();
        assert_eq!(reply.faults, []);
    }

    pub(crate) async fn token(&mut self, machine: &str) -> EnrolmentToken {
        self.token_for(CreateTokenRequest {
            machine: machine.to_owned(),
            ..CreateTokenRequest::default()
        })
        .await
    }

    pub(crate) async fn token_for(&mut self, asked: CreateTokenRequest) -> EnrolmentToken {
        let made = self.admin.create_token(asked).await.expect("a token");
        EnrolmentToken::parse(&made.into_inner().token).expect("a good token")
    }

    pub(crate) async fn enrol(&mut self, token: &EnrolmentToken) -> Identity {
        let address = self.server.enrol_address().to_string();
        platform::enrol::enrol(&address, token)
            .await
            .expect("enrolled")
    }

    /// An agent's client.
    pub(crate) async fn agent(&mut self, machine: &str) -> AgentClient<Channel> {
        let token = self.token(machine).await;
        let identity = self.enrol(&token).await;
        AgentClient::new(dial(&self.server, &identity).await)
    }

    /// An operator's client.
    pub(crate) async fn operator(&mut self, name: &str, role: &str) -> OperatorClient<Channel> {
        let token = self
            .token_for(CreateTokenRequest {
                operator: name.to_owned(),
                role: role.to_owned(),
                ..CreateTokenRequest::default()
            })
            .await;
        let identity = self.enrol(&token).await;
        OperatorClient::new(dial(&self.server, &identity).await)
    }

    pub(crate) async fn pin(&mut self, machine: &str, closure: &str) {
        let target = PinnedTarget {
            kind: Some(pinned_target::Kind::Closure(closure.to_owned())),
        };
        let asked = PinTargetsRequest {
            targets: [(machine.to_owned(), target)].into(),
            reason: "new".to_owned(),
        };
        self.admin.pin_targets(asked).await.expect("pinned");
    }
}

pub(crate) async fn dial(server: &Server, identity: &Identity) -> Channel {
    let address = server.address().to_string();
    channel::connect(&address, identity, Timeouts::default())
        .await
        .expect("a connection")
}

/// What a token for a viewer takes.
pub(crate) fn viewer(name: &str) -> CreateTokenRequest {
    CreateTokenRequest {
        operator: name.to_owned(),
        role: "viewer".to_owned(),
        ..CreateTokenRequest::default()
    }
}

/// A connection that shows no certificate and trusts the CA in this directory.
pub(crate) async fn plain_tls(directory: &Path, address: &str) -> Channel {
    let ca = std::fs::read(directory.join("ca.pem")).expect("readable");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&ca).expect("PEM"))
        .expect("a CA");
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let (tls, address) = (tls.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(SERVER_NAME).expect("a name");
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://coordinator")
        .connect_with_connector(connector)
        .await
        .expect("a connection")
}

pub(crate) const DOCUMENT: &str = r#"{
  "updateGroups": {
    "dev": { "machines": ["dev-01", "dev-02"], "updatePolicy": "aggressive", "allowReboot": true }
  },
  "updateSettings": { "maxParallel": 1 }
}"#;

pub(crate) const OLD: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-old";
pub(crate) const NEW: &str = "/nix/store/1c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-new";

/// What a healthy machine reports.
pub(crate) fn report(sequence: u64, running: &str) -> agent::MachineReport {
    agent::MachineReport {
        agent_version: "test".to_owned(),
        boot_id: "b1".to_owned(),
        sequence,
        running: running.to_owned(),
        booted: running.to_owned(),
        profile: running.to_owned(),
        generation: 1,
        health: Some(agent::Health {
            state: agent::HealthState::Healthy.into(),
            ..agent::Health::default()
        }),
        ..agent::MachineReport::default()
    }
}

/// The same, with the target staged.
pub(crate) fn staged(sequence: u64, running: &str, target: &str) -> agent::MachineReport {
    let kind = agent::target::Kind::Closure(target.to_owned());
    agent::MachineReport {
        staged: Some(agent::Staged {
            target: Some(agent::Target { kind: Some(kind) }),
            path: target.to_owned(),
            ..agent::Staged::default()
        }),
        ..report(sequence, running)
    }
}

/// A poll that is answered at once.
pub(crate) fn poll(report: agent::MachineReport) -> agent::PollRequest {
    held(report, Duration::ZERO)
}

pub(crate) fn held(report: agent::MachineReport, hold: Duration) -> agent::PollRequest {
    agent::PollRequest {
        report: Some(report),
        hold_ms: u32::try_from(hold.as_millis()).expect("short"),
    }
}
