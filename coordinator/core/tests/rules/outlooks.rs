//! What a plan comes to: times that keep every rule that they claim to, against looking at each instant.

use std::{collections::BTreeMap, time::Duration};

use common::{Action, ChangeKind, Changes, MachineName, PackageChange, Timestamp};
use coordinator_core::{
    outlook::{Outlook, Reboot, RebootHow},
    plan::Plan,
    request::Wish,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fleet::{MONDAY, World, minutes, name, wish};

pub(crate) fn seen(world: &World, wish: &Wish) -> (Plan, Outlook) {
    let plan = world.fleet.plan(wish).expect("a plan");
    let outlook = world.fleet.outlook(&plan, wish.immediate, world.now);
    (plan, outlook)
}

/// Minutes from now on.
fn minute(world: &World, at: Timestamp) -> u64 {
    at.since(world.now).as_secs() / 60
}

fn turn(world: &World, outlook: &Outlook, machine: &str) -> (u64, u64) {
    let (from, until) = outlook.turns[&name(machine)];
    (minute(world, from), minute(world, until))
}

#[test]
fn turns_follow_slots_canary_soak_dependencies_and_stagger() {
    let world = World::new(
        json!({
            "one": {
                "machines": ["a", "b", "c", "d"], "updatePolicy": "aggressive", "maxParallel": 2,
                "canary": 1, "canarySoak": "30m", "expectedDuration": "10m", "staggerDelay": "20m",
            },
            "two": {
                "machines": ["e"], "updatePolicy": "aggressive", "dependencies": ["one"],
                "expectedDuration": "5m",
            },
        }),
        json!({ "maxParallel": 4 }),
    );
    let (_, outlook) = seen(&world, &wish(&[]));
    let turns = ["a", "b", "c", "d", "e"].map(|machine| turn(&world, &outlook, machine));
    assert_eq!(turns, [(0, 10), (40, 50), (40, 50), (50, 60), (80, 85)]);
    assert_eq!(outlook.ends_at.map(|at| minute(&world, at)), Some(85));
    // What must not wait does not soak, nor stagger.
    let urgent = Wish {
        immediate: true,
        reason: "a hole".to_owned(),
        ..wish(&[])
    };
    let (_, outlook) = seen(&world, &urgent);
    assert_eq!(turn(&world, &outlook, "e"), (30, 35));
}

/// Machines `a` and `b`, one after the other, with a gate that takes seven minutes and one that takes two.
fn gated(more: &Value) -> World {
    let mut group = json!({
        "machines": ["a", "b"], "updatePolicy": "aggressive", "expectedDuration": "10m",
        "gates": ["slow", "quick"],
    });
    let map = group.as_object_mut().expect("one");
    map.extend(more.as_object().expect("one").clone());
    World::of(&json!({
        "analysis": {
            "slow": { "tcp": "example.org:443", "initialDelay": "3m", "interval": "2m", "passes": 3 },
            "quick": { "tcp": "example.org:80", "interval": "1m", "passes": 3 },
        },
        "updateGroups": { "one": group },
    }))
}

/// When `a` and `b` begin, and when all is over.
fn begin_and_end(world: &World, wish: &Wish) -> (u64, u64, Option<u64>) {
    let (_, outlook) = seen(world, wish);
    let begin = |machine| turn(world, &outlook, machine).0;
    let end = outlook.ends_at.map(|at| minute(world, at));
    (begin("a"), begin("b"), end)
}

#[test]
fn turns_wait_for_gates_that_take_longer_than_the_soak() {
    let short = gated(&json!({ "canary": 1, "canarySoak": "5m" }));
    assert_eq!(begin_and_end(&short, &wish(&[])), (0, 17, Some(34)));
    let long = gated(&json!({ "canary": 1, "canarySoak": "9m" }));
    assert_eq!(begin_and_end(&long, &wish(&[])), (0, 19, Some(36)));
    // What must not wait waits for its gates.
    let urgent = Wish {
        immediate: true,
        ..wish(&[])
    };
    assert_eq!(begin_and_end(&long, &urgent), (0, 17, Some(34)));
}

#[test]
fn gates_are_passed_before_traffic_moves_and_once_more_under_it() {
    let sides = json!({
        "blueGreen": {
            "sides": { "blue": ["b"], "green": ["a"] },
            "traffic": { "haproxy": { "socket": "/run/haproxy.sock", "backend": "web" } },
            "watch": "9m",
        },
    });
    let world = gated(&sides);
    assert_eq!(begin_and_end(&world, &wish(&[])), (0, 26, Some(43)));
    let urgent = Wish {
        immediate: true,
        ..wish(&[])
    };
    assert_eq!(begin_and_end(&world, &urgent), (0, 24, Some(41)));
    // The traffic follows in the next night, and in the one after that there is time for the other side.
    let mut nightly = sides;
    nightly["maintenanceWindow"] = json!("00:00-00:15");
    let world = gated(&nightly);
    let day = 24 * 60;
    let times = (0, 2 * day, Some(2 * day + 17));
    assert_eq!(begin_and_end(&world, &wish(&[])), times);
    assert_eq!(begin_and_end(&world, &urgent), (0, 24, Some(41)));
}

#[test]
fn a_rollback_waits_for_no_gate() {
    let mut world = gated(&json!({ "maxParallel": 1 }));
    for machine in ["a", "b"] {
        let facts = &mut world.fleet.facts().clone();
        let known = facts.machines.get_mut(&name(machine)).expect("known");
        known.previous = Some(crate::fleet::path("0"));
        world.goes_on_from(facts.clone());
    }
    let back = Wish {
        action: Action::Rollback,
        ..wish(&[])
    };
    assert_eq!(begin_and_end(&world, &back), (0, 10, Some(20)));
}

#[test]
fn who_waits_for_the_coordinators_group_goes_after_it() {
    let world = World::new(
        json!({
            "one": { "machines": ["a"], "updatePolicy": "aggressive", "expectedDuration": "10m" },
            "two": {
                "machines": ["b"], "updatePolicy": "aggressive", "dependencies": ["one"],
                "staggerDelay": 0,
            },
        }),
        json!({ "coordinators": ["a"], "staggerDelay": 0 }),
    );
    assert_eq!(begin_and_end(&world, &wish(&[])), (0, 10, Some(20)));
}

#[test]
fn turns_wait_for_windows_that_are_long_enough() {
    let world = World::new(
        json!({
            "short": {
                "machines": ["a", "b", "c"], "updatePolicy": "aggressive",
                "maintenanceWindow": ["10:00-10:25", "12:00-13:00"], "maxParallel": 1, "expectedDuration": "10m",
            },
            "never": {
                "machines": ["d"], "updatePolicy": "aggressive",
                "maintenanceWindow": "10:00-10:20", "expectedDuration": "10m",
            },
        }),
        json!({ "maxParallel": 4 }),
    );
    let (_, outlook) = seen(&world, &wish(&["short"]));
    let from = |machine: &str| outlook.turns[&name(machine)].0;
    let first = from("a");
    assert_eq!((first.as_millis() / 60_000) % (24 * 60), 10 * 60);
    assert_eq!(from("b").since(first), minutes(10));
    assert_eq!(from("c").since(first), minutes(120));
    // A machine that has been seen to take longer than its window ever lasts has no turn.
    let mut world = world;
    let machines = &mut world.fleet.facts().clone();
    let slow = machines.machines.get_mut(&name("d")).expect("known");
    slow.took_s.push_back(3600);
    world.goes_on_from(machines.clone());
    let (_, outlook) = seen(&world, &wish(&["never"]));
    assert_eq!(outlook.ends_at, None);
    assert!(outlook.turns.is_empty());
}

#[test]
fn the_coordinators_own_machine_has_the_last_turn() {
    let world = World::new(
        json!({
            "one": { "machines": ["a", "b"], "updatePolicy": "aggressive", "maxParallel": 2 },
            "two": { "machines": ["c", "d"], "updatePolicy": "aggressive", "maxParallel": 2 },
        }),
        json!({ "maxParallel": 4, "coordinators": ["a"] }),
    );
    let (_, outlook) = seen(&world, &wish(&[]));
    let others = ["b", "c", "d"].map(|machine| turn(&world, &outlook, machine).1);
    assert!(
        others
            .iter()
            .all(|end| *end <= turn(&world, &outlook, "a").0),
        "{outlook:?}"
    );
}

#[test]
fn reboots_are_told_with_why_and_changes_with_who() {
    let mut world = World::new(
        json!({ "one": { "machines": ["a", "b", "c"], "updatePolicy": "aggressive" } }),
        json!({}),
    );
    let package = |version: &str| PackageChange {
        name: "linux".to_owned(),
        kind: ChangeKind::Upgraded,
        before: vec!["6.12.8".to_owned()],
        after: vec![version.to_owned()],
        bytes: 0,
    };
    for (machine, version) in [("a", "6.12.9"), ("b", "6.12.10"), ("c", "6.12.10")] {
        world.poll(machine);
        let staged = world.report(machine).staged.as_mut().expect("staged");
        staged.needs_reboot = machine == "b";
        staged.reboot_reasons = vec!["kernel".to_owned()];
        staged.changes = Some(Changes {
            from: crate::fleet::path("1"),
            bytes: 0,
            packages: vec![package(version)],
            more: 0,
        });
        world.poll(machine);
    }
    let (_, outlook) = seen(&world, &wish(&[]));
    let reboot = Reboot {
        why: vec!["kernel".to_owned()],
        how: RebootHow::ByHand,
    };
    assert_eq!(outlook.reboots, BTreeMap::from([(name("b"), reboot)]));
    let who: Vec<&[MachineName]> = outlook
        .changes
        .iter()
        .map(|(_, who)| who.as_slice())
        .collect();
    assert_eq!(who, [&[name("b"), name("c")][..], &[name("a")][..]]);
}

#[test]
fn a_reboot_is_soft_where_that_is_enough_and_left_to_a_person_where_the_rules_say_so() {
    let rules = |soft: bool| json!({ "allowReboot": true, "softReboot": soft });
    let mut groups = json!({ "soft": rules(true), "hard": rules(false) });
    groups["soft"]["machines"] = json!(["a", "b", "c"]);
    groups["hard"]["machines"] = json!(["d"]);
    let machines = json!({ "c": { "allowReboot": false } });
    let mut world = World::of(&json!({ "updateGroups": groups, "updateMachines": machines }));
    for machine in ["a", "b", "c", "d"] {
        world.poll(machine);
        let staged = world.report(machine).staged.as_mut().expect("staged");
        staged.needs_reboot = true;
        staged.soft_reboot = machine != "b";
        world.report(machine).profile = Some(crate::fleet::path("2"));
        world.poll(machine);
    }
    let planned = |action: Action| {
        let wish = Wish {
            action,
            ..wish(&[])
        };
        let plan = world.fleet.plan(&wish).expect("a plan");
        let reboots = world.fleet.outlook(&plan, false, world.now).reboots;
        let reboots = reboots.into_iter();
        let reboots = reboots.map(|(machine, reboot)| (machine, reboot.how));
        reboots.collect::<Vec<_>>()
    };
    let expected = [
        ("a", RebootHow::Soft),
        ("b", RebootHow::Machine),
        ("c", RebootHow::ByHand),
        ("d", RebootHow::Machine),
    ];
    let expected = expected.map(|(machine, how)| (name(machine), how));
    assert_eq!(planned(Action::Update), expected);
    // Who is told to reboot boots.
    let boots = expected.map(|(machine, _)| (machine, RebootHow::Machine));
    assert_eq!(planned(Action::Reboot), boots);
}

/// A group of random size and rules, after those before it that the bits name.
fn group(index: usize, drawn: &(usize, u32, u64, u64, bool, u8)) -> Value {
    let (size, parallel, takes, soak, waves, after) = drawn;
    let machines: Vec<String> = (0..*size).map(|n| format!("m{index}-{n}")).collect();
    let after: Vec<String> = (0..index)
        .filter(|other| after >> other & 1 == 1)
        .map(|other| format!("g{other}"))
        .collect();
    let mut group = json!({
        "machines": machines, "updatePolicy": "aggressive", "dependencies": after,
        "maxParallel": parallel, "expectedDuration": format!("{takes}m"), "soak": format!("{soak}m"),
    });
    if *waves && *size > 2 {
        group["waves"] = json!([1, 2]);
    }
    group
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_turn_keeps_the_rules(
        drawn in proptest::collection::vec(
            (1_usize..6, 1_u32..4, 1_u64..40, 0_u64..30, any::<bool>(), any::<u8>()), 1..5,
        ),
        most in 1_u32..5,
        stagger in 0_u64..30,
    ) {
        let groups = drawn.iter().enumerate();
        let groups: serde_json::Map<String, Value> = groups
            .map(|(index, drawn)| (format!("g{index}"), group(index, drawn)))
            .collect();
        let settings = json!({ "maxParallel": most, "staggerDelay": format!("{stagger}m") });
        // More at once than the group has machines would be refused.
        let groups = groups.into_iter().map(|(name, mut group)| {
            let size = group["machines"].as_array().map_or(0, Vec::len);
            let parallel = group["maxParallel"].as_u64().unwrap_or(1);
            group["maxParallel"] = json!(parallel.min(size as u64));
            (name, group)
        });
        let groups: serde_json::Map<String, Value> = groups.collect();
        let fleet = drawn.iter().map(|drawn| drawn.0).sum::<usize>();
        prop_assume!(most as usize <= fleet);
        let world = World::new(Value::Object(groups), settings);
        let (plan, outlook) = seen(&world, &wish(&[]));
        prop_assert_eq!(outlook.turns.len(), fleet);
        let turns = |machine: &MachineName| outlook.turns[machine];
        // At every begin: nobody beyond a limit.
        for (at, _) in outlook.turns.values() {
            let away = |machine: &&MachineName| {
                let (from, until) = turns(machine);
                from <= *at && *at < until
            };
            prop_assert!(outlook.turns.keys().filter(away).count() <= most as usize);
            for group in &plan.groups {
                let machines = group.waves.iter().flat_map(|wave| &wave.machines);
                let away = machines.map(|machine| &machine.name).filter(away).count();
                prop_assert!(away <= group.policy.max_parallel as usize);
            }
        }
        let begin = |wave: &coordinator_core::plan::PlannedWave| {
            wave.machines.iter().map(|machine| turns(&machine.name).0).min().expect("somebody")
        };
        let end = |wave: &coordinator_core::plan::PlannedWave| {
            wave.machines.iter().map(|machine| turns(&machine.name).1).max().expect("somebody")
        };
        for group in &plan.groups {
            for machine in group.waves.iter().flat_map(|wave| &wave.machines) {
                let (from, until) = turns(&machine.name);
                prop_assert_eq!(until.since(from), group.policy.expected_duration);
            }
            // A wave after the one before it and its soak, a group after those it depends on.
            for pair in group.waves.windows(2) {
                prop_assert!(begin(&pair[1]) >= end(&pair[0]) + group.policy.soak);
            }
            for (before, stagger) in &group.after {
                let before = plan.groups.iter().find(|group| group.name == *before).expect("there");
                let done = before.waves.iter().map(end).max().expect("waves");
                prop_assert!(group.waves.iter().map(begin).min().expect("waves") >= done + *stagger);
            }
        }
        let last = outlook.turns.values().map(|(_, until)| *until).max();
        prop_assert_eq!(outlook.ends_at, last);
        // Nobody idles: somebody is at work, soaks or staggers at any time.
        let mut at = MONDAY;
        let busy = |at: Timestamp| outlook.turns.values().any(|(from, until)| *from <= at && at < *until);
        let most_idle = Duration::from_secs(30 * 60);
        let mut idle_since = at;
        while Some(at) < last {
            if busy(at) {
                idle_since = at;
            }
            prop_assert!(at.since(idle_since) <= most_idle + Duration::from_secs(60));
            at = at + Duration::from_secs(60);
        }
    }
}
