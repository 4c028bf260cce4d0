//! Before and after: values of a real Prometheus, and a coordinator whose wave waits for them.

#[path = "../bed/mod.rs"]
pub(crate) mod bed;

use std::{sync::atomic::Ordering, time::Duration};

use bed::{Bed, NEW, OLD, poll, report, staged};
use common::Timestamp;
use coordinator::analysis::{Prober, Times};
use coordinator_core::analysis::Finding;
use lab_proto::{
    agent::{OutcomeKind, ReportRequest, directive::Action as Said},
    operator::{ExecuteRequest, SetConfigRequest, Status, StatusRequest},
};
use platform::clock::Clock;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    gate, is,
    prometheus::{Prometheus, target},
    servers::closed,
};

#[tokio::test]
async fn what_got_worse_is_found_and_what_did_not_is_not() {
    let (target, value) = target().await;
    let Some(prometheus) = Prometheus::watching(target).await else {
        return;
    };
    let compared = |compare: &str| {
        let more = json!({ "compare": compare, "window": "10s", "step": "1s" });
        gate(&prometheus.within("latency", &more))
    };
    let (higher, lower) = (compared("not-higher"), compared("not-lower"));
    let prober = Prober::new().expect("a prober");
    let clock = Clock::system();
    let quiet = Duration::from_secs(12);
    sleep(quiet).await;
    // A wave after which nothing changes.
    let first = Times {
        opened: clock.now(),
        since: clock.now(),
        at: clock.now(),
    };
    let early = prober.measure(&higher, first).await;
    is(&early, Finding::Inconclusive, "too few");
    sleep(quiet).await;
    let at = clock.now();
    let found = prober.measure(&higher, Times { at, ..first }).await;
    is(&found, Finding::Pass, "not worse than before");
    // One after which everything takes half as long again.
    let opened = clock.now();
    value.store(1500, Ordering::Relaxed);
    sleep(Duration::from_secs(2)).await;
    let since = clock.now();
    sleep(quiet).await;
    let at = clock.now();
    let second = Times { opened, since, at };
    let found = prober.measure(&higher, second).await;
    is(&found, Finding::Fail, "worse than before");
    is(
        &prober.measure(&lower, second).await,
        Finding::Pass,
        "not worse",
    );
    // Nothing is known of a time before there was a Prometheus.
    let long_ago = Times {
        opened: Timestamp(first.opened.as_millis() - 3_600_000),
        ..second
    };
    is(
        &prober.measure(&higher, long_ago).await,
        Finding::Inconclusive,
        "0 values before",
    );
    let many = json!({ "compare": "not-higher", "window": "10s", "step": "1s" });
    let many = gate(&prometheus.within("{__name__=~\"latency|up\"}", &many));
    is(
        &prober.measure(&many, second).await,
        Finding::Error,
        "make it one",
    );
}

async fn status(bed: &mut Bed) -> Status {
    let status = bed.admin.get_status(StatusRequest::default()).await;
    status.expect("a status").into_inner()
}

/// The whole way: the wave of a real coordinator closes when the port that its gate looks at opens.
#[tokio::test]
async fn a_wave_waits_for_what_is_measured() {
    let mut bed = Bed::start().await;
    let port = closed().await;
    let document = json!({
        "analysis": {
            "port": { "tcp": port.to_string(), "interval": "1s", "passes": 2, "failureLimit": 1000 },
        },
        "updateGroups": {
            "dev": { "machines": ["dev-01"], "updatePolicy": "aggressive", "gates": ["port"] },
        },
    });
    let set = SetConfigRequest {
        document: document.to_string(),
        ..SetConfigRequest::default()
    };
    let set = bed.admin.set_config(set).await.expect("taken").into_inner();
    assert_eq!(set.faults, []);
    let mut agent = bed.agent("dev-01").await;
    bed.pin("dev-01", NEW).await;
    agent.poll(poll(staged(1, OLD, NEW))).await.expect("heard");
    let executed = bed.admin.execute(ExecuteRequest::default()).await;
    let rollout = executed.expect("a rollout").into_inner().rollout;
    let said = agent.poll(poll(staged(2, OLD, NEW))).await;
    let Some(Said::Proceed(grant)) = said.expect("an answer").into_inner().action else {
        panic!("no grant");
    };
    let reported = ReportRequest {
        rollout,
        lease: grant.lease,
        outcome: OutcomeKind::Confirmed.into(),
        report: Some(lab_proto::agent::MachineReport {
            last_lease: grant.lease,
            ..report(3, NEW)
        }),
        ..ReportRequest::default()
    };
    agent.report(reported).await.expect("acknowledged");

    // Nobody listens.
    let deadline = Instant::now() + Duration::from_secs(60);
    let gate = loop {
        let status = status(&mut bed).await;
        let rollout = &status.rollouts[0];
        assert_eq!(rollout.state, "active");
        let group = &rollout.groups[0];
        let gate = group.waves[0].gates[0].clone();
        if gate.failed >= 2 {
            let waits = group.wait_reason.as_ref().expect("it waits");
            assert_eq!(
                (waits.kind.as_str(), waits.gate.as_str()),
                ("analysing", "port")
            );
            break gate;
        }
        assert!(Instant::now() < deadline, "{gate:?}");
        sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(
        (gate.state.as_str(), gate.passed, gate.needed),
        ("measuring", 0, 2)
    );
    assert_eq!(gate.finding, "fail");
    assert!(gate.detail.contains("refused"), "{}", gate.detail);

    let _listener = tokio::net::TcpListener::bind(port)
        .await
        .expect("free still");
    while status(&mut bed).await.rollouts[0].state != "finished" {
        assert!(Instant::now() < deadline, "{:?}", status(&mut bed).await);
        sleep(Duration::from_millis(100)).await;
    }
    let gate = status(&mut bed).await.rollouts[0].groups[0].waves[0].gates[0].clone();
    assert_eq!((gate.state.as_str(), gate.passed), ("passed", 2));
    bed.server.stop().await.expect("a calm end");
}
