//! The demo as a process: started with a small fleet or the document's, its report read, its end
//! waited for.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The demo's binary.
const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// Longest a kept demo may take from its start to its last word, and from a signal to its end.
const PATIENCE: Duration = Duration::from_secs(150);

/// Two groups, four machines, no windows: over in seconds. `one` and `two` switch, `three` reboots;
/// `four` follows two minutes after them.
pub(crate) fn small_fleet() -> Value {
    json!({
        "updateGroups": {
            "first": {
                "machines": ["one", "two", "three"],
                "updatePolicy": "aggressive",
                "allowReboot": true,
                "staggerDelay": "2m"
            },
            "second": {
                "machines": ["four"],
                "updatePolicy": "aggressive",
                "dependencies": ["first"]
            }
        },
        "updateSettings": { "maxParallel": 3, "healthCheckTimeout": "5m" }
    })
}

/// A directory with a fleet's configuration, and where a report goes.
pub(crate) struct World {
    directory: TempDir,
}

impl World {
    /// For this fleet.
    pub(crate) fn new(fleet: &Value) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("fleet.json"), fleet.to_string()).expect("written");
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(DEMO);
        command
            .arg("--config")
            .arg(self.path("fleet.json"))
            .arg("--report")
            .arg(self.path("report.json"))
            .args(arguments)
            .env("TMPDIR", self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the demo to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().expect("the demo starts");
        let report = fs::read_to_string(self.path("report.json")).unwrap_or_default();
        Outcome {
            output,
            report: serde_json::from_str(&report).unwrap_or(Value::Null),
        }
    }

    /// Starts the demo with `--keep`, and waits until it says how to reach it.
    pub(crate) fn keep(&self, arguments: &[&str]) -> Kept {
        // Before the fleet's night begins, which does not wait for a compiler.
        lab();
        let mut child = self
            .command(arguments)
            .arg("--keep")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut text = String::new();
        let mut variable = |name: &str| loop {
            let mut line = String::new();
            let read = said.read_line(&mut line).expect("readable");
            assert!(read > 0, "the demo ended before it said {name}:\n{text}");
            text += &line;
            let prefix = format!("export {name}=");
            if let Some(value) = line.trim().strip_prefix(&prefix) {
                return value.to_owned();
            }
        };
        let coordinator = variable("LAB_COORDINATOR");
        let identity = PathBuf::from(variable("LAB_IDENTITY"));
        Kept {
            child,
            said,
            coordinator,
            identity,
        }
    }

    /// What the demo left behind in the directory for temporary files.
    pub(crate) fn left_behind(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).expect("readable");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let ours = |path: &PathBuf| path.to_string_lossy().contains("lab-demo-");
        paths.filter(ours).collect()
    }
}

/// A demo that has ended.
pub(crate) struct Outcome {
    pub(crate) output: Output,
    pub(crate) report: Value,
}

impl Outcome {
    /// What it said.
    pub(crate) fn text(&self) -> String {
        let out = String::from_utf8_lossy(&self.output.stdout);
        let err = String::from_utf8_lossy(&self.output.stderr);
        format!("{out}\n{err}\n{}", self.report)
    }

    /// One field of a machine's entry in the report.
    pub(crate) fn machine(&self, name: &str, field: &str) -> String {
        let machines = self.report["machines"].as_array();
        let machines = machines.unwrap_or_else(|| panic!("no report:\n{}", self.text()));
        let machine = machines.iter().find(|machine| machine["name"] == name);
        let value = &machine.unwrap_or_else(|| panic!("no {name}:\n{}", self.text()))[field];
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    }

    /// The version of the system that a machine runs.
    pub(crate) fn version(&self, name: &str) -> String {
        let running = self.machine(name, "running");
        running.rsplit('-').next().unwrap_or_default().to_owned()
    }
}

/// A demo that was left running.
pub(crate) struct Kept {
    child: Child,
    said: BufReader<ChildStdout>,
    pub(crate) coordinator: String,
    pub(crate) identity: PathBuf,
}

impl Kept {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Presses Ctrl-C; the exit status, and what it said after it was reached.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("signalled");
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "the demo does not end");
            thread::sleep(Duration::from_millis(20));
        };
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("readable");
        (status.code(), text)
    }

    /// A command with `lab` in its path, as somebody who has copied the demo's lines runs it.
    pub(crate) fn command(&self, program: &str, path: &[&Path]) -> Command {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let own: Vec<PathBuf> = std::env::split_paths(&own).collect();
        let path = path.iter().map(|path| path.to_path_buf());
        let lab = lab().parent().expect("a directory").to_owned();
        let path = std::env::join_paths(path.chain([lab]).chain(own)).expect("a path");
        let mut command = Command::new(program);
        command
            .env("PATH", path)
            .env("LAB_COORDINATOR", &self.coordinator)
            .env("LAB_IDENTITY", &self.identity)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Only where a test failed before it ended the demo.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `lab` of the same build as the demo.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let directory = Path::new(DEMO).parent().expect("a directory");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let mut build = Command::new(cargo);
        build
            // Of the whole workspace, so that dependencies have the features that they have already.
            .args(["build", "--quiet", "--workspace", "--bin", "lab"])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .arg("--target-dir")
            .arg(directory.parent().expect("a target directory"));
        if directory.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().expect("cargo");
        assert!(status.success(), "lab cannot be built");
        directory.join("lab")
    })
}
