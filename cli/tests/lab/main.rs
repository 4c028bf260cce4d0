//! The program `lab` against a coordinator that answers as told: what it asks, what it prints, and
//! the exit status it ends with.

mod answers;
mod coordinator;
mod machines;
mod made;
mod renewal;
mod rollouts;
mod schedules;
mod script;
mod settings;
mod shell;
mod terminal;
mod traffic;
mod waiting;
// One CA and one TLS server for the tests of both crates.
#[path = "../../../platform/tests/common/mod.rs"]
mod tls;

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Output, Stdio},
    time::Duration,
};

use coordinator::{Coordinator, Script};
use lab_proto::operator::{
    CheckConfigReply, ConfigFault, ConfigReply, EmergencyStopReply, Excluded, ExecuteReply,
    HealthCheckStarted, HealthReply, Machine, MachineHealth, MachineList, PauseReason,
    PinTargetsReply, PlanReply, PlannedGroup, PlannedMachine, PlannedWave, RolloutAsBefore, Status,
    StopProgress, WaitReason, WhyReply,
};
use made::rollout;
use serde_json::{Value, json};
use tokio::process::Command;

const OLD: &str = "/nix/store/00000000000000000000000000000000-nixos-system-web-01-26.05.1";
const NEW: &str = "/nix/store/11111111111111111111111111111111-nixos-system-web-01-26.05.2";

fn lab(coordinator: &Coordinator, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", coordinator.home())
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .env("LAB_COORDINATOR", &coordinator.address)
        .env("LAB_IDENTITY", &coordinator.identity)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(coordinator: &Coordinator, words: &[&str]) -> (i32, String, String) {
    ended(lab(coordinator, words).output().await.expect("started"))
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("not killed");
    (code, text(output.stdout), text(output.stderr))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn status(state: &str, machines: &[(&str, &str)]) -> Status {
    Status {
        rollouts: vec![rollout("r-7", state, machines)],
        ..Status::default()
    }
}

fn begun() -> Script {
    let reply = ExecuteReply {
        rollout: "r-7".into(),
        ..ExecuteReply::default()
    };
    Script::default().says("execute", reply)
}

fn plan() -> PlanReply {
    let machine = PlannedMachine {
        name: "web-01".into(),
        running: OLD.into(),
        target: NEW.into(),
        staged: true,
        needs_reboot: false,
        window: String::new(),
        ..PlannedMachine::default()
    };
    let wave = PlannedWave {
        machines: vec![machine],
        ..PlannedWave::default()
    };
    let group = PlannedGroup {
        name: "critical".into(),
        waves: vec![wave],
        ..PlannedGroup::default()
    };
    PlanReply {
        id: "6f1c".into(),
        groups: vec![group],
        ..PlanReply::default()
    }
}

fn machine(running: &str, staged: bool) -> MachineList {
    machines(running, &[("web-01", staged)])
}

/// Machines, and whether each has staged its target.
fn machines(running: &str, machines: &[(&str, bool)]) -> MachineList {
    let machines = machines.iter().map(|(name, staged)| Machine {
        name: (*name).into(),
        group: "critical".into(),
        state: "healthy".into(),
        running: running.into(),
        target: NEW.into(),
        staged: *staged,
        ..Machine::default()
    });
    MachineList {
        machines: machines.collect(),
    }
}

fn answers(state: &str) -> HealthReply {
    answers_of(&[state])
}

/// One machine for each state: web-01, web-02…
fn answers_of(states: &[&str]) -> HealthReply {
    let machine = |(number, state): (usize, &&str)| MachineHealth {
        machine: format!("web-{number:02}"),
        group: "critical".into(),
        state: (*state).into(),
        checks: vec![],
    };
    HealthReply {
        machines: (1..).zip(states).map(machine).collect(),
    }
}
