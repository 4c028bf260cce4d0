//! The document's own script, its array renamed and nothing else, against its own fleet: eleven
//! machines in four groups, systems from a flake that `lab update prepare` builds, signs and pushes.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use integration_tests::fleet::{Failure, Finished, SystemSpec};
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
        let finished = ok(fleet.as_operator(&["timeout", "300", "sh", "-c", &run]));
        over.store(true, Ordering::Relaxed);
        finished
    })
}

#[test]
fn the_documents_script_updates_the_documents_fleet() {
    let Some(stage) = stage() else { return };
    let systems: Vec<_> = stage
        .all_nodes()
        .iter()
        .map(|node| stage.system(node))
        .collect();
    let finished = run_script(&stage, &systems);
    assert_eq!(finished.code(), 0, "{finished:?}\n{}", stage.scene());
    assert!(
        finished.stdout.contains("All groups updated successfully"),
        "{finished:?}"
    );
    for system in &systems {
        let running = stage.settled(&system.host);
        assert!(
            running.ends_with(&format!("-{}-{}", system.host, system.version)),
            "{running}"
        );
    }
}

#[test]
fn the_documents_script_ends_badly_when_a_group_does_and_spares_the_groups_after_it() {
    let Some(stage) = stage() else { return };
    let nodes = stage.all_nodes();
    let before: Vec<String> = nodes.iter().map(|node| stage.settled(node)).collect();
    let systems: Vec<_> = nodes
        .iter()
        .map(|node| {
            let system = stage.system(node);
            if node.as_str() == "monitor-01" {
                system.failing(Failure::Health)
            } else {
                system
            }
        })
        .collect();
    let finished = run_script(&stage, &systems);
    assert_ne!(finished.code(), 0, "{finished:?}\n{}", stage.scene());
    for (node, before) in nodes.iter().zip(&before) {
        let running = stage.settled(node);
        let moved = running != *before;
        let dev = ["dev-01", "dev-02", "test-env"].contains(&node.as_str());
        assert_eq!(
            moved, dev,
            "{node}: infrastructure stops at its canary, the others never begin"
        );
    }
}
