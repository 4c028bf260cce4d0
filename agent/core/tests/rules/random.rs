//! Anything, in any order: the invariants hold after every input (the world checks them), and once
//! the disturbances stop every attempt ends.

use std::time::Duration;

use crate::{
    traffic::move_traffic,
    world::{LEASE, Script, World, answer, path, proceed, rollout, target},
};
use agent_core::{
    Answer, CallId, Directive, Done, Failure, HookEnd, Input, Proceed, Renewal, Signal, StandDown,
    StepId, UnitState,
};
use common::{Action, Epoch, LeaseId, StopMode};
use proptest::prelude::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    Work,
    WorkFails(u8),
    Unfitting,
    LateAnswer(u32),
    Pass,
    Wait(u64),
    RestartAbsent,
    RestartDone,
    RestartRunning,
    Boot(Option<&'static str>),
    DeadMan,
    Unhealthy,
    Silent(bool),
    Offer(Proceed),
    Stage(&'static str, bool),
    Stop(u64, bool),
    Renewed(u64, u64, Option<u64>),
    Measured,
    NeedsReboot(bool),
    SoftRebootDoes(bool),
    RebootsWork(bool),
    MoveTraffic(u64, u64, u32),
    TrafficUnitGone,
    TrafficScript(bool),
}

fn systems() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("new"), Just("old"), Just("other")]
}

fn offers() -> impl Strategy<Value = Proceed> {
    let action = prop_oneof![
        4 => Just(Action::Update),
        1 => Just(Action::Rollback),
        1 => Just(Action::Reboot)
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1..30u64, 1..4u64, action, systems(), flags, 0..200u64).prop_map(
        |(lease, epoch, action, to, (reboot, back, force, named), secs)| Proceed {
            epoch: Epoch(epoch),
            valid_for: Duration::from_secs(secs),
            action,
            target: (action != Action::Reboot || named).then(|| target(to)),
            allow_reboot: reboot,
            rollback_on_failure: back,
            force,
            ..proceed(lease)
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => Just(Op::Work),
        2 => (0..6u8).prop_map(Op::WorkFails),
        1 => Just(Op::Unfitting),
        1 => (0..40u32).prop_map(Op::LateAnswer),
        4 => Just(Op::Pass),
        2 => (0..400_000u64).prop_map(Op::Wait),
        2 => Just(Op::RestartAbsent),
        1 => Just(Op::RestartDone),
        1 => Just(Op::RestartRunning),
        1 => prop_oneof![
            Just(None), Just(Some("new")), Just(Some("old")), Just(Some("third"))
        ].prop_map(Op::Boot),
        1 => Just(Op::DeadMan),
        2 => Just(Op::Unhealthy),
        2 => any::<bool>().prop_map(Op::Silent),
        6 => offers().prop_map(Op::Offer),
        2 => (systems(), any::<bool>()).prop_map(|(to, force)| Op::Stage(to, force)),
        1 => (1..4u64, any::<bool>()).prop_map(|(epoch, back)| Op::Stop(epoch, back)),
        1 => (0..30u64, 1..4u64, prop::option::of(0..200u64))
            .prop_map(|(lease, epoch, valid)| Op::Renewed(lease, epoch, valid)),
        1 => Just(Op::Measured),
        2 => any::<bool>().prop_map(Op::NeedsReboot),
        1 => any::<bool>().prop_map(Op::SoftRebootDoes),
        1 => any::<bool>().prop_map(Op::RebootsWork),
        6 => (1..4u64, 1..4u64, 1..3u32).prop_map(|(epoch, number, attempt)| {
            Op::MoveTraffic(epoch, number, attempt)
        }),
        1 => Just(Op::TrafficUnitGone),
        1 => prop::bool::weighted(0.8).prop_map(Op::TrafficScript),
    ]
}

fn apply(world: &mut World, op: Op) {
    match op {
        Op::Work => {
            world.work_one();
        }
        Op::WorkFails(how) => {
            if let Some(job) = world.open.pop() {
                let result = match how {
                    0 => Err(Failure::TimedOut),
                    1 => Err(Failure::Lost),
                    3 => Err(Failure::TooLate),
                    4 => Err(Failure::NotReady("no backup".to_owned())),
                    2 => Err(Failure::Failed("\u{202e}no\0".to_owned())),
                    _ => Ok(Done::Hook(HookEnd::Failed {
                        status: "exit status 3".to_owned(),
                    })),
                };
                world.feed(Input::StepDone {
                    step: job.step,
                    answer: answer(result),
                });
            }
        }
        Op::Unfitting => {
            if let Some(job) = world.open.pop() {
                world.feed(Input::StepDone {
                    step: job.step,
                    answer: Answer {
                        result: Ok(Done::RebootAsked),
                        output: "x".repeat(10_000),
                    },
                });
            }
        }
        Op::LateAnswer(number) => world.feed(Input::StepDone {
            step: StepId { life: 0, number },
            answer: answer(Ok(Done::Armed)),
        }),
        Op::Pass => world.pass_time(),
        Op::Wait(ms) => {
            world.now = world.now + Duration::from_millis(ms);
            world.feed(Input::Tick);
        }
        Op::RestartAbsent => world.restart(UnitState::Absent),
        Op::RestartDone => {
            let open = world.disk.open_step();
            let job = world.open.iter().find(|j| Some(j.step) == open).cloned();
            let unit = match job {
                Some(job) => UnitState::Ended(Box::new(world.perform(&job))),
                None => UnitState::Absent,
            };
            world.restart(unit);
        }
        Op::RestartRunning => world.restart(UnitState::Running),
        Op::Boot(system) => {
            world.script.boots = system.into_iter().collect();
            world.reboot();
        }
        Op::DeadMan => {
            let lease = world.disk.lease;
            if let Some(order) = world.disk.dead_man_order(lease) {
                world.profile = order.previous.boot_default;
                world.dead_man_fired = true;
                world.feed(Input::DeadManFired { lease });
                world.dead_man_fired = false;
            }
        }
        Op::Unhealthy => world.script.healthy.push(false),
        Op::Silent(silent) => world.script.connected = !silent,
        Op::Offer(offer) => {
            world.epoch = world.epoch.max(offer.epoch);
            world.say(Directive::Proceed(offer));
        }
        Op::Stage(to, force) => world.say(Directive::Stage {
            rollout: Some(rollout("r1")),
            target: target(to),
            action: Action::Update,
            force,
            wish: 0,
        }),
        Op::Stop(epoch, back) => {
            let epoch = Epoch(epoch);
            world.epoch = world.epoch.max(epoch);
            let mode = if back {
                StopMode::Rollback
            } else {
                StopMode::Finish
            };
            world.feed(Input::Signal {
                epoch,
                signal: Signal::StandDown(StandDown {
                    epoch,
                    mode,
                    reason: "stop".to_owned(),
                }),
            });
        }
        Op::Renewed(lease, epoch, valid) => world.feed(Input::Renewed {
            call: CallId(3),
            sent: world.now,
            lease: LeaseId(lease),
            epoch: Epoch(epoch),
            renewal: match valid {
                Some(secs) => Renewal::Valid {
                    valid_for: Duration::from_secs(secs),
                },
                None => Renewal::NotHeld {
                    reason: "unknown".to_owned(),
                },
            },
        }),
        Op::NeedsReboot(needed) => world.script.needs_reboot = needed,
        Op::SoftRebootDoes(does) => world.script.soft = does,
        Op::RebootsWork(work) => world.script.reboots = work,
        Op::MoveTraffic(epoch, number, attempt) => {
            world.epoch = world.epoch.max(Epoch(epoch));
            let mut directive = move_traffic(number, attempt);
            if let Directive::MoveTraffic(call) = &mut directive {
                call.order.epoch = Epoch(epoch);
            }
            world.say(directive);
        }
        Op::TrafficUnitGone => world.traffic_units.clear(),
        // Taken up by the agent's next process.
        Op::TrafficScript(is_there) => world.limits.has_traffic_script = is_there,
        Op::Measured => {
            let facts = world.facts();
            world.feed(Input::Measured(facts));
        }
    }
}

/// Once nothing disturbs any more, the attempt ends and its result arrives.
fn settle(world: &mut World) {
    world.script = Script::default();
    let mut turns = 0;
    while world.disk.attempt.is_some()
        || world.disk.unreported.is_some()
        || world.disk.moving_traffic.is_some()
    {
        turns += 1;
        assert!(turns < 1000, "no end: {:#?}", world.disk);
        if !world.work_one() {
            world.pass_time();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_whatever_happens(ops in prop::collection::vec(ops(), 1..120)) {
        let mut world = World::new(Script::default());
        for op in ops {
            let (lease, epoch) = (world.disk.lease, world.disk.epoch);
            let answered = world.disk.traffic_done.order.clone();
            apply(&mut world, op);
            // The fencing numbers never fall.
            prop_assert!(world.disk.lease >= lease && world.disk.epoch >= epoch);
            let now_answered = world.disk.traffic_done.order.as_ref();
            if let Some(before) = &answered {
                prop_assert!(now_answered.is_some_and(|order| !order.is_before(before)));
            }
        }
        settle(&mut world);
        // The way out is open: the machine takes the next lease.
        let epoch = world.disk.epoch;
        world.epoch = epoch;
        world.reports.clear();
        let next = Proceed {
            epoch,
            valid_for: LEASE,
            target: Some(target("new")),
            action: Action::Rollback,
            ..proceed(1000)
        };
        world.say(Directive::Proceed(next));
        settle(&mut world);
        prop_assert_eq!(&world.running, &path("new"));
        prop_assert_eq!(world.reports.last().map(|r| r.lease), Some(LeaseId(1000)));
    }
}
