//! A machine in a directory, a coordinator that follows a script, and the real driver between them.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use agent::{
    config::Config,
    dead_man::DeadManProgram,
    directory::Directory,
    driver::{Driver, Exit},
    executor::Executor,
    link::{Link, LinkError},
    links::{BOOTED, CURRENT, Links, PROFILE, PROFILES},
    state_file::{StateFile, StateStore as _},
};
use agent_core::{Directive, Durable, Limits, Proceed, Renewal, Signal, state::Unreported};
use common::{
    Action, AttemptStatus, Epoch, LeaseId, MachineReport, Outcome, StorePath, Target, TrafficCall,
    TrafficDone,
};
use platform::clock::Clock;
use tokio::task::LocalSet;
use tonic::Code;

/// How much faster than real time the tests run.
const SPEED: f64 = 20.0;

/// Real time after which a test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small `switch-to-configuration`: notes what it is to do, does what the system's file `check`
/// says, sets the links, and then does what its file `extra` says.
const SWITCH: &str = r#"#!/bin/sh
here=$(dirname "$(dirname "$0")"); path=/nix/store/$(basename "$here")
echo "$1 $(basename "$here" | cut -c34-)" >>"$LAB_ROOT/switches"
. "$here/check"
case $1 in switch|boot) ln -sfn "$path" "$LAB_ROOT/boot/default";; esac
case $1 in switch|test) ln -sfn "$path" "$LAB_ROOT/run/current-system";; esac
. "$here/extra"
"#;

/// One machine and its coordinator.
pub(crate) struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
    cache: Links,
    config_file: PathBuf,
    pub(crate) coordinator: Rc<Coordinator>,
    /// When systemd takes the machine back at the latest.
    pub(crate) attempt_timeout: Option<Duration>,
}

/// What a system is like.
#[derive(Clone, Copy, Default)]
pub(crate) struct Like {
    pub(crate) kernel: &'static str,
    /// Shell at the end of a switch.
    pub(crate) extra: &'static str,
    /// Shell for the check before a switch.
    pub(crate) check: &'static str,
    pub(crate) sick: bool,
}

/// Like the system that the machine comes with.
pub(crate) const SAME_KERNEL: Like = Like {
    kernel: "6.12",
    extra: "",
    check: "",
    sick: false,
};

pub(crate) fn path(name: &str) -> StorePath {
    format!("/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-{name}")
        .parse()
        .expect("a path")
}

impl World {
    /// A machine that runs the healthy system `old`.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, cache) = (dir.path().join("machine"), dir.path().join("cache"));
        let world = Self {
            root,
            cache: Links::new(&cache),
            config_file: dir.path().join("agent.toml"),
            coordinator: Rc::default(),
            attempt_timeout: None,
            _dir: dir,
        };
        world.write_config("");
        world.system(
            "old",
            Like {
                kernel: "6.12",
                ..Like::default()
            },
        );
        world.install(&path("old"));
        world
    }

    /// Writes the configuration anew, with more in `[hooks]`.
    pub(crate) fn write_config(&self, hooks: &str) {
        let base = self.config_file.parent().expect("a parent").display();
        let check = self.script(
            "check",
            "test ! -e \"$LAB_ROOT$(readlink \"$LAB_ROOT/run/current-system\")/sick\"",
        );
        let text = format!(
            r#"
            machine = "web-01"
            coordinator = "127.0.0.1:1"
            state_dir = "{base}/state"
            [executor]
            kind = "directory"
            root = "{root}"
            cache = "{base}/cache"
            [limits]
            settle = "1s"
            store_reserve_bytes = 0
            boot_reserve_bytes = 0
            [hooks]
            {hooks}
            [[checks]]
            name = "well"
            kind = "command"
            command = ["{check}"]
            [clock]
            speed = {SPEED:.1}
            "#,
            root = self.root.display(),
        );
        fs::create_dir_all(self.config_file.with_file_name("state")).expect("made");
        fs::write(&self.config_file, text).expect("written");
    }

    /// A script of the machine's owner.
    pub(crate) fn script(&self, name: &str, text: &str) -> String {
        let file = self.config_file.with_file_name(name);
        write_executable(&file, &format!("#!/bin/sh\n{text}\n"));
        file.display().to_string()
    }

    /// A system in the cache.
    pub(crate) fn system(&self, name: &str, like: Like) -> StorePath {
        let system = path(name);
        let there = self.cache.at(system.as_str());
        fs::create_dir_all(there.join("bin")).expect("made");
        for (file, text) in [
            ("nixos-version", "26.05"),
            ("check", like.check),
            ("extra", like.extra),
        ] {
            fs::write(there.join(file), text).expect("written");
        }
        if like.sick {
            fs::write(there.join("sick"), "").expect("written");
        }
        write_executable(&there.join("bin/switch-to-configuration"), SWITCH);
        let kernel = path(&format!("linux-{}", like.kernel));
        fs::create_dir_all(self.cache.at(kernel.as_str())).expect("made");
        symlink(kernel.as_str(), there.join("kernel")).expect("linked");
        system
    }

    /// Puts a file into a system that is in the cache.
    pub(crate) fn write_in_cache(&self, system: &StorePath, file: &str, text: &str) {
        let file = self.cache.at(system.as_str()).join(file);
        fs::write(file, text).expect("written");
    }

    /// Gives a system that is on the machine another end of its switch.
    pub(crate) fn write_extra(&self, system: &StorePath, extra: &str) {
        let file = self.links().at(system.as_str()).join("extra");
        fs::write(file, extra).expect("written");
    }

    /// Puts the systems of the cache onto the machine.
    pub(crate) fn fill_store(&self) {
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(self.cache.at("/nix/store"))
            .arg(self.links().at("/nix"))
            .status();
        assert!(copied.expect("cp").success());
    }

    /// Makes a machine that runs a system, as an installer would.
    fn install(&self, system: &StorePath) {
        let links = self.links();
        for directory in ["/nix/store", PROFILES, "/run", "/boot"] {
            fs::create_dir_all(links.at(directory)).expect("made");
        }
        self.fill_store();
        fs::write(links.at("/boot_id"), "first-boot").expect("written");
        let profile = format!("{PROFILES}/system-1-link");
        for link in [CURRENT, BOOTED, "/boot/default", &profile] {
            symlink(system.as_str(), links.at(link)).expect("linked");
        }
        symlink("system-1-link", links.at(PROFILE)).expect("linked");
    }

    pub(crate) fn links(&self) -> Links {
        Links::new(&self.root)
    }

    pub(crate) fn config(&self) -> Config {
        Config::load(&self.config_file).expect("a good configuration")
    }

    pub(crate) fn running(&self) -> Option<StorePath> {
        self.links().resolve(CURRENT)
    }

    pub(crate) fn profile(&self) -> Option<StorePath> {
        self.links().resolve(PROFILE)
    }

    /// Lines of a file of the machine.
    pub(crate) fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.links().at(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What is on the agent's disk.
    pub(crate) fn durable(&self) -> Durable {
        let state = StateFile::new(self.config().state_file());
        state.load().expect("readable").unwrap_or_default()
    }

    /// Changes the step that is on the agent's disk.
    pub(crate) fn rewrite_state(&self, from: &str, to: &str) {
        let file = self.config().state_file();
        let text = fs::read_to_string(&file).expect("readable");
        let step = |word: &str| format!("\"step\": {word}");
        let changed = text.replacen(&step(from), &step(to), 1);
        assert_ne!(text, changed);
        fs::write(file, changed).expect("written");
    }

    /// Where the attempt stands, as it is on disk.
    pub(crate) fn step(&self) -> Option<&'static str> {
        self.durable().attempt.map(|attempt| attempt.step.word())
    }

    /// Lets the agent live until the condition holds, and then kills it: nothing is said good-bye
    /// to. Ends early, with the exit, when the agent ends by itself.
    pub(crate) async fn live_until(&self, condition: impl Fn(&Self) -> bool) -> Option<Exit> {
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                let driver = self.driver().await;
                tokio::select! {
                    exit = driver.run(std::future::pending()) => {
                        Some(exit.expect("the driver ends in order"))
                    }
                    () = self.wait_for(condition) => None,
                }
            })
            .await
    }

    /// Lets the agent live, started again after each boot, until it has reported this often.
    pub(crate) async fn live_until_reported(&self, count: usize) -> Outcome {
        let reported = |world: &Self| world.coordinator.outcomes().len() >= count;
        while let Some(exit) = self.live_until(reported).await {
            assert_eq!(exit, Exit::Booted);
        }
        self.coordinator.outcomes()[count - 1].clone()
    }

    async fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "it does not happen; step {:?}, reported {:?}, switches {:?}",
                self.step(),
                self.coordinator.outcomes(),
                self.lines("switches")
            );
        }
    }

    /// The machine, as the agent and its dead-man program see it.
    pub(crate) async fn host(&self) -> Directory {
        let clock = self.config().clock.expect("a scaled clock");
        let program = DeadManProgram {
            program: vec![env!("CARGO_BIN_EXE_lab-agent").to_owned()],
            config: self.config_file.clone(),
        };
        Directory::open(&self.root, &self.cache.at("/"), clock, program)
            .await
            .expect("a machine")
    }

    /// What carries out jobs on this machine, without an agent that asks for them.
    pub(crate) async fn executor(&self) -> Executor<Directory> {
        let config = self.config();
        let clock = config.clock.clone().expect("a scaled clock");
        Executor::new(self.host().await, config, clock)
    }

    async fn driver(&self) -> Driver<Directory, Coordinator> {
        let config = self.config();
        let clock = config.clock.clone().expect("a scaled clock");
        let state = StateFile::new(config.state_file());
        let executor = Executor::new(self.host().await, config.clone(), clock.clone());
        let link = Rc::clone(&self.coordinator);
        let limits = Limits {
            attempt_timeout: self.attempt_timeout,
            has_traffic_script: config.hooks.traffic.is_some(),
            ..limits(&clock)
        };
        Driver::new(limits, state, executor, link, clock).expect("a driver")
    }
}

/// Small enough that the dead-man timer goes off within a test.
fn limits(clock: &Clock) -> Limits {
    let work = clock.fleet(Duration::from_secs(3));
    Limits {
        call_timeout: work,
        health_timeout: Duration::from_secs(20),
        short_step: work,
        hook_timeout: Duration::from_secs(30),
        switch_timeout: Duration::from_secs(30),
        reboot_timeout: work,
        boot_timeout: work,
        grace: Duration::from_secs(5),
        poll_pause: Duration::from_secs(1),
        ..Limits::default()
    }
}

fn write_executable(file: &Path, text: &str) {
    fs::write(file, text).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("executable");
}

/// A coordinator with one wish.
#[derive(Default)]
pub(crate) struct Coordinator {
    wish: RefCell<Option<Proceed>>,
    order: RefCell<Option<TrafficCall>>,
    /// What the machine said of its traffic with its last poll.
    moved: RefCell<Option<TrafficDone>>,
    reports: RefCell<Vec<(Unreported, MachineReport)>>,
    /// Polls and results that are yet to be refused because there were too many calls.
    too_many: RefCell<[u32; 2]>,
    /// No renewal is answered.
    pub(crate) silent: Cell<bool>,
}

impl Coordinator {
    /// Wants the machine to go to a system: stages it first, then gives the lease.
    pub(crate) fn wants(&self, lease: u64, target: &StorePath) {
        *self.wish.borrow_mut() = Some(Proceed {
            rollout: format!("r-{lease}").parse().expect("a name"),
            lease: LeaseId(lease),
            epoch: Epoch(1),
            valid_for: Duration::from_secs(3600),
            action: Action::Update,
            target: Some(Target::Closure(target.clone())),
            allow_soft_reboot: false,
            allow_reboot: true,
            rollback_on_failure: true,
            health_timeout: Duration::ZERO,
            force: false,
        });
    }

    /// Orders the machine to take traffic or to leave it, until it has an answer.
    pub(crate) fn orders(&self, call: TrafficCall) {
        *self.order.borrow_mut() = Some(call);
    }

    /// What the machine has said of this order, if that was the last.
    pub(crate) fn answer_to(&self, call: &TrafficCall) -> Option<TrafficDone> {
        let moved = self.moved.borrow().clone();
        moved.filter(|done| done.order.as_ref() == Some(&call.order))
    }

    /// Has had too many requests: the next so many polls, and results, are to come back later.
    pub(crate) fn refuses(&self, calls: u32) {
        *self.too_many.borrow_mut() = [calls; 2];
    }

    /// Whether every call that was to come back later has been refused.
    pub(crate) fn has_refused(&self) -> bool {
        *self.too_many.borrow() == [0; 2]
    }

    fn busy(&self, kind: usize) -> Result<(), LinkError> {
        let left = &mut self.too_many.borrow_mut()[kind];
        match left.checked_sub(1) {
            None => Ok(()),
            Some(fewer) => {
                *left = fewer;
                Err(LinkError::Refused {
                    code: Code::ResourceExhausted.to_string(),
                    message: "too many requests; try again in 1 s".to_owned(),
                })
            }
        }
    }

    /// Changes the wish.
    pub(crate) fn but(&self, change: impl FnOnce(&mut Proceed)) {
        change(self.wish.borrow_mut().as_mut().expect("a wish"));
    }

    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let reports = self.reports.borrow();
        reports
            .iter()
            .map(|(result, _)| result.outcome.clone())
            .collect()
    }

    /// What the machine said of itself with its last result.
    pub(crate) fn last_report(&self) -> MachineReport {
        self.reports.borrow().last().expect("a report").1.clone()
    }

    fn next(&self, report: &MachineReport) -> Option<Directive> {
        let answered = report.traffic.as_ref().and_then(|done| done.order.as_ref());
        let order = self.order.borrow().clone();
        if let Some(call) = order.filter(|call| answered != Some(&call.order)) {
            return Some(Directive::MoveTraffic(call));
        }
        let wish = self.wish.borrow().clone()?;
        let staged = report.staged.as_ref().map(|staged| &staged.target);
        if staged == wish.target.as_ref() {
            return Some(Directive::Proceed(wish));
        }
        Some(Directive::Stage {
            rollout: Some(wish.rollout),
            target: wish.target?,
            action: wish.action,
            force: wish.force,
            wish: 0,
        })
    }
}

impl Link for Coordinator {
    async fn poll(
        &self,
        _hold: Duration,
        report: &MachineReport,
    ) -> Result<(Epoch, Directive), LinkError> {
        self.busy(0)?;
        *self.moved.borrow_mut() = report.traffic.clone();
        loop {
            if let Some(directive) = self.next(report) {
                return Ok((Epoch(1), directive));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn renew(
        &self,
        _lease: LeaseId,
        _epoch: Epoch,
        _status: &AttemptStatus,
        _silence: Duration,
    ) -> Result<(Epoch, Renewal), LinkError> {
        if self.silent.get() {
            return std::future::pending().await;
        }
        let valid_for = Duration::from_secs(3600);
        Ok((Epoch(1), Renewal::Valid { valid_for }))
    }

    async fn report(
        &self,
        result: &Unreported,
        report: &MachineReport,
    ) -> Result<Epoch, LinkError> {
        self.busy(1)?;
        // A result may be said twice: only its own wish is fulfilled by it.
        self.wish
            .borrow_mut()
            .take_if(|wish| wish.lease == result.lease || result.lease.0 == 0);
        let known = |(before, _): &(Unreported, MachineReport)| before == result;
        let mut reports = self.reports.borrow_mut();
        if !reports.iter().any(known) {
            reports.push((result.clone(), report.clone()));
        }
        Ok(Epoch(1))
    }

    async fn listen(&self, _heard: impl Fn(Epoch, Signal)) -> Result<(), LinkError> {
        std::future::pending().await
    }
}
