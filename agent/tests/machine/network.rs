//! A target that cuts the machine off, where no health check is configured that would see it.

use common::{Outcome, OutcomeKind};

use crate::world::{SAME_KERNEL, World, path};

/// Where a machine in a directory says who answers.
const NETWORK: &str = "run/lab-updater/network";

/// What an update comes to under a silent coordinator, before which `before` answered, and after it `after`. The system before
/// brings back what it had.
async fn update(before: &str, after: &str) -> (World, Outcome) {
    let world = World::new();
    world.coordinator.silent.set(true);
    let says = |who: &str| format!("printf '{who}' >\"$LAB_ROOT/{NETWORK}\"");
    world.write_extra(&path("old"), &says(before));
    std::fs::create_dir_all(world.links().at("/run/lab-updater")).expect("made");
    std::fs::write(world.links().at(NETWORK), before.replace("\\n", "\n")).expect("written");
    let new = world.system("new", SAME_KERNEL);
    world.write_in_cache(&new, "extra", &says(after));
    world.coordinator.wants(1, &new);
    let outcome = world.live_until_reported(1).await;
    (world, outcome)
}

#[tokio::test]
async fn a_target_that_cuts_the_machine_off_is_left_again() {
    let (world, outcome) = update("coordinator\\ngateway", "").await;
    assert_eq!(outcome.kind, OutcomeKind::RolledBack, "{outcome:?}");
    assert!(outcome.reason.contains("cut off"), "{outcome:?}");
    assert_eq!(world.running(), Some(path("old")));
}

#[tokio::test]
async fn one_answer_is_enough() {
    for after in ["gateway", "substituter"] {
        let before = "coordinator\\ngateway\\nsubstituter";
        let (_, outcome) = update(before, after).await;
        assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_coordinator_that_is_gone_is_no_reason_to_go_back() {
    let (_, outcome) = update("coordinator", "").await;
    assert_eq!(outcome.kind, OutcomeKind::Confirmed, "{outcome:?}");
}
