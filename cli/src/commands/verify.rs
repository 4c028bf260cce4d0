//! `lab update verify` and `lab health-check`: asking machines how they are, now.

mod verification;

use std::{collections::BTreeSet, time::Duration};

use common::StorePath;
use lab_proto::operator::{
    GetHealthRequest, HealthCheckRequest, HealthCheckStarted, HealthReply, ListMachinesRequest,
    Machine, MachineHealth, Selection, WaitReason, WhyRequest,
};
use tokio::time::sleep;

use self::verification::{Verification, Verified};
use super::{
    Context,
    wait::{Early, Waited, bounded},
};
use crate::{
    args::{HealthCheck, parse::Span, update::Verify},
    client::{Client, ask},
    error::{Exit, LabError},
    view::{
        self, counted,
        machines::{is_healthy, is_waiting},
    },
};

/// How often is looked whether answers came.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long may take what is still asked after Ctrl-C. The coordinator answers in milliseconds, and
/// somebody wants to be gone.
const AFTER_CTRL_C: Span = Span(Duration::from_secs(2));

/// Asks for health checks and waits for the answers.
pub async fn health_check(context: &Context, args: &HealthCheck) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let selection = args.select.selection();
    let Fresh { health, early } =
        fresh_health(context, &mut client, selection, args.timeout).await?;
    context
        .output
        .result(&health, |look| view::machines::health(&health, look))?;
    let answer = |machine| (!is_waiting(machine)).then(|| is_healthy(machine));
    Ok(exit(early, health.machines.iter().map(answer)))
}

/// Checks that every machine runs its target and is healthy.
pub async fn run(context: &Context, args: &Verify) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let selection = args.select.selection();
    let Fresh { health, early } =
        fresh_health(context, &mut client, selection.clone(), args.timeout).await?;
    // Asked for after the checks: what runs now, not what ran when they began.
    let looked = what_runs(&mut client, selection);
    let verification = if early == Some(Early::Interrupted) {
        match bounded(looked, Some(AFTER_CTRL_C)).await {
            Ok(Waited::Ended((machines, arrived))) => {
                Verification::of(machines, &health.machines, &arrived)
            }
            Ok(Waited::Early(_)) | Err(_) => Verification::of_health(health.machines),
        }
    } else {
        let (machines, arrived) = looked.await?;
        Verification::of(machines, &health.machines, &arrived)
    };
    context
        .output
        .result(&verification, |look| verification.view(look))?;
    let answers = verification.machines.iter().map(Verified::answer);
    Ok(exit(early, answers))
}

/// What the machines' answers come to: a no is one whoever else has not answered yet, a yes needs
/// everybody.
fn exit(early: Option<Early>, answers: impl Iterator<Item = Option<bool>>) -> Exit {
    if early == Some(Early::Interrupted) {
        return Exit::Interrupted;
    }
    let answers: Vec<Option<bool>> = answers.collect();
    if answers.contains(&Some(false)) {
        Exit::No
    } else if answers.contains(&None) {
        Exit::Timeout
    } else {
        Exit::Yes
    }
}

/// The selected machines, and which of them run what their flake or channel came to.
async fn what_runs(
    client: &mut Client,
    selection: Selection,
) -> Result<(Vec<Machine>, BTreeSet<String>), LabError> {
    let request = ListMachinesRequest {
        selection: Some(selection),
    };
    let machines = ask(client.list_machines(request)).await?.machines;
    let arrived = arrived(client, &machines).await?;
    Ok((machines, arrived))
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

/// The answers to a new health check. Who has not answered is in it as `waiting`.
struct Fresh {
    health: HealthReply,
    /// Why not everybody was waited for.
    early: Option<Early>,
}

async fn fresh_health(
    context: &Context,
    client: &mut Client,
    selection: Selection,
    limit: Span,
) -> Result<Fresh, LabError> {
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
    let early = match waited? {
        Waited::Ended(health) => {
            return Ok(Fresh {
                health,
                early: None,
            });
        }
        Waited::Early(early) => early,
    };
    let health = match (last, early) {
        (Some(reply), _) => reply,
        (None, Early::Interrupted) => asked(started),
        // The coordinator was away all the time.
        (None, Early::Late) => ask(client.get_health(request)).await?,
    };
    let waiting = health.machines.iter().filter(|machine| is_waiting(machine));
    context.output.note(&format!(
        "{}; no answer yet from {}; see later: lab machines",
        early.why(),
        counted(waiting.count(), "machine")
    ));
    Ok(Fresh {
        health,
        early: Some(early),
    })
}

/// What is known before the first look: who was asked.
fn asked(started: HealthCheckStarted) -> HealthReply {
    let waiting = |machine| MachineHealth {
        machine,
        state: "waiting".to_owned(),
        ..MachineHealth::default()
    };
    HealthReply {
        machines: started.machines.into_iter().map(waiting).collect(),
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
                let waiting = reply.machines.iter().filter(|machine| is_waiting(machine));
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
