//! The coordinator over gRPC, and the machine's own certificate: enrolment at the first start,
//! renewal without anybody's help, and the way back when it has ended. The narrow door: nothing outside of this file and `convert`
//! knows the wire.

use std::{cell::RefCell, fs, path::PathBuf, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use agent_core::{Directive, Renewal, Signal, state::Unreported};
use common::{
    AttemptStatus, Epoch, LeaseId, MachineName, MachineReport, error_chain::Chain, text,
    time::span, token::EnrolmentToken,
};
use lab_proto::agent::{RenewCertificateRequest, WatchRequest, agent_client::AgentClient};
use platform::{
    channel::{self, ConnectError, Timeouts, TlsFault},
    clock::Clock,
    enrol::{self, EnrolError},
    identity::{Identity, IdentityError, KeyAndRequest, Subject},
};
use tokio::sync::Mutex;
use tonic::{Code, Status, transport::Channel};

use crate::{
    config::Config,
    convert,
    jitter::{self, Pauses},
    link::{Link, LinkError},
    returning::Returning,
};

/// Largest message we take.
const MESSAGE_MAX: usize = 64 * 1024;

/// Longest pause between two looks at the certificate, also after a failed renewal.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(600);

/// Shortest such pause, and the one after a failed renewal of a certificate that has ended.
const LOOK_AT_LEAST: Duration = Duration::from_secs(2);

type Client = AgentClient<Channel>;

type Dialling = Pin<Box<dyn Future<Output = Result<Channel, ConnectError>>>>;

/// Makes a channel to this address as this identity.
pub type Dial = Rc<dyn Fn(String, Identity) -> Dialling>;

/// The coordinator.
pub struct CoordinatorClient {
    machine: MachineName,
    coordinator: String,
    enrol: String,
    token_file: Option<PathBuf>,
    /// A token that the coordinator has refused: it is not shown again.
    spent_token: RefCell<Option<String>>,
    identity_file: PathBuf,
    /// Certificates live in real time, whatever clock the fleet has.
    wall: Clock,
    dial: Dial,
    identity: RefCell<Option<Identity>>,
    /// Locked while dialling, so that calls that begin together dial once.
    client: Mutex<Option<Client>>,
    /// Locked while a token is being traded.
    trading: Arc<Mutex<()>>,
    returning: Returning,
}

/// Why a token was not traded for an identity.
struct NotTraded {
    /// The coordinator has seen the token and said no.
    refused: bool,
    error: LinkError,
}

impl NotTraded {
    fn other(error: impl std::error::Error + 'static) -> Self {
        Self {
            refused: false,
            error: unconnected(error),
        }
    }
}

impl CoordinatorClient {
    /// A client that has not dialled yet.
    pub fn new(config: &Config) -> Self {
        let tcp = |address: String, identity: Identity| -> Dialling {
            Box::pin(
                async move { channel::connect(&address, &identity, Timeouts::default()).await },
            )
        };
        Self::with_dial(config, Rc::new(tcp))
    }

    /// As [`CoordinatorClient::new`], over another network; enrolment excepted.
    pub fn with_dial(config: &Config, dial: Dial) -> Self {
        Self {
            machine: config.machine.clone(),
            coordinator: config.coordinator.clone(),
            enrol: config.enrol.clone(),
            token_file: config.token_file.clone(),
            spent_token: RefCell::new(None),
            identity_file: config.identity_file(),
            wall: Clock::system(),
            dial,
            identity: RefCell::new(None),
            client: Mutex::new(None),
            trading: Arc::default(),
            returning: Returning::new(config.machine.clone(), config.enrol.clone()),
        }
    }

    async fn client(&self) -> Result<Client, LinkError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let identity = self.identity().await?;
        let dialled = (self.dial)(self.coordinator.clone(), identity.clone()).await;
        let channel = match dialled {
            // The coordinator's clock decides: this machine's may be wrong.
            Err(error) if TlsFault::find(&error) == Some(TlsFault::WeExpired) => {
                let new = self.returning.ask(&self.dial, &identity).await?;
                new.save(&self.identity_file).map_err(unconnected)?;
                *self.identity.borrow_mut() = Some(new.clone());
                tracing::info!("this machine has returned; the new certificate is in place");
                let dialled = (self.dial)(self.coordinator.clone(), new).await;
                dialled.map_err(unconnected)?
            }
            Err(error) if self.wall.now() < identity.not_before() => {
                let behind = span(identity.not_before().since(self.wall.now()));
                return Err(LinkError::Unconnected(format!(
                    "this machine's clock is wrong: its own certificate began {behind} later ({})",
                    Chain(&error)
                )));
            }
            other => other.map_err(unconnected)?,
        };
        let client = AgentClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        *slot = Some(client.clone());
        Ok(client)
    }

    /// What a call failed with. The connection is dialled anew next time: a fresh dial says better
    /// than a broken connection what is wrong.
    async fn failed(&self, status: Status) -> LinkError {
        let broken = [
            Code::Unavailable,
            Code::Unknown,
            Code::Unauthenticated,
            Code::Internal,
        ];
        if broken.contains(&status.code()) {
            *self.client.lock().await = None;
        }
        LinkError::Refused {
            code: status.code().to_string(),
            message: text::tame_line(status.message(), text::REASON_MAX),
        }
    }

    /// The machine's identity: the one in use, the one on disk, or a new one for the token.
    async fn identity(&self) -> Result<Identity, LinkError> {
        let known = self.identity.borrow().clone();
        let identity = match known {
            Some(identity) => identity,
            None => match Identity::load(&self.identity_file) {
                Ok(identity) => identity,
                Err(error) if self.identity_file.exists() => return Err(unconnected(error)),
                Err(_) => {
                    let enrolled = self.enrol().await;
                    enrolled.map_err(|not_traded| not_traded.error)?
                }
            },
        };
        let ended = identity.not_after() <= self.wall.now();
        let identity = match ended.then(|| self.fresh_token()).flatten() {
            Some(token) => match self.enrol().await {
                Ok(new) => new,
                Err(NotTraded { refused, error }) => {
                    tracing::warn!("{}", self.ended(&error));
                    self.spent_token.replace(refused.then_some(token));
                    identity
                }
            },
            None => identity,
        };
        match identity.subject() {
            Subject::Machine(name) if *name == self.machine => {}
            Subject::Machine(name) => {
                let (file, machine) = (self.identity_file.display(), &self.machine);
                return Err(LinkError::Unconnected(format!(
                    "{file} is the identity of {name}, and this machine is {machine}"
                )));
            }
            Subject::Operator(_) | Subject::Coordinator => {
                let file = self.identity_file.display();
                return Err(LinkError::Unconnected(format!(
                    "{file} is no machine's identity"
                )));
            }
        }
        *self.identity.borrow_mut() = Some(identity.clone());
        Ok(identity)
    }

    /// What stands between a machine whose certificate has ended and a new one.
    fn ended(&self, error: &LinkError) -> LinkError {
        let (file, machine) = (self.identity_file.display(), &self.machine);
        LinkError::Unconnected(format!(
            "the certificate in {file} has expired, and the enrolment token gives no new one \
             ({error}); `lab token create --machine {machine}` makes another"
        ))
    }

    /// The token; an empty file is none, as systemd leaves one when the credential is gone.
    fn token(&self) -> Option<String> {
        let text = fs::read_to_string(self.token_file.as_ref()?).ok()?;
        (!text.trim().is_empty()).then_some(text)
    }

    /// The token, unless the coordinator has refused it. The one that made the machine a member
    /// often lies there for ever.
    fn fresh_token(&self) -> Option<String> {
        let spent = self.spent_token.borrow();
        self.token().filter(|token| spent.as_ref() != Some(token))
    }

    async fn enrol(&self) -> Result<Identity, NotTraded> {
        let Some(token) = self.token() else {
            let file = self.identity_file.display();
            let error = LinkError::Unconnected(format!(
                "this machine is not enrolled: there is no {file} and no enrolment token \
                 (make one with `lab token create --machine {}`)",
                self.machine
            ));
            return Err(NotTraded {
                refused: false,
                error,
            });
        };
        let token = EnrolmentToken::parse(&token).map_err(NotTraded::other)?;
        let (address, file) = (self.enrol.clone(), self.identity_file.clone());
        let (wall, trading) = (self.wall.clone(), Arc::clone(&self.trading));
        // A task of its own: a poll may be dropped while the answer is on its way, and a token
        // works only once.
        let trade = tokio::spawn(async move {
            let _alone = trading.lock().await;
            match Identity::load(&file) {
                Ok(identity) if wall.now() < identity.not_after() => return Ok(identity),
                Ok(_) | Err(_) => {}
            }
            let enrolled = enrol::enrol(&address, &token).await;
            let identity = enrolled.map_err(|error| NotTraded {
                refused: matches!(error, EnrolError::Refused(_)),
                ..NotTraded::other(error)
            })?;
            identity.save(&file).map_err(NotTraded::other)?;
            tracing::info!("enrolled; the certificate is in place");
            Ok(identity)
        });
        trade.await.map_err(NotTraded::other)?
    }

    /// Renews the certificate when half of its life, and a little more by chance, has passed. Never
    /// returns.
    pub async fn keep_certificate(&self) {
        let mut pauses = Pauses::new(jitter::seed());
        let mut failures = 0;
        loop {
            // Several tries fit into what is left of it. Before there is one nothing is asked of
            // anybody, so looking again costs nothing.
            let left = self
                .identity
                .borrow()
                .as_ref()
                .map_or(Duration::ZERO, |identity| {
                    identity.not_after().since(self.wall.now())
                });
            let pause = (left / 4).clamp(LOOK_AT_LEAST, LOOK_AT_CERTIFICATE);
            let pause = if left.is_zero() && failures > 0 {
                // It has ended, or this clock is wrong: polls find out, and there is no hurry.
                pause + pauses.backoff(LOOK_AT_LEAST, LOOK_AT_CERTIFICATE, failures)
            } else {
                pause.mul_f64(0.5 + jitter::fraction())
            };
            tokio::time::sleep(pause).await;
            let Some(identity) = self.identity.borrow().clone() else {
                continue;
            };
            if !identity.wants_renewal(self.wall.now()) {
                continue;
            }
            match self.renew_certificate(&identity).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!("the certificate is not renewed yet: {error}");
                }
            }
        }
    }

    async fn renew_certificate(&self, old: &Identity) -> Result<(), LinkError> {
        let own = KeyAndRequest::generate().map_err(unconnected)?;
        let request = RenewCertificateRequest {
            certificate_request_pem: own.request_pem,
        };
        let mut client = self.client().await?;
        let present = self.identity.borrow().clone();
        if present.is_some_and(|present| present.serial() != old.serial()) {
            // The way to the coordinator was one to another certificate.
            return Ok(());
        }
        let answer = client.renew_certificate(request).await;
        let chain = match answer {
            Ok(reply) => reply.into_inner().certificate_chain_pem,
            Err(status) => return Err(self.failed(status).await),
        };
        let new = match Identity::from_parts(&own.key_pem, &chain) {
            Err(IdentityError::Incomplete(1)) => {
                let whole = format!("{}\n{}", chain.trim_end(), old.ca_pem());
                Identity::from_parts(&own.key_pem, &whole)
            }
            other => other,
        };
        let new = new.map_err(unconnected)?;
        if new.subject() != old.subject() {
            return Err(LinkError::Senseless(
                "a certificate for somebody else".to_owned(),
            ));
        }
        new.save(&self.identity_file).map_err(unconnected)?;
        *self.identity.borrow_mut() = Some(new);
        // Calls under way end on the old connection; the next one dials with the new certificate.
        *self.client.lock().await = None;
        tracing::info!("the certificate is renewed");
        Ok(())
    }
}

fn unconnected(error: impl std::error::Error + 'static) -> LinkError {
    LinkError::Unconnected(Chain(&error).to_string())
}

impl Link for CoordinatorClient {
    async fn poll(
        &self,
        hold: Duration,
        report: &MachineReport,
    ) -> Result<(Epoch, Directive), LinkError> {
        let request = convert::poll_request(hold, report);
        match self.client().await?.poll(request).await {
            Ok(answer) => convert::directive(answer.into_inner()),
            Err(status) => Err(self.failed(status).await),
        }
    }

    async fn renew(
        &self,
        lease: LeaseId,
        epoch: Epoch,
        status: &AttemptStatus,
        silence: Duration,
    ) -> Result<(Epoch, Renewal), LinkError> {
        let request = convert::renew_request(lease, epoch, status, silence);
        match self.client().await?.renew(request).await {
            Ok(answer) => convert::renewal(answer.into_inner()),
            Err(status) => Err(self.failed(status).await),
        }
    }

    async fn report(
        &self,
        result: &Unreported,
        report: &MachineReport,
    ) -> Result<Epoch, LinkError> {
        let request = convert::report_request(result, report);
        match self.client().await?.report(request).await {
            Ok(answer) => Ok(Epoch(answer.into_inner().epoch)),
            Err(status) => Err(self.failed(status).await),
        }
    }

    async fn listen(&self, heard: impl Fn(Epoch, Signal)) -> Result<(), LinkError> {
        let mut stream = match self.client().await?.watch(WatchRequest {}).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(self.failed(status).await),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let (epoch, signal) = convert::signal(&message);
                    heard(epoch, signal);
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(self.failed(status).await),
            }
        }
    }
}
