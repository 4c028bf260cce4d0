//! How a group is cut into waves, where it waits for a person, and who lets it go on.

use common::{Action, HealthState, MachineName, OutcomeKind, StorePath, Target};
use coordinator_core::{
    plan::{PlannedMachine, waves},
    policy::{Policy, Share},
    request::{OperatorRequest, Promotion},
    rollout::{RolloutState, Rules},
};
use proptest::prelude::{Strategy as _, any, prop, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path, wish};

fn promote(full: bool) -> OperatorRequest {
    let promotion = Promotion {
        full,
        ..Promotion::default()
    };
    OperatorRequest::Promote {
        promotion,
        reason: String::new(),
    }
}

/// Six machines, all of whom may be away at once.
fn six(keys: Value) -> World {
    let mut group = json!({ "machines": ["a", "b", "c", "d", "e", "f"],
        "updatePolicy": "aggressive", "maxParallel": 6 });
    let keys = keys.as_object().expect("keys").clone();
    group.as_object_mut().expect("an object").extend(keys);
    World::new(json!({ "web": group }), json!({ "maxParallel": 6 }))
}

#[test]
fn waves_grow_and_each_waits_for_the_one_before() {
    let mut world = six(json!({ "canary": 1, "waves": ["50%", 4] }));
    let rollout = world.execute();
    for wave in [vec!["a"], vec!["b", "c"], vec!["d"], vec!["e", "f"]] {
        let grants: Vec<_> = wave.iter().map(|m| (*m, world.go(m))).collect();
        if wave.contains(&"c") {
            world.waits_for("d", "wave-not-open");
            world.waits_for("e", "wave-not-open");
        }
        for (machine, grant) in grants {
            world.end(machine, &grant, OutcomeKind::Confirmed);
        }
    }
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

#[test]
fn a_named_canary_goes_first_whatever_the_order() {
    let mut world = six(json!({ "canary": ["e", "c"] }));
    world.execute();
    world.waits_for("a", "wave-not-open");
    world.update("e");
    world.waits_for("a", "wave-not-open");
    world.update("c");
    world.update("a");
}

#[test]
fn a_group_waits_after_its_canary_until_somebody_lets_it_go_on() {
    let mut world = six(json!({ "canary": 1, "canarySoak": "10m", "pauseAfter": "canary" }));
    let rollout = world.execute();
    world.update("a");
    world.waits_for("b", "soaking");
    world.pass(minutes(11));
    world.waits_for("b", "held");
    // For as long as it takes: a person is asked, and nothing is stalled.
    world.pass(minutes(60 * 24));
    world.waits_for("b", "held");
    assert_eq!(*world.state(&rollout), RolloutState::Active);
    world.done(promote(false));
    for machine in ["b", "c", "d", "e", "f"] {
        world.update(machine);
    }
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
    // Once more there is nothing to let go.
    let refusal = world.refused(promote(false));
    assert!(refusal.to_string().contains("waits after a wave"));
}

#[test]
fn each_wave_but_the_last_is_asked_about_and_full_ends_the_asking() {
    let keys = json!({ "waves": [1, 2, 3], "pauseAfter": "each-wave", "soak": "5m" });
    let mut world = six(keys);
    world.execute();
    world.update("a");
    // Who is let go on while it soaks does not soak on, and is not asked about this wave again.
    world.waits_for("b", "soaking");
    world.done(promote(false));
    world.update("b");
    world.pass(minutes(6));
    world.waits_for("c", "held");
    world.done(promote(true));
    world.update("c");
    world.update("d");
}

#[test]
fn who_is_ill_holds_the_next_wave_back_although_it_was_let_go() {
    let mut world = six(json!({ "canary": 1, "canarySoak": "10m" }));
    world.execute();
    world.update("a");
    world.health("a", HealthState::Unhealthy);
    world.done(promote(false));
    world.waits_for("b", "group-unhealthy");
    world.health("a", HealthState::Healthy);
    world.update("b");
}

#[test]
fn only_what_waits_is_let_go() {
    let mut world = six(json!({ "canary": 1, "pauseAfter": "canary" }));
    world.execute();
    let refusal = world.refused(promote(false));
    assert!(refusal.to_string().contains("no rollout waits"));
    world.update("a");
    let elsewhere = OperatorRequest::Promote {
        promotion: Promotion {
            group: Some("db".parse().expect("a name")),
            ..Promotion::default()
        },
        reason: String::new(),
    };
    assert!(world.refused(elsewhere).to_string().contains("db"));
    world.waits_for("b", "held");
}

#[test]
fn a_way_back_is_cut_into_no_waves() {
    let mut world = six(json!({ "canary": ["b"], "waves": [3], "pauseAfter": "each-wave" }));
    world.execute();
    world.done(promote(true));
    for machine in ["b", "a", "c", "d", "e", "f"] {
        world.update(machine);
    }
    let mut back = wish(&[]);
    back.action = Action::Rollback;
    let plan = world.fleet.plan(&back).expect("a plan");
    assert_eq!(plan.groups[0].waves.len(), 1);
}

fn machine(number: usize) -> PlannedMachine {
    let target: StorePath = path("2");
    PlannedMachine {
        name: name(&format!("m{number}")),
        running: None,
        target: Target::Closure(target),
        staged: None,
        rules: Rules::Group,
    }
}

/// The first wave of a plan for these machines, if it is the canary, and for whom it stands in.
fn canary(world: &World, machines: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let mut some = wish(&[]);
    some.selection.machines = machines.iter().map(|machine| name(machine)).collect();
    let plan = world.fleet.plan(&some).expect("a plan");
    let first = &plan.groups[0].waves[0];
    let machines = first.machines.iter().map(|m| m.name.to_string());
    let in_place_of = first.in_place_of.iter().map(ToString::to_string);
    first
        .canary
        .then(|| (machines.collect(), in_place_of.collect()))
}

fn of(machines: &[&str], in_place_of: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Some((texts(machines), texts(in_place_of)))
}

#[test]
fn somebody_stands_in_for_a_named_canary_that_is_left_out_and_is_asked_about() {
    let mut world = six(json!({ "canary": ["c"], "canarySoak": "10m", "pauseAfter": "canary" }));
    world.done(OperatorRequest::Quarantine {
        machines: vec![name("c")],
        reason: "its disk is failing".to_owned(),
    });
    assert_eq!(canary(&world, &[]), of(&["a"], &["c"]));
    world.execute();
    world.waits_for("b", "wave-not-open");
    world.update("a");
    world.waits_for("b", "soaking");
    world.pass(minutes(11));
    world.waits_for("b", "held");
    world.done(promote(false));
    world.update("b");
}

#[test]
fn a_named_canary_that_has_gone_shows_nothing_of_what_goes_next() {
    // Whether it was updated before the others or does not change at all is not to be seen.
    let mut world = six(json!({ "canary": ["c"] }));
    let mut first = wish(&[]);
    first.selection.machines = vec![name("c")];
    world.done(OperatorRequest::Execute {
        wish: first,
        if_plan: None,
    });
    world.update("c");
    assert_eq!(canary(&world, &[]), of(&["a"], &["c"]));
}

#[test]
fn whoever_is_named_goes_with_a_canary_of_theirs_unless_it_goes_alone() {
    let world = six(json!({ "canary": ["e", "c"] }));
    assert_eq!(canary(&world, &[]), of(&["c", "e"], &[]));
    assert_eq!(canary(&world, &["a", "e", "f"]), of(&["e"], &[]));
    assert_eq!(canary(&world, &["f", "b"]), of(&["b"], &["e", "c"]));
    // Of nobody but the canary one goes before the other.
    assert_eq!(canary(&world, &["e", "c"]), of(&["c"], &[]));
    assert_eq!(canary(&world, &["b"]), None);
    assert_eq!(canary(&world, &["e"]), None);
}

#[test]
fn a_counted_canary_is_of_those_who_go_and_never_everybody() {
    let percent = six(json!({ "canary": "50%" }));
    assert_eq!(canary(&percent, &[]), of(&["a", "b", "c"], &[]));
    assert_eq!(canary(&percent, &["c", "d", "e"]), of(&["c", "d"], &[]));
    assert_eq!(canary(&percent, &["c", "d"]), of(&["c"], &[]));
    assert_eq!(canary(&percent, &["c"]), None);
    let count = six(json!({ "canary": 3 }));
    assert_eq!(canary(&count, &["c", "d", "e"]), of(&["c", "d"], &[]));
    assert_eq!(canary(&count, &["c", "d"]), of(&["c"], &[]));
    assert_eq!(canary(&count, &["c"]), None);
    assert_eq!(canary(&six(json!({ "canary": "0%" })), &[]), None);
}

#[test]
fn a_canary_that_was_written_down_without_a_percentage_is_read() {
    let frozen = policy(3, Vec::new(), Vec::new());
    let written = serde_json::to_value(&frozen).expect("written");
    assert!(written.get("canary_percent").is_none());
    let read: Policy = serde_json::from_value(written).expect("read");
    assert_eq!((read.canary, read.canary_of(6)), (3, 3));
}

fn policy(canary: u32, named: Vec<MachineName>, waves: Vec<Share>) -> Policy {
    let group = json!({ "web": { "machines": ["a"] } });
    let world = World::new(group, json!({}));
    let config = world.fleet.facts().config.as_ref().expect("set");
    let mut policy = config.groups.values().next().expect("one").policy.clone();
    policy.canary = canary;
    policy.canary_machines = named;
    policy.waves = waves;
    policy
}

fn share() -> impl proptest::strategy::Strategy<Value = Share> {
    (any::<bool>(), 1u32..100).prop_map(|(percent, number)| {
        if percent {
            Share::Percent(number)
        } else {
            Share::Machines(number % 30 + 1)
        }
    })
}

proptest! {
    /// Against the definition, machine by machine: the wave of the n-th machine is the first whose end
    /// it does not lie behind.
    #[test]
    fn machines_are_in_the_wave_that_the_shares_say(
        size in 0usize..40,
        canary in 0u32..6,
        percent in prop::option::of(0u32..101),
        later in 0usize..3,
        named in prop::collection::btree_set(0usize..40, 0..4),
        mut shares in prop::collection::vec(share(), 0..5),
    ) {
        // As a document must have them: growing.
        shares.sort_by_key(|share| share.at_least(size));
        let names: Vec<MachineName> = named.iter().map(|n| name(&format!("m{n}"))).collect();
        let mut policy = policy(canary, names.clone(), shares.clone());
        policy.canary_percent = percent;
        let found = waves(&policy, (0..size).map(machine).collect(), later);

        let (mut order, rest): (Vec<MachineName>, Vec<MachineName>) =
            (0..size).map(|n| machine(n).name).partition(|name| names.contains(name));
        let first = match percent {
            _ if !names.is_empty() => order.len().max(1),
            Some(percent) => (0..=size).find(|n| 100 * n >= size * percent as usize).expect("all"),
            None => usize::try_from(canary).expect("few"),
        };
        // As many as that, but for the last one where nobody comes later.
        let first = (0..=size).rev().find(|n| *n <= first && (later > 0 || *n < size));
        let first = first.unwrap_or(0);
        let stands_in = !names.is_empty() && order.is_empty();
        order.extend(rest);
        let wave_of = |place: usize| -> usize {
            if place < first {
                return 0;
            }
            let ends = shares.iter().map(|share| match share {
                Share::Machines(number) => f64::from(*number),
                #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                Share::Percent(percent) => (size as f64 * f64::from(*percent) / 100.0).ceil(),
            });
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            let later = ends.take_while(|end| place as f64 >= *end).count();
            1 + later
        };
        let mut place = 0;
        let mut before = None;
        for wave in &found {
            prop_assert!(!wave.machines.is_empty());
            let number = wave_of(place);
            prop_assert!(before < Some(number), "waves in order");
            prop_assert_eq!(wave.canary, number == 0);
            let absent = if wave.canary && stands_in { &names[..] } else { &[] };
            prop_assert_eq!(&wave.in_place_of[..], absent);
            for machine in &wave.machines {
                prop_assert_eq!(&machine.name, &order[place]);
                prop_assert_eq!(wave_of(place), number, "{} of {}", place, size);
                place += 1;
            }
            before = Some(number);
        }
        prop_assert_eq!(place, size);
    }
}
