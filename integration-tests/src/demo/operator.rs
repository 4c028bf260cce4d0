//! What the demo asks of its coordinator, as any operator would: over mTLS gRPC, with the
//! identity that the coordinator made for its administrator.

use std::{path::Path, time::Duration};

use common::{MachineName, StorePath};
use lab_proto::operator::{
    ApproveRequest, CreateTokenRequest, ExecuteRequest, ListMachinesRequest, Machine,
    PinTargetsRequest, PinnedTarget, SetConfigRequest, Status, StatusRequest,
    operator_client::OperatorClient, pinned_target,
};
use platform::{
    channel::{ConnectError, Timeouts, connect},
    identity::Identity,
};
use tonic::{Response, transport::Channel};

use super::error::DemoError;

/// How long the coordinator may take to answer, in real time.
const ANSWER: Duration = Duration::from_secs(20);

/// How long an enrolment token is good for, in the fleet's time.
const TOKEN_VALID_S: u64 = 24 * 3600;

/// A connection to the coordinator.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    client: OperatorClient<Channel>,
}

/// Why there is no connection yet.
#[derive(Debug)]
pub(super) enum NotYet {
    /// The coordinator is still starting.
    Starting,
    /// It will not get better by waiting.
    Never(DemoError),
}

impl Operator {
    /// Connects with the identity in a file, both of which appear while the coordinator starts.
    pub(super) async fn connect(address: &str, identity: &Path) -> Result<Self, NotYet> {
        if !identity.exists() {
            return Err(NotYet::Starting);
        }
        let identity =
            Identity::load(identity).map_err(|error| NotYet::Never(DemoError::Identity(error)))?;
        match connect(address, &identity, Timeouts::default()).await {
            Ok(channel) => Ok(Self {
                client: OperatorClient::new(channel),
            }),
            Err(ConnectError::Dial { .. } | ConnectError::Deadline { .. }) => Err(NotYet::Starting),
            Err(error @ (ConnectError::Tls { .. } | ConnectError::Http { .. })) => {
                Err(NotYet::Never(DemoError::Connect(error)))
            }
        }
    }

    /// Puts the fleet configuration in force.
    pub(super) async fn set_config(
        &mut self,
        document: &serde_json::Value,
    ) -> Result<(), DemoError> {
        let request = SetConfigRequest {
            document: document.to_string(),
            if_revision: 0,
            reason: "the demo's fleet".to_owned(),
        };
        let what = "take the fleet configuration";
        let reply = answered(what, self.client.set_config(request)).await?;
        let faults: Vec<String> = reply
            .faults
            .iter()
            .map(|fault| format!("{}: {}", fault.path, fault.message))
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            let said = faults.join("; ");
            Err(DemoError::Refused { what, said })
        }
    }

    /// A token with which this machine can enrol, once.
    pub(super) async fn create_token(
        &mut self,
        machine: &MachineName,
    ) -> Result<String, DemoError> {
        let request = CreateTokenRequest {
            machine: machine.to_string(),
            operator: String::new(),
            role: String::new(),
            valid_for_s: TOKEN_VALID_S,
        };
        let reply = answered("make a token", self.client.create_token(request)).await?;
        Ok(reply.token)
    }

    /// Names what machines are to run.
    pub(super) async fn pin_targets(
        &mut self,
        targets: &[(MachineName, StorePath)],
    ) -> Result<(), DemoError> {
        let pinned = |path: &StorePath| PinnedTarget {
            kind: Some(pinned_target::Kind::Closure(path.to_string())),
        };
        let request = PinTargetsRequest {
            targets: targets
                .iter()
                .map(|(machine, path)| (machine.to_string(), pinned(path)))
                .collect(),
            reason: "the demo's next systems".to_owned(),
        };
        let reply = self.client.pin_targets(request);
        answered("name the targets", reply).await.map(drop)
    }

    /// Begins the rollout; its id.
    pub(super) async fn execute(&mut self) -> Result<String, DemoError> {
        let request = ExecuteRequest {
            reason: "the demo".to_owned(),
            ..ExecuteRequest::default()
        };
        let what = "begin a rollout";
        let reply = answered(what, self.client.execute(request)).await?;
        if reply.rollout.is_empty() {
            let said = "there is nothing to do".to_owned();
            return Err(DemoError::Refused { what, said });
        }
        Ok(reply.rollout)
    }

    /// Says yes to a group of a rollout.
    pub(super) async fn approve(&mut self, rollout: &str, group: &str) -> Result<(), DemoError> {
        let request = ApproveRequest {
            rollout: rollout.to_owned(),
            group: group.to_owned(),
            reject: false,
            comment: "approved by the demo".to_owned(),
        };
        answered("approve a group", self.client.approve(request))
            .await
            .map(drop)
    }

    /// Where the rollouts stand.
    pub(super) async fn status(&mut self) -> Result<Status, DemoError> {
        let request = StatusRequest {
            selection: None,
            all: true,
        };
        answered(
            "tell where the rollouts stand",
            self.client.get_status(request),
        )
        .await
    }

    /// Every machine.
    pub(super) async fn machines(&mut self) -> Result<Vec<Machine>, DemoError> {
        let request = ListMachinesRequest { selection: None };
        let reply = answered("list the machines", self.client.list_machines(request)).await?;
        Ok(reply.machines)
    }
}

async fn answered<T>(
    what: &'static str,
    call: impl Future<Output = Result<Response<T>, tonic::Status>>,
) -> Result<T, DemoError> {
    let refused = |said: String| DemoError::Refused { what, said };
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(status.message().to_owned())),
        Err(_) => Err(refused(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}
