//! `demo --keep`: the fleet stays, `lab` and the document's script work with it, Ctrl-C ends it.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::world::{Kept, World, small_fleet};

/// The script, as it is shipped.
const SCRIPT: &str = include_str!("../../../docs/examples/staggered-update.sh");

/// The document's own fleet.
const DOCUMENT: &str = include_str!("../../../docs/examples/update-config.json");

/// Where the script writes its log, which takes root.
const LOG_DIR: &str = "LOG_DIR=\"/var/log/lab-updates\"";

/// Makes that directory in a `/var/log` that nobody else sees, and runs the rest there.
const PRIVATE_LOG: &str =
    "mount -t tmpfs none /var/log && mkdir /var/log/lab-updates && exec \"$@\"";

/// `unshare` with the words that run others with a `/var/log` of their own.
const PRIVATELY: [&str; 5] = ["--mount", "sh", "-ec", PRIVATE_LOG, "sh"];

/// Whether this host lets us have a `/var/log` of our own.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(PRIVATELY).arg("true").output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Runs the script as it stands. Its half hours pass at once: the fleet keeps its own, in its own
/// time. Where nothing can be mounted its log goes elsewhere, which is then said.
fn run_script(world: &World, demo: &Kept) -> Output {
    let bin = world.path("bin");
    fs::create_dir(&bin).expect("made");
    executable(&bin.join("sleep"), "#!/bin/sh\n");
    let file = world.path("staggered-update.sh");
    let limit = ["timeout", "170", "bash"];
    if may_mount() {
        executable(&file, SCRIPT);
        let mut command = demo.command("unshare", &[&bin]);
        command.args(PRIVATELY).args(limit);
        return command.arg(&file).output().expect("unshare");
    }
    writeln!(
        io::stderr(),
        "not as root: the script is changed to log into a temporary directory"
    )
    .ok();
    let logs = world.path("logs");
    fs::create_dir(&logs).expect("made");
    assert!(SCRIPT.contains(LOG_DIR));
    let elsewhere = SCRIPT.replace(LOG_DIR, &format!("LOG_DIR=\"{}\"", logs.display()));
    executable(&file, &elsewhere);
    let mut command = demo.command(limit[0], &[&bin]);
    command.args(&limit[1..]).arg(&file).output().expect("bash")
}

fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("made executable");
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}\n{}", String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_documents_script_updates_the_documents_fleet() {
    let fleet: Value = serde_json::from_str(DOCUMENT).expect("JSON");
    let world = World::new(&fleet);
    let demo = world.keep(&["--no-rollout", "--fail", "none"]);
    let output = run_script(&world, &demo);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("All groups updated successfully"), "{said}");
    // The document's own fleet has no fourth group; its script passes over it.
    assert!(
        said.contains("Health check failed for management, skipping"),
        "{said}"
    );
    let status = demo.command("lab", &[]).args(["update", "verify"]).output();
    let status = status.expect("lab");
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    assert_eq!(demo.interrupt().0, Some(0));
}

#[test]
fn the_documents_script_rolls_a_failing_group_back_and_stops() {
    let fleet: Value = serde_json::from_str(DOCUMENT).expect("JSON");
    let world = World::new(&fleet);
    let demo = world.keep(&["--no-rollout", "--fail", "dev-02=health"]);
    let output = run_script(&world, &demo);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Verification failed for dev"), "{said}");
    assert!(
        !said.contains("Starting update for group: infrastructure"),
        "{said}"
    );
    let machines = demo
        .command("lab", &[])
        .args(["machines", "--output", "json"])
        .output();
    let machines = machines.expect("lab");
    let list: Value = serde_json::from_slice(&machines.stdout).expect("JSON");
    let list = list["machines"].as_array().expect("machines");
    for machine in list {
        let running = machine["running"].as_str().unwrap_or_default();
        assert!(running.ends_with("-1"), "{machine}");
    }
    assert_eq!(demo.interrupt().0, Some(0));
}

#[test]
fn ctrl_c_ends_every_process() {
    let world = World::new(&small_fleet());
    // With a switch that hangs, and so with processes of machines and not only of agents.
    let demo = world.keep(&["--speed", "200", "--no-rollout", "--fail", "two=hang"]);
    let lab = |words: &[&str]| {
        let output = demo.command("lab", &[]).args(words).output().expect("lab");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    };
    lab(&["update", "prepare", "--group=first"]);
    lab(&["update", "execute", "--group=first", "--detach"]);
    let pid = demo.pid();
    let switching = || {
        let ours = processes_of(pid);
        ours.iter()
            .any(|command| command.contains("switch-to-configuration"))
    };
    let began = Instant::now();
    while !switching() {
        assert!(began.elapsed().as_secs() < 30, "nothing switches");
        thread::sleep(Duration::from_millis(20));
    }
    let (status, said) = demo.interrupt();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("Kept: "), "{said}");
    let began = Instant::now();
    while !processes_of(pid).is_empty() && began.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(processes_of(pid), Vec::<String>::new());
    assert_eq!(world.left_behind().len(), 1);
}

/// Command lines of the processes that a demo started, directly or not.
fn processes_of(demo: u32) -> Vec<String> {
    let wanted = format!("LAB_DEMO_PARENT={demo}");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| {
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            variables.find(|variable| *variable == wanted.as_bytes())?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&command).replace('\0', " "))
        })
        .collect()
}
