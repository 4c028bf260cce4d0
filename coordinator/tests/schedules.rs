//! Runs of schedules over real gRPC: their sources are really read, and where Nix is there a flake is
//! really locked and evaluated.

mod bed;

use std::time::Duration;

use bed::{Bed, NEW, OLD, poll, report};
use lab_proto::operator::{
    AuditRequest, HistoryRequest, ListSchedulesRequest, Schedule, ScheduleRequest,
    SetConfigRequest, StatusRequest,
};
use serde_json::{Value, json};
use tonic::Code;

/// The bed's fleet with these schedules.
async fn configure(bed: &mut Bed, schedules: Value) {
    let document = json!({
        "updateGroups": { "dev": { "machines": ["dev-01", "dev-02"], "updatePolicy": "aggressive" } },
        "schedules": schedules,
    });
    let request = SetConfigRequest {
        document: document.to_string(),
        ..SetConfigRequest::default()
    };
    let reply = bed.admin.set_config(request).await.expect("an answer");
    assert_eq!(reply.into_inner().faults, []);
}

fn nightly() -> ScheduleRequest {
    ScheduleRequest {
        schedule: "nightly".to_owned(),
        reason: "a test".to_owned(),
    }
}

async fn schedule(bed: &mut Bed) -> Schedule {
    let list = bed.admin.list_schedules(ListSchedulesRequest {}).await;
    let mut list = list.expect("a list").into_inner();
    list.schedules.remove(0)
}

/// Waits until the run has come to something.
async fn settled(bed: &mut Bed) -> Schedule {
    for _ in 0..600 {
        let seen = schedule(bed).await;
        if seen.run.as_ref().is_none_or(|run| run.stage != "resolving") {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("its targets are not found out");
}

#[tokio::test]
async fn a_run_reads_its_targets_and_executes_them() {
    let mut bed = Bed::start().await;
    let targets = bed.directory.path().join("targets.json");
    let source = json!({ "targets": targets });
    configure(
        &mut bed,
        json!({ "nightly": { "cron": "0 2 * * *", "action": "update", "source": source } }),
    )
    .await;
    let mut agent = bed.agent("dev-01").await;
    let _told = agent.poll(poll(report(1, OLD))).await.expect("an answer");

    // There is no such file yet.
    bed.admin.run_schedule(nightly()).await.expect("begun");
    let last = settled(&mut bed).await.last.expect("it ended");
    assert_eq!(last.how, "failed");
    assert!(last.text.contains("failed to read"), "{}", last.text);

    // It names one machine of the schedule, and one that is nobody's.
    std::fs::write(&targets, json!({ "dev-01": NEW, "other": NEW }).to_string()).expect("written");
    let begun = bed.admin.run_schedule(nightly()).await.expect("begun");
    assert_eq!(begun.into_inner().text, "nightly runs: run 2");
    let run = settled(&mut bed).await.run.expect("a rollout");
    assert_eq!(
        (run.stage.as_str(), run.rollout.as_str()),
        ("rollout", "r1")
    );
    let status = bed.admin.get_status(StatusRequest::default()).await;
    let rollouts = status.expect("a status").into_inner().rollouts;
    assert_eq!(rollouts[0].created_by, "schedule:nightly");
    assert_eq!(rollouts[0].groups[0].waves[0].machines[0].target, NEW);

    // Who did it is in the audit log, and what came of it in the history.
    let audit = bed.admin.get_audit(AuditRequest::default()).await;
    let audit = audit.expect("an audit").into_inner().records;
    let runs = audit
        .iter()
        .filter(|record| record.action == "run-schedule");
    assert_eq!(runs.count(), 2);
    let history = bed.admin.get_history(HistoryRequest::default()).await;
    let history = history.expect("a history").into_inner().entries;
    let failed = history.iter().find(|entry| entry.kind == "schedule-failed");
    assert_eq!(failed.expect("told").by, "schedule:nightly");

    // Whoever may not start a rollout may not run or skip a schedule, but may look.
    for role in ["viewer", "approver"] {
        let mut other = bed.operator(role, role).await;
        let run = other.run_schedule(nightly()).await.expect_err(role);
        let skip = other.skip_schedule(nightly()).await.expect_err(role);
        assert_eq!(
            (run.code(), skip.code()),
            (Code::PermissionDenied, Code::PermissionDenied)
        );
        other
            .list_schedules(ListSchedulesRequest {})
            .await
            .expect("a list");
    }
    bed.admin.skip_schedule(nightly()).await.expect("left out");
    assert!(schedule(&mut bed).await.skip.is_some());
    bed.server.stop().await.expect("a calm end");
}

#[tokio::test]
async fn a_run_that_was_under_way_is_resolved_after_a_restart() {
    let mut bed = Bed::start().await;
    let fifo = bed.directory.path().join("targets.json");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("made");
    let source = json!({ "targets": fifo });
    configure(
        &mut bed,
        json!({ "nightly": { "cron": "0 2 * * *", "action": "update", "source": source } }),
    )
    .await;
    bed.admin.run_schedule(nightly()).await.expect("begun");
    // Nobody writes: whoever reads it waits, until the end of that process.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        schedule(&mut bed).await.run.expect("begun").stage,
        "resolving"
    );
    let Bed {
        server,
        directory,
        store,
        ..
    } = bed;
    server.stop().await.expect("a calm end");
    // Lets the reader of before go, which blocks a thread of this process.
    drop(
        std::fs::OpenOptions::new()
            .write(true)
            .open(&fifo)
            .expect("opened"),
    );
    std::fs::remove_file(&fifo).expect("removed");
    std::fs::write(&fifo, json!({ "dev-01": NEW }).to_string()).expect("written");
    let mut bed = Bed::start_with(store, directory).await;
    let run = settled(&mut bed).await.run.expect("a rollout");
    assert_eq!((run.number, run.rollout.as_str()), (1, "r1"));
    bed.server.stop().await.expect("a calm end");
}

#[tokio::test]
async fn a_flake_is_locked_and_evaluated_by_real_nix() {
    let there = std::process::Command::new("nix-store")
        .arg("--init")
        .output();
    if there.is_err() {
        eprintln!("skipped: Nix is not installed");
        return;
    }
    let mut bed = Bed::start().await;
    let flake = bed.directory.path().join("flake");
    std::fs::create_dir(&flake).expect("made");
    let system = |name: &str| {
        format!(
            "nixosConfigurations.{name}.config.system.build.toplevel = derivation {{ \
             name = \"nixos-system-{name}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
             args = [ \"-c\" \"echo > $out\" ]; }};"
        )
    };
    let outputs = [system("dev-01"), system("dev-02")].concat();
    let text = format!("{{ outputs = _: {{ {outputs} }}; }}");
    std::fs::write(flake.join("flake.nix"), text).expect("written");
    // A build takes a user of its own, which not every machine has.
    let source = json!({ "flake": format!("path:{}", flake.display()), "buildOnMachine": true });
    configure(
        &mut bed,
        json!({ "nightly": { "cron": "0 2 * * *", "action": "update", "source": source } }),
    )
    .await;
    bed.admin.run_schedule(nightly()).await.expect("begun");
    let seen = settled(&mut bed).await;
    let run = seen.run.unwrap_or_else(|| panic!("{:?}", seen.last));
    assert_eq!(run.rollout, "r1");
    let status = bed.admin.get_status(StatusRequest::default()).await;
    let rollouts = status.expect("a status").into_inner().rollouts;
    let machines = rollouts[0].groups[0]
        .waves
        .iter()
        .flat_map(|wave| &wave.machines);
    let targets: Vec<&str> = machines.map(|machine| machine.target.as_str()).collect();
    assert_eq!(targets.len(), 2);
    assert!(
        targets[0].contains("narHash=") && targets[0].ends_with("#dev-01"),
        "{targets:?}"
    );
    bed.server.stop().await.expect("a calm end");
}
