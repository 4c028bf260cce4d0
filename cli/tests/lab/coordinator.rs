//! A coordinator for tests: it answers what the test says, and remembers what it was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use lab_proto::operator::{
    self as pb,
    operator_server::{Operator, OperatorServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa,
    KeyPair,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, service::Routes};

use crate::tls::{Ca, leaf, serve, tls};

/// Whose identity the tests have.
pub(crate) const OPERATOR: &str = "spiffe://lab-updater/operator/geir";

type Answer<T> = Result<Response<T>, Status>;

/// What the coordinator is to answer, by method; the last answer stays.
#[derive(Default)]
pub(crate) struct Script {
    answers: BTreeMap<&'static str, VecDeque<Result<Value, Status>>>,
    /// What the status stream says each time it is opened. It breaks after its last word, except
    /// for the last stream, which stays open and comes again.
    streams: VecDeque<Vec<pb::Status>>,
}

impl Script {
    pub(crate) fn says(mut self, method: &'static str, answer: impl Serialize) -> Self {
        let answer = serde_json::to_value(answer).expect("JSON");
        self.answers
            .entry(method)
            .or_default()
            .push_back(Ok(answer));
        self
    }

    pub(crate) fn refuses(mut self, method: &'static str, status: Status) -> Self {
        self.answers
            .entry(method)
            .or_default()
            .push_back(Err(status));
        self
    }

    pub(crate) fn streams(mut self, statuses: &[pb::Status]) -> Self {
        self.streams.push_back(statuses.to_vec());
        self
    }
}

/// A running coordinator, and the identity of an operator it knows.
pub(crate) struct Coordinator {
    pub(crate) address: String,
    pub(crate) identity: PathBuf,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    home: TempDir,
}

impl Coordinator {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_for(&leaf(&[OPERATOR], &[]), script).await
    }

    /// With another certificate for the operator than one that is good for ever.
    pub(crate) async fn start_for(operator: &CertificateParams, script: Script) -> Self {
        let ca = Ca::new();
        let home = TempDir::new().expect("a directory");
        let identity = home.path().join("identity.pem");
        ca.identity(operator).save(&identity).expect("saved");
        let asked = Arc::default();
        let service = Scripted {
            script: Mutex::new(script),
            asked: Arc::clone(&asked),
        };
        let config = tls(&ca.coordinator(), Some(&ca.pem()));
        let address = serve(config, Routes::new(OperatorServer::new(service))).await;
        Self {
            address,
            identity,
            asked,
            home,
        }
    }

    /// A directory that lives as long as the coordinator.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The methods that were called, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("unpoisoned");
        asked.iter().map(|(method, _)| method.clone()).collect()
    }

    /// What was last said to a method.
    pub(crate) fn said(&self, method: &str) -> Value {
        let asked = self.asked.lock().expect("unpoisoned");
        let mut found = asked.iter().rev().filter(|(name, _)| name == method);
        found.next().map_or(Value::Null, |(_, said)| said.clone())
    }
}

struct Scripted {
    script: Mutex<Script>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Scripted {
    fn note(&self, method: &str, said: impl Serialize) {
        let said = serde_json::to_value(said).expect("JSON");
        self.asked
            .lock()
            .expect("unpoisoned")
            .push((method.to_owned(), said));
    }

    /// The next answer of the script; an empty message where it has none.
    fn answer<Q: Serialize, A: DeserializeOwned + Default>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Answer<A> {
        self.note(method, request.into_inner());
        match self.next(method) {
            None => Ok(Response::new(A::default())),
            Some(Err(status)) => Err(status),
            Some(Ok(answer)) => {
                let read = serde_json::from_value(answer);
                read.map(Response::new)
                    .map_err(|error| Status::internal(format!("the script of {method}: {error}")))
            }
        }
    }

    fn next(&self, method: &'static str) -> Option<Result<Value, Status>> {
        let mut script = self.script.lock().expect("unpoisoned");
        let answers = script.answers.get_mut(method)?;
        match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        }
    }
}

/// A certificate for the operator's new key, from a CA of its own: `lab` takes what the coordinator
/// says.
fn signed(request: &str) -> String {
    let mut request = CertificateSigningRequestParams::from_pem(request).expect("a request");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().expect("a key");
    let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
    request.params = leaf(&[OPERATOR], &[]);
    let leaf = request.signed_by(&ca).expect("a certificate");
    format!("{}{}", leaf.pem(), ca.pem())
}

#[tonic::async_trait]
impl Operator for Scripted {
    type WatchStatusStream = ReceiverStream<Result<pb::Status, Status>>;

    async fn watch_status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Answer<Self::WatchStatusStream> {
        self.note("watch_status", request.into_inner());
        let mut script = self.script.lock().expect("unpoisoned");
        let last = script.streams.len() <= 1;
        let statuses = if last {
            script.streams.front().cloned()
        } else {
            script.streams.pop_front()
        };
        let statuses = statuses.unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for status in statuses {
                sender.send(Ok(status)).await.ok();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if last {
                sender.closed().await;
            } else {
                sender
                    .send(Err(Status::unavailable("restarting")))
                    .await
                    .ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::Status> {
        self.answer("get_status", request)
    }

    async fn list_machines(
        &self,
        request: Request<pb::ListMachinesRequest>,
    ) -> Answer<pb::MachineList> {
        self.answer("list_machines", request)
    }

    async fn why(&self, request: Request<pb::WhyRequest>) -> Answer<pb::WhyReply> {
        self.answer("why", request)
    }

    async fn get_history(&self, request: Request<pb::HistoryRequest>) -> Answer<pb::History> {
        self.answer("get_history", request)
    }

    async fn plan(&self, request: Request<pb::ExecuteRequest>) -> Answer<pb::PlanReply> {
        self.answer("plan", request)
    }

    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Answer<pb::ExecuteReply> {
        self.answer("execute", request)
    }

    async fn execute_emergency(
        &self,
        request: Request<pb::ExecuteRequest>,
    ) -> Answer<pb::ExecuteReply> {
        self.answer("execute_emergency", request)
    }

    async fn pin_targets(
        &self,
        request: Request<pb::PinTargetsRequest>,
    ) -> Answer<pb::PinTargetsReply> {
        self.answer("pin_targets", request)
    }

    async fn approve(&self, request: Request<pb::ApproveRequest>) -> Answer<pb::Done> {
        self.answer("approve", request)
    }

    async fn promote(&self, request: Request<pb::PromoteRequest>) -> Answer<pb::Done> {
        self.answer("promote", request)
    }

    async fn pause(&self, request: Request<pb::RolloutRequest>) -> Answer<pb::Done> {
        self.answer("pause", request)
    }

    async fn resume_rollout(&self, request: Request<pb::RolloutRequest>) -> Answer<pb::Done> {
        self.answer("resume_rollout", request)
    }

    async fn abort(&self, request: Request<pb::RolloutRequest>) -> Answer<pb::Done> {
        self.answer("abort", request)
    }

    async fn emergency_stop(
        &self,
        request: Request<pb::EmergencyStopRequest>,
    ) -> Answer<pb::EmergencyStopReply> {
        self.answer("emergency_stop", request)
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<pb::Done> {
        self.answer("resume", request)
    }

    async fn request_health_check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Answer<pb::HealthCheckStarted> {
        self.answer("request_health_check", request)
    }

    async fn get_health(&self, request: Request<pb::GetHealthRequest>) -> Answer<pb::HealthReply> {
        self.answer("get_health", request)
    }

    async fn forget_machine(&self, request: Request<pb::ForgetMachineRequest>) -> Answer<pb::Done> {
        self.answer("forget_machine", request)
    }

    async fn quarantine_machines(
        &self,
        request: Request<pb::QuarantineMachinesRequest>,
    ) -> Answer<pb::Done> {
        self.answer("quarantine_machines", request)
    }

    async fn release_machines(
        &self,
        request: Request<pb::ReleaseMachinesRequest>,
    ) -> Answer<pb::Done> {
        self.answer("release_machines", request)
    }

    async fn get_config(&self, request: Request<pb::GetConfigRequest>) -> Answer<pb::ConfigReply> {
        self.answer("get_config", request)
    }

    async fn check_config(
        &self,
        request: Request<pb::SetConfigRequest>,
    ) -> Answer<pb::CheckConfigReply> {
        self.answer("check_config", request)
    }

    async fn set_config(
        &self,
        request: Request<pb::SetConfigRequest>,
    ) -> Answer<pb::CheckConfigReply> {
        self.answer("set_config", request)
    }

    async fn get_config_log(
        &self,
        request: Request<pb::ConfigLogRequest>,
    ) -> Answer<pb::ConfigLog> {
        self.answer("get_config_log", request)
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Answer<pb::CreateTokenReply> {
        self.answer("create_token", request)
    }

    async fn list_tokens(&self, request: Request<pb::ListTokensRequest>) -> Answer<pb::TokenList> {
        self.answer("list_tokens", request)
    }

    async fn list_targets(
        &self,
        request: Request<pb::ListTargetsRequest>,
    ) -> Answer<pb::TargetList> {
        self.answer("list_targets", request)
    }

    async fn quarantine_target(
        &self,
        request: Request<pb::QuarantineTargetRequest>,
    ) -> Answer<pb::Done> {
        self.answer("quarantine_target", request)
    }

    async fn release_target(&self, request: Request<pb::ReleaseTargetRequest>) -> Answer<pb::Done> {
        self.answer("release_target", request)
    }

    async fn list_traffic(
        &self,
        request: Request<pb::ListTrafficRequest>,
    ) -> Answer<pb::TrafficList> {
        self.answer("list_traffic", request)
    }

    async fn move_traffic(
        &self,
        request: Request<pb::MoveTrafficRequest>,
    ) -> Answer<pb::MoveTrafficReply> {
        self.answer("move_traffic", request)
    }

    async fn list_schedules(
        &self,
        request: Request<pb::ListSchedulesRequest>,
    ) -> Answer<pb::ScheduleList> {
        self.answer("list_schedules", request)
    }

    async fn run_schedule(&self, request: Request<pb::ScheduleRequest>) -> Answer<pb::Done> {
        self.answer("run_schedule", request)
    }

    async fn skip_schedule(&self, request: Request<pb::ScheduleRequest>) -> Answer<pb::Done> {
        self.answer("skip_schedule", request)
    }

    async fn revoke_token(&self, request: Request<pb::RevokeTokenRequest>) -> Answer<pb::Done> {
        self.answer("revoke_token", request)
    }

    async fn list_identities(
        &self,
        request: Request<pb::ListIdentitiesRequest>,
    ) -> Answer<pb::IdentityList> {
        self.answer("list_identities", request)
    }

    async fn revoke_identity(
        &self,
        request: Request<pb::RevokeIdentityRequest>,
    ) -> Answer<pb::Done> {
        self.answer("revoke_identity", request)
    }

    async fn approve_identity(
        &self,
        request: Request<pb::ApproveIdentityRequest>,
    ) -> Answer<pb::Done> {
        self.answer("approve_identity", request)
    }

    async fn renew_own_certificate(
        &self,
        request: Request<pb::RenewOwnCertificateRequest>,
    ) -> Answer<pb::RenewOwnCertificateReply> {
        let key = request.get_ref().certificate_request_pem.clone();
        let mut answer: Answer<pb::RenewOwnCertificateReply> =
            self.answer("renew_own_certificate", request);
        if let Ok(reply) = &mut answer {
            reply.get_mut().certificate_chain_pem = signed(&key);
        }
        answer
    }

    async fn notify(&self, request: Request<pb::NotifyRequest>) -> Answer<pb::NotifyReply> {
        self.answer("notify", request)
    }

    async fn get_audit(&self, request: Request<pb::AuditRequest>) -> Answer<pb::Audit> {
        self.answer("get_audit", request)
    }

    async fn verify_audit(
        &self,
        request: Request<pb::VerifyAuditRequest>,
    ) -> Answer<pb::VerifyAuditReply> {
        self.answer("verify_audit", request)
    }
}
