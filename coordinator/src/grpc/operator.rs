//! What operators ask.

mod service;
mod watch;

use std::pin::Pin;

use coordinator_core::{
    Reply,
    identity::{Actor, Holder},
    request::{OperatorRequest, Refusal, Selection},
    view::{Query, View},
};
use futures_util::Stream;
use lab_proto::operator as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub use self::service::OperatorService;
use self::{
    service::limit,
    watch::{send_status, status_of},
};
use super::{
    auth,
    convert::{self, identities, operator as from, schedules as plans, status as show, traffic},
};
use crate::store::HistoryQuery;

#[tonic::async_trait]
impl wire::operator_server::Operator for OperatorService {
    async fn get_status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::Status>, Status> {
        let message = request.into_inner();
        let selection = from::selection(message.selection)?;
        let status = status_of(&self.handle, &selection, message.all).await?;
        Ok(Response::new(status))
    }

    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<wire::Status, Status>> + Send>>;

    async fn watch_status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let message = request.into_inner();
        let selection = from::selection(message.selection)?;
        let (out, statuses) = mpsc::channel(1);
        tokio::spawn(send_status(
            self.handle.clone(),
            selection,
            message.all,
            out,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(statuses))))
    }

    async fn list_machines(
        &self,
        request: Request<wire::ListMachinesRequest>,
    ) -> Result<Response<wire::MachineList>, Status> {
        let selection = from::selection(request.into_inner().selection)?;
        let seen = self.view(Query::Machines(selection)).await?;
        let View::Machines(machines) = seen.view else {
            return Err(convert::other_view(&seen.view));
        };
        let machines = machines
            .into_iter()
            .map(|machine| show::machine(machine, seen.now));
        Ok(Response::new(wire::MachineList {
            machines: machines.collect(),
        }))
    }

    async fn why(
        &self,
        request: Request<wire::WhyRequest>,
    ) -> Result<Response<wire::WhyReply>, Status> {
        let machine = convert::name("machine", &request.into_inner().machine)?;
        let view = self.view(Query::Why(machine)).await?.view;
        let View::Why(why) = view else {
            return Err(convert::other_view(&view));
        };
        Ok(Response::new(show::why(why)))
    }

    async fn get_history(
        &self,
        request: Request<wire::HistoryRequest>,
    ) -> Result<Response<wire::History>, Status> {
        let message = request.into_inner();
        let selection = from::selection(message.selection)?;
        self.known(&selection).await?;
        let Selection { groups, machines } = selection;
        let query = HistoryQuery {
            since: self.since(message.days),
            limit: limit(message.limit),
            groups,
            machines,
        };
        let entries = self.history(query).await?;
        Ok(Response::new(wire::History {
            entries: entries.into_iter().map(from::history_entry).collect(),
        }))
    }

    async fn plan(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::PlanReply>, Status> {
        let actor = auth::operator(&request)?;
        let (wish, _) = from::wish(request.into_inner())?;
        let reply = self.ask(actor, OperatorRequest::Plan(wish)).await?;
        let Reply::Plan(plan, outlook) = reply else {
            return Err(convert::other(&reply));
        };
        let shown = convert::plan::plan(&plan, Some(&outlook), self.clock.now());
        Ok(Response::new(shown))
    }

    async fn execute(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let actor = auth::operator(&request)?;
        let wish = from::ordinary_wish(request.into_inner())?;
        self.begin(actor, wish).await
    }

    async fn execute_emergency(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let actor = auth::operator(&request)?;
        let wish = from::emergency_wish(request.into_inner())?;
        self.begin(actor, wish).await
    }

    async fn pin_targets(
        &self,
        request: Request<wire::PinTargetsRequest>,
    ) -> Result<Response<wire::PinTargetsReply>, Status> {
        let actor = auth::operator(&request)?;
        let question = from::pin_targets(request.into_inner())?;
        let reply = self.ask(actor, question).await?;
        let Reply::Pinned(machines) = reply else {
            return Err(convert::other(&reply));
        };
        Ok(Response::new(wire::PinTargetsReply {
            machines: machines.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn approve(
        &self,
        request: Request<wire::ApproveRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::approve(request.into_inner())?).await
    }

    async fn promote(
        &self,
        request: Request<wire::PromoteRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::promote(request.into_inner())?).await
    }

    async fn pause(
        &self,
        request: Request<wire::RolloutRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::pause(request.into_inner())?).await
    }

    async fn resume_rollout(
        &self,
        request: Request<wire::RolloutRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::resume_rollout(request.into_inner())?)
            .await
    }

    async fn abort(
        &self,
        request: Request<wire::RolloutRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::abort(request.into_inner())?).await
    }

    async fn emergency_stop(
        &self,
        request: Request<wire::EmergencyStopRequest>,
    ) -> Result<Response<wire::EmergencyStopReply>, Status> {
        let actor = auth::operator(&request)?;
        let question = from::emergency_stop(request.into_inner())?;
        let reply = self.ask(actor, question).await?;
        let Reply::Stopped(epoch) = reply else {
            return Err(convert::other(&reply));
        };
        let view = self.view(Query::StopProgress).await?.view;
        let View::StopProgress(machines) = view else {
            return Err(convert::other_view(&view));
        };
        Ok(Response::new(wire::EmergencyStopReply {
            epoch: epoch.0,
            machines: machines.into_iter().map(show::stop_progress).collect(),
        }))
    }

    async fn resume(
        &self,
        request: Request<wire::ResumeRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::resume(request.get_ref())).await
    }

    async fn request_health_check(
        &self,
        request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckStarted>, Status> {
        let actor = auth::operator(&request)?;
        let question = from::health_check(request.into_inner())?;
        let reply = self.ask(actor, question).await?;
        let Reply::HealthCheck { request, machines } = reply else {
            return Err(convert::other(&reply));
        };
        Ok(Response::new(wire::HealthCheckStarted {
            request,
            machines: machines.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn get_health(
        &self,
        request: Request<wire::GetHealthRequest>,
    ) -> Result<Response<wire::HealthReply>, Status> {
        let message = request.into_inner();
        let query = Query::Health {
            request: message.request,
            selection: from::selection(message.selection)?,
        };
        let view = self.view(query).await?.view;
        let View::Health(machines) = view else {
            return Err(convert::other_view(&view));
        };
        Ok(Response::new(wire::HealthReply {
            machines: machines.into_iter().map(show::health).collect(),
        }))
    }

    async fn forget_machine(
        &self,
        request: Request<wire::ForgetMachineRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::forget(request.get_ref())?).await
    }

    async fn quarantine_machines(
        &self,
        request: Request<wire::QuarantineMachinesRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::quarantine(request.get_ref())?).await
    }

    async fn release_machines(
        &self,
        request: Request<wire::ReleaseMachinesRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, from::release(request.get_ref())?).await
    }

    async fn list_targets(
        &self,
        _: Request<wire::ListTargetsRequest>,
    ) -> Result<Response<wire::TargetList>, Status> {
        let seen = self.view(Query::Targets).await?;
        let View::Targets(targets) = seen.view else {
            return Err(convert::other_view(&seen.view));
        };
        Ok(Response::new(convert::status::targets(targets)))
    }

    async fn quarantine_target(
        &self,
        request: Request<wire::QuarantineTargetRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        let request = from::quarantine_target(request.get_ref());
        self.done(actor, request).await
    }

    async fn release_target(
        &self,
        request: Request<wire::ReleaseTargetRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        let request = from::release_target(request.get_ref());
        self.done(actor, request).await
    }

    async fn get_config(
        &self,
        request: Request<wire::GetConfigRequest>,
    ) -> Result<Response<wire::ConfigReply>, Status> {
        let revision = match request.into_inner().revision {
            0 => self.revision().await?,
            revision => revision,
        };
        let found = self.read(move |archive| archive.config(revision)).await?;
        match found {
            Some(found) => Ok(Response::new(from::config(found))),
            None if revision == 0 => Err(convert::hinted(
                Status::not_found("there is no fleet configuration yet"),
                "lab update-config import FILE",
            )),
            None => Err(convert::refusal(&Refusal::NotFound {
                what: "revision of the configuration",
                name: revision.to_string(),
            })),
        }
    }

    async fn check_config(
        &self,
        request: Request<wire::SetConfigRequest>,
    ) -> Result<Response<wire::CheckConfigReply>, Status> {
        let check =
            |config, _: &wire::SetConfigRequest| OperatorRequest::CheckConfig(Box::new(config));
        self.configured(request, check).await
    }

    async fn set_config(
        &self,
        request: Request<wire::SetConfigRequest>,
    ) -> Result<Response<wire::CheckConfigReply>, Status> {
        self.configured(request, from::set_config).await
    }

    async fn get_config_log(
        &self,
        request: Request<wire::ConfigLogRequest>,
    ) -> Result<Response<wire::ConfigLog>, Status> {
        let limit = limit(request.into_inner().limit);
        let revisions = self.read(move |archive| archive.configs(limit)).await?;
        Ok(Response::new(wire::ConfigLog {
            revisions: revisions.into_iter().map(from::config).collect(),
        }))
    }

    async fn list_traffic(
        &self,
        _: Request<wire::ListTrafficRequest>,
    ) -> Result<Response<wire::TrafficList>, Status> {
        let seen = self.view(Query::Traffic).await?;
        let View::Traffic(groups) = seen.view else {
            return Err(convert::other_view(&seen.view));
        };
        Ok(Response::new(traffic::list(groups, seen.now)))
    }

    async fn move_traffic(
        &self,
        request: Request<wire::MoveTrafficRequest>,
    ) -> Result<Response<wire::MoveTrafficReply>, Status> {
        let actor = auth::operator(&request)?;
        let asked = traffic::moved(request.get_ref())?;
        let reply = self.ask(actor, asked).await?;
        let Reply::Moves { to, text } = reply else {
            return Err(convert::other(&reply));
        };
        let to = to.into();
        Ok(Response::new(wire::MoveTrafficReply { text, to }))
    }

    async fn list_schedules(
        &self,
        _: Request<wire::ListSchedulesRequest>,
    ) -> Result<Response<wire::ScheduleList>, Status> {
        let seen = self.view(Query::Schedules).await?;
        let View::Schedules(schedules) = seen.view else {
            return Err(convert::other_view(&seen.view));
        };
        Ok(Response::new(plans::schedules(schedules, seen.now)))
    }

    async fn run_schedule(
        &self,
        request: Request<wire::ScheduleRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, plans::run(request.get_ref())?).await
    }

    async fn skip_schedule(
        &self,
        request: Request<wire::ScheduleRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, plans::skip(request.get_ref())?).await
    }

    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenReply>, Status> {
        let actor = auth::operator(&request)?;
        let (holder, life) = identities::token(request.get_ref())?;
        let token = self.issuance.ca().token();
        let token = token.map_err(|error| convert::not_issued(error.into()))?;
        let expires_at = self.clock.now() + life;
        let question = OperatorRequest::CreateToken {
            secret_hash: token.secret_hash(),
            holder,
            expires_at,
        };
        let reply = self.ask(actor, question).await?;
        let Reply::Token(id) = reply else {
            return Err(convert::other(&reply));
        };
        Ok(Response::new(wire::CreateTokenReply {
            id,
            token: token.reveal(),
            expires_at: convert::time(expires_at),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::TokenList>, Status> {
        let registry = self.handle.registry();
        Ok(Response::new(identities::tokens(
            &registry,
            self.clock.now(),
        )))
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, identities::revoke_token(request.into_inner()))
            .await
    }

    async fn list_identities(
        &self,
        _: Request<wire::ListIdentitiesRequest>,
    ) -> Result<Response<wire::IdentityList>, Status> {
        let registry = self.handle.registry();
        Ok(Response::new(identities::identities(
            &registry,
            self.clock.now(),
        )))
    }

    async fn revoke_identity(
        &self,
        request: Request<wire::RevokeIdentityRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, identities::revoke_identity(request.get_ref())?)
            .await
    }

    async fn approve_identity(
        &self,
        request: Request<wire::ApproveIdentityRequest>,
    ) -> Result<Response<wire::Done>, Status> {
        let actor = auth::operator(&request)?;
        self.done(actor, identities::approve_identity(request.get_ref())?)
            .await
    }

    async fn renew_own_certificate(
        &self,
        request: Request<wire::RenewOwnCertificateRequest>,
    ) -> Result<Response<wire::RenewOwnCertificateReply>, Status> {
        let Actor { name, role, serial } = auth::operator(&request)?;
        let holder = Holder::Operator { name, role };
        let message = request.into_inner();
        let issued = self
            .issuance
            .renew(&serial, &holder, &message.certificate_request_pem)
            .await
            .map_err(convert::not_issued)?;
        Ok(Response::new(wire::RenewOwnCertificateReply {
            certificate_chain_pem: issued.chain_pem,
        }))
    }

    async fn notify(
        &self,
        request: Request<wire::NotifyRequest>,
    ) -> Result<Response<wire::NotifyReply>, Status> {
        let actor = auth::operator(&request)?;
        let question = from::notify(request.get_ref())?;
        let reply = self.ask(actor, question).await?;
        let Reply::Notify(channels) = reply else {
            return Err(convert::other(&reply));
        };
        Ok(Response::new(wire::NotifyReply { channels }))
    }

    async fn get_audit(
        &self,
        request: Request<wire::AuditRequest>,
    ) -> Result<Response<wire::Audit>, Status> {
        let message = request.into_inner();
        let (since, limit) = (self.since(message.days), limit(message.limit));
        let records = self
            .read(move |archive| archive.audit(since, limit))
            .await?;
        Ok(Response::new(wire::Audit {
            records: records.into_iter().map(from::audit_record).collect(),
        }))
    }

    async fn verify_audit(
        &self,
        _: Request<wire::VerifyAuditRequest>,
    ) -> Result<Response<wire::VerifyAuditReply>, Status> {
        let check = self.read(|archive| archive.verify_audit()).await?;
        Ok(Response::new(wire::VerifyAuditReply {
            intact: check.fault.is_none(),
            records: check.records,
            fault: check.fault.unwrap_or_default(),
            head: common::text::hex(&check.head),
        }))
    }
}
