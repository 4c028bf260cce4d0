//! How long machines are waited for and what is put up with of them, where groups, policies and machines have
//! keys of their own: laptops wait a week, servers an hour.

use std::time::Duration;

use common::{OutcomeKind, Target};
use coordinator_core::{
    Change, FleetConfig, Request,
    alarm::Alarm,
    identity::{Actor, Role},
    request::{OperatorRequest, Refusal},
    terms::Terms,
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path};

/// What a key comes to: minutes, or a number.
type Read = fn(&Terms) -> u64;

/// Each key by its place among others.
const KEYS: [(&str, Read); 8] = [
    ("/leaseTime", |terms| whole_minutes(terms.lease)),
    ("/graceTime", |terms| whole_minutes(terms.grace)),
    ("/offlineAfter", |terms| whole_minutes(terms.offline_after)),
    ("/catchUp", |terms| whole_minutes(terms.catch_up)),
    ("/stageTimeout", |terms| whole_minutes(terms.stage)),
    ("/quarantineAfter", |terms| {
        terms.quarantine_after.map_or(0, u64::from)
    }),
    ("/alarms/notUpdated", |terms| {
        whole_minutes(terms.alarms.not_updated)
    }),
    ("/alarms/notApplied", |terms| {
        whole_minutes(terms.alarms.not_applied)
    }),
];

/// Where they may stand, what counts most last.
const PLACES: [&str; 5] = [
    "/updateSettings",
    "/updatePolicies/of-groups",
    "/updateGroups/web",
    "/updatePolicies/of-machines",
    "/updateMachines/a",
];

fn whole_minutes(time: Duration) -> u64 {
    time.as_secs() / 60
}

fn document() -> Value {
    json!({
        "updateSettings": {},
        "updatePolicies": {
            "of-groups": { "updatePolicy": "aggressive" },
            "of-machines": { "updatePolicy": "aggressive", "retries": 1 },
        },
        "updateGroups": {
            "web": { "machines": ["a", "b"], "updatePolicy": "of-groups" },
            "db": { "machines": ["c"] },
        },
        "updateMachines": { "a": { "updatePolicy": "of-machines" } },
    })
}

/// Writes it at this place, with what leads there.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let keys = pointer.split('/').skip(1);
    *keys.fold(document, |at, key| &mut at[key]) = value;
}

fn terms_of(document: &Value, machine: &str) -> Terms {
    let config = FleetConfig::parse(document).expect("a good document");
    config.terms_of(&name(machine))
}

#[test]
fn what_is_closer_to_the_machine_counts() {
    for (key, read) in KEYS {
        let default = read(&Terms::default());
        for places in 0_u32..32 {
            let mut document = document();
            let is_set = |place: usize| places & (1 << place) != 0;
            for place in (0..PLACES.len()).filter(|place| is_set(*place)) {
                let value = if key == "/quarantineAfter" {
                    json!(100 + place)
                } else {
                    json!(format!("{}m", 100 + place))
                };
                set(&mut document, &format!("{}{key}", PLACES[place]), value);
            }
            let last_of = |most: usize| {
                let found = (0..most).rev().find(|place| is_set(*place));
                found.map_or(default, |place| 100 + place as u64)
            };
            for (machine, most) in [("a", 5), ("b", 3), ("c", 1)] {
                let found = read(&terms_of(&document, machine));
                assert_eq!(found, last_of(most), "{key} of {machine}: {document}");
            }
        }
    }
}

#[test]
fn nothing_takes_the_place_of_something() {
    let mut document = document();
    document["updateSettings"]["quarantineAfter"] = json!(2);
    document["updateGroups"]["web"]["quarantineAfter"] = json!(0);
    document["updateGroups"]["web"]["alarms"] = json!({ "notUpdated": 0 });
    assert_eq!(terms_of(&document, "b").quarantine_after, None);
    assert!(terms_of(&document, "b").alarms.not_updated.is_zero());
    assert_eq!(terms_of(&document, "c").quarantine_after, Some(2));
    // What a module leaves open is not said.
    document["updateGroups"]["web"]["quarantineAfter"] = Value::Null;
    assert_eq!(terms_of(&document, "b").quarantine_after, Some(2));
}

#[test]
fn what_cannot_be_meant_is_refused_where_it_stands() {
    for (key, value, says) in [
        ("/leaseTime", json!(5), "before a lease may end"),
        ("/graceTime", json!("soon"), "not a duration"),
        ("/offlineAfter", json!(60), "too short"),
        ("/stageTimeout", json!(0), "too short"),
        ("/catchUp", json!(true), "not a duration"),
        ("/quarantineAfter", json!("3"), "not a whole number"),
        ("/alarms", json!([]), "an object"),
        ("/alarms/notUpdated", json!("often"), "not a duration"),
        ("/alarms/notSeen", json!("1h"), "not a key"),
    ] {
        for place in PLACES {
            let at = format!("{place}{key}");
            let mut document = document();
            set(&mut document, &at, value.clone());
            is_refused(&document, &at, says);
        }
    }
}

/// The document has one fault, at this key, which says so.
#[track_caller]
fn is_refused(document: &Value, at: &str, says: &str) {
    let faults = FleetConfig::parse(document).expect_err("refused").0;
    let [fault] = &faults[..] else {
        panic!("{at}: {faults:?}");
    };
    assert_eq!(fault.path, at[1..].replace('/', "."));
    assert!(fault.to_string().contains(says), "{fault}");
}

#[test]
fn what_is_about_more_than_that_is_refused() {
    for (at, value, says) in [
        (
            "/updateMachines/a/fourEyes",
            json!(true),
            "several machines",
        ),
        (
            "/updateMachines/a/noProgressAfter",
            json!("1h"),
            "not a key",
        ),
        (
            "/updateGroups/web/noProgressAfter",
            json!("1h"),
            "not a key",
        ),
        ("/updateGroups/web/fourEyes", json!("yes"), "true or false"),
        (
            "/updatePolicies/of-groups/fourEyes",
            json!(1),
            "true or false",
        ),
        (
            "/updateGroups/web/quarantineTargetAfter",
            json!(1),
            "not a key",
        ),
    ] {
        let mut document = document();
        set(&mut document, at, value);
        is_refused(&document, at, says);
    }
}

#[test]
fn what_was_in_force_once_is_read_as_it_was() {
    let mut document = document();
    document["updateGroups"]["web"]["leaseTime"] = json!(7);
    document["updateMachines"]["a"]["offlineAfter"] = json!(60);
    assert!(FleetConfig::parse(&document).is_err());
    let stored: FleetConfig = serde_json::from_value(document).expect("read");
    let terms = stored.terms_of(&name("a"));
    assert_eq!(terms.lease, Duration::from_secs(7));
    assert_eq!(terms.offline_after, Duration::from_secs(60));
}

/// Laptops and servers, of whom `more` says more.
fn world(laptops: Value, servers: Value, one: Value) -> World {
    let group = |machines: &[&str], keys: Value| {
        let mut group = json!({
            "machines": machines, "updatePolicy": "aggressive", "maxFailures": 9, "maxParallel": 3,
        });
        let own = keys.as_object().expect("keys").clone();
        group.as_object_mut().expect("an object").extend(own);
        group
    };
    World::of(&json!({
        "updateGroups": {
            "laptops": group(&["l1", "l2"], laptops),
            "servers": group(&["s1", "s2"], servers),
        },
        "updateMachines": { "s2": one },
        "updateSettings": { "maxParallel": 4, "staggerDelay": 0 },
    }))
}

#[test]
fn a_laptop_is_waited_for_and_a_server_is_not() {
    let mut world = world(
        json!({ "catchUp": "168h" }),
        json!({ "catchUp": "1h" }),
        json!({ "catchUp": "3h" }),
    );
    let rollout = world.execute();
    let begin = world.now;
    world.update("l1");
    let away = ["l2", "s1", "s2"];
    let places = |world: &World| away.map(|machine| world.place(&rollout, machine));
    let changes = world.pass_without(minutes(60), &away);
    let finished = |change: &Change| matches!(change, Change::GroupFinished { .. });
    assert_eq!(changes.iter().filter(|change| finished(change)).count(), 2);
    // All of them are late from the moment at which the last group had nobody else left.
    let number = coordinator_core::fleet::number_of(&rollout).expect("a number");
    let since = world.fleet.only_late_since(number).expect("they are");
    assert!(since < begin + minutes(20), "{since:?}");
    let reach = |world: &mut World, time| {
        let left = (since + time).since(world.now);
        world.pass_without(left, &away);
    };
    reach(&mut world, minutes(60) - Duration::from_secs(1));
    assert_eq!(places(&world), ["pending", "pending", "pending"]);
    reach(&mut world, minutes(60));
    assert_eq!(places(&world), ["pending", "skipped", "pending"]);
    reach(&mut world, minutes(180));
    assert_eq!(places(&world), ["pending", "skipped", "skipped"]);
    reach(&mut world, minutes(167 * 60));
    world.update("l2");
    assert_eq!(world.place(&rollout, "l2"), "updated");
}

#[test]
fn a_lease_and_its_grace_are_as_long_as_the_machine_says() {
    let mut world = world(
        json!({ "leaseTime": "40m", "graceTime": "2h" }),
        json!({ "leaseTime": "4m" }),
        json!({ "graceTime": "5m" }),
    );
    let rollout = world.execute();
    let machines = ["l1", "l2", "s1", "s2"];
    let leases = machines.map(|machine| whole_minutes(world.go(machine).valid_for));
    assert_eq!(leases, [40, 40, 4, 4]);
    let places = |world: &World| machines.map(|machine| world.place(&rollout, machine));
    world.pass_without(minutes(5), &machines);
    assert_eq!(places(&world), ["leased", "leased", "overdue", "overdue"]);
    world.pass_without(minutes(5), &machines);
    assert_eq!(places(&world), ["leased", "leased", "overdue", "failed"]);
    world.pass_without(minutes(10), &machines);
    assert_eq!(places(&world), ["leased", "leased", "failed", "failed"]);
    world.pass_without(minutes(139), &machines);
    assert_eq!(places(&world), ["overdue", "overdue", "failed", "failed"]);
    world.pass_without(minutes(2), &machines);
    assert_eq!(places(&world), ["failed", "failed", "failed", "failed"]);
}

#[test]
fn a_renewal_is_as_long_as_the_machine_says() {
    use coordinator_core::request::Renewal;
    let mut world = world(json!({ "leaseTime": "40m" }), json!({}), json!({}));
    world.execute();
    let grant = world.go("l1");
    world.now = world.now + minutes(5);
    let Renewal::Valid(valid_for) = world.renew("l1", &grant) else {
        panic!("not renewed");
    };
    assert_eq!(whole_minutes(valid_for), 40);
}

#[test]
fn the_shortest_lease_says_when_the_coordinator_was_away() {
    let mut world = world(json!({}), json!({ "leaseTime": "4m" }), json!({}));
    let rollout = world.execute();
    world.go("s1");
    // It stood still for longer than that lease, and not for half of the others.
    world.now = world.now + minutes(7);
    let _ticked = world.handle(Request::Tick);
    assert_eq!(world.place(&rollout, "s1"), "leased");
}

#[test]
fn silence_counts_when_the_machine_says_so() {
    let mut world = world(
        json!({ "offlineAfter": "168h" }),
        json!({}),
        json!({ "offlineAfter": "30m" }),
    );
    let machines = ["l1", "s1", "s2"];
    let offline = |world: &World| machines.map(|m| world.fleet.is_offline(&name(m), world.now));
    world.pass_without(minutes(11), &machines);
    assert_eq!(offline(&world), [false, true, false]);
    world.pass_without(minutes(20), &machines);
    assert_eq!(offline(&world), [false, true, true]);
}

#[test]
fn a_machine_has_the_time_to_stage_that_it_says() {
    let mut world = world(
        json!({}),
        json!({ "stageTimeout": "30m" }),
        json!({ "stageTimeout": "2h" }),
    );
    for machine in ["s1", "s2"] {
        let known = world.reports.get_mut(&name(machine)).expect("there");
        known.staged = None;
        known.boot_id = "boot-2".parse().expect("boot");
        world.poll_without_staging(machine);
    }
    let rollout = world.execute();
    let stages_nothing = |world: &mut World, time| {
        let end = world.now + time;
        while world.now < end {
            world.pass_without(minutes(5), &["s1", "s2"]);
            for machine in ["s1", "s2"] {
                world.poll_without_staging(machine);
            }
        }
    };
    stages_nothing(&mut world, minutes(25));
    assert_eq!(world.place(&rollout, "s1"), "pending");
    stages_nothing(&mut world, minutes(10));
    assert_eq!(world.place(&rollout, "s1"), "refused");
    stages_nothing(&mut world, minutes(80));
    assert_eq!(world.place(&rollout, "s2"), "pending");
    stages_nothing(&mut world, minutes(10));
    assert_eq!(world.place(&rollout, "s2"), "refused");
}

/// One rollout in which these go back by themselves.
fn fail(world: &mut World, machines: &[&str], version: u64) {
    let all = ["l1", "l2", "s1", "s2"];
    let target = Target::Closure(path(&format!("{version}")));
    world.done(OperatorRequest::PinTargets {
        targets: all.iter().map(|m| (name(m), target.clone())).collect(),
        reason: String::new(),
    });
    let rollout = world.execute();
    for machine in machines {
        world.fails(machine);
    }
    world.ask(OperatorRequest::Abort {
        rollout: Some(rollout),
        reason: "enough".to_owned(),
    });
}

fn aside(world: &World) -> Vec<&str> {
    let aside = world.fleet.facts().quarantined.keys();
    aside.map(|machine| machine.as_str()).collect()
}

#[test]
fn each_machine_may_fail_as_often_as_it_says() {
    let mut world = world(
        json!({ "quarantineAfter": 0 }),
        json!({ "quarantineAfter": 3 }),
        json!({ "quarantineAfter": 1 }),
    );
    fail(&mut world, &["l1", "s1", "s2"], 10);
    assert_eq!(aside(&world), ["s2"]);
    let by = &world.fleet.quarantine_of(&name("s2")).expect("aside").by;
    let said = "the fleet configuration (updateMachines.s2.quarantineAfter)";
    assert_eq!(by, said);
    fail(&mut world, &["l1", "s1"], 11);
    assert_eq!(aside(&world), ["s2"]);
    fail(&mut world, &["l1", "s1"], 12);
    assert_eq!(aside(&world), ["s1", "s2"]);
    let by = &world.fleet.quarantine_of(&name("s1")).expect("aside").by;
    let said = "the fleet configuration (updateGroups.servers.quarantineAfter)";
    assert_eq!(by, said);
    // As soon as it is said, also of failures of before, and after a restart.
    let facts = serde_json::to_value(world.fleet.facts()).expect("JSON");
    world.goes_on_from(serde_json::from_value(facts).expect("facts"));
    let mut document = world.document();
    document["updateMachines"]["l1"] = json!({ "quarantineAfter": 4 });
    world.configure(&document);
    assert_eq!(aside(&world), ["s1", "s2"]);
    document["updateMachines"]["l1"] = json!({ "quarantineAfter": 3 });
    world.configure(&document);
    assert_eq!(aside(&world), ["l1", "s1", "s2"]);
}

#[test]
fn who_was_put_aside_by_hand_is_not_put_aside_again() {
    let mut world = world(json!({}), json!({}), json!({ "quarantineAfter": 1 }));
    world.execute();
    let grant = world.go("s2");
    world.done(OperatorRequest::Quarantine {
        machines: vec![name("s2")],
        reason: "its disk is failing".to_owned(),
    });
    world.end("s2", &grant, OutcomeKind::RolledBack);
    let found = world.fleet.quarantine_of(&name("s2")).expect("aside");
    assert_eq!((&*found.by, &*found.reason), ("ada", "its disk is failing"));
    world.done(OperatorRequest::Release {
        machines: vec![name("s2")],
        reason: String::new(),
    });
    assert!(
        aside(&world).is_empty(),
        "what failed before counts no more"
    );
}

#[test]
fn each_group_is_told_of_when_it_says_so() {
    let mut world = world(
        json!({ "alarms": { "notUpdated": "48h", "notApplied": 0 } }),
        json!({ "alarms": { "notUpdated": "24h", "notApplied": 0 } }),
        json!({ "alarms": { "notUpdated": "36h" } }),
    );
    let begin = world.now;
    let told = world.pass(minutes(50 * 60));
    let told = told.iter().filter_map(|change| match change {
        Change::Alarmed {
            alarm: Alarm::NotUpdated,
            machines,
            at,
        } => {
            let names = machines.iter().map(|(machine, _)| machine.as_str());
            let after = at.since(begin).as_secs().div_ceil(3600);
            Some((names.collect::<Vec<_>>().join(" "), after))
        }
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let told: Vec<(&str, u64)> = told
        .iter()
        .map(|(names, after)| (&**names, *after))
        .collect();
    assert_eq!(told, [("s1", 24), ("s2", 36), ("l1 l2", 48)]);
}

fn approve(world: &mut World, who: &str, group: Option<&str>) -> Option<Refusal> {
    let actor = Actor {
        name: who.parse().expect("a name"),
        role: Role::Admin,
        serial: "2".to_owned(),
    };
    let request = OperatorRequest::Approve {
        rollout: None,
        group: group.map(|group| group.parse().expect("a name")),
        reject: false,
        comment: String::new(),
    };
    let decision = world.handle(Request::Operator { actor, request });
    decision.reply.refusal().cloned()
}

#[test]
fn a_group_that_takes_four_eyes_is_approved_by_somebody_else() {
    let asks = json!({ "requireApproval": true });
    let mut world = world(
        asks.clone(),
        json!({ "requireApproval": true, "fourEyes": true }),
        json!({}),
    );
    world.execute();
    let refusal = approve(&mut world, "ada", None).expect("it is hers, and of both");
    assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
    let text = refusal.to_string();
    assert!(text.contains("(updateGroups.servers.fourEyes)"), "{text}");
    assert!(approve(&mut world, "ada", Some("servers")).is_some());
    assert_eq!(approve(&mut world, "ada", Some("laptops")), None);
    world.update("l1");
    world.waits_for("s1", "approval");
    assert_eq!(approve(&mut world, "bob", None), None);
    world.update("s1");
}

#[test]
fn one_answer_for_several_groups_takes_four_eyes_when_one_of_them_does() {
    let shares = json!({ "requireApproval": "rollout" });
    let mut strict = shares.clone();
    strict["fourEyes"] = json!(true);
    let mut world = world(shares, strict, json!({}));
    world.execute();
    let refusal = approve(&mut world, "ada", Some("laptops"));
    assert!(
        matches!(refusal, Some(Refusal::Forbidden(_))),
        "{refusal:?}"
    );
    assert_eq!(approve(&mut world, "bob", Some("laptops")), None);
    world.update("l1");
    world.update("s1");
}

#[test]
fn a_policy_and_the_fleet_say_who_takes_four_eyes_as_well() {
    let config = |settings: bool, policy: Value, group: Value| {
        let mut document = document();
        document["updateSettings"]["fourEyes"] = json!(settings);
        document["updatePolicies"]["of-groups"]["fourEyes"] = policy;
        document["updateGroups"]["web"]["fourEyes"] = group;
        let config = FleetConfig::parse(&document).expect("a good document");
        let needs = |group: &str| config.needs_four_eyes(&group.parse().expect("a name"));
        (needs("web"), needs("db"), needs("gone"))
    };
    let nothing = Value::Null;
    assert_eq!(
        config(true, nothing.clone(), nothing.clone()),
        (true, true, true)
    );
    assert_eq!(
        config(false, json!(true), nothing.clone()),
        (true, false, false)
    );
    assert_eq!(config(true, json!(false), nothing), (false, true, true));
    assert_eq!(
        config(false, json!(false), json!(true)),
        (true, false, false)
    );
}
