//! Single jobs, carried out without an agent that asks for them.

use std::{fs, time::Duration};

use agent::{
    executor::{CarriedOut, Executor},
    host::{Family, Host},
};
use agent_core::{
    ActivationEnd, Answer, Done, Failure, Hook, HookContext, HookEnd, Job, MayBegin, Mode, Moment,
    RebootKind, StepId, Work,
};
use common::{Action, LeaseId, StorePath, Target};

use crate::world::{Like, SAME_KERNEL, World, path};

/// The lease has run out long ago.
const PAST: MayBegin = MayBegin::Before(Moment(0));

fn job(number: u32, may_begin: MayBegin, work: Work) -> Job {
    Job {
        step: StepId { life: 1, number },
        within: Duration::from_secs(120),
        may_begin,
        work,
    }
}

async fn carry_out<H: Host>(executor: &Executor<H>, job: &Job) -> Answer {
    match executor.carry_out(job).await {
        CarriedOut::Answer(answer) => *answer,
        CarriedOut::Booted => panic!("the machine was booted"),
    }
}

fn activate(system: &StorePath) -> Work {
    Work::Activate {
        path: system.clone(),
        mode: Mode::Switch,
        over: None,
    }
}

fn run_hook(hook: Hook) -> Work {
    let context = HookContext {
        rollout: "r-1".parse().expect("a name"),
        lease: LeaseId(1),
        target: path("new"),
        previous: path("old"),
        reboot: false,
        reason: String::new(),
    };
    Work::RunHook { hook, context }
}

/// A machine that has the system `new` and runs `old`.
fn machine(like: Like) -> (World, StorePath) {
    let world = World::new();
    let new = world.system("new", like);
    world.fill_store();
    (world, new)
}

#[tokio::test]
async fn nothing_disruptive_is_started_past_its_time() {
    let (world, new) = machine(SAME_KERNEL);
    let hook = world.script("hook", "echo $LAB_PHASE >>$LAB_ROOT/hooks");
    world.write_config(&format!("pre_update = \"{hook}\""));
    let executor = world.executor().await;
    let boot = fs::read_to_string(world.links().at("/boot_id")).expect("a boot id");
    let reboot = Work::Reboot {
        lease: LeaseId(1),
        kind: RebootKind::Machine,
        trial: None,
    };
    let works = [run_hook(Hook::Pre), activate(&new), reboot];
    for (number, work) in (1..).zip(works) {
        let answer = carry_out(&executor, &job(number, PAST, work.clone())).await;
        assert_eq!(answer.result, Err(Failure::TooLate), "{work:?}");
    }
    assert_eq!(world.lines("hooks"), Vec::<String>::new());
    assert_eq!(world.lines("switches"), Vec::<String>::new());
    assert_eq!(world.profile(), Some(path("old")));
    let after = fs::read_to_string(world.links().at("/boot_id")).expect("a boot id");
    assert_eq!(boot, after);
}

/// The agent died between the two units of an activation, and came back when its time was over.
#[tokio::test]
async fn a_switch_whose_profile_is_set_is_not_started_past_its_time() {
    let (world, new) = machine(SAME_KERNEL);
    let executor = world.executor().await;
    let set = executor
        .host()
        .set_profile("1-1", &new, MayBegin::Always)
        .await;
    set.expect("set");
    let answer = carry_out(&executor, &job(1, PAST, activate(&new))).await;
    assert_eq!(answer.result, Err(Failure::TooLate));
    assert_eq!(world.lines("switches"), Vec::<String>::new());
    assert_eq!(world.running(), Some(path("old")));
}

#[tokio::test]
async fn a_switch_at_work_is_waited_for_whatever_the_time() {
    let (world, new) = machine(Like {
        extra: "sleep 1",
        ..SAME_KERNEL
    });
    let executor = world.executor().await;
    let begun = job(1, MayBegin::Always, activate(&new));
    tokio::select! {
        _ = executor.carry_out(&begun) => panic!("it takes a second"),
        () = async {
            while world.running() != Some(path("new")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    let answer = carry_out(&executor, &job(1, PAST, activate(&new))).await;
    let end = match answer.result {
        Ok(Done::Activated { end, .. }) => end,
        other => panic!("{other:?}"),
    };
    assert_eq!(end, ActivationEnd::Done);
    assert_eq!(world.lines("switches"), ["switch new"]);
}

#[tokio::test]
async fn a_hook_that_was_begun_and_is_gone_is_lost_and_not_begun_again() {
    let (world, _) = machine(SAME_KERNEL);
    let hook = world.script("hook", "echo $LAB_PHASE >>$LAB_ROOT/hooks");
    world.write_config(&format!(
        "pre_update = \"{hook}\"\npost_update = \"{hook}\"\nrollback = \"{hook}\""
    ));
    let executor = world.executor().await;
    for (number, hook) in (1..).zip([Hook::Pre, Hook::Post, Hook::Rollback]) {
        let answer = carry_out(&executor, &job(number, MayBegin::Never, run_hook(hook))).await;
        assert_eq!(answer.result, Err(Failure::Lost), "{hook:?}");
    }
    assert_eq!(world.lines("hooks"), Vec::<String>::new());
}

#[tokio::test]
async fn a_switch_that_is_gone_is_lost() {
    let (world, new) = machine(Like {
        extra: "sleep 60",
        ..SAME_KERNEL
    });
    let executor = world.executor().await;
    let begun = job(1, MayBegin::Always, activate(&new));
    let stop = async {
        while world.running() != Some(path("new")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stopped = executor.host().stop(&Family::DISRUPTIVE).await;
        stopped.expect("stopped");
    };
    let (answer, ()) = tokio::join!(carry_out(&executor, &begun), stop);
    assert_eq!(answer.result, Err(Failure::Lost));
}

#[tokio::test]
async fn the_rollback_hook_never_runs_beside_a_hook_that_it_makes_up_for() {
    let (world, _) = machine(SAME_KERNEL);
    let pre = world.script(
        "pre",
        "while :; do echo beat >>$LAB_ROOT/beats; sleep 0.02; done",
    );
    let rollback = world.script(
        "rollback",
        "before=$(wc -l <$LAB_ROOT/beats); sleep 0.3; after=$(wc -l <$LAB_ROOT/beats)
         [ $before = $after ]",
    );
    world.write_config(&format!(
        "pre_update = \"{pre}\"\nrollback = \"{rollback}\""
    ));
    let executor = world.executor().await;
    let begun = job(1, MayBegin::Always, run_hook(Hook::Pre));
    tokio::select! {
        _ = executor.carry_out(&begun) => panic!("it never ends"),
        () = async {
            while world.lines("beats").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    let answer = carry_out(
        &executor,
        &job(2, MayBegin::Always, run_hook(Hook::Rollback)),
    )
    .await;
    assert_eq!(answer.result, Ok(Done::Hook(HookEnd::Succeeded)));
    let left = executor.host().has_unit(begun.step).await.expect("told");
    assert!(!left, "the pre-update hook is gone");
}

/// A machine with one more check, which does what the script says.
fn machine_with_check(script: &str) -> (World, StorePath) {
    let (world, new) = machine(SAME_KERNEL);
    let check = world.script("more", script);
    world.write_config(&format!(
        "[[checks]]\nname = \"more\"\nkind = \"command\"\ncommand = [\"{check}\"]"
    ));
    (world, new)
}

#[tokio::test]
async fn a_check_had_failed_before_when_it_failed_twice() {
    let hiccup = "[ -e $LAB_ROOT/looked ] || { touch $LAB_ROOT/looked; exit 1; }";
    for (script, failed) in [(hiccup, Vec::new()), ("exit 1", vec!["more".to_owned()])] {
        let (world, target) = machine_with_check(script);
        let executor = world.executor().await;
        let action = Action::Update;
        let work = Work::Snapshot {
            target,
            action,
            reboot_wait: None,
        };
        let answer = carry_out(&executor, &job(1, MayBegin::Always, work)).await;
        let Ok(Done::Snapshot { baseline, .. }) = answer.result else {
            panic!("{answer:?}");
        };
        assert_eq!(baseline.failed_checks, failed, "{script}");
    }
}

#[tokio::test]
async fn what_must_hold_before_an_update_is_looked_at_twice_and_not_before_a_rollback() {
    let world = World::new();
    let path = world.system("new", SAME_KERNEL);
    let partner = world.script(
        "partner",
        "test -e $LAB_ROOT/partner || { echo gone; exit 1; }",
    );
    let backup = world.script("backup", "test -e $LAB_ROOT/backup");
    world.write_config(&format!(
        "backup_check = \"{backup}\"
         [[conditions]]
         name = \"partner\"
         kind = \"command\"
         command = [\"{partner}\"]"
    ));
    let executor = world.executor().await;
    let stage = |action| Work::Stage {
        target: Target::Closure(path.clone()),
        action,
        rollout: None,
    };
    let snapshot = |action| Work::Snapshot {
        target: path.clone(),
        action,
        reboot_wait: None,
    };
    let mut number = 0;
    let mut cases = async |expected: Option<&str>| {
        for action in [Action::Update, Action::Reboot, Action::Rollback] {
            for work in [stage(action), snapshot(action)] {
                number += 1;
                let job = job(number, MayBegin::Always, work);
                let result = carry_out(&executor, &job).await.result;
                let not_ready = match result {
                    Ok(_) => None,
                    Err(Failure::NotReady(why)) => Some(why),
                    Err(other) => panic!("{job:?}: {other}"),
                };
                let expected = expected.filter(|_| action != Action::Rollback);
                assert_eq!(not_ready.as_deref(), expected, "{job:?}");
            }
        }
    };
    cases(Some("partner: exit status 1 gone")).await;
    fs::write(world.links().at("/partner"), "").expect("written");
    cases(Some("cannot see a fresh backup: exit status 1: ")).await;
    fs::write(world.links().at("/backup"), "").expect("written");
    cases(None).await;
}

#[tokio::test]
async fn a_reboot_waits_for_whoever_would_mind_and_a_switch_for_nobody() {
    let world = World::new();
    let same = world.system("same", SAME_KERNEL);
    let kernel = "6.13";
    let other = world.system(
        "other",
        Like {
            kernel,
            ..SAME_KERNEL
        },
    );
    let executor = world.executor().await;
    let users = world.links().at("/run/lab-updater/users");
    let snapshot = |target: &StorePath, reboot_wait| Work::Snapshot {
        target: target.clone(),
        action: Action::Update,
        reboot_wait,
    };
    let hour = Some(Duration::from_secs(3600));
    let mut number = 0;
    let mut look = async |work| {
        number += 1;
        let answer = carry_out(&executor, &job(number, MayBegin::Always, work)).await;
        assert!(answer.result.is_ok(), "{answer:?}");
    };
    fs::write(&users, "alice is logged in\n").expect("written");
    for system in [&same, &other] {
        look(Work::Stage {
            target: Target::Closure(system.clone()),
            action: Action::Update,
            rollout: None,
        })
        .await;
    }
    look(snapshot(&same, hour)).await;
    look(snapshot(&other, None)).await;
    look(snapshot(&other, Some(Duration::from_secs(1)))).await;
    // She logs out while it waits.
    let logs_out = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fs::remove_file(&users).expect("removed");
    };
    futures_util::future::join(look(snapshot(&other, hour)), logs_out).await;
    assert!(!users.exists(), "it was waited for");
}

/// What is said when the target is staged is what is done when the machine has its turn.
#[tokio::test]
async fn a_soft_reboot_is_enough_for_an_inhibitor_where_it_takes_up_the_target() {
    let kernel = "6.13";
    let another = Like {
        kernel,
        ..SAME_KERNEL
    };
    let (machine, user_space) = (Some(RebootKind::Machine), Some(RebootKind::UserSpace));
    let cases = [
        (SAME_KERNEL, "one", true, None),
        (SAME_KERNEL, "two", true, user_space),
        (SAME_KERNEL, "two", false, machine),
        (another, "one", true, machine),
        (another, "two", true, machine),
    ];
    for (like, inhibitor, can, expected) in cases {
        let world = World::new();
        let inhibitors = |value| format!("{{\"dbus\": \"{value}\"}}");
        let running = world.running().expect("a system");
        let running = world.links().at(running.as_str()).join("switch-inhibitors");
        fs::write(running, inhibitors("one")).expect("written");
        let path = world.system("new", like);
        world.write_in_cache(&path, "switch-inhibitors", &inhibitors(inhibitor));
        let executor = world.executor().await;
        if can {
            fs::write(world.links().at("/run/lab-updater/soft-reboots"), "").expect("written");
        }
        let stage = Work::Stage {
            target: Target::Closure(path.clone()),
            action: Action::Update,
            rollout: None,
        };
        let answer = carry_out(&executor, &job(1, MayBegin::Always, stage)).await;
        let Ok(Done::Staged(staged)) = answer.result else {
            panic!("{answer:?}");
        };
        assert_eq!(staged.needs_reboot, expected.is_some());
        assert_eq!(staged.soft_reboot, expected == user_space);
        let snapshot = Work::Snapshot {
            target: path,
            action: Action::Update,
            reboot_wait: None,
        };
        let answer = carry_out(&executor, &job(2, MayBegin::Always, snapshot)).await;
        let Ok(Done::Snapshot { needs_reboot, .. }) = answer.result else {
            panic!("{answer:?}");
        };
        assert_eq!(needs_reboot, expected);
    }
}
