//! The program `lab` against a coordinator that answers as told: what it asks, what it prints, and
//! the exit status it ends with.

mod coordinator;
// One CA and one TLS server for the tests of both crates.
#[path = "../../platform/tests/common/mod.rs"]
mod tls;

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Output, Stdio},
    time::Duration,
};

use coordinator::{Coordinator, Script};
use lab_proto::operator::{
    CheckConfigReply, ConfigFault, ConfigReply, EmergencyStopReply, ExecuteReply,
    HealthCheckStarted, HealthReply, Machine, MachineHealth, MachineList, PauseReason,
    PinTargetsReply, PlanReply, PlannedGroup, PlannedMachine, PlannedWave, Rollout, RolloutGroup,
    RolloutMachine, Status, StopProgress, Wave,
};
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
    let machines = machines.iter().map(|(name, state)| RolloutMachine {
        name: (*name).into(),
        state: (*state).into(),
        ..RolloutMachine::default()
    });
    let wave = Wave {
        machines: machines.collect(),
        ..Wave::default()
    };
    let group = RolloutGroup {
        name: "dev".into(),
        state: "open".into(),
        waves: vec![wave],
        ..RolloutGroup::default()
    };
    let rollout = Rollout {
        id: "r-7".into(),
        kind: "update".into(),
        state: state.into(),
        groups: vec![group],
        ..Rollout::default()
    };
    Status {
        rollouts: vec![rollout],
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

#[tokio::test]
async fn execute_follows_the_rollout_to_its_end() {
    let script = begun().streams(&[
        status("active", &[("dev-01", "leased")]),
        status("finished", &[("dev-01", "updated")]),
    ]);
    let coordinator = Coordinator::start(script).await;
    let line = ["update", "execute", "--group=dev", "--parallel=3"];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("✔ update r-7 finished: 1 of 1 machine updated"),
        "{out}"
    );
    assert!(
        err.contains("dev  dev-01  ▶ leased") && err.contains("✔ updated"),
        "{err}"
    );
    let said = coordinator.said("execute");
    assert_eq!(said["selection"]["groups"], json!(["dev"]));
    assert_eq!(
        (&said["parallel"], &said["kind"]),
        (&json!(3), &json!("update"))
    );
    assert!(
        !out.contains('\u{1b}') && !err.contains('\u{1b}'),
        "no colours in a pipe"
    );
}

#[tokio::test]
async fn endings_are_told_by_the_exit_status() {
    let late = |mut status: Status| {
        status.rollouts[0].only_late_left = true;
        status
    };
    let paused = |mut status: Status| {
        status.rollouts[0].pause = Some(PauseReason {
            kind: "budget-spent".into(),
            text: "1 machine failed".into(),
            way_out: "lab update resume r-7".into(),
        });
        status
    };
    for (end, code, printed, noted) in [
        (
            status("finished", &[("a", "updated"), ("b", "rolled-back")]),
            0,
            "finished",
            "`lab update verify` will say no",
        ),
        (
            late(status("active", &[("a", "updated"), ("b", "pending")])),
            0,
            "late: b",
            "",
        ),
        (
            paused(status("paused", &[("a", "failed")])),
            1,
            "way out: lab update resume r-7",
            "",
        ),
        (
            status("failed", &[("a", "rolled-back")]),
            9,
            "back and healthy",
            "",
        ),
        (status("failed", &[("a", "failed")]), 1, "failed", ""),
        (status("aborted", &[("a", "pending")]), 1, "aborted", ""),
    ] {
        let coordinator = Coordinator::start(begun().streams(&[end])).await;
        let (exit, out, err) = run(&coordinator, &["update", "execute"]).await;
        assert_eq!(exit, code, "{out}{err}");
        assert!(out.contains(printed), "{out}");
        assert!(err.contains(noted), "{err}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_no_end() {
    let script = begun()
        .streams(&[status("active", &[("a", "leased")])])
        .streams(&[status("finished", &[("a", "updated")])]);
    let coordinator = Coordinator::start(script).await;
    let (code, out, err) = run(&coordinator, &["update", "execute", "-o", "json"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("connection lost") && err.contains("restarting"),
        "{err}"
    );
    let document = json_of(&out);
    assert_eq!(document["result"], "finished");
    assert_eq!(
        document["rollout"]["groups"][0]["waves"][0]["machines"][0]["state"],
        "updated"
    );
}

#[tokio::test]
async fn the_time_limit_and_ctrl_c_leave_the_rollout_alone() {
    let script = || begun().streams(&[status("active", &[("a", "leased")])]);
    let coordinator = Coordinator::start(script()).await;
    let line = ["update", "execute", "--timeout=1"];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 124, "{err}");
    assert!(
        err.contains("rollout r-7 goes on") && err.contains("lab update watch r-7"),
        "{err}"
    );

    let coordinator = Coordinator::start(script()).await;
    let mut command = lab(&coordinator, &["update", "watch", "r-7"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    while !coordinator.calls().contains(&"watch_status".to_owned()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let id = child.id().expect("running").to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().await;
    assert!(sent.expect("kill runs").success());
    let (code, _, err) = ended(child.wait_with_output().await.expect("ended"));
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("rollout r-7 goes on"), "{err}");
    let stops = ["pause", "abort", "emergency_stop"];
    assert!(
        coordinator
            .calls()
            .iter()
            .all(|call| !stops.contains(&call.as_str()))
    );
}

#[tokio::test]
async fn nothing_to_do_and_detaching_are_a_yes() {
    let coordinator = Coordinator::start(Script::default()).await;
    let (code, out, _) = run(&coordinator, &["update", "execute"]).await;
    assert_eq!((code, out.as_str()), (0, "nothing to do\n"));

    let coordinator = Coordinator::start(begun()).await;
    let (code, out, _) = run(&coordinator, &["update", "execute", "--detach"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("lab update watch r-7"), "{out}");
    assert_eq!(coordinator.calls(), ["execute"]);
}

#[tokio::test]
async fn a_dry_run_begins_nothing() {
    let coordinator = Coordinator::start(Script::default().says("plan", plan())).await;
    let (code, out, _) = run(&coordinator, &["update", "execute", "--dry-run"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("26.05.1 → 26.05.2"), "{out}");
    assert_eq!(coordinator.calls(), ["plan"]);
}

fn plan() -> PlanReply {
    let machine = PlannedMachine {
        name: "web-01".into(),
        running: OLD.into(),
        target: NEW.into(),
        staged: true,
        needs_reboot: false,
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

#[tokio::test]
async fn a_rollback_shows_the_way_back_and_needs_no_terminal() {
    let script = begun()
        .says("plan", plan())
        .streams(&[status("finished", &[("web-01", "updated")])]);
    let coordinator = Coordinator::start(script).await;
    let line = ["update", "rollback", "--machine=web-01", "--immediate"];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("web-01  26.05.1 → 26.05.2"), "{err}");
    let said = coordinator.said("execute");
    assert_eq!(
        (&said["kind"], &said["immediate"]),
        (&json!("rollback"), &json!(true))
    );
    assert_eq!(
        said["if_plan"], "",
        "a script is not held to a plan it did not see"
    );
}

#[tokio::test]
async fn what_cannot_be_taken_back_needs_a_yes() {
    let coordinator = Coordinator::start(begun().says("plan", plan())).await;
    for line in [
        ["machines", "reboot", "web-01"].as_slice(),
        &["machines", "forget", "web-01", "--reason=gone"],
        &["identity", "revoke", "web-01", "--reason=stolen"],
    ] {
        let (code, _, err) = run(&coordinator, line).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("hint: repeat it with --yes"), "{err}");
    }
    assert!(!coordinator.calls().contains(&"execute".to_owned()));
    let line = ["machines", "forget", "web-01", "--reason=gone", "--yes"];
    assert_eq!(run(&coordinator, &line).await.0, 0);
    assert_eq!(coordinator.said("forget_machine")["machine"], "web-01");
}

fn machine(running: &str, staged: bool) -> MachineList {
    let machine = Machine {
        name: "web-01".into(),
        group: "critical".into(),
        state: "healthy".into(),
        running: running.into(),
        target: NEW.into(),
        staged,
        ..Machine::default()
    };
    MachineList {
        machines: vec![machine],
    }
}

#[tokio::test]
async fn prepare_pins_and_waits_until_it_is_staged() {
    let pinned = PinTargetsReply {
        machines: vec!["web-01".into()],
    };
    let script = Script::default()
        .says("pin_targets", pinned)
        .says("list_machines", machine(OLD, false))
        .says("list_machines", machine(OLD, false))
        .says("list_machines", machine(OLD, true));
    let coordinator = Coordinator::start(script).await;
    let directory = tempfile::tempdir().expect("a directory");
    let targets = directory.path().join("targets.json");
    std::fs::write(&targets, json!({ "web-01": NEW }).to_string()).expect("written");
    let source = json!({ "updateSettings": { "source": { "targets": targets } } });
    // From the command line, and the same from the configuration.
    let flag = format!("--targets={}", targets.display());
    let line = [
        "update",
        "prepare",
        "--group=critical",
        &flag,
        "--output=json",
    ];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(json_of(&out)["staged"], json!(["web-01"]));
    let said = coordinator.said("pin_targets");
    assert_eq!(said["targets"]["web-01"]["kind"]["Closure"], NEW, "{said}");

    let config = ConfigReply {
        revision: 3,
        document: source.to_string(),
        ..ConfigReply::default()
    };
    let script = Script::default()
        .says("get_config", config)
        .says("list_machines", machine(NEW, false))
        .says(
            "pin_targets",
            PinTargetsReply {
                machines: vec!["web-01".into()],
            },
        );
    let coordinator = Coordinator::start(script).await;
    let (code, _, err) = run(&coordinator, &["update", "prepare"]).await;
    assert_eq!(code, 0, "{err}");

    let coordinator = Coordinator::start(Script::default()).await;
    let (code, _, err) = run(&coordinator, &["update", "prepare"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("hint: name a source: --flake=REF"), "{err}");
}

fn answers(state: &str) -> HealthReply {
    let machine = MachineHealth {
        machine: "web-01".into(),
        group: "critical".into(),
        state: state.into(),
        checks: vec![],
    };
    HealthReply {
        machines: vec![machine],
    }
}

#[tokio::test]
async fn health_and_verification_say_yes_or_no() {
    let started = HealthCheckStarted {
        request: 4,
        machines: vec!["web-01".into()],
    };
    let script = |states: &[&str], running| {
        let script = Script::default().says("request_health_check", &started);
        let script = script.says("list_machines", machine(running, true));
        states.iter().fold(script, |script, state| {
            script.says("get_health", answers(state))
        })
    };
    for (states, running, health, verify) in [
        (["waiting", "healthy"].as_slice(), NEW, 0, 0),
        (&["waiting", "healthy"], OLD, 0, 1),
        (&["unhealthy"], NEW, 1, 1),
        (&["offline"], NEW, 1, 1),
        (&["waiting"], NEW, 1, 1),
    ] {
        let coordinator = Coordinator::start(script(states, running)).await;
        let line = ["health-check", "--group=critical", "--timeout=1"];
        let (code, out, _) = run(&coordinator, &line).await;
        assert_eq!(code, health, "{states:?}: {out}");
        assert_eq!(coordinator.said("get_health")["request"], 4);
        let coordinator = Coordinator::start(script(states, running)).await;
        let line = [
            "update",
            "verify",
            "--group=critical",
            "--timeout=1",
            "-o",
            "json",
        ];
        let (code, out, _) = run(&coordinator, &line).await;
        assert_eq!(code, verify, "{states:?} {running}: {out}");
        assert_eq!(json_of(&out)["ok"], verify == 0);
    }
}

#[tokio::test]
async fn configuration_is_changed_key_by_key_and_refused_as_a_whole() {
    let config = ConfigReply {
        revision: 3,
        document: json!({ "updateGroups": { "dev": { "machines": ["a"] } } }).to_string(),
        ..ConfigReply::default()
    };
    let done = CheckConfigReply {
        revision: 4,
        faults: vec![],
    };
    let script = || Script::default().says("get_config", &config);
    let coordinator = Coordinator::start(script().says("set_config", &done)).await;
    let line = [
        "update-config",
        "set",
        "--group=dev",
        "--key=allowReboot",
        "--value=true",
    ];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "+ updateGroups.dev.allowReboot: true\nrevision 4 is in force\n"
    );
    let said = coordinator.said("set_config");
    assert_eq!(said["if_revision"], 3);
    let document = json_of(said["document"].as_str().expect("text"));
    assert_eq!(document["updateGroups"]["dev"]["allowReboot"], true);

    let fault = |path: &str| ConfigFault {
        path: path.into(),
        message: "not a window".into(),
        hint: "like 02:00-06:00".into(),
    };
    let faulty = CheckConfigReply {
        revision: 3,
        faults: vec![
            fault("updateGroups.dev.maintenanceWindow"),
            fault("updateGroups.x"),
        ],
    };
    let coordinator = Coordinator::start(script().says("check_config", faulty)).await;
    let file = coordinator.home().join("update-config.json");
    std::fs::write(&file, "{}").expect("written");
    let file = file.display().to_string();
    let (code, _, err) = run(&coordinator, &["update-config", "import", &file]).await;
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("2 faults; nothing was changed") && err.contains(&file),
        "{err}"
    );
    assert!(
        err.contains("updateGroups.dev.maintenanceWindow: not a window"),
        "{err}"
    );
    assert!(!coordinator.calls().contains(&"set_config".to_owned()));

    let (code, _, err) = run(&coordinator, &["update-config", "show", "--group=prod"]).await;
    assert_eq!(code, 5);
    assert!(err.contains("the groups are: dev"), "{err}");
}

#[tokio::test]
async fn refusals_keep_their_exit_status() {
    let refusals = [
        (
            tonic::Status::permission_denied("role viewer may not do that"),
            4,
        ),
        (
            tonic::Status::failed_precondition("the fleet is stopped"),
            4,
        ),
        (tonic::Status::not_found("no group prod"), 5),
        (tonic::Status::aborted("the plan no longer holds"), 6),
        (tonic::Status::internal("broken"), 70),
        (tonic::Status::unavailable("stopping"), 3),
    ];
    for (status, code) in refusals {
        let said = status.message().to_owned();
        let coordinator = Coordinator::start(Script::default().refuses("execute", status)).await;
        let (exit, out, err) = run(&coordinator, &["update", "execute"]).await;
        assert_eq!(exit, code, "{err}");
        assert!(out.is_empty() && err.contains(&said), "{err}");
    }
}

#[tokio::test]
async fn an_emergency_stop_is_not_held_up() {
    let progress = StopProgress {
        machine: "web-01".into(),
        state: "silent".into(),
        ..StopProgress::default()
    };
    let reply = EmergencyStopReply {
        epoch: 5,
        machines: vec![progress],
    };
    let mut heard = machine(OLD, true);
    heard.machines[0].epoch = 5;
    let script = Script::default()
        .says("emergency_stop", reply)
        .says("list_machines", heard);
    let coordinator = Coordinator::start(script).await;
    let line = ["emergency-stop", "--group=critical", "--reason=bad release"];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("web-01  ✔ acknowledged"), "{out}");
    let said = coordinator.said("emergency_stop");
    assert_eq!(
        (&said["mode"], &said["reason"]),
        (&json!("finish"), &json!("bad release"))
    );
}

#[tokio::test]
async fn without_coordinator_or_identity_the_next_step_is_named() {
    let mut coordinator = Coordinator::start(Script::default()).await;
    std::fs::set_permissions(
        &coordinator.identity,
        std::fs::Permissions::from_mode(0o644),
    )
    .expect("changed");
    let (code, _, err) = run(&coordinator, &["why", "web-01"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("chmod 600"), "{err}");
    coordinator.identity = coordinator.home().join("none.pem");
    let (code, _, err) = run(&coordinator, &["why", "web-01"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("lab identity enrol"), "{err}");

    let mut coordinator = Coordinator::start(Script::default()).await;
    coordinator.address = "127.0.0.1:1".to_owned();
    let (code, _, err) = run(&coordinator, &["update", "status"]).await;
    assert_eq!(code, 3);
    assert!(err.contains("no connection to 127.0.0.1:1"), "{err}");
}

#[tokio::test]
async fn enrolment_writes_an_identity_once() {
    let ca = tls::Ca::new();
    let token = ca.token().reveal();
    let enrolment = tls::Server::of(ca).start().await;
    let mut coordinator = Coordinator::start(Script::default()).await;
    coordinator.identity = coordinator.home().join(".config/lab/identity.pem");
    let file = coordinator.home().join("token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let file = format!("--token-file={}", file.display());
    let address = format!("--enrol-address={enrolment}");
    let line = ["identity", "enrol", &file, &address];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("✔ enrolled as spiffe://lab-updater/machine/web-01"),
        "{out}"
    );
    let mode = std::fs::metadata(&coordinator.identity)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let noted = coordinator.home().join(".config/lab/coordinator");
    assert_eq!(
        std::fs::read_to_string(noted).expect("noted").trim(),
        coordinator.address
    );
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 2);
    assert!(err.contains("--replace"), "{err}");
    let line = [
        "identity",
        "enrol",
        "--token=labenr1_nonsense",
        &address,
        "--replace",
    ];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 2, "{err}");
    assert!(
        !err.contains("nonsense"),
        "a token is never repeated: {err}"
    );
}

/// Runs the document's script (its array renamed) with a `sleep` that does not.
async fn staggered_update(coordinator: &Coordinator) -> (i32, String) {
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/examples/staggered-update.sh"
    );
    let logs = coordinator.home().join("logs");
    let programs = coordinator.home().join("bin");
    std::fs::create_dir_all(&logs).expect("made");
    std::fs::create_dir_all(&programs).expect("made");
    let script = std::fs::read_to_string(example).expect("the example");
    let here = script.replace("/var/log/lab-updates", &logs.display().to_string());
    assert_ne!(here, script, "the script logs where the document says");
    let file = coordinator.home().join("staggered-update.sh");
    std::fs::write(&file, here).expect("written");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lab"), programs.join("lab")).expect("linked");
    std::os::unix::fs::symlink("/bin/true", programs.join("sleep")).expect("linked");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .arg(&file)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("LAB_COORDINATOR", &coordinator.address)
        .env("LAB_IDENTITY", &coordinator.identity)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("bash runs");
    let (code, out, err) = ended(output);
    (code, out + &err)
}

/// A fleet of one machine per group, as far as the script can see.
fn for_the_script(end: &str, health: &[&str]) -> Script {
    let config = ConfigReply {
        revision: 1,
        document: json!({ "updateSettings": { "source": { "channel": "https://x" } } }).to_string(),
        ..ConfigReply::default()
    };
    let pinned = PinTargetsReply {
        machines: vec!["web-01".into()],
    };
    let script = begun()
        .says("get_config", config)
        .says("pin_targets", pinned)
        .says("list_machines", machine(NEW, true))
        .says("plan", plan())
        .streams(&[status("finished", &[("web-01", end)])]);
    health.iter().fold(script, |script, state| {
        script.says("get_health", answers(state))
    })
}

#[tokio::test]
async fn the_documents_script_goes_through_all_groups() {
    let coordinator = Coordinator::start(for_the_script("updated", &["healthy"])).await;
    let (code, said) = staggered_update(&coordinator).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("All groups updated successfully"), "{said}");
    let executed = coordinator
        .calls()
        .iter()
        .filter(|call| *call == "execute")
        .count();
    assert_eq!(executed, 4);
    assert_eq!(
        coordinator.said("execute")["selection"]["groups"],
        json!(["management"])
    );
    assert_eq!(coordinator.said("notify")["level"], "info");
}

#[tokio::test]
async fn the_documents_script_rolls_back_what_does_not_verify() {
    let script = for_the_script("rolled-back", &["healthy", "unhealthy"]);
    let coordinator = Coordinator::start(script).await;
    let (code, said) = staggered_update(&coordinator).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("Verification failed for dev, initiating rollback"),
        "{said}"
    );
    assert_eq!(coordinator.said("execute")["kind"], "rollback");
    let notice = coordinator.said("notify");
    assert_eq!(notice["level"], "error");
    assert_eq!(notice["message"], "Update failed for dev, rolled back");
}
