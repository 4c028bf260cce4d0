//! What a machine finds out before anything changes: whether there is room, and what a target brings.

use std::slice;

use integration_tests::fleet::SystemSpec;
use serde_json::Value;

use super::stage::{Stage, ok, stage, text};

const MIB: u64 = 1024 * 1024;

/// Installs a system, and has the machine stage one that is meant to find no room: what is said.
/// Nothing has changed, and what was not there has not been fetched.
#[track_caller]
fn refuses(stage: &Stage, installed: &SystemSpec, target: SystemSpec) -> String {
    let paths = ok(stage.fleet().publish(slice::from_ref(&target)));
    stage.install(installed);
    let node = &installed.host;
    let before = stage.settled(node);
    let refused = stage.try_prepare(&[target], &paths);
    assert_eq!(refused.code(), 1, "{refused:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), before);
    refused.stdout
}

#[test]
fn a_machine_without_room_says_how_many_bytes_are_missing_and_changes_nothing() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[2]);
    let run = |script: &str| ok(fleet.run(node, &["sh", "-ec", script]));

    // The store: how much would be fetched is known before it is.
    let bulky = SystemSpec {
        bulk: 384 * MIB,
        ..stage.system(node)
    };
    let target = ok(fleet.publish(slice::from_ref(&bulky)));
    let free = run("stat --file-system --format='%f %S' /nix/store");
    let numbers: Vec<u64> = free
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let reserve = numbers[0] * numbers[1] - 192 * MIB;
    let few = format!("limits.store_reserve_bytes = {reserve}");
    let said = refuses(&stage, &stage.system_with(node, &few), bulky);
    let missing = said.split(" bytes are missing in /nix/store: ").next();
    let missing = missing.and_then(|before| before.rsplit(' ').next()?.parse::<u64>().ok());
    let missing = missing.unwrap_or_else(|| panic!("{said}"));
    // Others use the same disk meanwhile.
    assert!((32 * MIB..352 * MIB).contains(&missing), "{said}");
    assert!(said.contains("are needed"), "{said}");
    let there = ok(fleet.exec(node, &["test", "-e", target[0].as_str()]));
    assert_ne!(there.code(), 0, "it was not fetched");

    // Where the boot loader looks.
    run("mkdir -p /efi && mount -t tmpfs -o size=64k none /efi");
    let small = "boot_directory = \"/efi\"\nlimits.boot_reserve_bytes = 1048576";
    let kernel = stage.system_with(node, small).kernel("6.99.1");
    let said = refuses(&stage, &stage.system_with(node, small), kernel);
    let expected = "983068 bytes are missing in /efi: 28 are needed and 1048576 must stay free, and \
                    65536 are free";
    assert!(said.replace('\n', " ").contains(expected), "{said}");
    // The same without another kernel needs no room there.
    let same = stage.system_with(node, small);
    let paths = ok(fleet.publish(slice::from_ref(&same)));
    let ready = stage.try_prepare(&[same], &paths);
    assert_eq!(ready.code(), 0, "{ready:?}\n{}", stage.scene());

    let hungry = "limits.memory_reserve_bytes = 1125899906842624";
    let said = refuses(
        &stage,
        &stage.system_with(node, hungry),
        stage.system_with(node, hungry),
    );
    assert!(said.contains("bytes are missing in memory"), "{said}");
}

#[test]
fn what_a_target_changes_is_told_and_nobody_special_fetches_it() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[1];
    stage.install(&stage.system(node));
    let begin = ok(stage.fleet().run(node, &["date", "+@%s"]));
    let target = stage.system(node);
    let before = target.kernel.clone();
    let target = SystemSpec {
        bulk: 3 * MIB,
        ..target.kernel("6.99.2")
    };
    let paths = stage.prepare(&[target]);

    let machine = stage.machine(node);
    let changes = &machine["changes"];
    assert_eq!(text(&changes["from"]), stage.running(node), "{machine:#}");
    let package = |name: &str| -> Value {
        let packages = changes["packages"].as_array().expect("packages");
        let found = packages.iter().find(|package| package["name"] == name);
        found
            .unwrap_or_else(|| panic!("{name}: {changes:#}"))
            .clone()
    };
    let linux = package("linux");
    assert_eq!(linux["kind"], "upgraded");
    assert_eq!(linux["before"], serde_json::json!([before]));
    assert_eq!(linux["after"], serde_json::json!(["6.99.2"]));
    let ballast = package("ballast");
    assert_eq!(ballast["kind"], "added");
    assert!(
        ballast["size_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes >= 3 * MIB)
    );
    let larger = changes["size_bytes"]
        .as_i64()
        .and_then(|bytes| u64::try_from(bytes).ok());
    assert!(larger.is_some_and(|bytes| bytes >= 3 * MIB), "{changes:#}");
    let shown = stage.lab_yes(&["machines", "show", node.as_str()]);
    assert!(shown.contains("linux"), "{shown}");

    // The daemon fetched it for a user that it does not trust.
    let journal = [
        "journalctl",
        "--output=json",
        "--identifier=nix-store",
        "--since",
        begin.trim(),
    ];
    let journal = ok(stage.fleet().run(node, &journal));
    let users: Vec<String> = journal
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| {
            entry["MESSAGE"]
                .as_str()
                .is_some_and(|m| m.contains(paths[0].as_str()))
        })
        .filter_map(|entry| entry["_UID"].as_str().map(str::to_owned))
        .collect();
    assert!(
        !users.is_empty() && !users.contains(&"0".to_owned()),
        "{users:?} {journal}"
    );
}
