//! What the log says of a turn, and by which fields it is found.

mod bed;

use std::time::Duration;

use bed::{
    Bed, NEW, OLD, held,
    lines::{Line, Lines},
    poll, report, staged,
};
use lab_proto::{
    agent::{MachineReport, OutcomeKind, ReportRequest, directive::Action as Said},
    operator::ExecuteRequest,
};

#[tokio::test]
async fn a_turn_is_found_by_its_lease_and_all_of_a_rollout_by_its_name() {
    let log = Lines::keep();
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut agent = bed.agent("dev-01").await;
    bed.pin("dev-01", NEW).await;
    agent.poll(poll(staged(1, OLD, NEW))).await.expect("heard");
    let executed = bed.admin.execute(ExecuteRequest::default()).await;
    let rollout = executed.expect("a rollout").into_inner().rollout;
    let waiting = held(staged(2, OLD, NEW), Duration::from_secs(20));
    let directive = agent.poll(waiting).await.expect("an answer").into_inner();
    let Some(Said::Proceed(grant)) = directive.action else {
        panic!("no grant: {directive:?}");
    };
    let report = MachineReport {
        last_lease: grant.lease,
        ..report(3, NEW)
    };
    let result = ReportRequest {
        rollout: rollout.clone(),
        lease: grant.lease,
        outcome: OutcomeKind::Confirmed.into(),
        report: Some(report),
        ..ReportRequest::default()
    };
    agent.report(result).await.expect("acknowledged");

    let lease = grant.lease.to_string();
    let line = |text: &str| -> Line {
        let fields = [
            ("epoch", "1"),
            ("group", "dev"),
            ("lease", &lease),
            ("level", "INFO"),
            ("machine", "dev-01"),
            ("message", text),
            ("rollout", &rollout),
        ];
        fields.map(|(name, value)| (name, value.to_owned())).into()
    };
    let expected = [line("granted: dev-01"), line("ended: confirmed")];
    assert_eq!(log.with("lease", &lease), expected);
    let lines = log.with("rollout", &rollout);
    let texts: Vec<&str> = lines.iter().map(|line| &*line["message"]).collect();
    for part in [
        "begun by admin",
        "wave 1 opens",
        "the group is finished",
        "has ended",
    ] {
        assert!(
            texts.iter().any(|text| text.contains(part)),
            "{part}: {texts:?}"
        );
    }
}
