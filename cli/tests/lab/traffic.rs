//! Traffic of groups with two sides.

use lab_proto::operator::{GroupTraffic, MoveTrafficReply, TrafficList, TrafficMove, TrafficSide};

use super::*;

fn web(live: &str, moving: Option<TrafficMove>) -> TrafficList {
    let side = |name: &str| TrafficSide {
        name: name.into(),
        live: name == live,
        machines: vec![format!("{name}-1")],
    };
    let web = GroupTraffic {
        group: "web".into(),
        sides: vec![side("blue"), side("green")],
        settled: moving.is_none(),
        since: "2026-11-21T20:00:00Z".into(),
        by: "geir".into(),
        moving,
        ..GroupTraffic::default()
    };
    TrafficList {
        groups: vec![web],
        ..TrafficList::default()
    }
}

fn moves_to(side: &str) -> MoveTrafficReply {
    MoveTrafficReply {
        text: format!("the traffic of group web moves to side {side}; rollout r3 is paused"),
        to: side.into(),
    }
}

#[tokio::test]
async fn it_is_shown_moved_and_waited_for() {
    let moving = TrafficMove {
        to: "green".into(),
        ..TrafficMove::default()
    };
    let script = Script::default()
        .says("move_traffic", moves_to("green"))
        .says("list_traffic", web("blue", Some(moving)))
        .says("list_traffic", web("green", None));
    let coordinator = Coordinator::start(script).await;
    let line = ["traffic", "move", "web", "--to=green", "--reason=disk"];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("rollout r3 is paused"), "{err}");
    assert!(out.contains("green") && out.contains("● traffic"), "{out}");
    let said = coordinator.said("move_traffic");
    assert_eq!(
        (&said["group"], &said["to"]),
        (&json!("web"), &json!("green"))
    );
    assert_eq!(said["reason"], "disk");
    let calls = coordinator.calls();
    let looks = calls.iter().filter(|call| *call == "list_traffic");
    assert_eq!(looks.count(), 2);

    let (code, out, _) = run(&coordinator, &["traffic", "--output=json"]).await;
    assert_eq!(code, 0);
    assert_eq!(json_of(&out)["groups"][0]["sides"][1]["live"], true);
    let (code, _, _) = run(&coordinator, &["traffic", "move", "web"]).await;
    assert_eq!(code, 2, "to which side?");
}

#[tokio::test]
async fn the_way_back_is_one_command_and_says_when_it_failed() {
    let mut failed = web("green", None);
    failed.groups[0].given_up = "HAProxy cannot be reached".into();
    let script = Script::default()
        .says("move_traffic", moves_to("blue"))
        .says("list_traffic", failed);
    let coordinator = Coordinator::start(script).await;
    let (code, out, _) = run(&coordinator, &["traffic", "back", "web", "--yes"]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("HAProxy cannot be reached"), "{out}");
    assert_eq!(coordinator.said("move_traffic")["to"], "");

    let refused = tonic::Status::failed_precondition("machines of side blue are at work: blue-1");
    let coordinator = Coordinator::start(Script::default().refuses("move_traffic", refused)).await;
    let (code, _, err) = run(&coordinator, &["traffic", "back", "web", "--detach"]).await;
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("blue-1"), "{err}");
}

#[tokio::test]
async fn somebody_else_who_moved_it_away_meanwhile_is_named() {
    for line in [
        &["traffic", "move", "web", "--to=green"][..],
        &["traffic", "back", "web"],
    ] {
        let mut unsure = web("green", None);
        unsure.groups[0].settled = false;
        for (there, code, says) in [
            (web("green", None), 0, "rollout r3 is paused"),
            (
                web("blue", None),
                1,
                "is on side blue, by geir, and not on side green",
            ),
            (unsure, 1, "not known for sure"),
        ] {
            let script = Script::default()
                .says("move_traffic", moves_to("green"))
                .says("list_traffic", there);
            let coordinator = Coordinator::start(script).await;
            let (ended, out, err) = run(&coordinator, line).await;
            assert_eq!(ended, code, "{line:?} {out} {err}");
            assert!(err.contains(says), "{line:?} {err}");
        }
    }
}
