//! Where traffic is to stay, and where it is not to go because nobody is left there.

use coordinator_core::{
    rollout::{PauseReason, RolloutState},
    traffic::Wanted,
};
use serde_json::json;

use super::{BLUE, GREEN, move_to, moves_to, paused, wanted, world};
use crate::fleet::{World, minutes};

#[test]
fn traffic_is_to_stay_as_long_as_a_rollout_counts_on_it() {
    let mut world = world();
    let kept = |world: &World| {
        let kept = world.fleet.kept_traffic();
        kept.first().map(|kept| kept.to.to_string())
    };
    world.done(move_to(Some("blue")));
    moves_to(&mut world, "blue");
    assert_eq!(kept(&world), None, "nobody counts on it");
    let id = world.execute();
    assert_eq!(kept(&world), None, "it was said before");
    moves_to(&mut world, "blue");
    assert_eq!(kept(&world).as_deref(), Some("blue"));
    for machine in GREEN {
        world.update(machine);
    }
    assert_eq!(kept(&world), None, "it is to move");
    moves_to(&mut world, "green");
    assert_eq!(kept(&world).as_deref(), Some("green"));
    world.pass(minutes(11));
    for machine in BLUE {
        world.update(machine);
    }
    assert_eq!(*world.state(&id), RolloutState::Finished);
    assert_eq!(kept(&world), None);
}

#[test]
fn traffic_is_put_on_no_side_of_which_nobody_is_left() {
    let mut world = world();
    let id = world.execute();
    moves_to(&mut world, "blue");
    let web = json!({ "updateGroups": { "web": { "machines": BLUE } } });
    world.configure(&web);
    // The side was done, and would be followed by the traffic.
    assert!(world.fleet.wanted_moves().is_empty());
    let PauseReason::TrafficBlocked { side, machines, .. } = paused(&world, &id) else {
        panic!("{:?}", paused(&world, &id));
    };
    assert_eq!((side.as_str(), machines.len()), ("green", 2));
    // Nor where it is on its way already: who has left gets none.
    let into = |wanted: &Wanted| {
        wanted
            .sides
            .side(&wanted.to)
            .map(|side| side.machines.len())
    };
    for (stay, wants) in [(&GREEN[..1], Some(1)), (&[], None)] {
        let mut world = super::world();
        world.done(move_to(Some("green")));
        assert_eq!(into(&wanted(&world)), Some(2));
        let machines: Vec<&str> = BLUE.iter().chain(stay).copied().collect();
        world.configure(&json!({ "updateGroups": { "web": { "machines": machines } } }));
        let moves = world.fleet.wanted_moves();
        assert_eq!(moves.first().and_then(into), wants);
    }
}
