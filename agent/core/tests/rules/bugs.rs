//! The seeded bugs are bugs: what passes without them fails with each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    cleanup::clean_up,
    traffic::move_traffic,
    world::{Script, World, proceed},
};
use agent_core::{Bug, Directive, Proceed, Step, UnitState};
use common::{Epoch, LeaseId};

/// An afternoon on which each bug has its chance.
fn afternoon(bug: Option<Bug>) {
    // The agent dies in a hook.
    let mut world = World::staged_with_bug(Script::default(), bug);
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::PreHook));
    world.restart(UnitState::Absent);
    world.finish();

    // An update is unhealthy, and its result has to be sent twice.
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let mut world = World::staged_with_bug(script, bug);
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::JudgingRollback));
    world.script.connected = false;
    world.finish();
    for _ in 0..10 {
        world.pass_time();
    }
    world.script.connected = true;
    for _ in 0..10 {
        world.pass_time();
    }
    assert_eq!(world.disk.unreported, None);

    // A cleanup after an update, and where that came from is needed no less than what runs.
    let mut world = World::staged_with_bug(Script::default(), bug);
    world.say(Directive::Proceed(proceed(7)));
    world.finish();
    world.say(clean_up(1));
    world.work_all();

    // What the coordinator ordered before its last order arrives late.
    world.say(move_traffic(2, 1));
    world.work_all();
    world.say(move_traffic(1, 1));
    world.work_all();

    let mut world = World::staged_with_bug(Script::default(), bug);
    world.say(Directive::Proceed(proceed(7)));
    world.finish();

    // A lease from before the last stop arrives late.
    let seen = world.disk.lease;
    world.epoch = Epoch(3);
    world.say(Directive::Proceed(Proceed {
        epoch: Epoch(2),
        ..proceed(6)
    }));
    assert!(world.disk.attempt.is_none() && world.disk.lease == seen && seen == LeaseId(7));
}

#[test]
fn without_a_bug_the_afternoon_is_quiet() {
    afternoon(None);
}

#[test]
fn each_bug_is_found() {
    for bug in Bug::ALL {
        let found = catch_unwind(AssertUnwindSafe(|| afternoon(Some(bug)))).is_err();
        assert!(found, "{bug:?} goes unseen");
    }
}
