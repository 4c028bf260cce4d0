//! How targets come to a machine: signed closures, and what is said when they cannot; systems that
//! the machine builds for itself, from a flake or a channel.

use common::MachineName;
use integration_tests::fleet::{Finished, SystemSpec};

use super::stage::{Stage, ok, stage};

#[test]
fn an_unsigned_path_is_refused_by_name_and_taken_once_it_is_signed() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[0]);
    let paths = ok(fleet.build(&[stage.system(node)]));
    ok(fleet.publish_unsigned(&paths));
    let prepare = || -> Finished {
        let closure = format!("--closure={node}={}", paths[0]);
        stage.lab(&["update", "prepare", "--timeout=60", &closure])
    };

    let refused = prepare();
    assert_eq!(refused.code(), 1, "{refused:?}\n{}", stage.scene());
    for said in [node.as_str(), "failed", "not signed", "lab update prepare"] {
        assert!(refused.stdout.contains(said), "{said}: {refused:?}");
    }
    let why = stage.lab(&["why", node.as_str()]);
    assert!(why.stdout.contains("could not obtain"), "{why:?}");

    ok(fleet.sign(&paths));
    let prepared = prepare();
    assert_eq!(prepared.code(), 0, "{prepared:?}\n{}", stage.scene());
}

/// Makes a tarball of the toy systems, with this one as its only machine, and serves it.
fn serve_tarball(stage: &Stage, name: &str, system: &SystemSpec) -> String {
    let fleet = stage.fleet();
    let control = fleet.control();
    let place = format!("/srv/{name}");
    let make = format!("rm -rf {place} && cp -r /usr/local/share/lab-toy {place}");
    ok(fleet.run(&control, &["sh", "-ec", &make]));
    let specs = serde_json::to_string(&[system]).expect("JSON");
    ok(fleet.write_file(&control, &format!("{place}/fleet.json"), &specs));
    // What `<nixpkgs/nixos>` is: the system of the machine that asks.
    let nixos = "{ ... }: { config.system.build.toplevel = builtins.head (import ../system.nix {\n\
                 spec = builtins.readFile ../fleet.json; }); }\n";
    ok(fleet.write_file(&control, &format!("{place}/nixos/default.nix"), nixos));
    let file = format!("/srv/cache/{name}.tar.gz");
    let pack = ["tar", "-C", "/srv", "-czf", &file, name];
    ok(fleet.run(&control, &pack));
    format!("http://control:8088/{name}.tar.gz")
}

/// The machine's next system, and one to install before it: both allow these targets.
fn allowing(stage: &Stage, node: &MachineName, places: &str) -> SystemSpec {
    stage.install(&stage.system_with(node, places));
    stage.system_with(node, places)
}

/// Prepares from this source, and updates the machine to what it has built.
#[track_caller]
fn builds_for_itself(stage: &Stage, system: &SystemSpec, source: &[&str]) {
    let node = &system.host;
    let before = stage.settled(node);
    let select = format!("--machine={node}");
    let words = ["update", "prepare", "--timeout=100", &select];
    let prepared = stage.lab(&[&words[..], source].concat());
    assert_eq!(prepared.code(), 0, "{prepared:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), before, "staged, and no more");
    let executed = stage.execute(&[node], &[]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    let running = stage.settled(node);
    let expected = format!("-nixos-system-{node}-{}", system.version);
    assert!(running.ends_with(&expected), "{running}");
    let built = ["nix-store", "--query", "--deriver", &running];
    let deriver = ok(stage.fleet().run(node, &built));
    assert!(deriver.contains(".drv"), "built here: {deriver}");
    let part = stage.in_rollout(node);
    assert_eq!(part["verdict"], "confirmed", "{part:#}");
    assert_eq!(part["running"], running.as_str(), "{part:#}");
}

#[test]
fn a_flake_is_pinned_to_its_revision_and_built_on_the_machine() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[1];
    let system = allowing(&stage, node, "targets.flakes = [\"http://control:8088/\"]");
    let flake = format!("--flake={}", serve_tarball(&stage, "flake", &system));
    builds_for_itself(&stage, &system, &[&flake, "--build-on-machine"]);
    let target = stage.machine(&system.host)["target"].clone();
    let pinned = target.as_str().is_some_and(|t| t.contains("narHash="));
    assert!(pinned, "{target}");
}

#[test]
fn a_channel_is_built_on_the_machine() {
    let Some(stage) = stage() else { return };
    let node = &stage.nodes()[2];
    let system = allowing(
        &stage,
        node,
        "targets.channels = [\"file:///var/lib/channel\"]",
    );
    // Channels come over https, which nobody serves here, or from a file.
    let url = serve_tarball(&stage, "channel", &system);
    let fetch = format!("mkdir -p /var/lib/channel && cd /var/lib/channel && curl -fsSO {url}");
    ok(stage.fleet().run(node, &["sh", "-ec", &fetch]));
    let channel = "--channel=file:///var/lib/channel/channel.tar.gz";
    builds_for_itself(&stage, &system, &[channel]);
}

#[test]
fn a_flake_that_the_machine_does_not_allow_is_declined_by_name() {
    let Some(stage) = stage() else { return };
    let system = stage.system(&stage.nodes()[1]);
    let node = &system.host;
    let flake = format!("--flake={}", serve_tarball(&stage, "foreign", &system));
    let select = format!("--machine={node}");
    let words = ["update", "prepare", "--timeout=60", &select, &flake];
    let refused = stage.lab(&[&words[..], &["--build-on-machine"]].concat());
    assert_eq!(refused.code(), 1, "{refused:?}\n{}", stage.scene());
    assert!(refused.stdout.contains("takes no flakes"), "{refused:?}");
    let why = stage.lab(&["why", node.as_str(), "--output=json"]);
    assert!(why.stdout.contains("target-not-allowed"), "{why:?}");
}
