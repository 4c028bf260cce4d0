//! Names of machines and groups in what operators ask: who is not there, and what is said of those
//! who are.

mod bed;

use bed::{Bed, NEW, poll, report};
use lab_proto::operator::{
    ExecuteRequest, HistoryRequest, ListMachinesRequest, PlannedWait, QuarantineMachinesRequest,
    ReleaseMachinesRequest, RevokeTokenRequest, Selection, SetConfigRequest, WhyRequest,
};
use tonic::{Code, Status};

/// What is said to do about a name that is not there.
#[track_caller]
fn hint_of(status: Status) -> String {
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let hint = status.metadata().get("lab-hint").expect("a hint");
    hint.to_str().expect("ASCII").to_owned()
}

fn history(groups: &[&str], machines: &[&str]) -> HistoryRequest {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    HistoryRequest {
        selection: Some(Selection {
            groups: words(groups),
            machines: words(machines),
        }),
        ..HistoryRequest::default()
    }
}

#[tokio::test]
async fn names_that_nobody_knows_are_not_found() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let admin = &mut bed.admin;
    let machine = "nosuch".to_owned();
    let why = admin.why(WhyRequest { machine }).await;
    let hint = hint_of(why.expect_err("not found"));
    assert_eq!(hint, "see what there is: lab machines");
    let token = RevokeTokenRequest {
        id: "t99".into(),
        reason: String::new(),
    };
    let hint = hint_of(admin.revoke_token(token).await.expect_err("not found"));
    assert_eq!(hint, "see what there is: lab token list");

    for unknown in [
        history(&[], &["nosuch"]),
        history(&[], &["dev-01", "nosuch"]),
        history(&["nosuch"], &[]),
    ] {
        let answer = admin.get_history(unknown).await;
        hint_of(answer.expect_err("not found"));
    }
    for known in [history(&[], &["dev-02"]), history(&["dev"], &[])] {
        let answer = admin.get_history(known).await.expect("an answer");
        assert_eq!(
            answer.into_inner().entries,
            [],
            "nothing happened there yet"
        );
    }
}

#[tokio::test]
async fn a_machine_that_has_left_keeps_its_history() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut agent = bed.agent("dev-02").await;
    agent.poll(poll(report(1, bed::OLD))).await.expect("heard");
    bed.pin("dev-02", NEW).await;
    let begun = bed.admin.execute(ExecuteRequest::default()).await;
    begun.expect("a rollout");
    let forgotten = lab_proto::operator::ForgetMachineRequest {
        machine: "dev-02".into(),
        reason: "sold".into(),
    };
    bed.admin
        .forget_machine(forgotten)
        .await
        .expect("forgotten");
    bed.admin
        .abort(lab_proto::operator::RolloutRequest::default())
        .await
        .expect("aborted");
    let without = bed::DOCUMENT.replace(", \"dev-02\"", "");
    let without = SetConfigRequest {
        document: without,
        ..SetConfigRequest::default()
    };
    let reply = bed.admin.set_config(without).await.expect("an answer");
    assert_eq!(reply.into_inner().faults, []);
    let past = bed.admin.get_history(history(&[], &["dev-02"])).await;
    assert!(!past.expect("a history").into_inner().entries.is_empty());
}

#[tokio::test]
async fn a_machine_in_quarantine_is_shown_with_who_and_why_and_everybody_finds_it_in_the_history() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let aside = QuarantineMachinesRequest {
        machines: vec!["dev-02".into()],
        reason: "its disk".into(),
    };
    let done = bed.admin.quarantine_machines(aside).await;
    let done = done.expect("an answer").into_inner();
    assert_eq!(done.text, "in quarantine: dev-02");
    let listed = bed
        .admin
        .list_machines(ListMachinesRequest::default())
        .await;
    let listed = listed.expect("an answer").into_inner().machines;
    let aside = listed
        .iter()
        .filter_map(|m| Some((m, m.quarantine.as_ref()?)));
    let aside: Vec<_> = aside.collect();
    let [(machine, quarantine)] = aside.as_slice() else {
        panic!("{listed:?}");
    };
    assert_eq!(machine.name, "dev-02");
    assert_eq!(quarantine.reason, "its disk");
    assert!(!quarantine.by.is_empty() && !quarantine.since.is_empty());
    let why = bed.admin.why(WhyRequest {
        machine: "dev-02".into(),
    });
    let why = why.await.expect("an answer").into_inner().wait_reason;
    let why = why.expect("it waits");
    assert_eq!(
        (why.kind.as_str(), &why.since),
        ("quarantined", &quarantine.since)
    );
    assert_eq!(why.hint, "lab machines release dev-02");
    let released = ReleaseMachinesRequest {
        machines: vec!["dev-02".into()],
        reason: "mended".into(),
    };
    let again = bed.admin.release_machines(released.clone()).await;
    again.expect("released");
    let refused = bed.admin.release_machines(released).await;
    let refused = refused.expect_err("it is free");
    assert_eq!(refused.message(), "dev-02 is not in quarantine");
    let past = bed.admin.get_history(history(&[], &["dev-02"])).await;
    let past = past.expect("a history").into_inner().entries;
    let kinds: Vec<&str> = past.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["released", "quarantined"]);
}

#[tokio::test]
async fn a_plan_says_for_whom_each_group_waits_and_how_long_after() {
    let mut bed = Bed::start().await;
    let document = r#"{ "updateGroups": {
        "dev": { "machines": ["dev-01"], "staggerDelay": "30m" },
        "prod": { "machines": ["prod-01"], "staggerDelay": "5m", "dependencies": ["dev"] }
    } }"#;
    let set = SetConfigRequest {
        document: document.into(),
        ..SetConfigRequest::default()
    };
    let reply = bed.admin.set_config(set).await.expect("an answer");
    assert_eq!(reply.into_inner().faults, []);
    bed.pin("dev-01", NEW).await;
    bed.pin("prod-01", NEW).await;
    let plan = bed.admin.plan(ExecuteRequest::default()).await;
    let groups = plan.expect("a plan").into_inner().groups;
    let waited = PlannedWait {
        group: "dev".into(),
        stagger_s: 1800,
    };
    assert_eq!((groups[0].stagger_s, &groups[0].waits[..]), (1800, &[][..]));
    assert_eq!(
        (groups[1].stagger_s, &groups[1].waits[..]),
        (300, &[waited][..])
    );
}
