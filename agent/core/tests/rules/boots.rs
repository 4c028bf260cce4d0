//! What only the next boot shows.

use agent_core::{Directive, Step};
use common::{Action, OutcomeKind};

use crate::{
    attempt::run,
    world::{Script, World, path, proceed},
};

use OutcomeKind::{RolledBack, Stuck};

#[test]
fn running_the_target_is_not_enough_when_it_was_to_be_booted() {
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Judging));
    world.booted = path("third");
    assert_eq!(world.finish().outcome.kind, RolledBack);
}

#[test]
fn back_is_only_who_boots_back_as_well() {
    let mut world = World::staged(Script {
        healthy: vec![false],
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::JudgingRollback));
    world.profile = path("new");
    let result = world.finish();
    assert_eq!(result.outcome.kind, Stuck);
    assert!(
        result.outcome.reason.contains("the next boot"),
        "{result:?}"
    );
}

#[test]
fn booting_the_same_system_again_blames_nothing_and_keeps_the_way_back() {
    let (mut world, ..) = run(Script::default(), proceed(7));
    assert_eq!(world.disk.kept, [path("old")]);
    world.reports.clear();
    world.script.healthy = vec![false, false];
    let mut lease = proceed(8);
    lease.action = Action::Reboot;
    lease.target = None;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Stuck);
    assert_eq!(world.boot, 2);
    assert_eq!(world.disk.bad_targets, []);
    assert_eq!(world.disk.kept, [path("old")]);
}
