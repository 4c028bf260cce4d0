//! `lab emergency-stop` and `lab resume`.

use std::{collections::BTreeMap, time::Duration};

use lab_proto::operator::{
    EmergencyStopReply, EmergencyStopRequest, ListMachinesRequest, Machine, ResumeRequest,
    StopProgress,
};
use tokio::time::{Instant, sleep};

use super::Context;
use crate::{
    args::{self, StopMode},
    client::{Client, ask},
    error::{Exit, LabError},
    view,
};

/// How long is watched who acknowledges. A connected agent does so within milliseconds.
const WATCH: Duration = Duration::from_secs(5);

/// How often is looked.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Stops the fleet. Asks only on a terminal: stopping is the safe direction, and what calls this
/// without one (monitoring, a script's trap) must not be held up.
pub async fn stop(context: &Context, args: &args::EmergencyStop) -> Result<Exit, LabError> {
    let groups: Vec<String> = args.group.iter().map(ToString::to_string).collect();
    let whom = match groups.as_slice() {
        [] => "the whole fleet".to_owned(),
        groups => groups.join(", "),
    };
    context.output.confirm(&format!("Stop {whom} now?"))?;
    let mut client = context.open().await?;
    let request = EmergencyStopRequest {
        groups,
        mode: match args.mode {
            StopMode::Finish => "finish".into(),
            StopMode::Rollback => "rollback".into(),
        },
        reason: args.reason.clone(),
    };
    let mut reply = ask(client.emergency_stop(request)).await?;
    let progress = context.output.progress();
    let until = Instant::now() + WATCH;
    while is_open(&reply) && Instant::now() < until {
        progress.draw(&view::trust::stop(&reply, context.output.look()));
        sleep(LOOK_AGAIN).await;
        // The stop stands whatever happens to this connection.
        match machines(&mut client).await {
            Ok(machines) => reply = refreshed(reply, &machines),
            Err(_) => break,
        }
    }
    drop(progress);
    context
        .output
        .result(&reply, |look| view::trust::stop(&reply, look))?;
    Ok(Exit::Yes)
}

/// Lifts the stop.
pub async fn resume(context: &Context, args: args::Resume) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = ResumeRequest {
        reason: args.reason,
    };
    let done = ask(client.resume(request)).await?;
    context.output.done(&done)
}

async fn machines(client: &mut Client) -> Result<Vec<Machine>, LabError> {
    let all = ListMachinesRequest::default();
    Ok(ask(client.list_machines(all)).await?.machines)
}

fn is_open(reply: &EmergencyStopReply) -> bool {
    reply
        .machines
        .iter()
        .any(|machine| machine.state != "acknowledged")
}

/// The same machines, as their own newest reports have it.
fn refreshed(reply: EmergencyStopReply, machines: &[Machine]) -> EmergencyStopReply {
    let known: BTreeMap<&str, &Machine> = machines
        .iter()
        .map(|machine| (machine.name.as_str(), machine))
        .collect();
    let epoch = reply.epoch;
    let refresh = |progress: StopProgress| match known.get(progress.machine.as_str()) {
        Some(machine) if machine.epoch >= epoch && machine.step.is_empty() => StopProgress {
            state: "acknowledged".into(),
            step: String::new(),
            ..progress
        },
        Some(machine) if machine.epoch >= epoch => StopProgress {
            state: if progress.state == "silent" {
                "finishing".into()
            } else {
                progress.state
            },
            step: machine.step.clone(),
            ..progress
        },
        Some(_) | None => progress,
    };
    EmergencyStopReply {
        machines: reply.machines.into_iter().map(refresh).collect(),
        epoch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_heard_once_it_reports_the_epoch() {
        let reply = |states: [&str; 3]| EmergencyStopReply {
            epoch: 5,
            machines: ["a", "b", "c"]
                .into_iter()
                .zip(states)
                .map(|(machine, state)| StopProgress {
                    machine: machine.into(),
                    state: state.into(),
                    ..StopProgress::default()
                })
                .collect(),
        };
        let machine = |name: &str, epoch, step: &str| Machine {
            name: name.into(),
            epoch,
            step: step.into(),
            ..Machine::default()
        };
        let now = [
            machine("a", 5, ""),
            machine("b", 5, "judging"),
            machine("c", 4, ""),
        ];
        let after = refreshed(reply(["silent", "silent", "silent"]), &now);
        let states: Vec<&str> = after.machines.iter().map(|m| m.state.as_str()).collect();
        assert_eq!(states, ["acknowledged", "finishing", "silent"]);
        assert_eq!(after.machines[1].step, "judging");
        assert!(is_open(&after));
        assert!(!is_open(&reply(["acknowledged"; 3])));
    }
}
