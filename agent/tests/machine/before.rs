//! What had failed before an attempt is held against nobody.

use std::fs;

use common::OutcomeKind;

use crate::world::{Like, SAME_KERNEL, World, path};

const FAILED: &str = "/run/systemd/failed";

/// A machine on which a unit has failed, and a check fails for as long as the file `ill` is there.
fn ill() -> World {
    let world = World::new();
    fs::create_dir_all(world.links().at(FAILED)).expect("made");
    for file in [format!("{FAILED}/old.service"), "/ill".to_owned()] {
        fs::write(world.links().at(file), "").expect("written");
    }
    let check = world.script("healed", "test ! -e $LAB_ROOT/ill");
    let rollback = world.script("rollback", "rm -f $LAB_ROOT/run/systemd/failed/new.service");
    world.write_config(&format!(
        "rollback = \"{rollback}\"
         [[checks]]\nname = \"healed\"\nkind = \"command\"\ncommand = [\"{check}\"]"
    ));
    world
}

async fn update(world: &World, like: Like) -> (OutcomeKind, String) {
    let new = world.system("new", like);
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    (outcome.kind, outcome.reason)
}

#[tokio::test]
async fn a_target_that_makes_nothing_worse_is_confirmed() {
    let world = ill();
    let (kind, reason) = update(&world, SAME_KERNEL).await;
    assert_eq!(kind, OutcomeKind::Confirmed, "{reason}");
    for said in ["old.service failed, as before", "healed fails, as before"] {
        assert!(reason.contains(said), "{reason}");
    }
    let health = world.coordinator.last_report().health;
    assert_eq!(health.failed().collect::<Vec<_>>(), ["healed"]);
}

#[tokio::test]
async fn a_target_that_mends_the_machine_is_confirmed() {
    let world = ill();
    let extra = "rm -f $LAB_ROOT/ill $LAB_ROOT/run/systemd/failed/old.service";
    let like = Like {
        extra,
        ..SAME_KERNEL
    };
    let (kind, reason) = update(&world, like).await;
    assert_eq!((kind, reason.as_str()), (OutcomeKind::Confirmed, ""));
}

#[tokio::test]
async fn a_target_that_makes_it_worse_is_left_and_the_machine_is_not_stuck() {
    for (like, finding) in [
        (
            Like {
                sick: true,
                ..SAME_KERNEL
            },
            "well",
        ),
        (
            Like {
                extra: "touch $LAB_ROOT/run/systemd/failed/new.service",
                ..SAME_KERNEL
            },
            "new.service failed",
        ),
    ] {
        let world = ill();
        let (kind, reason) = update(&world, like).await;
        assert_eq!(kind, OutcomeKind::RolledBack, "{finding}: {reason}");
        assert!(reason.contains(finding), "{reason}");
        assert!(!reason.contains("old.service"), "{reason}");
        assert_eq!(world.running(), Some(path("old")), "{finding}");
    }
}

#[tokio::test]
async fn old_journal_entries_excuse_no_new_ones_and_count_no_more() {
    for (extra, confirmed) in [
        ("", true),
        (
            "echo '2 new trouble' >>$LAB_ROOT/run/lab-updater/journal",
            false,
        ),
    ] {
        let world = World::new();
        let journal = world.links().at("/run/lab-updater/journal");
        fs::create_dir_all(journal.parent().expect("a parent")).expect("made");
        fs::write(&journal, "2 old trouble\n").expect("written");
        world.write_config("[[checks]]\nname = \"journal\"\nkind = \"journal\"\nentries_max = 0");
        let like = Like {
            extra,
            ..SAME_KERNEL
        };
        let (kind, reason) = update(&world, like).await;
        assert_eq!(kind == OutcomeKind::Confirmed, confirmed, "{reason}");
        assert_eq!(reason.contains("new trouble"), !confirmed, "{reason}");
    }
}
