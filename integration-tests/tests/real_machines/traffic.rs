//! Traffic that the machines move themselves: which of them are told what, in which order, and once each,
//! also when an agent dies in the middle or a script fails.

use common::MachineName;
use integration_tests::fleet::AGENT_UNIT;
use serde_json::json;

use super::stage::{Stage, ok, stage};

/// Where the script lies, and what it writes down.
const DIRECTORY: &str = "/var/lib/traffic";

/// Configuration with the script, and with one that writes down that the machine goes.
const WITH_SCRIPTS: &str = "
hooks.traffic = \"/var/lib/traffic/script\"
hooks.pre_update = \"/var/lib/traffic/goes\"
";

/// Writes the script: what it is told into the log, and then what `more` gives it to do.
fn write_script(stage: &Stage, node: &MachineName, more: &str) {
    let fleet = stage.fleet();
    let told = "$LAB_TRAFFIC $LAB_GROUP $LAB_SIDE $LAB_DRAIN_SECONDS";
    let text = format!(
        "#!/bin/sh\nset -eu\necho \"$(date +%s%N) {told}\" >>{DIRECTORY}/log\n{more}\n\
         echo \"$LAB_TRAFFIC\" >{DIRECTORY}/state\n"
    );
    let goes = format!("#!/bin/sh\necho \"$(date +%s%N) goes\" >>{DIRECTORY}/log\n");
    ok(fleet.run(node, &["mkdir", "-p", DIRECTORY]));
    for (name, text) in [("script", text), ("goes", goes)] {
        let file = format!("{DIRECTORY}/{name}");
        ok(fleet.write_file(node, &file, &text));
        ok(fleet.run(node, &["chmod", "+x", &file]));
    }
}

/// What the script was told since the last time, each with when.
fn told(stage: &Stage, node: &MachineName) -> Vec<(u128, String)> {
    let log = format!("{DIRECTORY}/log");
    let text = ok(stage.fleet().read_file(node, &log));
    ok(stage.fleet().write_file(node, &log, ""));
    let line = |line: &str| {
        let (at, told) = line.split_once(' ').expect("a time and what was told");
        (at.parse().expect("a time"), told.to_owned())
    };
    text.lines().map(line).collect()
}

fn words(told: &[(u128, String)]) -> Vec<&str> {
    told.iter().map(|(_, told)| told.as_str()).collect()
}

/// Two machines that are a side each, and move their own traffic. It is on the blue one.
fn pair(stage: &Stage) -> [&'static MachineName; 2] {
    let [blue, green] = [&stage.nodes()[0], &stage.nodes()[1]];
    for node in [blue, green] {
        write_script(stage, node, "");
        ok(stage
            .fleet()
            .write_file(node, &format!("{DIRECTORY}/log"), ""));
        stage.install(&stage.system_with(node, WITH_SCRIPTS));
    }
    let mut config = stage.config();
    let mut group = config["updateGroups"]["nodes"].clone();
    config["updateGroups"]["nodes"]["machines"] = json!(stage.nodes()[2..]);
    group["machines"] = json!([blue, green]);
    group["blueGreen"] = json!({
        "sides": { "blue": [blue], "green": [green] },
        "traffic": { "hook": true },
        "drain": "7s",
        "watch": "1s",
    });
    config["updateGroups"]["pair"] = group;
    ok(stage.fleet().import_config(&config));
    stage.lab_yes(&["traffic", "move", "pair", "--to=blue", "--timeout=120"]);
    for node in [blue, green] {
        drop(told(stage, node));
    }
    [blue, green]
}

#[test]
fn the_new_side_takes_its_traffic_before_the_old_one_leaves_it() {
    let Some(stage) = stage() else { return };
    let [blue, green] = pair(&stage);
    stage.lab_yes(&["traffic", "move", "pair", "--to=green", "--timeout=120"]);
    let (ins, outs) = (told(&stage, green), told(&stage, blue));
    assert_eq!(words(&ins), ["in pair green 7"], "{}", stage.scene());
    assert_eq!(words(&outs), ["out pair blue 7"], "{}", stage.scene());
    assert!(ins[0].0 < outs[0].0, "nobody is without traffic");
    let units = [
        "systemctl",
        "list-units",
        "--all",
        "--no-legend",
        "lab-updater-traffic-*",
    ];
    for node in [blue, green] {
        let left = ok(stage.fleet().run(node, &units));
        assert_eq!(left.trim(), "", "nothing is left behind");
    }
    // One that fails, with all that it has started, is told again.
    write_script(
        &stage,
        blue,
        &format!("test -e {DIRECTORY}/mended || {{ touch {DIRECTORY}/mended; exit 3; }}"),
    );
    stage.lab_yes(&["traffic", "back", "pair", "--timeout=180"]);
    let ins = told(&stage, blue);
    assert_eq!(words(&ins), ["in pair blue 7"; 2], "{}", stage.scene());
    assert_eq!(
        words(&told(&stage, green)).last(),
        Some(&"out pair green 7")
    );
}

#[test]
fn a_script_outlives_its_agent_and_runs_once() {
    let Some(stage) = stage() else { return };
    let [blue, green] = pair(&stage);
    let (fleet, go) = (stage.fleet(), format!("{DIRECTORY}/go"));
    ok(fleet.run(blue, &["rm", "-f", &go]));
    write_script(
        &stage,
        blue,
        &format!("while ! test -e {go}; do sleep 0.1; done"),
    );
    let begun = stage.lab(&["traffic", "move", "pair", "--to=green", "--timeout=1"]);
    assert_eq!(begun.code(), 124, "{begun:?}");
    let log = format!("{DIRECTORY}/log");
    let at_work = || !ok(fleet.read_file(blue, &log)).is_empty();
    stage.eventually("the old side is told", at_work);
    ok(fleet.run(blue, &["systemctl", "kill", "--signal=KILL", AGENT_UNIT]));
    ok(fleet.run(blue, &["touch", &go]));
    stage.eventually("the traffic has moved", || {
        let traffic = stage.lab_json(&["traffic"]);
        let mut groups = traffic["groups"].as_array().into_iter().flatten();
        let pair = groups.find(|group| group["group"] == "pair");
        pair.is_some_and(|pair| pair["settled"] == json!(true) && pair["moving"].is_null())
    });
    let outs = told(&stage, blue);
    assert_eq!(words(&outs), ["out pair blue 7"], "{}", stage.scene());
    assert_eq!(words(&told(&stage, green)), ["in pair green 7"]);
}

#[test]
fn whoever_goes_in_a_rollout_has_left_its_traffic() {
    let Some(stage) = stage() else { return };
    let [blue, green] = pair(&stage);
    let systems = [blue, green].map(|node| stage.system_with(node, WITH_SCRIPTS));
    let paths = stage.prepare(&systems);
    let done = stage.execute(&[blue, green], &[]);
    assert_eq!(done.code(), 0, "{done:?}\n{}", stage.scene());
    let of_green = told(&stage, green);
    let expected = ["out pair green 7", "goes", "in pair green 7"];
    assert_eq!(words(&of_green), expected, "{}", stage.scene());
    let of_blue = told(&stage, blue);
    let expected = ["in pair blue 7", "out pair blue 7", "goes"];
    assert_eq!(words(&of_blue), expected, "{}", stage.scene());
    // Each time the one has its traffic before the other leaves its own.
    assert!(of_blue[0].0 < of_green[0].0);
    assert!(of_green[2].0 < of_blue[1].0);
    for (node, path) in [blue, green].into_iter().zip(&paths) {
        assert_eq!(stage.settled(node), path.as_str(), "{node}");
    }
}
