//! A configuration that comes into force while rollouts are not finished.

use common::RolloutId;
use coordinator_core::{
    FleetConfig, Reply,
    request::{OperatorRequest, Refusal},
};
use serde_json::{Value, json};

use crate::fleet::{World, wish};

/// One group that avoids a calendar, one machine that avoids another, and a group that avoids none.
fn document() -> Value {
    json!({
        "updateGroups": {
            "web": {
                "machines": ["a", "b"], "updatePolicy": "aggressive", "avoid": ["freezes"],
                "maintenanceWindow": "00:00-06:00",
            },
            "db": { "machines": ["c", "d"], "updatePolicy": "aggressive" },
        },
        "updateMachines": { "c": { "avoid": ["nights"], "maintenanceWindow": "20:00-04:00" } },
        "updateSettings": {
            "maxParallel": 4,
            "calendars": {
                "freezes": { "dates": ["12-24"] }, "nights": { "hours": "01:00-02:00" },
                "spare": { "dates": ["05-01"] },
            },
        },
    })
}

fn set(document: &Value) -> OperatorRequest {
    let config = FleetConfig::parse(document).expect("a valid configuration");
    OperatorRequest::SetConfig {
        config: Box::new(config),
        if_revision: None,
        reason: String::new(),
    }
}

/// The document without a calendar, and without anybody who avoids it.
fn without(calendar: &str) -> Value {
    let mut document = document();
    let calendars = &mut document["updateSettings"]["calendars"];
    calendars
        .as_object_mut()
        .expect("calendars")
        .remove(calendar);
    match calendar {
        "freezes" => document["updateGroups"]["web"]["avoid"] = json!([]),
        "nights" => document["updateMachines"]["c"]["avoid"] = json!([]),
        _ => {}
    }
    document
}

fn execute(world: &mut World, groups: &[&str], immediate: bool) -> RolloutId {
    let mut wish = wish(groups);
    wish.immediate = immediate;
    wish.reason = "because".to_owned();
    let executed = world.ask(OperatorRequest::Execute {
        wish,
        if_plan: None,
    });
    let Reply::Executed {
        rollout: Some(rollout),
        ..
    } = executed
    else {
        panic!("{executed:?}");
    };
    rollout
}

#[test]
fn a_calendar_that_an_unfinished_rollout_avoids_is_not_taken_away() {
    // Of which groups there is a rollout, whether it is an emergency, which calendar goes, and whether it may.
    for (groups, emergency, calendar, may) in [
        (["web"].as_slice(), false, "freezes", false),
        (&["web"], false, "nights", true),
        (&["web"], false, "spare", true),
        (&["web"], true, "freezes", true),
        (&["db"], false, "freezes", true),
        // Only one of its machines avoids it.
        (&["db"], false, "nights", false),
        (&["web", "db"], false, "nights", false),
        (&[], false, "spare", true),
    ] {
        let mut world = World::of(&document());
        let rollout = execute(&mut world, groups, emergency);
        let asked = world.ask(set(&without(calendar)));
        let says = format!("{groups:?}, {calendar}: {asked:?}");
        if may {
            assert!(matches!(asked, Reply::Config { .. }), "{says}");
            continue;
        }
        let Reply::Refused(Refusal::NotNow(text)) = asked else {
            panic!("{says}");
        };
        for part in [
            format!("rollout {rollout}"),
            format!("calendar {calendar:?}"),
            format!("`lab update abort {rollout}`"),
        ] {
            assert!(text.contains(&part), "{text}");
        }
        assert_eq!(world.fleet.facts().revision, 1, "nothing was changed");
        // Another name is another calendar.
        let mut renamed = without(calendar);
        renamed["updateSettings"]["calendars"]["renamed"] = json!({ "dates": ["12-24"] });
        assert!(world.ask(set(&renamed)).refusal().is_some());
        // What is in it may change.
        let mut changed = document();
        changed["updateSettings"]["calendars"][calendar] = json!({ "dates": ["12-26"] });
        world.done(set(&changed));
        world.done(OperatorRequest::Abort {
            rollout: Some(rollout),
            reason: String::new(),
        });
        world.done(set(&without(calendar)));
    }
}

#[test]
fn a_calendar_may_go_with_the_machines_that_avoid_it() {
    let mut world = World::of(&document());
    execute(&mut world, &[], false);
    let mut fewer = without("freezes");
    fewer["updateGroups"]
        .as_object_mut()
        .expect("groups")
        .remove("web");
    world.done(set(&fewer));
    // A rollout that is paused goes on one day.
    world.done(OperatorRequest::Pause {
        rollout: None,
        reason: String::new(),
    });
    let mut none = without("nights");
    none["updateGroups"] = fewer["updateGroups"].clone();
    none["updateSettings"]["calendars"] = json!({ "spare": { "dates": ["05-01"] } });
    let foretold = check(&mut world, &none).refusal().cloned();
    assert!(foretold.is_some());
    assert_eq!(world.ask(set(&none)).refusal().cloned(), foretold);
}

/// What is foretold of this document.
fn check(world: &mut World, document: &Value) -> Reply {
    let config = FleetConfig::parse(document).expect("a good document");
    let facts = world.fleet.facts().clone();
    let reply = world.ask(OperatorRequest::CheckConfig(Box::new(config)));
    assert_eq!(*world.fleet.facts(), facts, "who asks changes nothing");
    reply
}

/// The rollouts that go on as before, and which groups of them: the same as was foretold.
fn as_before(world: &mut World, document: &Value) -> Vec<(String, Vec<String>)> {
    let Reply::Config {
        as_before: told,
        revision: before,
        ..
    } = check(world, document)
    else {
        panic!("refused");
    };
    let Reply::Config {
        as_before,
        revision,
        ..
    } = world.ask(set(document))
    else {
        panic!("refused");
    };
    assert_eq!(told, as_before);
    assert!([before, before + 1].contains(&revision));
    let named = as_before.into_iter().map(|one| {
        let groups = one.groups.iter().map(ToString::to_string).collect();
        (one.rollout.to_string(), groups)
    });
    named.collect()
}

#[test]
fn rollouts_that_go_on_under_rules_of_before_are_named() {
    let web = json!(["web"]);
    for (at, value, named) in [
        (
            "/updateGroups/web/maintenanceWindow",
            json!("02:00-03:00"),
            web.clone(),
        ),
        (
            "/updateGroups/web/timezone",
            json!("Asia/Tokyo"),
            web.clone(),
        ),
        ("/updateGroups/web/maxParallel", json!(2), web),
        ("/updateGroups/db/soak", json!("1h"), json!(["db"])),
        (
            "/updateMachines/c/maintenanceWindow",
            json!("20:00-03:00"),
            json!(["db"]),
        ),
        ("/updateMachines/c/retries", json!(3), json!(["db"])),
        (
            "/updateSettings/timezone",
            json!("Asia/Tokyo"),
            json!(["db", "web"]),
        ),
        // These hold at once.
        ("/updateSettings/leaseTime", json!("20m"), json!([])),
        ("/updateGroups/web/catchUp", json!("2h"), json!([])),
        ("/updateGroups/db/fourEyes", json!(true), json!([])),
        ("/updateMachines/c/quarantineAfter", json!(2), json!([])),
        (
            "/updateSettings/calendars/freezes/dates",
            json!(["12-26"]),
            json!([]),
        ),
        // It comes to what there was.
        ("/updateGroups/web/allowReboot", json!(false), json!([])),
    ] {
        let mut world = World::of(&document());
        let rollout = execute(&mut world, &[], false).to_string();
        let mut changed = document();
        let (parent, key) = at.rsplit_once('/').expect("a path");
        changed.pointer_mut(parent).expect("an object")[key] = value;
        let mut found = as_before(&mut world, &changed);
        for (_, groups) in &mut found {
            groups.sort();
        }
        let expected = match named.as_array() {
            Some(groups) if groups.is_empty() => json!([]),
            _ => json!([[rollout, named]]),
        };
        assert_eq!(json!(found), expected, "{at}");
        // The same once more is no change, and back is what the rollout has.
        assert!(as_before(&mut world, &changed).is_empty(), "{at}");
        assert!(as_before(&mut world, &document()).is_empty(), "{at}");
    }
}

#[test]
fn who_has_to_let_a_rollout_go_on_is_told_so() {
    let mut world = World::of(&document());
    execute(&mut world, &["web"], false);
    let mut changed = document();
    changed["updateGroups"]["web"]["soak"] = json!("1m");
    for paused in [false, true] {
        if paused {
            world.done(OperatorRequest::Pause {
                rollout: None,
                reason: String::new(),
            });
        }
        let Reply::Config { as_before, .. } = check(&mut world, &changed) else {
            panic!("refused");
        };
        let found: Vec<bool> = as_before.iter().map(|one| one.paused).collect();
        assert_eq!(found, [paused]);
    }
}

#[test]
fn only_those_are_named_of_whom_somebody_is_still_to_go() {
    let mut world = World::of(&document());
    let rollout = execute(&mut world, &["web"], false);
    let mut changed = document();
    changed["updateGroups"]["web"]["soak"] = json!("1m");
    for (machine, minutes) in [("a", 1), ("b", 2)] {
        changed["updateGroups"]["web"]["soak"] = json!(format!("{minutes}m"));
        let expected = [(rollout.to_string(), vec!["web".to_owned()])];
        assert_eq!(
            as_before(&mut world, &changed),
            expected,
            "{machine} is to go"
        );
        world.update(machine);
    }
    changed["updateGroups"]["web"]["soak"] = json!("3m");
    assert!(as_before(&mut world, &changed).is_empty());
}

/// The machine has taken so long the last time.
fn took(world: &mut World, machine: &str, hours: u64) {
    let mut facts = world.fleet.facts().clone();
    let known = facts.machines.get_mut(&crate::fleet::name(machine));
    known.expect("known").took_s.push_back(hours * 3600);
    world.goes_on_from(facts);
}

#[test]
fn whose_updates_never_fit_into_the_new_times_is_told() {
    let mut world = World::of(&document());
    let mut changed = document();
    changed["updateSettings"]["maxParallel"] = json!(3);
    let told = |world: &mut World, document: &Value| {
        let Reply::Config { warnings, .. } = check(world, document) else {
            panic!("refused");
        };
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    took(&mut world, "a", 5);
    took(&mut world, "c", 4);
    // Who is always let begin takes as long as it does.
    took(&mut world, "d", 100);
    assert_eq!(told(&mut world, &changed), [""; 0]);
    took(&mut world, "b", 6);
    let hint = "and within two years there is never so much time (make maintenanceWindow longer, or avoid less)";
    let web =
        |says: &str| format!("updateGroups.web.maintenanceWindow: of group web, {says}, {hint}");
    assert_eq!(told(&mut world, &changed), [web("b took up to 6 h")]);
    // Its calendar leaves five of the eight hours of its window.
    took(&mut world, "c", 6);
    let own = format!("updateMachines.c.maintenanceWindow: of group db, c took up to 6 h, {hint}");
    assert_eq!(
        told(&mut world, &changed),
        [own.clone(), web("b took up to 6 h")]
    );
    changed["updateGroups"]["web"]["maintenanceWindow"] = json!("00:00-04:00");
    let both = [own, web("b, a took up to 6 h")];
    assert_eq!(told(&mut world, &changed), both);
    let Reply::Config { warnings, .. } = world.ask(set(&changed)) else {
        panic!("refused");
    };
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        both
    );
}

/// What is told of these calendars, in the place of the ones before.
fn over(world: &mut World, calendars: &Value) -> Vec<String> {
    let mut changed = document();
    let all = changed["updateSettings"]["calendars"]
        .as_object_mut()
        .expect("calendars");
    all.extend(calendars.as_object().cloned().expect("calendars"));
    let Reply::Config {
        warnings: foretold, ..
    } = check(world, &changed)
    else {
        panic!("refused");
    };
    let Reply::Config { warnings, .. } = world.ask(set(&changed)) else {
        panic!("refused");
    };
    assert_eq!(foretold, warnings);
    warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_freeze_that_is_over_already_is_told_once() {
    let mut world = World::of(&document());
    let day = |after: i64| {
        let now = jiff::Timestamp::from_millisecond(world.now.as_millis()).expect("a time");
        let day = now + jiff::SignedDuration::from_hours(24 * after);
        day.strftime("%Y-%m-%d").to_string()
    };
    let [old, older, oldest, ancient] = [-1, -3, -9, -400].map(day);
    let (range, today, soon) = (format!("{}/{oldest}", day(-30)), day(0), day(300));
    let hint = "(is the year right?)";
    let freezes = |dates: &[&str]| json!({ "freezes": { "dates": dates } });
    assert_eq!(
        over(&mut world, &freezes(&[&today, &soon, "12-24", "easter"])),
        [""; 0]
    );
    assert_eq!(
        over(&mut world, &freezes(&[&today, &old, &soon])),
        [format!(
            "updateSettings.calendars.freezes: {old} is over, and holds nothing up {hint}"
        )]
    );
    // What is there already has been told.
    assert_eq!(over(&mut world, &freezes(&[&old, "12-24"])), [""; 0]);
    let many: &[&str] = &[&old, &older, &oldest, &ancient, &range];
    assert_eq!(
        over(&mut world, &freezes(many)),
        [format!(
            "updateSettings.calendars.freezes: {older}, {oldest}, {ancient} and 1 more is over, and \
             holds nothing up {hint}"
        )]
    );
    let event = |day: &str| {
        let day = day.replace('-', "");
        json!({ "spare": { "ics": format!(
            "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:{day}\nEND:VEVENT\nEND:VCALENDAR\n"
        ) } })
    };
    assert_eq!(over(&mut world, &event(&soon)), [""; 0]);
    assert_eq!(
        over(&mut world, &event(&old)),
        [format!(
            "updateSettings.calendars.spare: every event is over, and holds nothing up {hint}"
        )]
    );
}
