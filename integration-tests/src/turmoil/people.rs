//! Who else is in the network: the operator, who uses the real service over mTLS, and a stranger
//! with a good certificate who tries to act for others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coordinator_core::lease::Lease;
use lab_proto::{
    agent::{
        OutcomeKind, PollRequest, RenewRequest, ReportRequest, agent_client::AgentClient,
        renew_reply,
    },
    operator::{
        ApproveRequest, EmergencyStopRequest, ExecuteRequest, PinTargetsRequest, PinnedTarget,
        ResumeRequest, RolloutRequest, SetConfigRequest, StatusRequest,
        operator_client::OperatorClient, pinned_target,
    },
};
use platform::{
    channel::{self, Timeouts},
    identity::Identity,
};
use tonic::{Code, Status, transport::Channel};

use super::{
    agent::{coordinator, dial},
    machine::{Flaw, system},
    setup::{Identities, MINUTE, SECOND},
    world::{Shared, World},
};

/// How long anybody here waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often an operator lets a rollout that paused go on, once things go right again.
const RESUMED_MAX: u32 = 2;

async fn connect(identity: &Identity) -> Result<Channel, Status> {
    let address = coordinator();
    let dialled = channel::connect_with(dial, &address, identity, Timeouts::default());
    let dialled = tokio::time::timeout(PATIENCE, dialled).await;
    dialled
        .map_err(|_| Status::deadline_exceeded("no connection"))?
        .map_err(|error| Status::unavailable(error.to_string()))
}

/// Everybody who is no machine of the fleet, on a host of their own.
pub(crate) async fn live(world: Shared, identities: Arc<Identities>) -> ::turmoil::Result {
    tokio::task::spawn_local(intrude(world.clone(), identities.clone()));
    operate(world, identities).await
}

/// The operator: a configuration first, then one act after the other.
async fn operate(world: Shared, identities: Arc<Identities>) -> ::turmoil::Result {
    let mut resumed = BTreeMap::new();
    loop {
        // Whatever fails, the next try begins with a new connection.
        let worked = async {
            let client = OperatorClient::new(connect(&identities.operator).await?);
            work(&world, client, &mut resumed).await
        };
        let failed: Result<(), Status> = worked.await;
        if let Err(status) = failed {
            world
                .lock()
                .tell(|_| format!("operator: {:?}", status.code()));
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}

async fn work(
    world: &Shared,
    mut client: OperatorClient<Channel>,
    resumed: &mut BTreeMap<String, u32>,
) -> Result<(), Status> {
    loop {
        within(act(world, &mut client, resumed)).await?;
        let pause = {
            let mut world = world.lock();
            let most = if world.troubled { 6 * MINUTE } else { MINUTE };
            world.rng.between(20 * SECOND, most)
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answered = tokio::time::timeout(PATIENCE, asked).await;
    answered.map_err(|_| Status::deadline_exceeded("no answer"))?
}

async fn act(
    world: &Shared,
    client: &mut OperatorClient<Channel>,
    resumed: &mut BTreeMap<String, u32>,
) -> Result<(), Status> {
    let status = client
        .get_status(StatusRequest::default())
        .await?
        .into_inner();
    if status.revision == 0 {
        let document = world.lock().setup.document.to_string();
        let asked = SetConfigRequest {
            document,
            ..SetConfigRequest::default()
        };
        let reply = client.set_config(asked).await?.into_inner();
        if !reply.faults.is_empty() {
            world
                .lock()
                .violate(format!("the configuration is refused: {:?}", reply.faults));
        }
        return Ok(());
    }
    let troubled = world.lock().troubled;
    if status.stopped {
        if !troubled || world.lock().rng.once_in(2) {
            let reason = "simulated".to_owned();
            client.resume(ResumeRequest { reason }).await?;
        }
        return Ok(());
    }
    let open = status
        .rollouts
        .iter()
        .filter(|rollout| rollout.ended_at.is_none());
    for rollout in open.clone() {
        attend(world, client, rollout, resumed).await?;
    }
    if !troubled {
        return Ok(());
    }
    if world.lock().rng.once_in(30) {
        return stop(world, client).await;
    }
    if open.count() == 0 {
        return release(world, client).await;
    }
    Ok(())
}

/// Gives a rollout what it waits for from people; one that pauses again and again is ended.
async fn attend(
    world: &Shared,
    client: &mut OperatorClient<Channel>,
    rollout: &lab_proto::operator::Rollout,
    resumed: &mut BTreeMap<String, u32>,
) -> Result<(), Status> {
    let id = rollout.id.clone();
    let asked = RolloutRequest {
        rollout: id.clone(),
        reason: "simulated".to_owned(),
        measure_again: false,
    };
    if rollout.state == "paused" {
        let times = resumed.entry(id).or_default();
        *times += 1;
        if *times <= RESUMED_MAX {
            client.resume_rollout(asked).await?;
        } else {
            client.abort(asked).await?;
        }
        return Ok(());
    }
    let waits = rollout
        .groups
        .iter()
        .any(|group| group.state == "awaiting-approval");
    let troubled = world.lock().troubled;
    if waits {
        let reject = troubled && world.lock().rng.once_in(8);
        let asked = ApproveRequest {
            rollout: id,
            reject,
            ..ApproveRequest::default()
        };
        client.approve(asked).await?;
    } else if troubled && world.lock().rng.once_in(40) {
        client.pause(asked).await?;
    }
    Ok(())
}

async fn stop(world: &Shared, client: &mut OperatorClient<Channel>) -> Result<(), Status> {
    let asked = {
        let mut world = world.lock();
        world.fault("emergency-stop");
        let all = world.rng.once_in(2);
        EmergencyStopRequest {
            groups: if all {
                Vec::new()
            } else {
                vec!["g0".to_owned()]
            },
            mode: world.rng.one(["finish", "rollback"]).to_owned(),
            reason: "simulated".to_owned(),
        }
    };
    client.emergency_stop(asked).await?;
    Ok(())
}

/// A new system for everybody, which may be bad on some machines, and its rollout.
async fn release(world: &Shared, client: &mut OperatorClient<Channel>) -> Result<(), Status> {
    let (targets, immediate, parallel) = {
        let mut world = world.lock();
        let targets = world.make_system();
        let (immediate, parallel) = (world.rng.once_in(6), world.rng.one([0, 0, 1, 2, 3]));
        (targets, immediate, parallel)
    };
    let asked = PinTargetsRequest {
        targets: targets.into_iter().collect(),
        reason: "simulated".to_owned(),
    };
    client.pin_targets(asked).await?;
    let asked = ExecuteRequest {
        kind: "update".to_owned(),
        immediate,
        parallel,
        reason: "simulated".to_owned(),
        ..ExecuteRequest::default()
    };
    client.execute(asked).await?;
    Ok(())
}

impl World {
    /// The next system: the same for all machines, wrong in some way on some.
    fn make_system(&mut self) -> BTreeMap<String, PinnedTarget> {
        let before = self
            .kernels
            .get(&system(self.systems))
            .copied()
            .unwrap_or(0);
        self.systems += 1;
        let path = system(self.systems);
        let kernel = before + u64::from(self.rng.chance(self.setup.needs_reboot));
        self.kernels.insert(path.clone(), kernel);
        for machine in 0..self.machines.len() {
            let rate = self.setup.flawed;
            if self.strikes(rate, "flawed-system") {
                let flaw = self.rng.one(Flaw::ALL);
                self.machines[machine].flaws.insert(path.clone(), flaw);
                self.tell(|w| format!("{}: {} is {flaw:?}", w.machines[machine].name, path.name()));
            }
        }
        let target = PinnedTarget {
            kind: Some(pinned_target::Kind::Closure(path.to_string())),
        };
        let names = self.setup.machines.iter();
        names
            .map(|name| (name.to_string(), target.clone()))
            .collect()
    }
}

/// Tries, every now and then, what must not work.
async fn intrude(world: Shared, identities: Arc<Identities>) {
    loop {
        let pause = world.lock().rng.between(2 * MINUTE, 15 * MINUTE);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let (kind, lease) = {
            let mut world = world.lock();
            (world.rng.below(4), world.some_lease())
        };
        let (true, Some(lease)) = (world.lock().troubled, lease) else {
            continue;
        };
        let tried = match kind {
            0 => impersonate(&identities).await,
            1 => command(&identities).await,
            2 => renew(&identities, &lease).await,
            _ => report(&identities, &lease).await,
        };
        let mut world = world.lock();
        match tried {
            Ok(()) => world.fault("forgery"),
            Err(worked) => world.violate(worked.to_owned()),
        }
        world.tell(|_| format!("the stranger has tried {kind} with lease {}", lease.id));
    }
}

impl World {
    /// A lease that somebody holds.
    fn some_lease(&mut self) -> Option<Lease> {
        let leases = self.coordinator.mirror.iter();
        let leases: Vec<&Lease> = leases
            .flat_map(|fleet| fleet.facts().leases.values())
            .collect();
        self.rng.pick(&leases).copied().cloned()
    }
}

/// A certificate of another CA, with the name of a machine of this fleet.
async fn impersonate(identities: &Identities) -> Result<(), &'static str> {
    let Ok(channel) = connect(&identities.impostor).await else {
        return Ok(());
    };
    let asked = AgentClient::new(channel).poll(PollRequest::default()).await;
    refused(asked.map(drop), "a certificate of another CA is taken")
}

/// A machine that wants to be an operator.
async fn command(identities: &Identities) -> Result<(), &'static str> {
    let Ok(channel) = connect(&identities.stranger).await else {
        return Ok(());
    };
    let mut client = OperatorClient::new(channel);
    let asked = within(client.emergency_stop(EmergencyStopRequest::default())).await;
    refused(asked.map(drop), "a machine stops the fleet")
}

/// A machine that keeps another's lease alive.
async fn renew(identities: &Identities, lease: &Lease) -> Result<(), &'static str> {
    let Ok(channel) = connect(&identities.stranger).await else {
        return Ok(());
    };
    let asked = RenewRequest {
        lease: lease.id.0,
        epoch: lease.epoch.0,
        ..RenewRequest::default()
    };
    let answer = within(AgentClient::new(channel).renew(asked)).await;
    match answer.map(|reply| reply.into_inner().answer) {
        Ok(Some(renew_reply::Answer::ValidForMs(_))) => Err("a machine renews another's lease"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A machine that ends another's attempt. That it came to nothing is seen in the facts.
async fn report(identities: &Identities, lease: &Lease) -> Result<(), &'static str> {
    let Ok(channel) = connect(&identities.stranger).await else {
        return Ok(());
    };
    let asked = ReportRequest {
        rollout: lease.rollout.to_string(),
        lease: lease.id.0,
        outcome: OutcomeKind::Confirmed.into(),
        report: Some(lab_proto::agent::MachineReport {
            boot_id: "boot-stranger-1".to_owned(),
            agent_version: "forged".to_owned(),
            ..lab_proto::agent::MachineReport::default()
        }),
        ..ReportRequest::default()
    };
    within(AgentClient::new(channel).report(asked)).await.ok();
    Ok(())
}

/// Refused, or not heard at all.
fn refused(asked: Result<(), Status>, worked: &'static str) -> Result<(), &'static str> {
    match asked {
        Ok(()) => Err(worked),
        Err(status) if status.code() == Code::Internal => Err("a refusal that is no refusal"),
        Err(_) => Ok(()),
    }
}
