//! The traffic script, run on a machine by an executor alone, and by an agent that is killed.

use std::time::Duration;

use agent::{
    executor::{CarriedOut, Executor},
    host::Host,
};
use agent_core::{Answer, Done, Failure, Job, MayBegin, StepId, Work};
use common::{Epoch, Gets, TrafficCall, TrafficDone, TrafficOrder};

use crate::world::World;

/// The order of this number.
fn call(number: u64, gets: Gets) -> TrafficCall {
    TrafficCall {
        order: TrafficOrder {
            epoch: Epoch(1),
            group: "web".parse().expect("a name"),
            number,
            attempt: 1,
            gets,
        },
        side: "blue".parse().expect("a name"),
        drain: Duration::from_secs(45),
        within: Duration::from_secs(600),
    }
}

fn job(call: TrafficCall, may_begin: MayBegin) -> Job {
    Job {
        step: StepId {
            life: 1,
            number: u32::try_from(call.order.number).expect("small"),
        },
        within: call.within,
        may_begin,
        work: Work::MoveTraffic { call },
    }
}

async fn carry_out<H: Host>(executor: &Executor<H>, job: &Job) -> Answer {
    match executor.carry_out(job).await {
        CarriedOut::Answer(answer) => *answer,
        CarriedOut::Booted => panic!("the machine was booted"),
    }
}

/// A machine with this traffic script.
fn machine(script: &str) -> World {
    let world = World::new();
    let script = world.script("traffic", script);
    world.write_config(&format!("traffic = \"{script}\""));
    world
}

/// A script that notes what it is told, waits until it is let go, and notes its end.
const SLOW: &str = "echo \"$LAB_TRAFFIC\" >>$LAB_ROOT/begun
while ! test -e $LAB_ROOT/go; do sleep 0.02; done
echo \"$LAB_TRAFFIC\" >>$LAB_ROOT/ended";

#[tokio::test]
async fn the_script_is_told_what_becomes_of_the_machine() {
    let told = "$LAB_TRAFFIC $LAB_GROUP $LAB_SIDE $LAB_DRAIN_SECONDS";
    let world = machine(&format!("echo \"{told}\" >>$LAB_ROOT/told"));
    let executor = world.executor().await;
    for (number, gets) in [(1, Gets::Traffic), (2, Gets::Nothing)] {
        let job = job(call(number, gets), MayBegin::Always);
        let answer = carry_out(&executor, &job).await;
        assert_eq!(answer.result, Ok(Done::TrafficMoved));
    }
    assert_eq!(world.lines("told"), ["in web blue 45", "out web blue 45"]);
}

#[tokio::test]
async fn a_script_that_fails_or_hangs_or_is_not_there_is_a_failure() {
    let world = machine("echo begun; echo no route >&2; exit 3");
    let executor = world.executor().await;
    let begun = job(call(1, Gets::Traffic), MayBegin::Always);
    let answer = carry_out(&executor, &begun).await;
    let status = Failure::Failed("exit status 3".to_owned());
    assert_eq!(answer.result, Err(status));
    assert_eq!(answer.output, "begun\nno route\n");

    let world = machine("sleep 600");
    let executor = world.executor().await;
    let within = Duration::from_secs(1);
    let begun = call(1, Gets::Nothing);
    let begun = job(TrafficCall { within, ..begun }, MayBegin::Always);
    let answer = carry_out(&executor, &begun).await;
    assert_eq!(answer.result, Err(Failure::TimedOut));

    let world = World::new();
    let executor = world.executor().await;
    let begun = job(call(1, Gets::Traffic), MayBegin::Always);
    let answer = carry_out(&executor, &begun).await;
    assert!(
        matches!(answer.result, Err(Failure::Failed(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_script_that_was_begun_and_is_gone_is_lost_and_not_begun_again() {
    let world = machine("echo \"$LAB_TRAFFIC\" >>$LAB_ROOT/begun");
    let executor = world.executor().await;
    let answer = carry_out(&executor, &job(call(1, Gets::Traffic), MayBegin::Never)).await;
    assert_eq!(answer.result, Err(Failure::Lost));
    assert_eq!(world.lines("begun"), Vec::<String>::new());
}

#[tokio::test]
async fn a_script_that_was_given_up_on_is_stopped_before_the_next_one() {
    let world = machine(SLOW);
    let executor = world.executor().await;
    let first = job(call(1, Gets::Traffic), MayBegin::Always);
    tokio::select! {
        _ = executor.carry_out(&first) => panic!("it never ends"),
        () = begun(&world, 1) => {}
    }
    std::fs::write(world.links().at("/go"), "").expect("written");
    let next = job(call(2, Gets::Nothing), MayBegin::Always);
    assert!(carry_out(&executor, &next).await.result.is_ok());
    let left = executor.host().has_unit(first.step).await.expect("told");
    assert!(!left, "the first one is gone");
}

async fn begun(world: &World, count: usize) {
    while world.lines("begun").len() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn done(call: &TrafficCall) -> Option<TrafficDone> {
    Some(TrafficDone {
        order: Some(call.order.clone()),
        failure: None,
    })
}

#[tokio::test]
async fn an_agent_that_is_killed_meanwhile_tells_how_the_script_ended_and_runs_it_once() {
    // It ends while there is no agent, or when there is one again.
    for ends_first in [true, false] {
        let world = machine(SLOW);
        let order = call(1, Gets::Nothing);
        world.coordinator.orders(order.clone());
        let exit = world.live_until(|w| !w.lines("begun").is_empty()).await;
        assert_eq!(exit, None);
        assert!(world.durable().moving_traffic.is_some());
        let go = world.links().at("/go");
        if ends_first {
            std::fs::write(&go, "").expect("written");
            while world.lines("ended").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } else {
            let lives = |w: &World| w.durable().life > 1;
            assert_eq!(world.live_until(lives).await, None);
            std::fs::write(&go, "").expect("written");
        }
        let answered = |w: &World| w.coordinator.answer_to(&order).is_some();
        assert_eq!(world.live_until(answered).await, None);
        assert_eq!(world.coordinator.answer_to(&order), done(&order));
        assert_eq!(world.lines("begun"), ["out"]);
        assert_eq!(world.lines("ended"), ["out"]);
        // The next order is one of its own.
        let next = call(2, Gets::Traffic);
        world.coordinator.orders(next.clone());
        let answered = |w: &World| w.coordinator.answer_to(&next).is_some();
        assert_eq!(world.live_until(answered).await, None);
        assert_eq!(world.lines("begun"), ["out", "in"]);
    }
}

#[tokio::test]
async fn a_script_that_the_boot_ended_is_told_as_lost() {
    let world = machine(SLOW);
    let order = call(1, Gets::Nothing);
    world.coordinator.orders(order.clone());
    let exit = world.live_until(|w| !w.lines("begun").is_empty()).await;
    assert_eq!(exit, None);
    let executor = world.executor().await;
    let tag = world.durable().moving_traffic.expect("at work").job;
    executor.clear(tag).await.expect("ended");
    std::fs::write(world.links().at("/boot_id"), "second-boot").expect("written");
    let answered = |w: &World| w.coordinator.answer_to(&order).is_some();
    assert_eq!(world.live_until(answered).await, None);
    let told = world.coordinator.answer_to(&order).expect("an answer");
    let why = told.failure.expect("nobody knows how it ended");
    assert!(why.contains("lost"), "{why}");
    assert_eq!(world.lines("begun"), ["out"], "never run again by itself");
}
