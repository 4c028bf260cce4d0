//! Whole attempts through the real driver and core, on a machine in a directory.

use std::time::Duration;

use agent::{dead_man, driver::Exit, links::PROFILES};
use common::{LeaseId, OutcomeKind};

use crate::world::{Like, SAME_KERNEL, World, path};

#[tokio::test]
async fn an_update_is_confirmed_and_makes_one_generation() {
    let world = World::new();
    let new = world.system("new", SAME_KERNEL);
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
    assert_eq!(world.running(), Some(new.clone()));
    assert_eq!(world.lines("switches"), ["switch new"]);
    let report = world.coordinator.last_report();
    assert_eq!((report.running, report.generation), (Some(new), 2));
}

#[tokio::test]
async fn a_coordinator_that_has_too_much_to_do_is_asked_again_later() {
    let world = World::new();
    let new = world.system("new", SAME_KERNEL);
    world.coordinator.wants(1, &new);
    world.coordinator.refuses(3);
    let outcome = world.live_until_reported(1).await;
    assert!(world.coordinator.has_refused());
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
    assert_eq!(world.coordinator.outcomes().len(), 1);
    assert_eq!(world.lines("switches"), ["switch new"]);
}

#[tokio::test]
async fn a_system_that_is_not_well_is_left_again() {
    let world = World::new();
    let rolled_back = world.script(
        "rollback",
        "echo \"$LAB_PHASE $LAB_REASON\" >>$LAB_ROOT/hooks",
    );
    world.write_config(&format!("rollback = \"{rolled_back}\""));
    let bad = world.system(
        "bad",
        Like {
            sick: true,
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &bad);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    assert!(outcome.reason.contains("well"), "{outcome:?}");
    assert_eq!(world.running(), Some(path("old")));
    assert_eq!(world.profile(), Some(path("old")));
    assert_eq!(world.lines("switches"), ["switch bad", "switch old"]);
    let hooks = world.lines("hooks");
    assert!(
        hooks.len() == 1 && hooks[0].starts_with("rollback unhealthy"),
        "{hooks:?}"
    );
}

#[tokio::test]
async fn another_kernel_takes_a_reboot() {
    let world = World::new();
    let new = world.system(
        "new",
        Like {
            kernel: "6.13",
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &new);
    let exit = world.live_until(|_| false).await;
    assert_eq!(exit, Some(Exit::Booted));
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
    assert_eq!(world.lines("switches"), ["boot new", "test new"]);
    let report = world.coordinator.last_report();
    assert_eq!(
        (report.running, report.booted),
        (Some(new.clone()), Some(new))
    );
    assert_ne!(report.boot_id.as_str(), "first-boot");
}

/// The check before a switch comes before the boot loader is installed.
#[tokio::test]
async fn a_switch_that_is_inhibited_ends_in_a_boot_of_the_target() {
    let world = World::new();
    let inhibit = world.script(
        "inhibit",
        "echo '{\"dbus\": \"one\"}' >\"$LAB_ROOT$(readlink \"$LAB_ROOT/run/current-system\")/switch-inhibitors\"",
    );
    // Not known before the switch: the hook does it.
    world.write_config(&format!("pre_update = \"{inhibit}\""));
    let new = world.system(
        "new",
        Like {
            check: "[ \"$1\" = switch ] && exit 1",
            ..SAME_KERNEL
        },
    );
    world.write_in_cache(&new, "switch-inhibitors", "{\"dbus\": \"two\"}");
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
    assert_eq!(
        world.lines("switches"),
        ["switch new", "boot new", "test new"]
    );
    let report = world.coordinator.last_report();
    assert_eq!(report.booted, Some(new));
}

/// A look at the failed units that fails says nothing of the machine.
#[tokio::test]
async fn a_bus_that_is_away_for_a_moment_is_no_verdict() {
    let world = World::new();
    let extra = "failed=$LAB_ROOT/run/systemd/failed; mkdir -p \"${failed%/*}\"; : >\"$failed\"
        (sleep 0.3; rm \"$failed\") &";
    let new = world.system(
        "new",
        Like {
            extra,
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
}

#[tokio::test]
async fn what_an_agent_before_left_behind_is_swept() {
    let world = World::new();
    let left = world
        .links()
        .at("/run/lab-updater/units/lab-updater-activate-7-7.service");
    std::fs::create_dir_all(&left).expect("made");
    std::fs::write(left.join("status"), "1").expect("written");
    let swept = |_: &World| !left.exists();
    assert_eq!(world.live_until(swept).await, None);
}

#[tokio::test]
async fn a_system_that_is_not_well_after_its_boot_is_left_by_a_boot() {
    let world = World::new();
    let bad = world.system(
        "bad",
        Like {
            kernel: "6.13",
            sick: true,
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &bad);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    let report = world.coordinator.last_report();
    assert_eq!(
        (report.running, report.booted),
        (Some(path("old")), Some(path("old")))
    );
}

#[tokio::test]
async fn a_reboot_that_is_not_allowed_is_only_prepared() {
    let world = World::new();
    let new = world.system(
        "new",
        Like {
            kernel: "6.13",
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &new);
    world.coordinator.but(|wish| wish.allow_reboot = false);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RebootRequired, "{outcome:?}");
    assert_eq!(world.running(), Some(path("old")));
    assert_eq!(world.profile(), Some(new));
}

#[tokio::test]
async fn a_pre_update_hook_that_says_no_leaves_the_machine_as_it_was() {
    let world = World::new();
    let no = world.script("no", "echo 'the backup is running' >&2; exit 3");
    world.write_config(&format!("pre_update = \"{no}\""));
    let new = world.system("new", SAME_KERNEL);
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Refused, "{outcome:?}");
    assert!(outcome.reason.contains("exit status 3"), "{outcome:?}");
    assert_eq!(world.running(), Some(path("old")));
    assert_eq!(world.profile(), Some(path("old")));
    assert_eq!(world.lines("switches"), Vec::<String>::new());
}

#[tokio::test]
async fn every_exit_status_of_a_switch_has_its_end() {
    for (extra, kind) in [
        // Complaints only: the judgement decides.
        ("exit 4", OutcomeKind::Confirmed),
        ("exit 2", OutcomeKind::Confirmed),
        ("exit 1", OutcomeKind::RolledBack),
        ("kill -9 $$", OutcomeKind::RolledBack),
    ] {
        let world = World::new();
        let new = world.system(
            "new",
            Like {
                extra,
                ..SAME_KERNEL
            },
        );
        world.coordinator.wants(1, &new);
        let outcome = world.live_until_reported(1).await;
        assert_eq!(outcome.kind, kind, "{extra}: {outcome:?}");
        let expected = if kind == OutcomeKind::Confirmed {
            new
        } else {
            path("old")
        };
        assert_eq!(world.running(), Some(expected.clone()), "{extra}");
        assert_eq!(world.profile(), Some(expected), "{extra}");
    }
}

#[tokio::test]
async fn a_profile_that_cannot_be_set_is_not_held_against_the_target() {
    let world = World::new();
    let new = world.system("new", SAME_KERNEL);
    // Where the next generation's link is to be made lies something else.
    let aside = world.links().at(PROFILES).join("system-2-link.new");
    std::fs::create_dir(&aside).expect("made");
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    assert!(outcome.reason.contains("system profile"), "{outcome:?}");
    assert_eq!(world.durable().bad_targets, []);
    assert_eq!(world.running(), Some(path("old")));
}

#[tokio::test]
async fn a_switch_that_hangs_is_ended_and_undone() {
    let world = World::new();
    let extra = "[ \"$1\" = switch ] && sleep 600";
    let new = world.system(
        "new",
        Like {
            extra,
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    assert_eq!(world.running(), Some(path("old")));
}

#[tokio::test]
async fn a_switch_in_progress_elsewhere_is_waited_for() {
    let world = World::new();
    let extra = "[ -e \"$LAB_ROOT/once\" ] || { touch \"$LAB_ROOT/once\"; exit 11; }";
    let new = world.system(
        "new",
        Like {
            extra,
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
    assert_eq!(world.lines("switches"), ["switch new", "switch new"]);
}

#[tokio::test]
async fn a_target_that_cannot_be_obtained_is_refused() {
    let world = World::new();
    world.coordinator.wants(1, &path("nowhere"));
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Refused, "{outcome:?}");
    assert!(outcome.reason.contains("not in the cache"), "{outcome:?}");
}

#[tokio::test]
async fn a_target_that_the_machine_does_not_allow_is_refused() {
    let world = World::new();
    world.coordinator.wants(1, &path("any"));
    let reference = "git+https://git.example.org/fleet".to_owned();
    let attribute = "web-01".to_owned();
    world.coordinator.but(|wish| {
        wish.target = Some(common::Target::Flake {
            reference,
            attribute,
        });
    });
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::Refused, "{outcome:?}");
    assert!(outcome.reason.contains("takes no flakes"), "{outcome:?}");
}

/// Killed as soon as a step is on disk, and started again: no hook runs twice, and the
/// attempt ends as it would have, or turns round where nobody can tell.
#[tokio::test]
async fn the_agent_may_die_at_any_step() {
    let steps = [
        "snapshot",
        "arming",
        "pre-hook",
        "activating",
        "post-hook",
        "judging",
        "confirming",
    ];
    for step in steps {
        let world = World::new();
        let hook = world.script("hook", "sleep 0.05; echo $LAB_PHASE >>$LAB_ROOT/hooks");
        world.write_config(&format!(
            "pre_update = \"{hook}\"\npost_update = \"{hook}\""
        ));
        let new = world.system(
            "new",
            Like {
                extra: "sleep 0.05",
                ..SAME_KERNEL
            },
        );
        world.coordinator.wants(1, &new);
        // A short step may pass unseen on a busy host; then the agent dies after its report.
        let there =
            |world: &World| world.step() == Some(step) || !world.coordinator.outcomes().is_empty();
        let killed = world.live_until(there).await;
        assert_eq!(killed, None, "{step}");
        let outcome = world.live_until_reported(1).await;
        let hooks = world.lines("hooks");
        if step.ends_with("hook") && outcome.kind != OutcomeKind::Confirmed {
            // It died after the hook was written down and before it was begun. Nobody can tell that
            // from a hook that was cut short, so the attempt turns round, and nothing runs twice.
            assert!(
                outcome.reason.contains("is not known") || outcome.reason.contains("lost"),
                "{outcome:?}"
            );
            assert_eq!(world.running(), Some(path("old")), "{step}");
            assert!(hooks.len() < 2, "{step}: {hooks:?}");
        } else {
            assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{step}: {outcome:?}");
            assert_eq!(world.running(), Some(new), "{step}");
            assert_eq!(hooks, ["pre-update", "post-update"], "{step}");
        }
        assert_eq!(world.durable().last_lease.0, 1, "{step}");
    }
}

/// The agent dies and nobody starts it again: the timer brings the machine back, and the agent of
/// the next day reports that it did.
#[tokio::test]
async fn without_an_agent_the_timer_brings_the_machine_back() {
    let world = World::new();
    let extra = "[ \"$1\" = switch ] && sleep 2";
    let new = world.system(
        "new",
        Like {
            extra,
            ..SAME_KERNEL
        },
    );
    world.coordinator.wants(1, &new);
    let at_work = |world: &World| world.running() == Some(path("new"));
    assert_eq!(world.live_until(at_work).await, None);
    assert_eq!(world.step(), Some("activating"));
    for _ in 0..9000 {
        if world.running() == Some(path("old")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        world.running(),
        Some(path("old")),
        "{:?}",
        world.lines("switches")
    );
    assert_eq!(world.profile(), Some(path("old")));
    let outcome = world.live_until_reported(1).await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    assert!(outcome.reason.contains("dead-man"), "{outcome:?}");
}

/// A newer agent, that of the target, was in a step that this version does not know.
#[tokio::test]
async fn what_a_newer_agent_left_behind_leads_back_with_an_agent_and_without() {
    for with_agent in [true, false] {
        let world = World::new();
        let hook = world.script("hook", "sleep 30");
        world.write_config(&format!("post_update = \"{hook}\""));
        let new = world.system("new", SAME_KERNEL);
        world.coordinator.wants(1, &new);
        let on_target = |world: &World| world.step() == Some("post-hook");
        assert_eq!(world.live_until(on_target).await, None);
        world.rewrite_state("\"post-hook\"", "{ \"warming-up\": { \"degrees\": 21 } }");
        if with_agent {
            let outcome = world.live_until_reported(1).await;
            assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
            assert!(outcome.reason.contains("warming-up"), "{outcome:?}");
        } else {
            let executor = world.executor().await;
            let (config, lease) = (world.config(), Some(LeaseId(1)));
            let verdict = dead_man::run(executor.host(), &config, lease).await;
            assert_eq!(verdict.expect("it can"), dead_man::Verdict::WentBack);
        }
        assert_eq!(world.running(), Some(path("old")), "{with_agent}");
        assert_eq!(world.profile(), Some(path("old")), "{with_agent}");
    }
}

#[tokio::test]
async fn a_lease_is_used_once() {
    let world = World::new();
    let (one, two) = (
        world.system("one", SAME_KERNEL),
        world.system("two", SAME_KERNEL),
    );
    world.coordinator.wants(5, &one);
    assert_eq!(
        world.live_until_reported(1).await.kind,
        OutcomeKind::Confirmed
    );
    // An old lease, said again by a coordinator restored from a backup.
    world.coordinator.wants(4, &two);
    let staged = |world: &World| {
        world
            .durable()
            .staged
            .is_some_and(|staged| staged.path == path("two"))
    };
    assert_eq!(world.live_until(staged).await, None);
    let begun = std::time::Instant::now();
    let later = |_: &World| begun.elapsed() > Duration::from_millis(300);
    assert_eq!(world.live_until(later).await, None);
    assert_eq!(world.running(), Some(one));
    world.coordinator.wants(6, &two);
    assert_eq!(
        world.live_until_reported(2).await.kind,
        OutcomeKind::Confirmed
    );
    assert_eq!(world.running(), Some(two));
}
