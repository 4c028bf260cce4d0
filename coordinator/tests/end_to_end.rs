//! One machine's way through everything, over real TLS and gRPC: configured, enrolled, staged,
//! granted, confirmed, and seen in status, history and audit log.

mod bed;

use std::time::Duration;

use bed::{Bed, NEW, OLD, held, poll, report, staged};
use lab_proto::{
    agent::{
        Action, Attempt, OutcomeKind, Proceed, RenewRequest, ReportRequest, WatchRequest,
        directive::Action as Said, renew_reply::Answer, signal::Event,
    },
    operator::{
        AuditRequest, EmergencyStopRequest, ExecuteRequest, HistoryRequest, ListMachinesRequest,
        ResumeRequest, StatusRequest, VerifyAuditRequest, WhyRequest,
    },
};
use tokio_stream::StreamExt as _;
use tonic::Code;

async fn asked(
    agent: &mut lab_proto::agent::agent_client::AgentClient<tonic::transport::Channel>,
    request: lab_proto::agent::PollRequest,
) -> Said {
    let directive = agent.poll(request).await.expect("an answer").into_inner();
    assert_eq!(directive.epoch, 1);
    directive.action.expect("an action")
}

/// A coordinator and its machine, which has staged what it is to run.
async fn staged_bed() -> (
    Bed,
    lab_proto::agent::agent_client::AgentClient<tonic::transport::Channel>,
) {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut agent = bed.agent("dev-01").await;
    asked(&mut agent, poll(report(1, OLD))).await;
    bed.pin("dev-01", NEW).await;
    asked(&mut agent, poll(staged(2, OLD, NEW))).await;
    (bed, agent)
}

#[tokio::test]
async fn a_machine_is_updated() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut agent = bed.agent("dev-01").await;

    // Nothing to do yet.
    let Said::Wait(wait) = asked(&mut agent, poll(report(1, OLD))).await else {
        panic!("not a wait");
    };
    assert_eq!(wait.kind, "no-target");

    // A held poll hears of the target at once.
    let mut second = agent.clone();
    let waiting = tokio::spawn(async move {
        asked(&mut second, held(report(2, OLD), Duration::from_secs(60))).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.pin("dev-01", NEW).await;
    let said = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("woken")
        .expect("an answer");
    assert!(matches!(said, Said::Stage(stage) if stage.rollout.is_empty()));

    // Staged; the rollout makes it its turn.
    let mut second = agent.clone();
    let waiting = tokio::spawn(async move {
        asked(
            &mut second,
            held(staged(3, OLD, NEW), Duration::from_secs(60)),
        )
        .await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let executed = bed.admin.execute(ExecuteRequest::default()).await;
    let rollout = executed.expect("a rollout").into_inner().rollout;
    let said = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("woken")
        .expect("an answer");
    let Said::Proceed(grant) = said else {
        panic!("no grant: {said:?}");
    };
    assert_eq!(
        (grant.rollout.as_str(), grant.action()),
        (rollout.as_str(), Action::Update)
    );

    // Asked twice, the same grant.
    let Said::Proceed(again) = asked(&mut agent, poll(staged(4, OLD, NEW))).await else {
        panic!("no grant");
    };
    assert_eq!(again.lease, grant.lease);
    at_work(&mut bed, &mut agent, &grant).await;

    let reported = ReportRequest {
        rollout: rollout.clone(),
        lease: grant.lease,
        outcome: OutcomeKind::Confirmed.into(),
        report: Some(lab_proto::agent::MachineReport {
            last_lease: grant.lease,
            ..report(5, NEW)
        }),
        ..ReportRequest::default()
    };
    // Sent twice, counted once.
    for _ in 0..2 {
        agent.report(reported.clone()).await.expect("acknowledged");
    }
    looked_back_on(&mut bed, &rollout).await;
    bed.server.stop().await.expect("a calm end");
}

async fn at_work(
    bed: &mut Bed,
    agent: &mut lab_proto::agent::agent_client::AgentClient<tonic::transport::Channel>,
    grant: &Proceed,
) {
    let renewal = RenewRequest {
        lease: grant.lease,
        epoch: grant.epoch,
        attempt: Some(Attempt {
            rollout: grant.rollout.clone(),
            lease: grant.lease,
            step: "activating".into(),
            past_no_return: true,
        }),
        silence_ms: 0,
    };
    let answer = agent
        .renew(renewal)
        .await
        .expect("an answer")
        .into_inner()
        .answer;
    assert!(
        matches!(answer, Some(Answer::ValidForMs(ms)) if ms > 0),
        "{answer:?}"
    );

    let status = bed.admin.get_status(StatusRequest::default()).await;
    let status = status.expect("a status").into_inner();
    assert_eq!(
        (status.away, status.away_allowed, status.revision),
        (1, 1, 1)
    );
    let machine = &status.rollouts[0].groups[0].waves[0].machines[0];
    assert_eq!(
        (machine.state.as_str(), machine.step.as_str()),
        ("leased", "activating")
    );
    assert!(machine.lease.expect("a lease").expires_in_s > 0);
    let why = WhyRequest {
        machine: "dev-01".into(),
    };
    let why = bed.admin.why(why).await.expect("an answer").into_inner();
    assert!(!why.may_go && why.wait_reason.is_none(), "it has its turn");
    assert_eq!(
        (why.rollout, why.state.as_str(), why.step.as_str()),
        (grant.rollout.clone(), "leased", "activating")
    );
    let json = serde_json::to_value(&status).expect("JSON");
    assert_eq!(
        json["rollouts"][0]["groups"][0]["waves"][0]["machines"][0]["target"],
        NEW
    );
}

async fn looked_back_on(bed: &mut Bed, rollout: &str) {
    let admin = &mut bed.admin;
    let all = StatusRequest {
        all: true,
        ..StatusRequest::default()
    };
    let status = admin.get_status(all).await.expect("a status").into_inner();
    let shown = &status.rollouts[0];
    assert_eq!(
        (shown.id.as_str(), shown.state.as_str()),
        (rollout, "finished")
    );
    let machine = &shown.groups[0].waves[0].machines[0];
    assert_eq!(
        (machine.state.as_str(), machine.verdict.as_str()),
        ("updated", "confirmed")
    );

    let machines = admin.list_machines(ListMachinesRequest::default()).await;
    let machines = machines.expect("machines").into_inner().machines;
    let (first, second) = (&machines[0], &machines[1]);
    assert_eq!(
        (first.state.as_str(), first.running.as_str()),
        ("healthy", NEW)
    );
    assert!(first.enrolled && !second.enrolled);
    assert_eq!(second.state, "never-seen");

    let why = WhyRequest {
        machine: "dev-01".into(),
    };
    let why = admin.why(why).await.expect("a reason").into_inner();
    assert!(!why.may_go);

    let history = admin.get_history(HistoryRequest::default()).await;
    let history = history.expect("a history").into_inner().entries;
    let kinds: Vec<&str> = history.iter().map(|entry| entry.kind.as_str()).collect();
    let expected = [
        "rollout-finished",
        "group-finished",
        "attempt",
        "rollout-created",
        "config",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(history[0].text, "1 updated");
    assert_eq!(
        (history[2].from.as_str(), history[2].to.as_str()),
        (OLD, NEW)
    );

    let audit = admin.get_audit(AuditRequest::default()).await;
    let audit = audit.expect("an audit log").into_inner().records;
    let actions: Vec<&str> = audit.iter().map(|record| record.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "execute",
            "prepare",
            "enrol",
            "create-token",
            "set-config",
            "bootstrap"
        ]
    );
    let verified = admin
        .verify_audit(VerifyAuditRequest {})
        .await
        .expect("a verdict");
    let verified = verified.into_inner();
    assert!(verified.intact && verified.records == 6);
    assert_eq!(verified.head, audit[0].hash);
}

#[tokio::test]
async fn a_stop_reaches_everybody_who_listens() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut agent = bed.agent("dev-01").await;
    let mut signals = agent
        .watch(WatchRequest {})
        .await
        .expect("a stream")
        .into_inner();
    let first = signals.next().await.expect("a signal").expect("good");
    assert_eq!((first.epoch, first.event), (1, None));

    let mut waiting = agent.clone();
    let waiting = tokio::spawn(async move {
        let asked = held(report(1, OLD), Duration::from_secs(60));
        waiting.poll(asked).await.expect("an answer").into_inner()
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stop = EmergencyStopRequest {
        mode: "rollback".into(),
        reason: "smoke".into(),
        ..EmergencyStopRequest::default()
    };
    let stopped = bed
        .admin
        .emergency_stop(stop)
        .await
        .expect("stopped")
        .into_inner();
    assert_eq!(stopped.epoch, 2);
    assert_eq!(stopped.machines.len(), 2);

    let signal = signals.next().await.expect("a signal").expect("good");
    assert_eq!(signal.epoch, 2);
    assert!(matches!(signal.event, Some(Event::StandDown(stop)) if stop.reason == "smoke"));
    let directive = waiting.await.expect("an answer");
    assert!(matches!(directive.action, Some(Said::StandDown(_))));
    assert_eq!(directive.epoch, 2);

    let lift = ResumeRequest {
        reason: "it was the toaster".into(),
    };
    bed.admin.resume(lift).await.expect("lifted");
    let signal = signals.next().await.expect("a signal").expect("good");
    assert!(matches!(signal.event, Some(Event::Wake(_))));
}

#[tokio::test]
async fn status_is_streamed_when_it_changes() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let watching = bed.admin.watch_status(StatusRequest::default()).await;
    let mut statuses = watching.expect("a stream").into_inner();
    let first = statuses.next().await.expect("a status").expect("good");
    assert!(!first.stopped);
    let stop = EmergencyStopRequest {
        reason: "now".into(),
        ..EmergencyStopRequest::default()
    };
    bed.admin.emergency_stop(stop).await.expect("stopped");
    let next = statuses.next().await.expect("a status").expect("good");
    assert!(next.stopped && next.epoch == 2);
}

#[tokio::test]
async fn an_emergency_is_begun_by_its_own_call_and_remembered_as_one() {
    let (mut bed, _agent) = staged_bed().await;
    let wish = |reason: &str| ExecuteRequest {
        immediate: true,
        reason: reason.to_owned(),
        ..ExecuteRequest::default()
    };
    let ordinary = bed.admin.execute(wish("CVE")).await.expect_err("refused");
    assert_eq!(ordinary.code(), Code::InvalidArgument, "{ordinary}");
    let silent = bed.admin.execute_emergency(wish("")).await;
    assert_eq!(silent.expect_err("refused").code(), Code::InvalidArgument);
    let begun = bed.admin.execute_emergency(wish("CVE")).await;
    let rollout = begun.expect("begun").into_inner().rollout;

    let status = bed.admin.get_status(StatusRequest::default()).await;
    let shown = status.expect("a status").into_inner().rollouts.remove(0);
    assert_eq!((shown.id, shown.immediate), (rollout.clone(), true));
    assert_eq!(shown.reason, "CVE");
    let history = bed.admin.get_history(HistoryRequest::default()).await;
    let mut entries = history.expect("a history").into_inner().entries;
    entries.retain(|entry| entry.rollout == rollout);
    let said: Vec<(&str, &str)> = entries
        .iter()
        .map(|entry| (entry.kind.as_str(), entry.text.as_str()))
        .collect();
    assert_eq!(said, [("emergency-update", "1 machines: CVE")]);
}

#[tokio::test]
async fn a_restart_remembers_everything() {
    let (mut bed, mut agent) = staged_bed().await;
    bed.admin
        .execute(ExecuteRequest::default())
        .await
        .expect("a rollout");
    let Said::Proceed(grant) = asked(&mut agent, poll(staged(3, OLD, NEW))).await else {
        panic!("no grant");
    };

    let Bed {
        server,
        directory,
        store,
        ..
    } = bed;
    server.stop().await.expect("a calm end");
    let mut bed = Bed::start_with(store, directory).await;
    let status = bed.admin.get_status(StatusRequest::default()).await;
    let status = status.expect("a status").into_inner();
    let machine = &status.rollouts[0].groups[0].waves[0].machines[0];
    assert_eq!(machine.lease.expect("a lease").id, grant.lease);
}
