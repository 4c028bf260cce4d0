//! The document's own script, its array renamed and nothing else, against its own fleet: eleven
//! machines in four groups, systems from a flake that `lab update prepare` builds, signs and pushes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use integration_tests::fleet::{COORDINATOR_UNIT, Damage, Failure, Finished, SystemSpec};
use serde_json::{Value, json};

use super::stage::{Stage, ok, stage};

/// The script, as it is shipped.
const SCRIPT: &str = include_str!("../../../docs/examples/staggered-update.sh");

/// The fleet, as it is shipped.
const FLEET: [(&str, &str); 2] = [
    (
        "four-groups.nix",
        include_str!("../../../docs/examples/four-groups.nix"),
    ),
    (
        "update-config.nix",
        include_str!("../../../docs/examples/update-config.nix"),
    ),
];

/// Where the script and what it needs lie on control.
const PLACE: &str = "/srv/document";

/// The shipped fleet with what makes it fit into a test: no windows, no soaking, and a source.
fn fleet_config(stage: &Stage) -> Value {
    let control = stage.fleet().control();
    for (name, text) in FLEET {
        ok(stage
            .fleet()
            .write_file(&control, &format!("{PLACE}/{name}"), text));
    }
    let file = format!("{PLACE}/four-groups.nix");
    let words = ["nix-instantiate", "--eval", "--strict", "--json", &file];
    let printed = ok(stage.fleet().run(&control, &words));
    let mut config: Value = serde_json::from_str(&printed).expect("JSON");
    for group in config["updateGroups"]
        .as_object_mut()
        .expect("groups")
        .values_mut()
    {
        let group = group.as_object_mut().expect("a group");
        group.remove("maintenanceWindow");
        group.insert("canarySoak".to_owned(), json!(0));
        group.insert("expectedDuration".to_owned(), json!("30s"));
    }
    let settings = config["updateSettings"].as_object_mut().expect("settings");
    settings.insert("staggerDelay".to_owned(), json!(0));
    settings.insert("healthCheckTimeout".to_owned(), json!("10s"));
    settings.insert(
        "source".to_owned(),
        json!({
            "flake": format!("path:{PLACE}/flake"),
            "signKey": "/etc/nix/cache-key.sec",
            "pushTo": "file:///srv/cache?compression=none",
        }),
    );
    config
}

/// Runs the script on control. Its half hours between groups pass at once; approvals are given.
fn run_script(stage: &Stage, systems: &[SystemSpec]) -> Finished {
    let fleet = stage.fleet();
    let control = fleet.control();
    ok(fleet.import_config(&fleet_config(stage)));
    let copy = format!(
        "mkdir -p {PLACE}/bin /var/log/lab-updates && cp -r /usr/local/share/lab-toy {PLACE}/flake"
    );
    ok(fleet.run(
        &control,
        &["sh", "-c", &format!("rm -rf {PLACE}/flake && {copy}")],
    ));
    let specs = serde_json::to_string(systems).expect("JSON");
    ok(fleet.write_file(&control, &format!("{PLACE}/flake/fleet.json"), &specs));
    ok(fleet.write_file(&control, &format!("{PLACE}/staggered-update.sh"), SCRIPT));
    ok(fleet.write_file(&control, &format!("{PLACE}/bin/sleep"), "#!/bin/sh\n"));
    ok(fleet.run(&control, &["chmod", "+x", &format!("{PLACE}/bin/sleep")]));

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Refused for as long as nothing waits for approval.
                stage.lab(&["update", "approve", "--group=critical", "--yes"]);
                thread::sleep(Duration::from_millis(500));
            }
        });
        let run = format!("PATH={PLACE}/bin:$PATH exec bash {PLACE}/staggered-update.sh");
        let finished = fleet.as_operator(&["timeout", "300", "sh", "-c", &run]);
        over.store(true, Ordering::Relaxed);
        ok(finished)
    })
}

/// A new system for every machine, that of `failing` unhealthy.
fn systems(stage: &Stage, failing: Option<&str>) -> Vec<SystemSpec> {
    let nodes = stage.all_nodes().iter();
    nodes
        .map(|node| {
            let system = stage.system(node);
            if failing == Some(node.as_str()) {
                system.failing(Failure::Health)
            } else {
                system
            }
        })
        .collect()
}

/// What every machine runs, has as its profile and boots.
fn settled(stage: &Stage) -> Vec<String> {
    let nodes = stage.all_nodes().iter();
    nodes.map(|node| stage.settled(node)).collect()
}

/// The machines of the group `dev`.
const DEV: &[&str] = &["dev-01", "dev-02", "test-env"];

/// The machines that run something else than before run their new system, and are these.
#[track_caller]
fn only_these_moved(
    stage: &Stage,
    before: &[String],
    systems: &[SystemSpec],
    moved: impl Fn(&str) -> bool,
) {
    for ((now, before), system) in settled(stage).iter().zip(before).zip(systems) {
        if moved(system.host.as_str()) {
            let expected = format!("-{}-{}", system.host, system.version);
            assert!(now.ends_with(&expected), "{now}, not {expected}");
        } else {
            assert_eq!(now, before, "{}", system.host);
        }
    }
}

#[test]
fn the_documents_script_updates_the_documents_fleet() {
    let Some(stage) = stage() else { return };
    let (before, systems) = (settled(&stage), systems(&stage, None));
    let finished = run_script(&stage, &systems);
    assert_eq!(finished.code(), 0, "{finished:?}\n{}", stage.scene());
    assert!(
        finished.stdout.contains("All groups updated successfully"),
        "{finished:?}"
    );
    only_these_moved(&stage, &before, &systems, |_| true);
}

#[test]
fn the_documents_script_ends_when_a_canary_fails_and_spares_the_groups_after_it() {
    let Some(stage) = stage() else { return };
    let (before, systems) = (settled(&stage), systems(&stage, Some("monitor-01")));
    let finished = run_script(&stage, &systems);
    // By `execute` itself: its rollout is paused.
    assert_eq!(finished.code(), 1, "{finished:?}\n{}", stage.scene());
    assert!(
        !finished.stdout.contains("Verification failed"),
        "{finished:?}"
    );
    // Infrastructure stops at its canary, the others never begin.
    only_these_moved(&stage, &before, &systems, |name| DEV.contains(&name));
}

#[test]
fn the_documents_script_rolls_a_group_back_that_does_not_verify_and_tells_people() {
    let Some(stage) = stage() else { return };
    let (before, systems) = (settled(&stage), systems(&stage, Some("dev-02")));
    let finished = run_script(&stage, &systems);
    assert_eq!(finished.code(), 1, "{finished:?}\n{}", stage.scene());
    let said = &finished.stdout;
    for expected in [
        "Starting update for group: dev",
        "Verification failed for dev, initiating rollback",
    ] {
        assert!(said.contains(expected), "{expected}: {finished:?}");
    }
    assert!(!said.contains("group: infrastructure"), "{finished:?}");
    // The two that were updated go back as well.
    only_these_moved(&stage, &before, &systems, |_| false);
    let rollback = stage.rollout();
    assert_eq!(rollback["kind"], "rollback", "{rollback:#}");
    assert_eq!(rollback["state"], "finished", "{rollback:#}");
    let error = ["journalctl", "--priority=err", "--unit", COORDINATOR_UNIT];
    let errors = ok(stage.fleet().run(&stage.fleet().control(), &error));
    let told = "Update failed for dev, rolled back";
    assert!(errors.contains(told), "{errors}");
}

#[test]
fn the_documents_script_passes_over_a_group_that_is_not_healthy() {
    let Some(stage) = stage() else { return };
    let (before, systems) = (settled(&stage), systems(&stage, None));
    ok(stage.fleet().damage(&systems[0].host, Damage::Health));
    let finished = run_script(&stage, &systems);
    assert_eq!(finished.code(), 0, "{finished:?}\n{}", stage.scene());
    let skipped = "Health check failed for dev, skipping";
    assert!(finished.stdout.contains(skipped), "{finished:?}");
    only_these_moved(&stage, &before, &systems, |name| !DEV.contains(&name));
}
