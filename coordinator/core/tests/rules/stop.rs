//! The emergency stop.

use common::{Epoch, LeaseId, OutcomeKind};
use coordinator_core::{
    Reply,
    request::{Directive, OperatorRequest, Refusal, Renewal},
};
use serde_json::json;

use crate::fleet::{World, minutes, stop, wish};

fn two_groups() -> World {
    let groups = json!({
        "one": { "machines": ["a", "b"], "updatePolicy": "aggressive" },
        "two": { "machines": ["c", "d"], "updatePolicy": "aggressive" },
    });
    World::new(groups, json!({ "maxParallel": 4 }))
}

fn resume(reason: &str) -> OperatorRequest {
    OperatorRequest::Resume {
        reason: reason.to_owned(),
    }
}

#[test]
fn nothing_is_granted_and_everybody_stands_down() {
    let mut world = two_groups();
    world.execute();
    let grant = world.go("a");
    assert_eq!(world.ask(stop(&[])), Reply::Stopped(Epoch(2)));
    assert!(matches!(world.poll("b"), Directive::StandDown(_)));
    assert!(matches!(world.renew("a", &grant), Renewal::StandDown(_)));
    let execute = OperatorRequest::Execute {
        wish: wish(&[]),
        if_plan: None,
    };
    assert!(matches!(world.refused(execute), Refusal::Forbidden(_)));
}

#[test]
fn what_was_granted_before_is_void_after() {
    let mut world = two_groups();
    let rollout = world.execute();
    let grant = world.go("a");
    world.done(stop(&[]));
    world.done(resume("found it"));
    assert!(matches!(world.renew("a", &grant), Renewal::NotHeld(_)));
    world.end("a", &grant, OutcomeKind::Abandoned);
    assert_eq!(world.place(&rollout, "a"), "pending");
    let anew = world.go("a");
    assert!(anew.lease > grant.lease && anew.epoch > grant.epoch);
}

#[test]
fn a_holder_that_had_not_begun_is_granted_anew_after_the_stop() {
    let mut world = two_groups();
    world.execute();
    let grant = world.go("a");
    world.done(stop(&[]));
    world.done(resume("false alarm"));
    let anew = world.go("a");
    assert!(anew.lease > grant.lease);
}

#[test]
fn other_groups_go_on_when_only_some_are_stopped() {
    let mut world = two_groups();
    world.execute();
    let stopped = world.go("a");
    let going = world.go("c");
    world.done(stop(&["one"]));
    assert!(matches!(world.renew("a", &stopped), Renewal::StandDown(_)));
    assert!(matches!(world.renew("c", &going), Renewal::Valid(_)));
    assert!(matches!(world.poll("b"), Directive::StandDown(_)));
    world.go("d");
}

#[test]
fn a_stop_of_other_groups_brings_nothing_back_that_is_void() {
    let mut world = two_groups();
    world.execute();
    let grant = world.go("a");
    world.done(stop(&[]));
    world.done(resume("found it"));
    assert!(matches!(world.renew("a", &grant), Renewal::NotHeld(_)));
    world.done(stop(&["two"]));
    assert!(matches!(world.renew("a", &grant), Renewal::NotHeld(_)));
}

#[test]
fn a_stop_can_be_widened_and_outlasts_a_restart() {
    let mut world = two_groups();
    world.execute();
    world.done(stop(&["one"]));
    world.done(stop(&[]));
    let restarted = coordinator_core::Fleet::load(world.fleet.facts().clone(), world.now);
    world.fleet = restarted;
    assert!(matches!(world.poll("c"), Directive::StandDown(_)));
}

#[test]
fn lifting_takes_a_reason() {
    let mut world = two_groups();
    assert!(matches!(world.refused(resume("why")), Refusal::NotNow(_)));
    world.done(stop(&[]));
    assert!(matches!(world.refused(resume(" ")), Refusal::Invalid(_)));
    world.done(resume("all is well"));
}

#[test]
fn a_holder_that_finishes_under_a_stop_is_not_lost() {
    let mut world = two_groups();
    let rollout = world.execute();
    let grant = world.go("a");
    world.done(stop(&[]));
    for _ in 0..6 {
        world.now = world.now + minutes(10);
        assert!(matches!(world.renew("a", &grant), Renewal::StandDown(_)));
    }
    world.end("a", &grant, OutcomeKind::Confirmed);
    assert_eq!(world.place(&rollout, "a"), "updated");
}

#[test]
fn after_a_restore_everybody_stands_still_until_somebody_has_looked() {
    let mut world = two_groups();
    world.execute();
    let grant = world.go("a");
    world.restore();
    assert!(matches!(world.poll("b"), Directive::StandDown(_)));
    assert!(matches!(world.renew("a", &grant), Renewal::StandDown(_)));
    world.end("a", &grant, OutcomeKind::Abandoned);
    world.done(resume("nobody is at work"));
    let anew = world.go("a");
    assert!(anew.lease.0 > grant.lease.0 + 1_000);
    assert!(anew.epoch.0 > grant.epoch.0 + 100);
}

#[test]
fn who_has_seen_what_was_never_given_out_shows_that_this_state_is_an_old_one() {
    let mut world = two_groups();
    world.execute();
    let old = world.fleet.facts().clone();
    let grant = world.go("a");
    world.done(stop(&[]));
    let epoch = world.fleet.facts().epoch;

    // The disk of yesterday. The holder renews what is not known here.
    world.goes_on_from(old.clone());
    assert!(matches!(world.renew("a", &grant), Renewal::StandDown(_)));
    let raised = world.fleet.facts().epoch;
    assert!(raised > epoch, "{raised} is past what was given out");
    let stop = world.fleet.facts().stop.as_ref().expect("a stop");
    assert!(
        stop.reason.contains("a has seen lease 1"),
        "{}",
        stop.reason
    );
    world.done(resume("a is not at work"));
    assert!(world.go("b").lease > grant.lease);

    // The same, told by whoever has seen the stop only.
    world.goes_on_from(old.clone());
    world.report("d").epoch = epoch;
    assert!(matches!(world.poll("d"), Directive::StandDown(_)));
    assert!(world.fleet.facts().epoch > epoch);

    // And by the last lease that ended.
    world.goes_on_from(old);
    world.report("d").epoch = Epoch::FIRST;
    world.report("b").last_lease = grant.lease;
    assert!(matches!(world.poll("b"), Directive::StandDown(_)));
    let raised = world.fleet.facts().epoch;
    assert!(matches!(world.poll("b"), Directive::StandDown(_)));
    assert_eq!(world.fleet.facts().epoch, raised, "said twice, raised once");
}

#[test]
fn a_lie_about_numbers_stops_the_fleet_once_and_harms_nothing_else() {
    let mut world = two_groups();
    world.execute();
    world.report("a").epoch = Epoch(u64::MAX);
    world.report("a").last_lease = LeaseId(u64::MAX);
    assert!(
        !matches!(world.poll("a"), Directive::StandDown(_)),
        "nobody believes that"
    );
    world.report("a").epoch = Epoch::LAST;
    world.report("a").last_lease = LeaseId::LAST;
    assert!(matches!(world.poll("a"), Directive::StandDown(_)));
    world.done(resume("it lied"));
    world.poll("a");
    let grant = world.go("c");
    assert!(grant.epoch > Epoch::LAST && grant.lease > LeaseId::LAST);
    world.report("c").epoch = grant.epoch;
    world.end("c", &grant, OutcomeKind::Confirmed);
    assert!(world.fleet.facts().stop.is_none());
}
