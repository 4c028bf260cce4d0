//! `lab update verify` and `lab health-check`: asking machines how they are, now.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::StorePath;
use lab_proto::operator::{
    GetHealthRequest, HealthCheckRequest, HealthReply, ListMachinesRequest, Machine, MachineHealth,
    Selection, WaitReason, WhyRequest,
};
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Context,
    wait::{Waited, bounded},
};
use crate::{
    args::{HealthCheck, parse::Span, update::Verify},
    client::{Client, ask},
    error::{Exit, LabError},
    view::{
        self, Look, closure, counted,
        machines::{failed_checks, is_healthy},
    },
};

/// How often is looked whether answers came.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Asks for health checks and waits for the answers.
pub async fn health_check(context: &Context, args: &HealthCheck) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let selection = args.select.selection();
    let Some(reply) = fresh_health(context, &mut client, selection, args.timeout).await? else {
        return Ok(Exit::Interrupted);
    };
    context
        .output
        .result(&reply, |look| view::machines::health(&reply, look))?;
    Ok(yes_if(reply.machines.iter().all(is_healthy)))
}

/// Checks that every machine runs its target and is healthy.
pub async fn run(context: &Context, args: &Verify) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let selection = args.select.selection();
    let health = fresh_health(context, &mut client, selection.clone(), args.timeout).await?;
    let Some(health) = health else {
        return Ok(Exit::Interrupted);
    };
    // Asked for after the checks: what runs now, not what ran when they began.
    let request = ListMachinesRequest {
        selection: Some(selection),
    };
    let machines = ask(client.list_machines(request)).await?.machines;
    let arrived = arrived(&mut client, &machines).await?;
    let verification = Verification::of(machines, &health.machines, &arrived);
    context
        .output
        .result(&verification, |look| verification.view(look))?;
    Ok(yes_if(verification.ok))
}

/// Machines whose target is a flake or a channel and that run what it came to. Only the coordinator
/// knows that path; it says so when it is asked why they do not go.
async fn arrived(client: &mut Client, machines: &[Machine]) -> Result<BTreeSet<String>, LabError> {
    let mut arrived = BTreeSet::new();
    let built = |machine: &&Machine| {
        !machine.target.is_empty() && machine.target.parse::<StorePath>().is_err()
    };
    for machine in machines.iter().filter(built) {
        let request = WhyRequest {
            machine: machine.name.clone(),
        };
        let reason = ask(client.why(request)).await?.wait_reason;
        let there = |reason: WaitReason| {
            reason.kind == "up-to-date" || (reason.kind == "final" && reason.reason == "updated")
        };
        if reason.is_some_and(there) {
            arrived.insert(machine.name.clone());
        }
    }
    Ok(arrived)
}

fn yes_if(yes: bool) -> Exit {
    if yes { Exit::Yes } else { Exit::No }
}

/// The answers to a new health check; `None` when interrupted. Who has not answered when the time
/// is up is in it as `waiting`.
async fn fresh_health(
    context: &Context,
    client: &mut Client,
    selection: Selection,
    limit: Span,
) -> Result<Option<HealthReply>, LabError> {
    let request = HealthCheckRequest {
        selection: Some(selection.clone()),
        timeout_s: u32::try_from(limit.seconds()).unwrap_or(u32::MAX),
    };
    let started = ask(client.request_health_check(request)).await?;
    let request = GetHealthRequest {
        request: started.request,
        selection: Some(selection),
    };
    let progress = context.output.progress();
    let mut last = None;
    let waited = bounded(answers(client, &request, &mut last, &progress), Some(limit)).await;
    drop(progress);
    match waited? {
        Waited::Ended(reply) => Ok(Some(reply)),
        Waited::Interrupted => Ok(None),
        // The answers that came in time. None at all: the coordinator was away all the time.
        Waited::Late => match last {
            Some(reply) => Ok(Some(reply)),
            None => ask(client.get_health(request)).await.map(Some),
        },
    }
}

async fn answers(
    client: &mut Client,
    request: &GetHealthRequest,
    last: &mut Option<HealthReply>,
    progress: &crate::output::Progress<'_>,
) -> Result<HealthReply, LabError> {
    loop {
        match ask(client.get_health(request.clone())).await {
            Ok(reply) => {
                let waiting = reply
                    .machines
                    .iter()
                    .filter(|machine| machine.state == "waiting");
                let count = waiting.count();
                if count == 0 {
                    return Ok(reply);
                }
                progress.draw(&format!("▶ waiting for {}", counted(count, "machine")));
                *last = Some(reply);
            }
            Err(error) if error.is_passing() => {
                progress.say(&format!("connection lost ({}); trying again", error.what));
            }
            Err(error) => return Err(error),
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// What `lab update verify` found.
#[derive(Debug, Serialize)]
struct Verification {
    ok: bool,
    machines: Vec<Verified>,
}

/// What it found on one machine.
#[derive(Debug, Serialize)]
struct Verified {
    name: String,
    group: String,
    ok: bool,
    running: String,
    target: String,
    health: String,
    /// Why not; empty when it is as it should be.
    problems: Vec<String>,
}

impl Verification {
    fn of(machines: Vec<Machine>, health: &[MachineHealth], arrived: &BTreeSet<String>) -> Self {
        let health: BTreeMap<&str, &MachineHealth> = health
            .iter()
            .map(|health| (health.machine.as_str(), health))
            .collect();
        let verify = |machine: Machine| {
            let health = health.get(machine.name.as_str()).copied();
            let arrived = machine.running == machine.target || arrived.contains(&machine.name);
            Verified::of(machine, health, arrived)
        };
        let machines: Vec<Verified> = machines.into_iter().map(verify).collect();
        Self {
            ok: machines.iter().all(|machine| machine.ok),
            machines,
        }
    }

    fn view(&self, look: &Look) -> String {
        let differing = self.machines.iter().filter(|machine| !machine.ok);
        let rows = differing.map(|machine| {
            let runs = closure(&machine.running, &machine.name);
            vec![
                format!("✖ {}", machine.name),
                machine.group.clone(),
                runs,
                machine.problems.join("; "),
            ]
        });
        let mut text = look.columns(0, rows);
        let good = self.machines.iter().filter(|machine| machine.ok).count();
        let mark = if self.ok { '✔' } else { '✖' };
        let all = counted(self.machines.len(), "machine");
        text.push_str(&format!("{mark} {good} of {all} on target and healthy\n"));
        text
    }
}

impl Verified {
    fn of(machine: Machine, health: Option<&MachineHealth>, arrived: bool) -> Self {
        let mut problems = Vec::new();
        if machine.target.is_empty() {
            problems.push("has no target: lab update prepare".to_owned());
        } else if !arrived {
            let target = closure(&machine.target, &machine.name);
            let booting = machine.needs_reboot && machine.profile == machine.target;
            problems.push(if booting {
                format!("target {target} waits for a reboot")
            } else {
                format!("target is {target}")
            });
        }
        match health {
            Some(health) if is_healthy(health) => {}
            Some(health) => {
                let why = failed_checks(health);
                let separator = if why.is_empty() { "" } else { ": " };
                problems.push(format!("{}{separator}{why}", health.state));
            }
            None => problems.push("was not checked".to_owned()),
        }
        Self {
            ok: problems.is_empty(),
            health: health.map_or_else(String::new, |health| health.state.clone()),
            name: machine.name,
            group: machine.group,
            running: machine.running,
            target: machine.target,
            problems,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::Check;

    #[test]
    fn verify_names_every_difference() {
        let path = |version: char| {
            let hash = version.to_string().repeat(32);
            format!("/nix/store/{hash}-nixos-system-web-26.05.{version}")
        };
        let machine = |name: &str, running: char, target: Option<char>| Machine {
            name: name.into(),
            group: "critical".into(),
            running: path(running),
            profile: path('2'),
            target: target.map(path).unwrap_or_default(),
            needs_reboot: name == "boots",
            ..Machine::default()
        };
        let health = |name: &str, state: &str, checks| MachineHealth {
            machine: name.into(),
            group: "critical".into(),
            state: state.into(),
            checks,
        };
        let failed = Check {
            name: "web".into(),
            detail: "connection refused".into(),
            passed: false,
        };
        let machines = vec![
            machine("good", '2', Some('2')),
            machine("old", '1', Some('2')),
            machine("boots", '1', Some('2')),
            machine("sick", '2', Some('2')),
            machine("away", '2', Some('2')),
            machine("none", '2', None),
            machine("unasked", '2', Some('2')),
            Machine {
                target: "git+https://x?rev=1#flake".into(),
                ..machine("flake", '2', None)
            },
        ];
        let answers = [
            health("good", "healthy", vec![]),
            health("old", "healthy", vec![]),
            health("boots", "healthy", vec![]),
            health("sick", "unhealthy", vec![failed]),
            health("away", "offline", vec![]),
            health("none", "healthy", vec![]),
            health("flake", "healthy", vec![]),
        ];
        let flakes = BTreeSet::from(["flake".to_owned()]);
        let verification = Verification::of(machines, &answers, &flakes);
        assert!(!verification.ok);
        insta::assert_snapshot!("verify", verification.view(&look()));
        let good = Verification::of(vec![machine("good", '2', Some('2'))], &answers, &flakes);
        assert!(good.ok);
        assert_eq!(
            good.view(&look()),
            "✔ 1 of 1 machine on target and healthy\n"
        );
    }
}
