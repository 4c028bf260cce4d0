//! The load: machines with certificates of their own, connected over mTLS on loopback, and the
//! administrator.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::MachineName;
use coordinator::ca::{Ca, Serial, SigningRequest};
use coordinator_core::identity::Holder;
use futures_util::{StreamExt as _, stream};
use lab_proto::{
    agent::{
        self, Directive, PollRequest, Proceed, ReportRequest, agent_client::AgentClient,
        directive::Action,
    },
    operator::{
        EmergencyStopRequest, ExecuteRequest, PinTargetsRequest, PinnedTarget, ResumeRequest,
        RolloutRequest, operator_client::OperatorClient, pinned_target,
    },
};
use platform::{
    channel::{self, Timeouts},
    identity::{Identity, KeyAndRequest},
};
use tokio::net::TcpSocket;
use tonic::transport::Channel;

use super::{
    Error,
    beginning::{Beginning, Shape},
    closure,
    coordinator::{Coordinator, End},
};

/// Handshakes at one time.
const DIALLING: usize = 64;

/// How long a held poll is held.
pub(super) const HOLD: Duration = Duration::from_secs(300);

/// A coordinator at work, its administrator, and machines that are not connected yet.
pub(super) struct Fleet {
    pub(super) coordinator: Coordinator,
    pub(super) admin: OperatorClient<Channel>,
    identities: Vec<Arc<Identity>>,
    names: Vec<MachineName>,
}

/// A connected machine.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) client: AgentClient<Channel>,
    pub(super) report: agent::MachineReport,
}

impl Fleet {
    /// Starts a coordinator on this directory for so many machines of such a fleet.
    pub(super) async fn start(state: &Path, machines: usize, shape: Shape) -> Result<Self, Error> {
        let ca = Ca::open(state)?;
        let mut identities = Vec::with_capacity(machines);
        let mut issued = Vec::with_capacity(machines);
        for number in 0..machines {
            let text = format!("m{number:05}");
            let name: MachineName = text.parse().map_err(|_| Error::Name(text))?;
            let own = KeyAndRequest::generate()?;
            let serial = Serial::random()?;
            let request = SigningRequest::parse(&own.request_pem)?;
            let chain = ca.sign(&request, &Holder::Machine(name.clone()), &serial)?;
            identities.push(Arc::new(Identity::from_parts(&own.key_pem, &chain)?));
            issued.push((name, serial.hex()));
        }
        let names = issued.iter().map(|(name, _)| name.clone()).collect();
        let beginning = Beginning {
            machines: issued,
            shape,
        };
        beginning.write(state)?;
        let coordinator = Coordinator::start(state)?;
        let admin = Self::admin(&coordinator).await?;
        Ok(Self {
            coordinator,
            admin,
            identities,
            names,
        })
    }

    async fn admin(coordinator: &Coordinator) -> Result<OperatorClient<Channel>, Error> {
        let identity = Identity::load(&coordinator.state().join("admin.pem"))?;
        let channel = dial(coordinator.address, &identity).await?;
        Ok(OperatorClient::new(channel)
            .max_decoding_message_size(64 * 1024 * 1024)
            .max_encoding_message_size(64 * 1024 * 1024))
    }

    /// Ends the coordinator.
    pub(super) fn end(&mut self, end: End) -> Result<(), Error> {
        self.coordinator.end(end)
    }

    /// Starts the coordinator that has ended again; its administrator is not connected yet.
    pub(super) fn start_again(&mut self) -> Result<(), Error> {
        let state = self.coordinator.state().to_owned();
        self.coordinator = Coordinator::start(&state)?;
        Ok(())
    }

    /// Connects the administrator again.
    pub(super) async fn connect_admin(&mut self) -> Result<(), Error> {
        self.admin = Self::admin(&self.coordinator).await?;
        Ok(())
    }

    /// Connects every machine; how long each took.
    pub(super) async fn connect(&self) -> Result<(Vec<Machine>, Vec<Duration>), Error> {
        self.connect_first(self.identities.len()).await
    }

    /// Connects the first of the machines; how long each took.
    pub(super) async fn connect_first(
        &self,
        count: usize,
    ) -> Result<(Vec<Machine>, Vec<Duration>), Error> {
        let address = self.coordinator.address;
        let dialled = stream::iter(self.identities.iter().take(count).cloned())
            .map(|identity| async move {
                let begin = Instant::now();
                let channel = dial(address, &identity).await?;
                Ok::<_, Error>((Machine::new(channel), begin.elapsed()))
            })
            .buffered(DIALLING)
            .collect::<Vec<_>>()
            .await;
        let dialled: Result<Vec<_>, Error> = dialled.into_iter().collect();
        Ok(dialled?.into_iter().unzip())
    }

    /// Names this version for every machine, and starts a rollout of it.
    pub(super) async fn roll_out(&mut self, version: u64) -> Result<(), Error> {
        let target = PinnedTarget {
            kind: Some(pinned_target::Kind::Closure(closure(version))),
        };
        let names = self.names.iter();
        let targets: HashMap<_, _> = names
            .map(|name| (name.to_string(), target.clone()))
            .collect();
        let request = PinTargetsRequest {
            targets,
            reason: "bench".to_owned(),
        };
        self.admin.pin_targets(request).await?;
        self.admin.execute(ExecuteRequest::default()).await?;
        Ok(())
    }

    /// Ends the rollout.
    pub(super) async fn abort(&mut self) -> Result<(), Error> {
        self.admin.abort(RolloutRequest::default()).await?;
        Ok(())
    }

    /// Stops the fleet.
    pub(super) async fn stop(&mut self) -> Result<(), Error> {
        let request = EmergencyStopRequest {
            mode: "finish".to_owned(),
            reason: "bench".to_owned(),
            ..EmergencyStopRequest::default()
        };
        self.admin.emergency_stop(request).await?;
        Ok(())
    }

    /// Lifts the stop.
    pub(super) async fn resume(&mut self) -> Result<(), Error> {
        let request = ResumeRequest {
            reason: "bench".to_owned(),
        };
        self.admin.resume(request).await?;
        Ok(())
    }
}

impl Machine {
    fn new(channel: Channel) -> Self {
        // As agents count: an agent that starts again goes on above what it said before.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let sequence = now.map(|now| now.as_micros()).unwrap_or_default();
        let report = agent::MachineReport {
            sequence: u64::try_from(sequence).unwrap_or(u64::MAX / 2),
            agent_version: "bench".to_owned(),
            boot_id: "b1".to_owned(),
            running: closure(0),
            booted: closure(0),
            profile: closure(0),
            generation: 1,
            health: Some(agent::Health {
                state: agent::HealthState::Healthy.into(),
                ..agent::Health::default()
            }),
            ..agent::MachineReport::default()
        };
        Self {
            client: AgentClient::new(channel),
            report,
        }
    }

    /// Has this version staged from here on.
    pub(super) fn stage(&mut self, version: u64) {
        let kind = agent::target::Kind::Closure(closure(version));
        self.report.staged = Some(agent::Staged {
            target: Some(agent::Target { kind: Some(kind) }),
            path: closure(version),
            ..agent::Staged::default()
        });
    }

    /// Polls.
    pub(super) async fn poll(&mut self, hold: Duration) -> Result<Directive, Error> {
        self.report.sequence += 1;
        let request = PollRequest {
            report: Some(self.report.clone()),
            hold_ms: u32::try_from(hold.as_millis()).unwrap_or(u32::MAX),
        };
        Ok(self.client.poll(request).await?.into_inner())
    }

    /// Polls, and must get its turn.
    pub(super) async fn turn(&mut self, hold: Duration) -> Result<Proceed, Error> {
        match self.poll(hold).await?.action {
            Some(Action::Proceed(proceed)) => Ok(proceed),
            other => Err(Error::Answer {
                doing: "asking for a turn",
                answer: format!("{other:?}"),
            }),
        }
    }

    /// Says that its attempt went well.
    pub(super) async fn done(&mut self, turn: &Proceed) -> Result<(), Error> {
        let staged = self.report.staged.as_ref();
        self.report.running = staged.map(|staged| staged.path.clone()).unwrap_or_default();
        self.report.sequence += 1;
        self.report.last_lease = turn.lease;
        let request = ReportRequest {
            rollout: turn.rollout.clone(),
            lease: turn.lease,
            outcome: agent::OutcomeKind::Confirmed.into(),
            report: Some(self.report.clone()),
            ..ReportRequest::default()
        };
        self.client.report(request).await?;
        Ok(())
    }
}

/// Dials from an address of its own every few thousand connections: one address has no more ports,
/// and ports that were used a moment ago make the next search slow.
async fn dial(address: SocketAddr, identity: &Identity) -> Result<Channel, Error> {
    let timeouts = Timeouts {
        connect: Duration::from_secs(60),
        ..Timeouts::default()
    };
    let dial = |address: String| async move {
        let socket = TcpSocket::new_v4()?;
        socket.set_nodelay(true)?;
        socket.bind(SocketAddr::from((source(), 0)))?;
        let address = address.parse().map_err(std::io::Error::other)?;
        socket.connect(address).await
    };
    let connected = channel::connect_with(dial, &address.to_string(), identity, timeouts).await;
    Ok(connected?)
}

/// The next address to dial from; another run begins at others.
fn source() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) / 2000;
    let place = std::process::id().wrapping_mul(16).wrapping_add(number);
    let [_, _, high, low] = place.to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 250, low, 1)
}
