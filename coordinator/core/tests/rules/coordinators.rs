//! Machines that run a coordinator: last of all, and never a majority of them.

use common::{Action, HealthState, OutcomeKind};
use coordinator_core::{
    FleetConfig, WaitReason,
    rollout::{RolloutState, Turn},
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, wish};

fn world(groups: Value, coordinators: Value) -> World {
    let settings = json!({ "maxParallel": 9, "staggerDelay": 0, "coordinators": coordinators });
    World::new(groups, settings)
}

fn group(machines: Value) -> Value {
    json!({ "machines": machines, "updatePolicy": "aggressive", "maxParallel": 9 })
}

#[test]
fn the_coordinators_own_machine_goes_after_everybody_else_of_whatever_group() {
    let groups = json!({ "a": group(json!(["ctrl", "a1"])), "b": group(json!(["b1", "b2"])) });
    let mut world = world(groups, json!(["ctrl"]));
    let rollout = world.execute();
    world.waits_for("ctrl", "wave-not-open");
    world.update("a1");
    world.update("b1");
    let WaitReason::CoordinatorLast { groups } = world.wait("ctrl") else {
        panic!("{:?}", world.wait("ctrl"));
    };
    assert_eq!(groups[0].as_str(), "b");
    world.update("b2");
    world.update("ctrl");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
}

/// Nobody has to list it: the coordinator knows where it runs.
#[test]
fn the_machine_that_it_runs_on_goes_last_unlisted() {
    let groups = json!({ "a": group(json!(["ctrl", "a1"])), "b": group(json!(["b1"])) });
    let mut world = world(groups, json!([]));
    world.fleet.runs_on(name("ctrl"));
    let plan = world.fleet.plan(&wish(&[])).expect("a plan");
    let last = plan.groups[0].waves.last().expect("waves");
    assert_eq!(
        (last.turn, &last.machines[0].name),
        (Turn::Own, &name("ctrl"))
    );
    let rollout = world.execute();
    world.waits_for("ctrl", "wave-not-open");
    world.update("a1");
    world.waits_for("ctrl", "coordinator-last");
    world.update("b1");
    world.update("ctrl");
    assert_eq!(*world.state(&rollout), RolloutState::Finished);
    assert_eq!(world.fleet.runs_elsewhere(), None);
}

/// Those that are listed have a quorum, and the one that serves comes after them.
#[test]
fn unlisted_it_goes_after_those_that_are_and_counts_for_no_quorum() {
    let groups = json!({ "a": group(json!(["own"])), "ctrl": group(json!(["c1", "c2", "c3"])) });
    let mut world = world(groups, json!(["c1", "c2", "c3"]));
    world.fleet.runs_on(name("own"));
    world.execute();
    let grant = world.go("c1");
    world.waits_for("c2", "quorum");
    world.end("c1", &grant, OutcomeKind::Confirmed);
    for machine in ["c2", "c3"] {
        world.waits_for("own", "coordinator-last");
        world.update(machine);
    }
    // However many of the others are ill.
    world.health("c2", HealthState::Unhealthy);
    world.health("c3", HealthState::Unhealthy);
    world.update("own");
}

#[test]
fn a_group_that_waits_for_the_one_it_runs_in_does_so_unlisted() {
    let mut after = group(json!(["w1"]));
    after["dependencies"] = json!(["ctrl"]);
    let groups = json!({ "ctrl": group(json!(["c1"])), "web": after, "dev": group(json!(["d1"])) });
    let mut world = world(groups, json!([]));
    world.fleet.runs_on(name("c1"));
    world.execute();
    world.waits_for("w1", "dependency");
    world.waits_for("c1", "coordinator-last");
    for machine in ["d1", "c1", "w1"] {
        world.update(machine);
    }
}

#[test]
fn a_canary_by_name_that_it_runs_on_has_another_stand_in() {
    let mut web = group(json!(["c1", "w1", "w2"]));
    web["canary"] = json!(["c1"]);
    web["canarySoak"] = json!("10m");
    let mut world = world(json!({ "web": web }), json!([]));
    world.fleet.runs_on(name("c1"));
    world.execute();
    world.update("w1");
    world.pass(minutes(11));
    world.waits_for("c1", "wave-not-open");
    world.update("w2");
    world.update("c1");
}

#[test]
fn it_may_run_on_a_machine_that_is_in_no_group() {
    let mut world = world(json!({ "web": group(json!(["w1"])) }), json!([]));
    world.fleet.runs_on(name("ctrl"));
    assert_eq!(world.fleet.runs_elsewhere(), Some(&name("ctrl")));
    world.execute();
    world.update("w1");
}

#[test]
fn who_goes_before_the_coordinators_of_its_group_is_a_canary() {
    let mut ctrl = group(json!(["c1", "c2", "a1"]));
    ctrl["canary"] = json!(1);
    ctrl["canarySoak"] = json!("10m");
    let mut world = world(json!({ "ctrl": ctrl }), json!(["c1", "c2"]));
    world.fleet.runs_on(name("c1"));
    world.execute();
    world.update("a1");
    world.waits_for("c2", "soaking");
    world.pass(minutes(11));
    world.update("c2");
    world.update("c1");
}

#[test]
fn of_a_group_of_coordinators_another_stands_in_for_the_one_that_serves() {
    let mut ctrl = group(json!(["c1", "c2", "c3"]));
    ctrl["canary"] = json!(["c1"]);
    let mut world = world(json!({ "ctrl": ctrl }), json!(["c1", "c2", "c3"]));
    world.fleet.runs_on(name("c1"));
    let plan = world.fleet.plan(&wish(&[])).expect("a plan");
    let waves = &plan.groups[0].waves;
    let sizes: Vec<_> = waves.iter().map(|w| (w.canary, w.machines.len())).collect();
    assert_eq!(sizes, [(true, 1), (false, 1), (false, 1)]);
    assert_eq!(waves[0].in_place_of, [name("c1")]);
    world.execute();
    for machine in ["c2", "c3", "c1"] {
        world.update(machine);
    }
}

#[test]
fn of_several_the_one_that_serves_goes_last() {
    let groups = json!({ "ctrl": group(json!(["c1", "c2", "c3"])), "web": group(json!(["w1"])) });
    let mut world = world(groups, json!(["c1", "c2", "c3"]));
    world.fleet.runs_on(name("c1"));
    world.execute();
    world.waits_for("c2", "coordinator-last");
    world.update("w1");
    world.waits_for("c1", "wave-not-open");
    let grant = world.go("c2");
    world.waits_for("c3", "quorum");
    world.end("c2", &grant, OutcomeKind::Confirmed);
    world.update("c3");
    world.update("c1");
}

#[test]
fn most_coordinators_stay_also_when_one_is_down_already() {
    let names = ["c1", "c2", "c3", "c4", "c5"];
    let groups = json!({ "ctrl": group(json!(names)) });
    let mut world = world(groups, json!(names));
    world.health("c5", HealthState::Unhealthy);
    world.execute();
    let grant = world.go("c1");
    let WaitReason::Quorum { machines, allowed } = world.wait("c2") else {
        panic!("{:?}", world.wait("c2"));
    };
    assert_eq!((machines, allowed), (vec![name("c1"), name("c5")], 2));
    world.end("c1", &grant, OutcomeKind::Confirmed);
    // Well again, it has its turn at once.
    world.health("c5", HealthState::Healthy);
    world.go("c2");
    world.waits_for("c3", "quorum");
}

#[test]
fn whoever_is_silent_counts_as_not_there() {
    let groups = json!({ "ctrl": group(json!(["c1", "c2", "c3"])) });
    let mut world = world(groups, json!(["c1", "c2", "c3"]));
    world.pass_without(minutes(15), &["c3"]);
    world.execute();
    world.waits_for("c1", "quorum");
}

#[test]
fn a_group_that_waits_for_the_coordinators_group_comes_after_it() {
    let mut after = group(json!(["w1"]));
    after["dependencies"] = json!(["ctrl"]);
    let groups = json!({ "ctrl": group(json!(["c1"])), "web": after, "dev": group(json!(["d1"])) });
    let mut world = world(groups, json!(["c1"]));
    world.execute();
    world.waits_for("w1", "dependency");
    world.waits_for("c1", "coordinator-last");
    world.update("d1");
    world.update("c1");
    world.update("w1");
}

/// `c1` serves and goes after `c2`, and `web` waits for the group of `c1`: if `c2` waited for `web`, nobody
/// would ever go.
#[test]
fn nobody_waits_for_one_that_waits_for_it() {
    let mut after = group(json!(["w1"]));
    after["dependencies"] = json!(["one"]);
    let groups = json!({ "one": group(json!(["c1"])), "two": group(json!(["c2"])), "web": after });
    let mut world = world(groups, json!(["c1", "c2"]));
    world.fleet.runs_on(name("c1"));
    world.execute();
    world.waits_for("c1", "coordinator-last");
    world.waits_for("w1", "dependency");
    for machine in ["c2", "c1", "w1"] {
        world.update(machine);
    }
}

/// `web` waits for `mid`, which another rollout is at work on, and that waits for the group of `c1`.
#[test]
fn nobody_waits_for_one_that_waits_for_it_by_way_of_another_rollout() {
    let after = |machine: &str, on: &str| {
        let mut group = group(json!([machine]));
        group["dependencies"] = json!([on]);
        group
    };
    let (mid, web) = (after("m1", "ctrl"), after("w1", "mid"));
    let groups = json!({ "ctrl": group(json!(["c1"])), "mid": mid, "web": web });
    let mut world = world(groups, json!(["c1"]));
    world.execute_some(&["ctrl", "web"]);
    world.execute_some(&["mid"]);
    world.waits_for("w1", "dependency");
    world.waits_for("m1", "dependency");
    for machine in ["c1", "m1", "w1"] {
        world.update(machine);
    }
}

#[test]
fn a_way_back_is_in_the_same_order() {
    let groups = json!({ "a": group(json!(["ctrl", "a1"])), "b": group(json!(["b1"])) });
    let mut world = world(groups, json!(["ctrl"]));
    world.execute();
    for machine in ["a1", "b1", "ctrl"] {
        world.update(machine);
    }
    let mut back = wish(&[]);
    back.action = Action::Rollback;
    let plan = world.fleet.plan(&back).expect("a plan");
    let group = plan.groups.iter().find(|group| group.name.as_str() == "a");
    let last = group.and_then(|group| group.waves.last()).expect("waves");
    assert_eq!(last.machines[0].name, name("ctrl"));
}

#[test]
fn a_coordinator_that_is_in_no_group_is_refused() {
    let document = json!({
        "updateGroups": { "web": { "machines": ["w1", "w2"] } },
        "updateSettings": { "coordinators": ["w1", "ctrl", "w1"] },
    });
    let faults = FleetConfig::parse(&document).expect_err("two faults");
    let paths: Vec<&str> = faults.0.iter().map(|fault| fault.path.as_str()).collect();
    let expected = [
        "updateSettings.coordinators[1]",
        "updateSettings.coordinators[2]",
    ];
    assert_eq!(paths, expected, "{faults:?}");
}
