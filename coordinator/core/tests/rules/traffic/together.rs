//! Several rollouts that are at work on one group with two sides.

use common::Action;
use coordinator_core::{
    request::{OperatorRequest, Wish},
    rollout::RolloutState,
};

use super::{moves_to, world};
use crate::fleet::{minutes, name, wish};

/// A reboot of these machines alone.
fn reboot(machines: &[&str]) -> OperatorRequest {
    let mut wish = Wish {
        action: Action::Reboot,
        ..wish(&[])
    };
    wish.selection.machines = machines.iter().copied().map(name).collect();
    OperatorRequest::Execute {
        wish,
        if_plan: None,
    }
}

#[test]
fn nobody_goes_because_of_where_another_rollout_has_put_the_traffic() {
    let mut world = world();
    world.done(reboot(&["blue-1", "green-1"]));
    moves_to(&mut world, "blue");
    world.done(reboot(&["blue-2"]));
    world.update("green-1");
    moves_to(&mut world, "green");
    // A gate may have it go back at any time.
    world.waits_for("blue-2", "live-side");
    world.pass(minutes(10));
    world.waits_for("blue-2", "live-side");
    world.update("blue-1");
    world.update("blue-2");
}

#[test]
fn of_two_rollouts_of_one_group_one_moves_its_traffic_and_the_other_waits() {
    let mut world = world();
    world.done(reboot(&["blue-1", "green-1"]));
    moves_to(&mut world, "blue");
    world.done(reboot(&["blue-2", "green-2"]));
    assert_eq!(world.fleet.wanted_moves(), []);
    let why = world.wait("green-2").to_string();
    assert!(
        why.starts_with("rollout r1 is at work on group web as well"),
        "{why}"
    );
    world.update("green-1");
    moves_to(&mut world, "green");
    world.pass(minutes(10));
    world.waits_for("green-2", "live-side");
    world.update("blue-1");
    // It is its turn now.
    moves_to(&mut world, "blue");
    world.update("green-2");
    moves_to(&mut world, "green");
    world.pass(minutes(10));
    world.update("blue-2");
    let second = "r2".parse().expect("an id");
    assert_eq!(*world.state(&second), RolloutState::Finished);
}
