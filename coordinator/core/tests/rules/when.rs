//! When a machine may go: calendars, what its own attempts have taken, and windows that were missed.

use std::time::Duration;

use common::{Action, OutcomeKind, RolloutId, Target, Timestamp};
use coordinator_core::{
    Change, FleetConfig, Request, WaitReason, config::Faults, request::OperatorRequest,
};
use serde_json::{Value, json};

use crate::fleet::{MONDAY, World, minutes, name};

fn at(hours: u64, more: u64) -> Timestamp {
    MONDAY + minutes(hours * 60 + more)
}

fn world(group: &Value, settings: &Value) -> World {
    let mut whole = json!({ "machines": ["a", "b", "c"], "updatePolicy": "aggressive" });
    for (key, value) in group.as_object().expect("keys") {
        whole[key] = value.clone();
    }
    let mut world = World::new(json!({ "web": whole }), settings.clone());
    // What was to be staged is staged.
    for machine in ["a", "b", "c"] {
        world.poll(machine);
    }
    world
}

/// Lets time pass; what was recorded in it.
fn until(world: &mut World, end: Timestamp) -> Vec<Change> {
    world.pass(end.since(world.now))
}

fn missed(changes: &[Change]) -> Vec<(u32, Timestamp, u32, Option<Timestamp>)> {
    let told = changes.iter().filter_map(|change| match change {
        Change::WindowMissed {
            windows,
            shut_at,
            left,
            opens_at,
            ..
        } => Some((*windows, *shut_at, *left, *opens_at)),
        _ => None,
    });
    told.collect()
}

#[test]
fn nobody_begins_while_a_calendar_says_no_nor_shortly_before() {
    let calendars = json!({ "noProgressAfter": "720h", "calendars": { "work": { "hours": ["01:00-03:00"] },
        "days": { "dates": ["2026-03-03/2026-03-04"] } }, "avoid": ["work", "days"], "maxParallel": 3 });
    let mut world = world(&json!({}), &calendars);
    world.execute();
    world.update("a");
    until(&mut world, at(0, 51));
    let WaitReason::WindowTooShort {
        left,
        closes_at,
        opens_at,
        ..
    } = world.wait("b")
    else {
        panic!("{}", world.wait("b"));
    };
    assert_eq!(
        (left, closes_at, opens_at),
        (minutes(9), at(1, 0), Some(at(3, 0)))
    );
    until(&mut world, at(1, 0));
    let reason = world.wait("b");
    let expected = WaitReason::Frozen {
        calendar: "work".to_owned(),
        entry: "01:00-03:00".to_owned(),
        ends_at: Some(at(3, 0)),
        opens_at: Some(at(3, 0)),
        zone: "UTC".to_owned(),
    };
    assert_eq!(reason, expected);
    until(&mut world, at(3, 0));
    world.update("b");
    until(&mut world, at(24, 0));
    // Two days are frozen, and after them it is business hours at one.
    let WaitReason::Frozen {
        calendar,
        ends_at,
        opens_at,
        ..
    } = world.wait("c")
    else {
        panic!("{}", world.wait("c"));
    };
    assert_eq!(
        (calendar.as_str(), ends_at, opens_at),
        ("days", Some(at(72, 0)), Some(at(72, 0)))
    );
    until(&mut world, at(72, 0));
    world.update("c");
}

#[test]
fn freezes_beyond_what_is_looked_at_are_not_said_to_be_for_ever() {
    let years = ["2026", "2027", "2028"].map(|year| format!("{year}-01-01/{year}-12-31"));
    let settings = json!({ "calendars": { "years": { "dates": years } }, "avoid": ["years"] });
    let mut world = world(&json!({}), &settings);
    world.execute();
    let reason = world.wait("a");
    assert_eq!(reason.until(), None);
    let text = reason.to_string();
    assert!(
        text.ends_with("within two years no time is left for it"),
        "{text}"
    );
    assert!(reason.by_itself(), "{text}");
    let WaitReason::Frozen { ends_at, .. } = reason else {
        panic!("{text}");
    };
    assert_eq!(reason.next(), ends_at);
    let then = reason.then();
    assert_eq!(
        then.as_deref(),
        Some("that is over, and it is looked again")
    );
}

#[test]
fn immediate_passes_over_calendars_as_over_windows() {
    let settings =
        json!({ "calendars": { "days": { "dates": ["2026-03-02"] } }, "avoid": ["days"] });
    let mut world = world(&json!({}), &settings);
    world.execute();
    world.waits_for("a", "frozen");
    world.done(OperatorRequest::Abort {
        rollout: None,
        reason: String::new(),
    });
    let mut wish = crate::fleet::wish(&[]);
    wish.immediate = true;
    world.done(OperatorRequest::Execute {
        wish,
        if_plan: None,
    });
    world.go("a");
}

#[test]
fn a_freeze_holds_from_the_moment_at_which_it_is_set() {
    let settings = json!({ "calendars": { "days": { "dates": ["12-24"] } }, "avoid": ["days"] });
    let mut world = world(&json!({}), &settings);
    world.execute();
    let grant = world.go("a");
    let mut document = world.document();
    let mut set = |world: &mut World, dates: Value| {
        document["updateSettings"]["calendars"]["days"]["dates"] = dates;
        world.configure(&document);
    };
    set(&mut world, json!(["2026-03-02/2026-03-03"]));
    // Who is at work ends its attempt.
    world.end("a", &grant, OutcomeKind::Confirmed);
    world.waits_for("b", "frozen");
    set(&mut world, json!(["12-24"]));
    world.update("b");
}

#[test]
fn what_a_machine_needs_is_the_longest_of_its_last_attempts() {
    let group = json!({ "maintenanceWindow": "00:00-23:00", "expectedDuration": "30m" });
    let mut world = world(&group, &json!({ "maxParallel": 3 }));
    let needs = |world: &World, machine: &str| {
        let policy = &world.fleet.facts().config.as_ref().expect("one").groups;
        let policy = &policy.values().next().expect("a group").policy;
        let (machine, target) = (name(machine), Target::Closure(crate::fleet::path("2")));
        world.fleet.needs(&machine, Action::Update, &target, policy)
    };
    assert_eq!(needs(&world, "a"), minutes(30), "nothing is known yet");
    let attempt = |world: &mut World, took: Duration, how: OutcomeKind| {
        world.execute();
        let grant = world.go("a");
        let end = world.now + took;
        while world.now < end {
            world.now = (world.now + minutes(5)).min(end);
            world.renew("a", &grant);
        }
        world.end("a", &grant, how);
        world.done(OperatorRequest::Abort {
            rollout: None,
            reason: String::new(),
        });
        let report = world.report("a");
        report.running = Some(crate::fleet::path("1"));
        report.profile.clone_from(&report.running);
        world.poll("a");
    };
    use OutcomeKind::{Abandoned, Confirmed, RebootRequired, RolledBack};
    // What each is: how long, how it ended, and what is expected of the next one.
    for (took, how, next) in [
        (4, Confirmed, 30),
        // Nothing was carried out.
        (50, Abandoned, 30),
        (50, RebootRequired, 30),
        (3, Confirmed, 30),
        // The third: from here on its own numbers count alone.
        (2, RolledBack, 4),
        (45, Confirmed, 45),
        (2, Confirmed, 45),
        (2, Confirmed, 45),
        (2, Confirmed, 45),
        (2, Confirmed, 45),
        // Five later, the slow one is forgotten.
        (2, Confirmed, 2),
    ] {
        attempt(&mut world, minutes(took), how);
        assert_eq!(
            needs(&world, "a"),
            minutes(next),
            "after {how} in {took} min"
        );
    }
    for _ in 0..5 {
        attempt(&mut world, Duration::from_secs(5), Confirmed);
    }
    assert_eq!(needs(&world, "a"), minutes(1), "the least");
    assert_eq!(needs(&world, "b"), minutes(30), "another machine");
    // In the last minutes the quick one goes, and the other does not.
    until(&mut world, at(22, 50));
    world.execute();
    world.waits_for("b", "window-too-short");
    world.go("a");
}

#[test]
fn a_missed_window_is_told_once_with_who_is_left_and_the_next_one() {
    let group = json!({ "maintenanceWindow": "01:00-02:00", "maxParallel": 1 });
    let mut world = world(&group, &json!({ "noProgressAfter": "720h" }));
    let rollout = world.execute();
    assert_eq!(
        missed(&until(&mut world, at(1, 0))),
        [],
        "it has not opened yet"
    );
    world.update("a");
    let changes = until(&mut world, at(5, 0));
    assert_eq!(missed(&changes), [(1, at(2, 0), 2, Some(at(25, 0)))]);
    assert_eq!(missed(&until(&mut world, at(24, 0))), []);
    // A restart does not tell it again, and one that slept through the next tells that.
    world.goes_on_from(world.fleet.facts().clone());
    assert_eq!(missed(&until(&mut world, at(25, 0))), []);
    world.goes_on_from(world.fleet.facts().clone());
    world.now = at(51, 0);
    let decision = world.handle(Request::Tick);
    assert_eq!(
        missed(&decision.changes),
        [(2, at(50, 0), 2, Some(at(73, 0)))]
    );
    let text = &decision
        .history
        .iter()
        .find(|entry| entry.kind == "window-missed");
    let text = &text.expect("in the history").text;
    assert_eq!(
        text,
        "2 machines are still to go; they can at Thu 2026-03-05 01:00 UTC"
    );
    let group =
        |world: &World, id: &RolloutId| world.fleet.rollout(id).expect("kept").groups[0].clone();
    assert_eq!(group(&world, &rollout).windows_missed, 3);
    // Also of one that is paused; not of one in which nobody is left to go.
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    assert_eq!(
        missed(&until(&mut world, at(75, 0))),
        [(1, at(74, 0), 2, Some(at(97, 0)))]
    );
    world.done(OperatorRequest::ResumeRollout {
        rollout: None,
        reason: String::new(),
    });
    until(&mut world, at(97, 0));
    world.update("b");
    let grant = world.go("c");
    for minute in [14, 28, 42, 56, 62] {
        world.now = at(97, minute);
        world.renew("c", &grant);
    }
    assert_eq!(missed(&world.handle(Request::Tick).changes), []);
    // It was at work when the window shut, and ends.
    world.end("c", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "c"), "updated");
}

#[test]
fn a_rollout_that_begins_in_the_tail_of_a_window_has_missed_it() {
    let group = json!({ "maintenanceWindow": "00:00-00:15" });
    let mut world = world(&group, &json!({}));
    world.now = at(0, 7);
    world.execute();
    let reason = world.wait("a");
    assert_eq!(reason.kind(), "window-too-short");
    assert_eq!(reason.until(), Some(at(24, 0)), "re-planned");
    assert_eq!(
        missed(&until(&mut world, at(1, 0))),
        [(1, at(0, 15), 3, Some(at(24, 0)))]
    );
    until(&mut world, at(24, 0));
    world.go("a");
}

#[test]
fn without_windows_none_is_missed_nor_where_one_begins_as_the_other_ends() {
    for group in [
        json!({}),
        json!({ "maintenanceWindow": ["00:00-12:00", "12:00-00:00"] }),
    ] {
        let mut world = world(&group, &json!({ "noProgressAfter": "1440h" }));
        world.execute();
        // Longer than is looked ahead in one step.
        for day in 1..40 {
            world.now = at(24 * day, 0);
            assert_eq!(missed(&world.handle(Request::Tick).changes), []);
        }
    }
}

#[track_caller]
fn faults(group: Value, settings: Value) -> Vec<String> {
    let mut group = group;
    group["machines"] = json!(["a"]);
    let document = json!({ "updateGroups": { "web": group }, "updateSettings": settings });
    match FleetConfig::parse(&document) {
        Ok(_) => Vec::new(),
        Err(Faults(faults)) => {
            let again: FleetConfig =
                serde_json::from_value(document.clone()).expect("was in force once");
            assert_eq!(again.document, document);
            faults.iter().map(ToString::to_string).collect()
        }
    }
}

/// What is wrong with a calendar, or with who avoids it: where, and what.
#[test]
fn calendars_that_cannot_be_meant_are_refused() {
    let one = |calendar: Value| json!({ "calendars": { "c": calendar } });
    let avoided = |calendar: Value| json!({ "calendars": { "c": calendar }, "avoid": ["c"] });
    let window = |times: &str| json!({ "maintenanceWindow": times });
    let none = || json!({});
    let c = "updateSettings.calendars.c";
    let table: Vec<(Value, Value, String, &str)> = vec![
        (
            json!({ "avoid": ["holiday"] }),
            json!({ "calendars": { "holidays": { "dates": ["12-25"] } } }),
            "updateGroups.web.avoid[0]".into(),
            "did you mean \"holidays\"",
        ),
        (
            json!({ "avoid": ["x"] }),
            none(),
            "updateGroups.web.avoid[0]".into(),
            "there is no calendar",
        ),
        (
            none(),
            json!({ "avoid": ["x"] }),
            "updateSettings.avoid[0]".into(),
            "there is no calendar",
        ),
        (none(), one(json!({})), c.into(), "names no time"),
        (
            none(),
            one(json!({ "dates": [] })),
            c.into(),
            "names no time",
        ),
        (
            none(),
            one(json!({ "dates": ["2026-12-24/"] })),
            format!("{c}.dates[0]"),
            "has no end",
        ),
        (
            none(),
            one(json!({ "dates": ["2026-01-01/2036-01-01"] })),
            format!("{c}.dates[0]"),
            "longer than a year",
        ),
        (
            none(),
            one(json!({ "dates": ["12-24", "Christmas"] })),
            format!("{c}.dates[1]"),
            "not a day",
        ),
        (
            none(),
            one(json!({ "dates": "12-24" })),
            format!("{c}.dates"),
            "a list",
        ),
        (
            none(),
            one(json!({ "dates": vec!["12-24"; 1001] })),
            format!("{c}.dates"),
            "1000",
        ),
        (
            none(),
            one(json!({ "hours": "8-18" })),
            format!("{c}.hours"),
            "is not a window",
        ),
        (
            none(),
            one(json!({ "hour": "08:00-18:00", "dates": ["12-24"] })),
            format!("{c}.hour"),
            "is not a key",
        ),
        (
            none(),
            one(json!({ "ics": "x" })),
            format!("{c}.ics"),
            "line 1",
        ),
        (
            none(),
            one(json!({ "icsFile": "x.ics" })),
            format!("{c}.icsFile"),
            "ics = builtins.readFile ./releases.ics;",
        ),
        (none(), one(json!("12-24")), c.into(), "an object"),
        (
            none(),
            json!({ "calendars": { "a b": { "dates": ["12-24"] } } }),
            "updateSettings.calendars.a b".into(),
            "another name",
        ),
        // A freeze that covers everything for ever, of each kind.
        (
            none(),
            avoided(json!({ "dates": ["01-01/12-31"] })),
            "updateGroups.web.avoid".into(),
            "never leave",
        ),
        (
            none(),
            avoided(json!({ "hours": ["00:00-12:00", "12:00-24:00"] })),
            "updateGroups.web.avoid".into(),
            "never leave",
        ),
        (
            window("02:00-04:00"),
            avoided(json!({ "hours": ["01:00-05:00"] })),
            "updateGroups.web.avoid".into(),
            "never leave",
        ),
        (
            window("02:00-04:00"),
            avoided(json!({ "ics":
            "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART:20260101T010000\nDURATION:PT4H\nRRULE:FREQ=DAILY\nEND:VEVENT\nEND:VCALENDAR" })),
            "updateGroups.web.avoid".into(),
            "never leave",
        ),
        // Exactly enough is too little: somebody has to ask first.
        (
            window("02:00-02:30"),
            avoided(json!({ "hours": ["02:10-02:20"] })),
            "updateGroups.web.avoid".into(),
            "never leave",
        ),
        // What is left of one of two windows is too little.
        (
            json!({ "maintenanceWindow": ["02:00-04:00", "06:00-06:30"] }),
            avoided(json!({ "hours": ["06:08-06:25"] })),
            "updateGroups.web.maintenanceWindow".into(),
            "06:00-06:30",
        ),
        (
            window("02:00-04:00"),
            json!({ "calendars": { "c": { "hours": ["02:30-03:30"] } }, "avoid": ["c"],
            "expectedDuration": "40m" }),
            "updateGroups.web.avoid".into(),
            "2400 s",
        ),
    ];
    for (group, settings, path, what) in table {
        let found = faults(group.clone(), settings.clone());
        let said = found
            .iter()
            .any(|fault| fault.starts_with(&format!("{path}: ")) && fault.contains(what));
        assert!(said && found.len() == 1, "{path} {what}: {found:#?}");
    }
    let many: serde_json::Map<String, Value> = (0..33)
        .map(|n| (format!("c{n}"), json!({ "dates": ["12-24"] })))
        .collect();
    assert!(faults(none(), json!({ "calendars": many }))[0].contains("32 calendars"));
    for good in [
        avoided(json!({ "dates": ["01-01/12-30"] })),
        avoided(
            json!({ "dates": ["2026-01-01/2026-12-31"], "hours": { "times": "08:00-18:00", "days": ["mon"] } }),
        ),
    ] {
        assert_eq!(faults(none(), good), Vec::<String>::new());
    }
    // A policy of one's own is judged where it stands, and its group is not blamed for it again.
    let document = json!({
        "updatePolicies": { "p": { "avoid": ["x"] } },
        "updateGroups": { "web": { "machines": ["a"], "updatePolicy": "p" } },
    });
    let Err(Faults(found)) = FleetConfig::parse(&document) else {
        panic!("taken");
    };
    let paths: Vec<_> = found.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["updatePolicies.p.avoid[0]"]);
}
