//! What agents ask. The machine is the one in the certificate; no message says a name.

use std::{pin::Pin, time::Duration};

use coordinator_core::{
    Reply, Request as Question,
    identity::Holder,
    request::{AgentRequest, Directive},
};
use futures_util::{Stream, StreamExt as _};
use lab_proto::agent::{
    Directive as WireDirective, PollRequest, RenewCertificateReply, RenewCertificateRequest,
    RenewReply, RenewRequest, ReportReply, ReportRequest, Signal, WatchRequest,
    agent_server::Agent,
};
use platform::clock::Clock;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    auth,
    convert::{self, agent as convert_agent},
};
use crate::{
    driver::{Answer, Handle},
    issue::Issuance,
};

/// Longest a poll is held, in fleet time.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// Answers agents.
pub struct AgentService {
    handle: Handle,
    issuance: Issuance,
    clock: Clock,
}

impl AgentService {
    /// Asks this driver and signs with this CA.
    pub fn new(handle: Handle, issuance: Issuance, clock: Clock) -> Self {
        Self {
            handle,
            issuance,
            clock,
        }
    }

    async fn ask(
        &self,
        machine: common::MachineName,
        request: AgentRequest,
    ) -> Result<Answer, Status> {
        let question = Question::Agent { machine, request };
        self.handle.ask(question).await.map_err(convert::stopped)
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn poll(&self, request: Request<PollRequest>) -> Result<Response<WireDirective>, Status> {
        let (machine, _) = auth::machine(&request)?;
        let message = request.into_inner();
        let report = convert_agent::report(message.report)?;
        let hold = Duration::from_millis(u64::from(message.hold_ms)).min(HOLD_MAX);
        let until = self.clock.now() + hold;
        let asked = self.handle.poll(machine, report, until).await;
        let Answer { reply, epoch } = asked.map_err(convert::unanswered)?;
        let now = self.clock.now();
        let Reply::Directive(directive) = reply else {
            return Err(convert::other(&reply));
        };
        let held = !hold.is_zero() && matches!(directive, Directive::Wait(_));
        let directive = convert_agent::directive(epoch, directive, held, now);
        Ok(Response::new(directive))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let (machine, _) = auth::machine(&request)?;
        let message = request.into_inner();
        let lease = message.lease;
        let question = convert_agent::renewal_request(message)?;
        let Answer { reply, epoch } = self.ask(machine.clone(), question).await?;
        let Reply::Renewal(renewal) = reply else {
            return Err(convert::other(&reply));
        };
        // A heartbeat is no fact, and there are many.
        tracing::debug!(%machine, lease, epoch = epoch.0, "renewal: {renewal:?}");
        Ok(Response::new(convert_agent::renewal(epoch, renewal)))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportReply>, Status> {
        let (machine, _) = auth::machine(&request)?;
        let question = convert_agent::result(request.into_inner())?;
        let Answer { reply, epoch } = self.ask(machine, question).await?;
        if reply != Reply::Acknowledged {
            return Err(convert::other(&reply));
        }
        Ok(Response::new(ReportReply { epoch: epoch.0 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Signal, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (machine, _) = auth::machine(&request)?;
        let signals = self.handle.watch(machine).await.map_err(convert::stopped)?;
        let signals = ReceiverStream::new(signals);
        let stream = signals.map(|signal| Ok(convert_agent::signal(signal)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateReply>, Status> {
        let (machine, serial) = auth::machine(&request)?;
        let message = request.into_inner();
        let issued = self
            .issuance
            .renew(
                &serial,
                &Holder::Machine(machine),
                &message.certificate_request_pem,
            )
            .await
            .map_err(convert::not_issued)?;
        Ok(Response::new(RenewCertificateReply {
            certificate_chain_pem: issued.chain_pem,
        }))
    }
}
