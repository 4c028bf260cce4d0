//! What is said of one machine: that it has its turn, that it waits, that nobody knows it.

use common::Action;
use coordinator_core::{
    Request, WaitReason,
    request::{OperatorRequest, Refusal},
    traffic::Answered,
    view::{Query, View, WhyView},
};
use serde_json::json;

use super::fleet::{World, minutes, name, path, wish};

fn world() -> World {
    World::new(
        json!({ "web": { "machines": ["a", "b"], "updatePolicy": "aggressive" } }),
        json!({ "maxParallel": 1 }),
    )
}

fn why(world: &World, machine: &str) -> WhyView {
    match world.fleet.view(&Query::Why(name(machine)), world.now) {
        View::Why(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn times_are_told_by_the_clocks_of_the_group_that_waits_and_of_the_machine_that_has_its_own() {
    let mut world = World::of(&json!({
        "updateGroups": {
            "shops": {
                "machines": ["a", "b"], "timezone": "Asia/Tokyo", "canarySoak": "2h", "retries": 1,
                "retryAfter": "3h", "maxFailures": 1, "rollbackOnFailure": "machine",
                "staggerDelay": "4h",
            },
            "web": { "machines": ["c"], "timezone": "America/New_York", "dependencies": ["shops"] },
        },
        "updateMachines": { "b": { "timezone": "Europe/Berlin" } },
    }));
    let rollout = world.execute();
    world.update("a");
    world.poll("b");
    let group = |world: &World, group: usize| {
        let waits = world.fleet.group_wait(1, group, world.now);
        waits.expect("it waits").to_string()
    };
    let soaks = "the wave before must stay healthy until Mon 2026-03-02 11:00 Asia/Tokyo";
    assert_eq!(world.wait("b").to_string(), soaks);
    assert_eq!(group(&world, 0), soaks);
    world.pass(minutes(125));
    world.fails("b");
    let tries = world.wait("b").to_string();
    assert!(
        tries.ends_with(" from Mon 2026-03-02 06:05 Europe/Berlin"),
        "{tries}"
    );
    world.pass(minutes(200));
    world.update("b");
    assert_eq!(world.place(&rollout, "b"), "updated");
    let stagger = world.wait("c").to_string();
    assert!(stagger.ends_with(" America/New_York"), "{stagger}");
    assert_eq!(group(&world, 1), stagger);
}

#[test]
fn since_when_a_machine_is_aside_or_silent_is_told_by_its_own_clocks() {
    let mut world = World::of(&json!({
        "updateGroups": {
            "shops": { "machines": ["a"], "timezone": "Asia/Tokyo" },
            "web": { "machines": ["b"], "timezone": "Asia/Tokyo" },
            "db": { "machines": ["c"], "timezone": "America/New_York" },
        },
        "updateMachines": { "b": { "timezone": "Europe/Berlin" } },
        "updateSettings": { "maxParallel": 3 },
    }));
    for (machine, told) in [
        ("a", "Mon 2026-03-02 09:00 Asia/Tokyo"),
        ("b", "Mon 2026-03-02 01:00 Europe/Berlin"),
    ] {
        world.done(OperatorRequest::Quarantine {
            machines: vec![name(machine)],
            reason: "its disk".to_owned(),
        });
        let aside = world.wait(machine).to_string();
        let expected = format!("in quarantine since {told}, by ada: its disk");
        assert_eq!(aside, expected);
    }
    let plan = world.fleet.plan(&wish(&[])).expect("a plan");
    let (_, left_out) = &plan.excluded[0];
    assert_eq!(
        *left_out,
        world.wait("a"),
        "also where a plan leaves it out"
    );

    world.execute();
    world.pass_without(minutes(60), &["c"]);
    let silent = why(&world, "c").wait.expect("it waits").to_string();
    assert!(silent.ends_with(" America/New_York"), "{silent}");

    world.done(OperatorRequest::QuarantineTarget {
        target: path("2").to_string(),
        reason: "it breaks DNS".to_owned(),
    });
    let aside = world.wait("c").to_string();
    let told = "since Sun 2026-03-01 20:00 America/New_York, by ada: it breaks DNS";
    assert!(aside.ends_with(told), "{aside}");
}

#[test]
fn until_when_traffic_is_moved_is_told_by_the_clocks_of_its_group() {
    let mut world = World::of(&json!({
        "updateGroups": { "web": {
            "machines": ["a", "b"],
            "timezone": "Asia/Tokyo",
            "blueGreen": {
                "sides": { "blue": ["a"], "green": ["b"] },
                "traffic": { "haproxy": { "socket": "/run/haproxy.sock", "backend": "web" } },
            },
        } },
    }));
    world.execute();
    let moved = "the traffic of group web is moved to side blue first; ";
    let told = format!("{moved}attempt 1 has until Mon 2026-03-02 09:04 Asia/Tokyo");
    assert_eq!(world.wait("b").to_string(), told);
    let wanted = world.fleet.wanted_moves();
    let answered = Request::TrafficMoved(Answered {
        group: wanted[0].group.clone(),
        number: wanted[0].number,
        attempt: wanted[0].attempt,
        result: Err("no answer".to_owned()),
    });
    assert!(!world.handle(answered).changes.is_empty());
    let next = "the next one begins at Mon 2026-03-02 09:00 Asia/Tokyo";
    let told = format!("{moved}attempt 1 failed: no answer; {next}");
    assert_eq!(world.wait("b").to_string(), told);
}

#[test]
fn a_reason_from_before_it_had_a_zone_is_told_in_utc() {
    let stored = json!({ "kind": "soaking", "until": 1_795_000_000_000_u64 });
    let reason: WaitReason = serde_json::from_value(stored).expect("as it was written");
    let text = "the wave before must stay healthy until Wed 2026-11-18 11:06 UTC";
    assert_eq!(reason.to_string(), text);
    let stored = json!({ "kind": "offline", "since": 1_795_000_000_000_u64 });
    let reason: WaitReason = serde_json::from_value(stored).expect("as it was written");
    let text = "not heard of since Wed 2026-11-18 11:06 UTC";
    assert_eq!(reason.to_string(), text);
}

#[test]
fn who_has_its_turn_is_told_with_its_step() {
    let mut world = world();
    world.poll("a");
    let rollout = world.execute();
    assert_eq!(
        (why(&world, "a").wait, why(&world, "a").has_turn),
        (None, false),
        "may go"
    );
    let grant = world.go("a");
    let seen = why(&world, "a");
    assert_eq!(
        (seen.wait, seen.has_turn, seen.step.as_str()),
        (None, true, "")
    );
    assert_eq!(seen.place, Some((rollout.clone(), "leased")));
    world.renew("a", &grant);
    assert_eq!(why(&world, "a").step, "activating");

    // Its lease outlives the rollout.
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: "bad".to_owned(),
    });
    assert_eq!(why(&world, "a").place, Some((rollout.clone(), "leased")));
    world.pass_without(minutes(16), &["a"]);
    let seen = why(&world, "a");
    assert!(seen.has_turn && seen.step == "activating");
    assert_eq!(seen.place, Some((rollout, "overdue")));
}

#[test]
fn those_who_are_waited_for_are_named_first_those_at_work_and_of_many_only_some() {
    let mut machines: Vec<String> = (0..12).map(|number| format!("c{number:02}")).collect();
    machines.push("last".to_owned());
    let mut world = World::new(
        json!({
            "web": {
                "machines": machines, "canary": 12, "maxParallel": 1,
                "updatePolicy": "aggressive",
            },
            "db": { "machines": ["db"], "dependencies": ["web"], "updatePolicy": "aggressive" },
        }),
        json!({ "maxParallel": 3 }),
    );
    world.execute();
    world.go("c00");
    let WaitReason::WaveNotOpen { machines, more, .. } = world.wait("last") else {
        panic!("{}", world.wait("last"));
    };
    assert_eq!((machines.len(), more), (8, 4));
    assert_eq!(machines[0], name("c00"));
    assert_eq!(
        world.wait("last").to_string(),
        "in wave 2; wave 1 has not closed yet"
    );
    let WaitReason::Dependency { machines, more, .. } = world.wait("db") else {
        panic!("{}", world.wait("db"));
    };
    assert_eq!((machines.len(), more, &machines[0]), (8, 4, &name("c00")));
    assert_eq!(
        why(&world, "last").whom().rollout.map(|(_, action)| action),
        Some(Action::Update)
    );
}

#[test]
fn whoever_waits_for_a_yes_is_told_what_becomes_of_silence() {
    let world = |consent: Option<&str>| {
        let mut group = json!({
            "machines": ["a"], "updatePolicy": "manual-approval", "approvalExpiry": "8h",
        });
        if let Some(after) = consent {
            group["autoApproveAfter"] = json!(after);
        }
        let mut world = World::of(&json!({ "updateGroups": { "web": group } }));
        world.execute();
        world
    };
    let told = |mut world: World| {
        let waits = world.wait("a");
        let after = waits.next().expect("a time").since(world.now);
        (after, waits.then().unwrap_or_default(), waits.by_itself())
    };
    let pauses = "the rollout pauses if nobody has answered".to_owned();
    assert_eq!(told(world(None)), (minutes(480), pauses, false));
    let counts = "the approval counts as given".to_owned();
    assert_eq!(told(world(Some("2h"))), (minutes(120), counts, true));
}

#[test]
fn whoever_nobody_has_heard_of_is_not_found() {
    let mut world = world();
    match world.fleet.view(&Query::Why(name("c")), world.now) {
        View::Refused(Refusal::NotFound { what, name }) => {
            assert_eq!((what, name.as_str()), ("machine", "c"));
        }
        other => panic!("{other:?}"),
    }
    // A machine that has reported and is in no group any more is known, and told what is missing.
    let document = json!({ "updateGroups": { "web": { "machines": ["a"] } } });
    world.configure(&document);
    assert_eq!(why(&world, "b").wait, Some(WaitReason::UnknownMachine));
}
