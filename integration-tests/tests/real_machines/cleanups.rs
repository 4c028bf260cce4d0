//! A schedule's cleanup on a real profile and a real store: what is old is gone, with all that only it
//! needed, and what the machine runs, has booted and came from is there and is gone back to.

use std::{collections::BTreeSet, slice};

use common::MachineName;
use integration_tests::fleet::{AGENT_UNIT, SystemSpec};
use serde_json::{Value, json};

use super::stage::{Stage, ok, stage, text};

const MIB: u64 = 1024 * 1024;

/// The newest past of the schedule, once its run has ended.
#[track_caller]
fn runs(stage: &Stage) -> Value {
    let seen = || stage.lab_json(&["schedule", "list"])["schedules"][0].clone();
    stage.lab_yes(&["schedule", "run", "tidy"]);
    stage.eventually("the run ends", || seen()["run"].is_null());
    seen()["last"].clone()
}

/// Everything that these systems need.
fn closure(stage: &Stage, node: &MachineName, systems: &[String]) -> BTreeSet<String> {
    let mut words = vec!["nix-store", "--query", "--requisites"];
    words.extend(systems.iter().map(String::as_str));
    let listed = ok(stage.fleet().run(node, &words));
    listed.lines().map(str::to_owned).collect()
}

fn generations(stage: &Stage, node: &MachineName) -> Vec<String> {
    let script = "cd /nix/var/nix/profiles && for l in system-*-link; do readlink $l; done";
    let listed = ok(stage.fleet().run(node, &["sh", "-ec", script]));
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn old_generations_go_with_their_closures_and_the_way_back_stays() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[0]);
    let bulky = |bulk: u64| SystemSpec {
        bulk: bulk * MIB,
        ..stage.system(node)
    };
    for bulk in [3, 5, 7] {
        stage.install(&bulky(bulk));
    }
    // Where it comes from, and after it two that somebody tried by hand: only the agent knows that it
    // is the way back.
    let update = || {
        let paths = stage.prepare(slice::from_ref(&stage.system(node)));
        let executed = stage.execute(&[node], &[]);
        assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
        paths[0].to_string()
    };
    let (before, target) = (update(), update());
    for bulk in [4, 6] {
        let path = ok(fleet.publish(slice::from_ref(&bulky(bulk))))[0].clone();
        let profile = "/nix/var/nix/profiles/system";
        ok(fleet.run(node, &["nix-store", "--realise", path.as_str()]));
        ok(fleet.run(node, &["nix-env", "-p", profile, "--set", path.as_str()]));
    }
    let set = [
        "nix-env",
        "-p",
        "/nix/var/nix/profiles/system",
        "--set",
        &target,
    ];
    ok(fleet.run(node, &set));
    assert_eq!(stage.settled(node), target);
    let age = "touch -h -d '30 days ago' /nix/var/nix/profiles/system-*-link";
    ok(fleet.run(node, &["sh", "-ec", age]));
    // The agent looks at its machine from time to time; what it says of it is not what it goes by.
    let all = generations(&stage, node);
    let booted = stage.link(node, "/run/booted-system");
    assert_ne!(before, booted, "only the agent knows of the way back");
    let kept = [before.clone(), target, booted];
    let needed = closure(&stage, node, &kept);
    let everything = closure(&stage, node, &all);
    let garbage: Vec<&String> = everything.difference(&needed).collect();
    assert!(garbage.len() >= 5, "{garbage:#?}");

    let mut config = stage.config();
    config["schedules"]["tidy"] = json!({
        "cron": "0 0 1 1 *", "action": "cleanup", "keep": 2, "keepFor": "24h", "groups": ["nodes"],
    });
    ok(fleet.import_config(&config));
    let past = runs(&stage);
    assert_eq!(past["how"], "finished", "{past:#}\n{}", stage.scene());
    assert!(
        text(&past["text"]).starts_with("cleaned up 4 machines, "),
        "{past:#}"
    );

    let left = generations(&stage, node);
    assert!(left.len() < all.len() && left.len() >= 2, "{left:#?}");
    for path in &kept {
        assert!(left.contains(path), "{path} in {left:#?}");
        ok(fleet.run(node, &["nix-store", "--verify-path", path]));
    }
    let gone: BTreeSet<&String> = garbage.into_iter().collect();
    let stays = closure(&stage, node, &left);
    let there = gone.iter().filter(|path| {
        let found = ok(fleet.exec(node, &["test", "-e", path.as_str()]));
        found.code() == 0 && !stays.contains(path.as_str())
    });
    assert_eq!(
        there.collect::<Vec<_>>(),
        Vec::<&&String>::new(),
        "{left:#?}"
    );
    assert!(gone.iter().any(|path| !stays.contains(path.as_str())));
    // One of the two newest is one that was tried, and the other the current one.
    let lost: Vec<&String> = all.iter().filter(|path| !left.contains(path)).collect();
    assert!(lost.len() >= 3, "{lost:#?}");
    let units = [
        "systemctl",
        "list-units",
        "--all",
        "--no-legend",
        "lab-updater-c*",
    ];
    assert_eq!(
        ok(fleet.run(node, &units)).trim(),
        "",
        "nothing is left behind"
    );

    // Once more takes nothing more, and the way back is a way back.
    let past = runs(&stage);
    assert_eq!(past["how"], "finished", "{past:#}");
    assert_eq!(generations(&stage, node), left);
    let machine = format!("--machine={node}");
    stage.lab_yes(&[
        "update",
        "rollback",
        &machine,
        "--immediate",
        "--yes",
        "--timeout=200",
    ]);
    assert_eq!(stage.settled(node), before);
}

#[test]
fn a_cleanup_outlives_its_agent_and_is_told_once() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[1]);
    for bulk in [3, 5, 7] {
        stage.install(&SystemSpec {
            bulk: bulk * MIB,
            ..stage.system(node)
        });
    }
    let age = "touch -h -d '30 days ago' /nix/var/nix/profiles/system-*-link";
    ok(fleet.run(node, &["sh", "-ec", age]));
    let count = || -> usize {
        let nodes = stage.nodes().iter();
        nodes.map(|node| generations(&stage, node).len()).sum()
    };
    let before = count();
    let mut config = stage.config();
    config["schedules"]["tidy"] = json!({
        "cron": "0 0 1 1 *", "action": "cleanup", "keep": 2, "keepFor": "24h", "groups": ["nodes"],
    });
    ok(fleet.import_config(&config));
    // Somebody holds Nix' lock of the profile: the removal waits for it, in a unit of its own.
    let hold = "systemd-run --unit=lab-test-lock flock /nix/var/nix/profiles/system.lock sleep 600";
    ok(fleet.run(node, &["sh", "-ec", hold]));
    stage.lab_yes(&["schedule", "run", "tidy"]);
    let at_work = || {
        let units = [
            "systemctl",
            "list-units",
            "--no-legend",
            "lab-updater-clean-up-*",
        ];
        !ok(fleet.run(node, &units)).trim().is_empty()
    };
    stage.eventually("the removal waits", at_work);
    ok(fleet.run(node, &["systemctl", "kill", "--signal=KILL", AGENT_UNIT]));
    assert!(at_work(), "the agent is dead, and it goes on");
    ok(fleet.run(node, &["systemctl", "stop", "lab-test-lock.service"]));
    let seen = || stage.lab_json(&["schedule", "list"])["schedules"][0].clone();
    stage.eventually("the run ends", || seen()["run"].is_null());
    let past = seen()["last"].clone();
    assert_eq!(past["how"], "finished", "{past:#}\n{}", stage.scene());
    let removed = before - count();
    assert!(removed >= 1);
    let told = format!(" {removed} generation");
    assert!(text(&past["text"]).contains(&told), "{past:#}");
}
