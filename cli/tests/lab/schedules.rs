//! What is done again and again.

use lab_proto::operator::{Done, Schedule, ScheduleList, ScheduleRun};

use super::*;

#[tokio::test]
async fn schedules_are_listed_run_and_skipped() {
    let weekly = Schedule {
        name: "weekly".into(),
        action: "update".into(),
        cron: "0 2 * * 0".into(),
        timezone: "UTC".into(),
        next: Some("2026-11-29T02:00:00Z".into()),
        run: Some(ScheduleRun {
            number: 4,
            stage: "resolving".into(),
            ..ScheduleRun::default()
        }),
        ..Schedule::default()
    };
    let list = ScheduleList {
        schedules: vec![weekly],
        ..ScheduleList::default()
    };
    let done = |text: &str| Done { text: text.into() };
    let script = Script::default()
        .says("list_schedules", list)
        .says("run_schedule", done("weekly runs: run 4"))
        .refuses("skip_schedule", tonic::Status::not_found("no schedule"));
    let coordinator = Coordinator::start(script).await;
    let (code, out, err) = run(&coordinator, &["schedule", "list", "--output=json"]).await;
    assert_eq!(code, 0, "{err}");
    let schedule = &json_of(&out)["schedules"][0];
    assert_eq!(schedule["cron"], "0 2 * * 0");
    assert_eq!(schedule["run"]["stage"], "resolving");
    assert_eq!(schedule["skip"], Value::Null);

    let line = ["schedule", "run", "weekly", "--reason=kernel"];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!((code, out.as_str()), (0, "weekly runs: run 4\n"), "{err}");
    let said = coordinator.said("run_schedule");
    assert_eq!(
        (&said["schedule"], &said["reason"]),
        (&json!("weekly"), &json!("kernel"))
    );

    let (code, _, err) = run(&coordinator, &["schedule", "skip", "monthly"]).await;
    assert_eq!(code, 5, "{err}");
    let (code, _, _) = run(&coordinator, &["schedule", "skip", "No Name"]).await;
    assert_eq!(code, 2);
}
