//! Leases, epochs, stops and silence: nothing disruptive without a lease that holds.

use std::time::Duration;

use crate::world::{LEASE, Script, World, answer, path, proceed};
use agent_core::{
    CallId, Directive, Failure, Hook, Input, Job, MayBegin, Note, Proceed, Renewal, Signal,
    StandDown, Step, UnitState, Work,
};
use common::{Epoch, LeaseId, OutcomeKind, StopMode};

fn stop(epoch: u64, mode: StopMode) -> StandDown {
    StandDown {
        epoch: Epoch(epoch),
        mode,
        reason: "something smells".to_owned(),
    }
}

fn started(world: &World) -> bool {
    world.disk.attempt.is_some()
}

#[test]
fn a_lease_is_used_once_and_an_older_one_never() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    world.finish();
    for lease in [7, 6, 1, 0] {
        world.say(Directive::Proceed(proceed(lease)));
        assert!(!started(&world), "lease {lease}");
    }
    world.say(Directive::Proceed(proceed(8)));
    assert!(started(&world));
}

#[test]
fn an_old_epoch_is_refused_whoever_says_it() {
    let mut world = World::staged(Script::default());
    world.epoch = Epoch(5);
    world.feed(Input::Signal {
        epoch: Epoch(5),
        signal: Signal::Epoch,
    });
    assert_eq!(world.disk.epoch, Epoch(5), "remembered over restarts");
    let old = Proceed {
        epoch: Epoch(4),
        ..proceed(7)
    };
    world.say(Directive::Proceed(old.clone()));
    assert!(!started(&world), "an old lease in a new answer");
    world.epoch = Epoch(4);
    world.say(Directive::Proceed(old));
    assert!(!started(&world), "an old answer");
}

#[test]
fn a_lease_that_answers_a_poll_which_was_given_up_is_not_taken() {
    let mut world = World::staged(Script::default());
    let given_up = *world.polls.last().expect("a poll");
    world.feed(Input::Signal {
        epoch: world.epoch,
        signal: Signal::Wake,
    });
    let newer = *world.polls.last().expect("a poll");
    assert!(newer != given_up, "it asks anew");
    // The newer poll says that nothing has begun. To whoever hears it later, that is still so.
    let sent = world.now;
    let grant = |call| Input::Directive {
        call,
        sent,
        epoch: Epoch(1),
        directive: Directive::Proceed(proceed(7)),
    };
    world.feed(grant(given_up));
    assert!(!started(&world));
    world.feed(grant(newer));
    assert!(
        started(&world),
        "the same lease by the poll that is waited for"
    );
}

#[test]
fn a_result_that_is_acknowledged_late_is_not_handed_in_once_more() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    world.script.connected = false;
    world.finish();
    let sent = world.reports.len();
    while !world.notes.iter().any(|n| matches!(n, Note::Silent { .. })) {
        world.pass_time();
    }
    // The machine stood still: the next try is overdue when the answer to the first is heard.
    world.now = world.now + Duration::from_secs(3600);
    world.feed(Input::ReportAcknowledged {
        call: CallId(0),
        rollout: proceed(7).rollout,
        lease: LeaseId(7),
        epoch: Epoch(1),
    });
    assert_eq!(world.disk.unreported, None);
    assert_eq!(world.reports.len(), sent);
}

#[test]
fn a_lease_counts_from_when_the_poll_was_sent() {
    let mut world = World::staged(Script::default());
    let sent = world.now;
    world.now = world.now + LEASE - world.limits.lease_margin;
    let call = CallId(1);
    world.feed(Input::Directive {
        call,
        sent,
        epoch: Epoch(1),
        directive: Directive::Proceed(proceed(7)),
    });
    assert!(!started(&world), "it is as good as over");
    assert_eq!(world.disk.lease, LeaseId(0), "and can still be given again");
}

#[test]
fn the_lease_is_renewed_at_a_third() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::PreHook));
    let began = world.now;
    world.pass_time();
    assert_eq!(world.now.since(began), LEASE / 3);
    assert_eq!(world.silences, [Duration::ZERO]);
}

#[test]
fn a_silent_coordinator_before_the_change_abandons() {
    for step in [Step::Snapshot, Step::PreHook] {
        let mut world = World::staged(Script::default());
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        world.script.connected = false;
        world.now = world.now + LEASE;
        world.feed(Input::Tick);
        world.script.connected = true;
        let result = world.finish();
        assert_eq!(result.outcome.kind, OutcomeKind::Abandoned, "{step:?}");
        assert_eq!(world.activations, 0, "{step:?}");
        assert_eq!(world.ran(Hook::Pre), world.ran(Hook::Rollback), "{step:?}");
    }
}

#[test]
fn a_silent_coordinator_after_the_change_changes_nothing() {
    for needs_reboot in [false, true] {
        let mut world = World::staged(Script {
            needs_reboot,
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&Step::PostHook));
        world.script.connected = false;
        // Long after the lease has run out.
        world.now = world.now + Duration::from_secs(250);
        world.feed(Input::Tick);
        assert!(started(&world));
        let result = world.finish();
        assert_eq!(result.outcome.kind, OutcomeKind::Confirmed);
    }
}

#[test]
fn no_reboot_begins_after_the_lease_has_run_out() {
    let mut world = World::staged(Script {
        needs_reboot: true,
        ..Script::default()
    });
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Activating));
    world.script.connected = false;
    world.now = world.now + LEASE;
    world.feed(Input::Tick);
    world.script.connected = true;
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::Abandoned);
    assert_eq!(world.boot, 1);
    assert_eq!(world.profile, path("old"), "the boot default is put back");
}

#[test]
fn a_lease_that_is_not_held_is_not_used() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Arming));
    world.feed(Input::Renewed {
        call: CallId(999),
        sent: world.now,
        lease: LeaseId(7),
        epoch: Epoch(1),
        renewal: Renewal::NotHeld {
            reason: "expired".to_owned(),
        },
    });
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::Abandoned);
    assert!(result.outcome.reason.contains("expired"), "{result:?}");
}

#[test]
fn an_answer_that_was_overtaken_shortens_nothing() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::PreHook));
    let until = |world: &World| world.disk.attempt.as_ref().map(|a| a.lease_until.moment);
    let before = until(&world);
    world.feed(Input::Renewed {
        call: CallId(999),
        sent: agent_core::Moment(0),
        lease: LeaseId(7),
        epoch: Epoch(1),
        renewal: Renewal::Valid { valid_for: LEASE },
    });
    assert_eq!(until(&world), before);
}

#[test]
fn a_stop_before_the_change_undoes_after_it_does_as_the_mode_says() {
    use OutcomeKind::{Abandoned, Confirmed, RolledBack};
    let cases = [
        (Step::Snapshot, false, StopMode::Finish, Abandoned),
        (Step::Snapshot, false, StopMode::Rollback, Abandoned),
        (Step::PreHook, false, StopMode::Finish, Abandoned),
        (Step::Activating, false, StopMode::Finish, Confirmed),
        (Step::Activating, false, StopMode::Rollback, RolledBack),
        (Step::PostHook, false, StopMode::Finish, Confirmed),
        (Step::PostHook, false, StopMode::Rollback, RolledBack),
        (Step::Judging, false, StopMode::Finish, Confirmed),
        (Step::Judging, false, StopMode::Rollback, RolledBack),
        (Step::Activating, true, StopMode::Finish, Abandoned),
        (Step::Rearming, true, StopMode::Finish, Confirmed),
        (Step::Rearming, true, StopMode::Rollback, RolledBack),
        (Step::Judging, true, StopMode::Rollback, RolledBack),
    ];
    for (step, needs_reboot, mode, expected) in cases {
        let mut world = World::staged(Script {
            needs_reboot,
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        world.epoch = Epoch(2);
        world.feed(Input::Signal {
            epoch: Epoch(2),
            signal: Signal::StandDown(stop(2, mode)),
        });
        let result = world.finish();
        let case = format!("{step:?} {needs_reboot} {mode:?}");
        assert_eq!(result.outcome.kind, expected, "{case}");
        assert!(result.outcome.kind == Confirmed || result.outcome.reason == "emergency stop");
        assert_eq!(
            world.disk.bad_targets,
            [],
            "{case}: the target is not to blame"
        );
        assert_eq!(world.disk.epoch, Epoch(2));
    }
}

#[test]
fn a_stop_is_heard_before_an_overdue_reboot_is_asked_for_once_more() {
    let mut world = World::staged(Script {
        needs_reboot: true,
        reboots: false,
        ..Script::default()
    });
    let hour = Duration::from_secs(3600);
    world.say(Directive::Proceed(Proceed {
        valid_for: hour,
        ..proceed(7)
    }));
    world.script.hangs = true;
    assert!(world.work_until(&Step::Rebooting));
    assert!(world.work_one(), "it asks, and nothing happens");
    // The machine stood still until it would ask again, with a lease that still holds.
    world.now = world.now + hour / 2;
    world.epoch = Epoch(2);
    world.feed(Input::Signal {
        epoch: Epoch(2),
        signal: Signal::StandDown(stop(2, StopMode::Finish)),
    });
    let asks = |job: &Job| matches!(job.work, Work::Reboot { .. });
    assert!(!world.open.iter().any(asks), "{:?}", world.open);
    let outcome = world.finish().outcome;
    assert_eq!((outcome.kind, world.boot), (OutcomeKind::RolledBack, 1));
    assert_eq!(outcome.reason, "emergency stop");
}

#[test]
fn a_stop_survives_the_agent() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::PreHook));
    world.feed(Input::Signal {
        epoch: Epoch(2),
        signal: Signal::StandDown(stop(2, StopMode::Finish)),
    });
    let job = world.open[0].clone();
    let ended = world.perform(&job);
    world.restart(agent_core::UnitState::Ended(Box::new(ended)));
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Abandoned);
}

#[test]
fn a_newer_epoch_alone_stops_as_well() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.work_until(&Step::Arming));
    world.epoch = Epoch(2);
    world.feed(Input::Signal {
        epoch: Epoch(2),
        signal: Signal::Wake,
    });
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Abandoned);
}

#[test]
fn a_stop_that_was_lifted_does_not_stop_what_came_after() {
    let mut world = World::staged(Script::default());
    world.epoch = Epoch(2);
    world.say(Directive::StandDown(stop(2, StopMode::Rollback)));
    world.say(Directive::Proceed(Proceed {
        epoch: Epoch(2),
        ..proceed(7)
    }));
    assert!(world.work_until(&Step::Judging));
    // The same stop again, delayed on its way.
    world.feed(Input::Signal {
        epoch: Epoch(2),
        signal: Signal::StandDown(stop(2, StopMode::Rollback)),
    });
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Confirmed);
}

#[test]
fn polls_are_few_while_there_is_nothing_new_to_hear() {
    let mut world = World::new(Script::default());
    world.work_all();
    world.epoch = Epoch(2);
    let (began, polls) = (world.now, world.polls.len());
    while world.now.since(began) < Duration::from_secs(600) {
        world.say(Directive::StandDown(stop(2, StopMode::Finish)));
        world.work_all();
        world.pass_time();
    }
    let polls = world.polls.len() - polls;
    assert!((10..=60).contains(&polls), "{polls} polls in ten minutes");
}

#[test]
fn a_coordinator_that_answers_at_once_is_not_asked_in_a_loop() {
    let mut world = World::new(Script::default());
    world.work_all();
    let (began, polls) = (world.now, world.polls.len());
    while world.now.since(began) < Duration::from_secs(600) {
        world.say(Directive::Wait {
            ask_again: Duration::ZERO,
            kind: String::new(),
            text: String::new(),
        });
        world.work_all();
        world.pass_time();
    }
    let polls = world.polls.len() - polls;
    assert!((100..=320).contains(&polls), "{polls} polls in ten minutes");
}

#[test]
fn a_coordinator_that_is_gone_is_asked_ever_more_rarely() {
    let mut world = World::new(Script::default());
    let began = world.now;
    let mut polls = 0;
    while world.now.since(began) < Duration::from_secs(6 * 3600) {
        if let Some(call) = world.polls.pop() {
            polls += 1;
            world.feed(Input::CallFailed {
                call,
                reason: "refused".to_owned(),
            });
        }
        world.work_all();
        world.pass_time();
    }
    // At the ceiling a pause is 60 s to 120 s.
    assert!((180..=400).contains(&polls), "{polls} polls in six hours");
}

/// The job under way, its unit never started when the shell came to it.
fn too_late(world: &mut World) {
    let job = world.open.pop().expect("a job");
    assert_eq!(job.may_begin.now(world.now), Err(Failure::TooLate));
    world.feed(Input::StepDone {
        step: job.step,
        answer: answer(Err(Failure::TooLate)),
    });
}

#[test]
fn what_disturbs_may_be_begun_for_as_long_as_the_lease_holds() {
    for (step, needs_reboot) in [
        (Step::PreHook, false),
        (Step::Activating, false),
        (Step::Activating, true),
        (Step::Rebooting, true),
    ] {
        let mut world = World::staged(Script {
            needs_reboot,
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        let attempt = world.disk.attempt.clone().expect("an attempt");
        let end = attempt.lease_until.moment - world.limits.lease_margin;
        let may_begin = world.open.last().expect("a job").may_begin;
        assert_eq!(may_begin, MayBegin::Before(end), "{step:?}");
    }
}

#[test]
fn a_step_that_came_too_late_is_undone_and_blames_nobody() {
    for (step, needs_reboot) in [
        (Step::PreHook, false),
        (Step::Activating, false),
        (Step::Activating, true),
    ] {
        let mut world = World::staged(Script {
            needs_reboot,
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        // The process was stopped between writing the step down and doing it.
        world.script.hangs = true;
        world.now = world.now + LEASE;
        too_late(&mut world);
        world.script.hangs = false;
        let result = world.finish();
        let case = format!("{step:?} {needs_reboot}: {result:?}");
        assert_eq!(result.outcome.kind, OutcomeKind::Abandoned, "{case}");
        assert_eq!((world.boot, &world.running), (1, &path("old")), "{case}");
        assert_eq!(world.disk.bad_targets, [], "{case}");
        let owed = step != Step::PreHook;
        assert_eq!(world.ran(Hook::Rollback), owed, "{case}");
    }
}

#[test]
fn a_switch_that_was_not_begun_is_not_begun_by_the_next_agent_without_a_lease() {
    let activating = || {
        let mut world = World::staged(Script::default());
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&Step::Activating));
        world
    };
    // Its profile is set, its agent died, and the next one comes after the lease has run out.
    let mut world = activating();
    world.now = world.now + LEASE;
    world.script.hangs = true;
    world.restart(UnitState::Running);
    world.script.hangs = false;
    too_late(&mut world);
    let result = world.finish();
    assert_eq!(result.outcome.kind, OutcomeKind::Abandoned, "{result:?}");
    assert_eq!(world.disk.bad_targets, []);

    // While the lease holds it may be begun.
    let mut world = activating();
    world.restart(UnitState::Running);
    let job = world.open.last().expect("a job");
    assert_eq!(job.may_begin.now(world.now), Ok(()));
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Confirmed);

    // Not when there was a stop.
    let mut world = activating();
    world.epoch = Epoch(2);
    world.feed(Input::Signal {
        epoch: Epoch(2),
        signal: Signal::StandDown(stop(2, StopMode::Finish)),
    });
    world.restart(UnitState::Running);
    too_late(&mut world);
    assert_eq!(world.finish().outcome.kind, OutcomeKind::Abandoned);
}

#[test]
fn the_next_agent_waits_for_a_hook_and_never_begins_it() {
    for (step, healthy) in [
        (Step::PreHook, true),
        (Step::PostHook, true),
        (Step::RollbackHook, false),
    ] {
        let mut world = World::staged(Script {
            healthy: vec![healthy],
            ..Script::default()
        });
        world.say(Directive::Proceed(proceed(7)));
        assert!(world.work_until(&step));
        world.restart(UnitState::Running);
        let job = world.open.last().expect("a job");
        assert_eq!(job.may_begin, MayBegin::Never, "{step:?}");
        world.finish();
    }
}
