//! Which targets a machine takes, keeps, and does not try again.

use agent_core::{ActivationEnd, Directive, Failure, Hook, Input, Step};
use common::{Action, LeaseId, OutcomeKind};

use crate::{
    attempt::run,
    world::{Script, World, answer, path, proceed, rollout, target},
};

use OutcomeKind::{Confirmed, RebootRequired, Refused, RolledBack, Stuck};

#[test]
fn without_leave_to_reboot_the_target_waits_for_the_next_boot() {
    let script = Script {
        needs_reboot: true,
        ..Script::default()
    };
    let mut lease = proceed(7);
    lease.allow_reboot = false;
    let (mut world, kind, _) = run(script, lease);
    assert_eq!(kind, RebootRequired);
    assert_eq!(
        world.steps,
        ["snapshot", "activating"],
        "nobody is disturbed"
    );
    assert_eq!(world.hooks, []);

    // Later somebody grants the reboot.
    world.reports.clear();
    let mut lease = proceed(8);
    lease.action = Action::Reboot;
    lease.target = None;
    lease.allow_reboot = false;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert_eq!(world.boot, 2);
}

#[test]
fn where_policy_says_so_a_failing_target_stays() {
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let mut lease = proceed(7);
    lease.rollback_on_failure = false;
    let (world, kind, _) = run(script, lease);
    assert_eq!(kind, Stuck);
    assert_eq!(world.running, path("new"));
    assert!(!world.ran(Hook::Rollback));
}

#[test]
fn what_runs_already_and_fails_is_neither_left_nor_thought_ill_of() {
    let script = Script {
        healthy: vec![false, false],
        ..Script::default()
    };
    let mut world = World::staged(script);
    let mut lease = proceed(7);
    lease.target = Some(target("old"));
    world.say(Directive::Proceed(lease));
    let outcome = world.finish().outcome;
    assert_eq!(
        outcome.kind, Stuck,
        "there is nothing to go back to: {outcome:?}"
    );
    assert_eq!(
        (&world.running, &world.profile),
        (&path("old"), &path("old"))
    );
    assert_eq!(world.disk.bad_targets, [], "it is what the machine has");
}

#[test]
fn a_target_that_failed_is_not_tried_again_unasked() {
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let (mut world, kind, _) = run(script, proceed(7));
    assert_eq!(kind, RolledBack);
    world.reports.clear();
    let stage = |force| Directive::Stage {
        rollout: Some(rollout("r2")),
        target: target("new"),
        action: Action::Update,
        force,
        wish: 0,
    };
    world.say(stage(false));
    let refused = world.finish();
    assert_eq!((refused.lease, refused.outcome.kind), (LeaseId(0), Refused));
    assert!(
        refused.outcome.reason.contains("web.service"),
        "{refused:?}"
    );

    // Under a lease as well.
    world.reports.clear();
    world.activations = 0;
    world.say(Directive::Proceed(proceed(8)));
    assert_eq!(world.finish().outcome.kind, Refused);

    // By force it goes, and when it works it is forgiven.
    world.reports.clear();
    world.say(stage(true));
    let mut lease = proceed(9);
    lease.force = true;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert_eq!(world.disk.bad_targets, []);
}

#[test]
fn a_rollback_names_its_target_and_needs_no_force() {
    let script = Script {
        healthy: vec![false],
        ..Script::default()
    };
    let (mut world, _, _) = run(script, proceed(7));
    assert_eq!(world.disk.bad_targets.len(), 1);
    world.reports.clear();
    world.activations = 0;
    let mut lease = proceed(8);
    lease.action = Action::Rollback;
    world.say(Directive::Proceed(lease));
    assert_eq!(world.finish().outcome.kind, Confirmed);
    assert!(
        world.steps.contains(&"staging".to_owned()),
        "obtained under the lease"
    );
}

#[test]
fn only_a_switch_of_its_own_is_held_against_a_target() {
    let failed = |what: &str| Err(Failure::Failed(what.to_owned()));
    let cases = [
        (
            failed("cannot start the unit: no answer from D-Bus"),
            1,
            false,
        ),
        (
            failed("cannot set the system profile: it is locked"),
            1,
            false,
        ),
        (Err(Failure::Unfitting), 1, false),
        // How the switch ended is lost: it is begun again, as often as that is allowed.
        (Err(Failure::Lost), 3, false),
        (Err(Failure::TimedOut), 1, true),
        (Ok(ActivationEnd::Failed { status: "1".into() }), 1, true),
    ];
    for (activation, begun, blamed) in cases {
        let case = format!("{activation:?}");
        let script = Script {
            activation,
            ..Script::default()
        };
        let (world, kind, reason) = run(script, proceed(7));
        assert_eq!(kind, RolledBack, "{case}: {reason}");
        assert_eq!(world.activations, begun, "{case}");
        assert_eq!(!world.disk.bad_targets.is_empty(), blamed, "{case}");
    }
}

#[test]
fn a_look_at_the_machine_that_fails_is_not_held_against_the_target() {
    let failed = || Failure::Failed("no answer from D-Bus".to_owned());
    let cases = [
        (Step::Judging, failed(), false),
        (Step::Judging, Failure::TimedOut, true),
        (Step::PostHook, Failure::Lost, false),
        (Step::PostHook, Failure::TimedOut, true),
    ];
    for (step, failure, blamed) in cases {
        for goes_back in [true, false] {
            let mut world = World::staged(Script::default());
            let mut lease = proceed(7);
            lease.rollback_on_failure = goes_back;
            world.say(Directive::Proceed(lease));
            assert!(world.work_until(&step));
            let job = world.open.pop().expect("a job");
            world.feed(Input::StepDone {
                step: job.step,
                answer: answer(Err(failure.clone())),
            });
            let kind = world.finish().outcome.kind;
            let case = format!("{step:?} {failure:?} {goes_back}");
            assert_eq!(kind, if goes_back { RolledBack } else { Stuck }, "{case}");
            assert_eq!(!world.disk.bad_targets.is_empty(), blamed, "{case}");
        }
    }
}

#[test]
fn a_power_cut_in_a_switch_is_not_held_against_the_target() {
    for (step, needs_reboot) in [
        (Step::Activating, false),
        (Step::Activating, true),
        (Step::Announcing, true),
    ] {
        for came_up in ["old", "third"] {
            let mut world = World::staged(Script {
                needs_reboot,
                hangs: step == Step::Announcing,
                ..Script::default()
            });
            world.say(Directive::Proceed(proceed(7)));
            assert!(world.work_until(&step));
            world.script.hangs = false;
            world.script.boots = vec![came_up];
            world.reboot();
            let result = world.finish();
            let case = format!("{step:?} {needs_reboot} {came_up}: {result:?}");
            assert_eq!(result.outcome.kind, RolledBack, "{case}");
            assert!(result.outcome.reason.contains(came_up), "{case}");
            assert_eq!(world.disk.bad_targets, [], "{case}");
            // From a system of another kernel only a boot leads back.
            let boots = if needs_reboot && came_up == "third" {
                3
            } else {
                2
            };
            assert_eq!(world.boot, boots, "{case}");
        }
    }
}
