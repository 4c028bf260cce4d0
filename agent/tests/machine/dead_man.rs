//! The way back that nobody called off, with and without an agent beside it.

use std::{fs, time::Duration};

use agent::{
    dead_man::{self, Verdict},
    directory::set_link,
    driver::Exit,
    links::{BOOTED, CURRENT},
};
use common::OutcomeKind;

use crate::world::{Like, SAME_KERNEL, World, path};

/// Another kernel, and not well.
const BAD: Like = Like {
    kernel: "6.13",
    sick: true,
    ..SAME_KERNEL
};

/// Lets the program run that is asked some time after each boot. Returns what it came to, and the
/// boot that the machine is in then.
async fn after_a_boot(world: &World) -> (Verdict, String) {
    let host = world.host().await.as_dead_man();
    let verdict = dead_man::run(&host, &world.config(), None).await;
    (verdict.expect("it comes to an end"), boot(world))
}

fn boot(world: &World) -> String {
    fs::read_to_string(world.links().at("/boot_id")).expect("a boot")
}

#[tokio::test]
async fn a_machine_that_is_back_is_not_booted_again() {
    let world = World::new();
    world.coordinator.wants(1, &world.system("bad", BAD));
    // Into the bad system, and out of it: the agent ends with each boot, and now does not come up.
    for _ in 0..2 {
        assert_eq!(world.live_until(|_| false).await, Some(Exit::Booted));
    }
    assert_eq!(world.running(), Some(path("old")));
    let before = boot(&world);
    for _ in 0..2 {
        let came_to = after_a_boot(&world).await;
        assert_eq!(came_to, (Verdict::WentBack, before.clone()));
    }
    assert_eq!(world.profile(), Some(path("old")));
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
}

#[tokio::test]
async fn a_boot_that_does_not_lead_back_is_tried_once() {
    let world = World::new();
    world.coordinator.wants(1, &world.system("bad", BAD));
    assert_eq!(world.live_until(|_| false).await, Some(Exit::Booted));
    let bad_boot = boot(&world);
    let (verdict, back) = after_a_boot(&world).await;
    assert_eq!(verdict, Verdict::WentBack);
    assert_ne!(back, bad_boot, "it was booted");
    assert_eq!(world.running(), Some(path("old")));

    // The same, where the boot loader takes no notice of its default.
    for link in [CURRENT, BOOTED] {
        set_link(&world.links(), link, path("bad").as_str()).expect("linked");
    }
    for _ in 0..2 {
        let came_to = after_a_boot(&world).await;
        assert_eq!(came_to, (Verdict::NotBack, back.clone()));
    }
}

/// The timer goes off in a slow switch, with the agent alive: the agent lets the program finish, and
/// neither stops the other's way back.
#[tokio::test]
async fn agent_and_dead_man_do_not_stop_one_another() {
    let mut world = World::new();
    world.attempt_timeout = Some(Duration::from_secs(20));
    let slow = "exec 9>\"$LAB_ROOT/lock\"; flock -n 9 || exit 11; sleep 0.9; echo done >>\"$LAB_ROOT/ends\"";
    world.write_extra(&path("old"), slow);
    let new = Like {
        extra: "sleep 600",
        ..SAME_KERNEL
    };
    world.coordinator.wants(1, &world.system("new", new));
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    assert!(outcome.reason.contains("dead-man"), "{outcome:?}");
    assert_eq!(world.running(), Some(path("old")));
    let switches = world.lines("switches");
    assert_eq!(switches, ["switch new", "switch old", "switch old"]);
    assert_eq!(world.lines("ends"), ["done", "done"], "none was cut short");
}
