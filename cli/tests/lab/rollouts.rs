//! Rollouts: beginning, following, ending, stopping.

use super::*;

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
async fn a_rollout_that_is_taken_back_is_waited_for_to_the_end_of_that() {
    let taken_back = |state: &str, back: Option<&str>| {
        let mut status = status(state, &[("a", "updated"), ("b", "rolled-back")]);
        status.rollouts[0].takes_back = state == "paused";
        if let Some(back) = back {
            let mut rollback = rollout("r-8", back, &[("a", "updated")]);
            (rollback.kind, rollback.undoes) = ("rollback".into(), "r-7".into());
            status.rollouts.insert(0, rollback);
        }
        status
    };
    for (end, code, printed) in [
        ("finished", 9, "what it brought was taken back"),
        ("paused", 1, "failed"),
        ("failed", 1, "failed"),
    ] {
        let stream = [
            taken_back("paused", None),
            taken_back("aborted", Some("active")),
            taken_back("aborted", Some(end)),
        ];
        let coordinator = Coordinator::start(begun().streams(&stream)).await;
        let (exit, out, err) = run(&coordinator, &["update", "execute"]).await;
        assert_eq!(exit, code, "{end}: {out}{err}");
        assert!(out.contains(printed), "{end}: {out}");
        assert!(err.contains("rollback r-8"), "{end}: {err}");
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
async fn a_plan_is_asked_for_with_the_flags_of_the_update_that_it_is_of() {
    let coordinator = Coordinator::start(Script::default().says("plan", plan())).await;
    for (flags, emergency, again) in [
        (&["update", "plan"][..], false, false),
        (
            &["update", "plan", "--emergency", "--retry-failed"],
            true,
            true,
        ),
    ] {
        let (code, _, err) = run(&coordinator, flags).await;
        assert_eq!(code, 0, "{err}");
        let said = coordinator.said("plan");
        let flags = (&said["immediate"], &said["retry_failed"]);
        assert_eq!(flags, (&json!(emergency), &json!(again)));
    }
}

#[tokio::test]
async fn a_rollback_that_leads_nowhere_is_a_no() {
    let left_out = |reasons: &[&str]| {
        let excluded = reasons.iter().map(|kind| Excluded {
            machine: "web-01".into(),
            reason: Some(WaitReason {
                kind: (*kind).into(),
                text: format!("because of {kind}"),
                ..WaitReason::default()
            }),
        });
        PlanReply {
            excluded: excluded.collect(),
            ..PlanReply::default()
        }
    };
    let (no, done) = ((1, "nobody-can-go"), (0, "nothing-to-do"));
    for (command, reasons, (code, result)) in [
        ("rollback", &["no-such-generation"][..], no),
        ("rollback", &["up-to-date", "nothing-before"], no),
        ("rollback", &["quarantined"], no),
        ("rollback", &["up-to-date", "moved-on"], done),
        ("execute", &["up-to-date", "bad-target"], no),
        ("execute", &["target-not-allowed"], no),
        ("execute", &["quarantined", "no-target", "up-to-date"], done),
    ] {
        let plan = left_out(reasons);
        let reply = ExecuteReply {
            plan: Some(plan.clone()),
            ..ExecuteReply::default()
        };
        let script = Script::default().says("plan", plan).says("execute", reply);
        let coordinator = Coordinator::start(script).await;
        let (exit, out, err) = run(&coordinator, &["update", command]).await;
        assert_eq!(exit, code, "{command} {reasons:?}: {out}{err}");
        let heading = if code == 0 {
            "nothing to do"
        } else {
            "no machine can go"
        };
        assert!(out.starts_with(heading), "{out}");
        assert!(out.contains(&format!("because of {}", reasons[0])), "{out}");
        let (exit, out, _) = run(&coordinator, &["update", command, "-o", "json"]).await;
        assert_eq!(
            (exit, json_of(&out)["result"].as_str()),
            (code, Some(result))
        );
    }
}

#[tokio::test]
async fn a_dry_run_begins_nothing() {
    let coordinator = Coordinator::start(Script::default().says("plan", plan())).await;
    let (code, out, _) = run(&coordinator, &["update", "execute", "--dry-run"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("26.05.1 → 26.05.2"), "{out}");
    assert_eq!(coordinator.calls(), ["plan"]);
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
async fn the_way_back_can_be_looked_at_alone_and_held_to() {
    let coordinator = Coordinator::start(begun().says("plan", plan())).await;
    let line = ["update", "rollback", "--to-generation=3", "--dry-run"];
    let (code, out, _) = run(&coordinator, &line).await;
    assert_eq!(code, 0);
    assert!(out.contains("26.05.1 → 26.05.2"), "{out}");
    assert_eq!(coordinator.calls(), ["plan"]);
    let said = coordinator.said("plan");
    assert_eq!(
        (&said["kind"], &said["to_generation"]),
        (&json!("rollback"), &json!(3))
    );
    let line = ["update", "rollback", "--if-plan=p1", "--detach"];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(coordinator.said("execute")["if_plan"], "p1");
}

#[tokio::test]
async fn a_plan_that_holds_no_more_is_to_be_looked_at_again() {
    for (command, again) in [
        ("execute", "lab update plan"),
        ("rollback", "lab update rollback --dry-run"),
    ] {
        let refusal = tonic::Status::aborted("the plan no longer holds: it is p2 now, not p1");
        let script = Script::default().says("plan", plan());
        let coordinator = Coordinator::start(script.refuses("execute", refusal)).await;
        let (code, _, err) = run(&coordinator, &["update", command, "--if-plan=p1"]).await;
        assert_eq!(code, 6, "{err}");
        assert!(err.contains(again), "{err}");
    }
}

#[tokio::test]
async fn an_emergency_is_a_call_of_its_own_and_needs_a_reason() {
    let begun = json!({ "rollout": "r-7", "plan": null });
    let coordinator = Coordinator::start(Script::default().says("execute_emergency", begun)).await;
    let (code, _, err) = run(&coordinator, &["update", "execute", "--emergency"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("--reason"), "{err}");
    let line = [
        "update",
        "execute",
        "--emergency",
        "--reason=CVE",
        "--detach",
    ];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(coordinator.calls(), ["execute_emergency"]);
    let said = coordinator.said("execute_emergency");
    assert_eq!(
        (&said["kind"], &said["reason"]),
        (&json!("update"), &json!("CVE"))
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

#[tokio::test]
async fn machines_are_put_aside_and_released_by_name() {
    let coordinator = Coordinator::start(begun()).await;
    let line = ["machines", "quarantine", "web-01", "--reason=its disk"];
    assert_eq!(run(&coordinator, &line).await.0, 0);
    let said = coordinator.said("quarantine_machines");
    assert_eq!(
        said,
        json!({ "machines": ["web-01"], "reason": "its disk" })
    );
    let line = ["machines", "release", "web-01", "web-02"];
    assert_eq!(run(&coordinator, &line).await.0, 0);
    let said = coordinator.said("release_machines");
    assert_eq!(said["machines"], json!(["web-01", "web-02"]));
    for line in [
        ["machines", "quarantine", "--reason=why"].as_slice(),
        &["machines", "quarantine", "web-01"],
        &["machines", "release"],
    ] {
        assert_eq!(run(&coordinator, line).await.0, 2, "{line:?}");
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
