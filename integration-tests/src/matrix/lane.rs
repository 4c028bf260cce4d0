//! One machine that goes through one case after the other, each from a healthy beginning.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{StorePath, error_chain::Chain, id::MachineName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    ask::{Ask, text},
    case::{At, Case, Fault},
    fault::Lengths,
    judge::{self, Seen},
    points::{self, Grip, Points},
    run::MatrixError,
};
use crate::fleet::{AGENT_UNIT, Failure, Fleet, FleetError, Power, SystemSpec};

/// Longest until a case has ended, once its fault is over.
const END_MAX: Duration = Duration::from_secs(420);

/// Longest until a machine is ready for the next case.
const READY_MAX: Duration = Duration::from_secs(120);

/// How often a case is tried in which the agent was stopped a moment too late.
const TRIES: u32 = 5;

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(300);

/// What agents of lanes have in their configuration besides the usual.
const CONFIG: &str = "\
hooks.pre_update = \"/etc/lab-toy/pre\"
hooks.post_update = \"/etc/lab-toy/post\"
hooks.rollback = \"/etc/lab-toy/rollback\"
hooks.backup_check = \"/etc/lab-toy/backup\"
hooks.timeout = \"12s\"
limits.switch_timeout = \"25s\"
limits.attempt_timeout = \"4m\"
limits.reboot_wait = \"5s\"
limits.boot_reserve_bytes = 1024
[[checks]]
name = \"point\"
kind = \"command\"
command = [\"/etc/lab-toy/check\"]
timeout = \"3s\"
";

/// How a case ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// The verdict; empty when there is none.
    pub verdict: String,
    /// Why, in the agent's words.
    pub reason: String,
    /// The hooks that ran, in order.
    pub hooks: Vec<String>,
    /// What is not as it must be.
    pub violations: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: u64,
    /// The journals of machine and coordinator, where there are violations.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scene: String,
}

/// The machine.
pub(super) struct Lane<'a> {
    fleet: &'a Fleet,
    machine: &'a MachineName,
    hardening: &'a str,
    lengths: Lengths,
    version: AtomicU32,
    /// The last case did not end as it must.
    distrusted: AtomicBool,
}

impl<'a> Lane<'a> {
    /// A lane on a machine that has an agent already.
    pub(super) fn new(
        fleet: &'a Fleet,
        machine: &'a MachineName,
        hardening: &'a str,
        lengths: Lengths,
    ) -> Self {
        Self {
            fleet,
            machine,
            hardening,
            lengths,
            version: AtomicU32::new(1),
            distrusted: AtomicBool::new(true),
        }
    }

    /// Goes through a case.
    pub(super) fn go(&self, case: &Case) -> Row {
        let since = Instant::now();
        let (seen, mut violations) = match self.go_through(case) {
            Ok(seen) => {
                let violations = judge::violations(case, &seen);
                (Some(seen), violations)
            }
            Err(error) => (None, vec![Chain(&error).to_string()]),
        };
        let scene = if violations.is_empty() {
            String::new()
        } else {
            self.scene(seen.as_ref())
        };
        if !violations.is_empty() {
            // What it runs may be anything: the next case begins from a system of its own.
            self.distrusted.store(true, Ordering::Relaxed);
        }
        if seen.is_none() {
            // Whatever was done to the machine is undone, or the next case fails too.
            if let Err(error) = self.undo() {
                violations.push(Chain(&error).to_string());
            }
        }
        let verdicts = seen.as_ref().map(|seen| seen.verdicts.as_slice());
        let last = verdicts.and_then(<[_]>::last).cloned();
        let (verdict, reason) = last.unwrap_or_default();
        Row {
            case: *case,
            verdict,
            reason,
            hooks: seen.map(|seen| seen.hooks).unwrap_or_default(),
            violations,
            seconds: since.elapsed().as_secs(),
            scene,
        }
    }

    fn go_through(&self, case: &Case) -> Result<Seen, MatrixError> {
        for _ in 0..TRIES {
            if let Some(seen) = self.try_through(case)? {
                return Ok(seen);
            }
        }
        Err(MatrixError::Missed(case.situation.at.word()))
    }

    /// None when the machine was not in the step when it was looked at.
    fn try_through(&self, case: &Case) -> Result<Option<Seen>, MatrixError> {
        let points = self.points();
        self.make_ready(case)?;
        let before: StorePath = self.ask().link("/run/current-system")?.parse()?;
        let target = self.target(case)?;
        let target = self.fleet.publish(std::slice::from_ref(&target))?.remove(0);
        let grip = points::grip(case, &before, &target);
        let pinned = format!("--closure={}={target}", self.machine);
        let prepare = ["update", "prepare", "--timeout=100", &pinned];
        let mut away = Vec::new();
        let staging = case.situation.at == At::Staging;
        if staging {
            points.prepare(case, &grip, &before)?;
            thread::scope(|scope| {
                let prepared = scope.spawn(|| self.ask().lab(&prepare));
                let struck = self.strike(case, &grip, &mut away);
                let prepared = prepared
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                struck.and(prepared.map(drop))
            })?;
            points.release()?;
            // A staging that failed is tried again by itself.
            self.ask().lab_yes(&prepare)?;
            // Ahead of its turn the machine has no slot.
            away.clear();
        } else {
            self.ask().lab_yes(&prepare)?;
            points.prepare(case, &grip, &before)?;
        }
        let machine = format!("--machine={}", self.machine);
        self.ask()
            .lab_yes(&["update", "execute", "--yes", "--detach", &machine])?;
        let known = self.ask().rollouts()?;
        let rollout = known.last().map(|rollout| rollout.id.clone());
        let rollout = rollout.unwrap_or_default();
        if !staging && !self.strike(case, &grip, &mut away)? {
            self.await_end(&rollout)?;
            return Ok(None);
        }
        self.await_end(&rollout)?;
        self.see(before, target, &rollout, away).map(Some)
    }

    /// Brings the fault about when the machine is in the step; false when it went past it.
    fn strike(&self, case: &Case, grip: &Grip, away: &mut Vec<bool>) -> Result<bool, MatrixError> {
        let points = self.points();
        let fails_by_itself = case.fault == Fault::Error && *grip != Grip::Agent;
        if fails_by_itself {
            return Ok(true);
        }
        if !points.await_step(case.situation.at, grip)? {
            return Ok(false);
        }
        // A result that is under way may have arrived, and the slot be free, before the agent knows.
        let counts = case.situation.at != At::Reporting;
        if counts {
            away.push(self.ask().is_away()?);
        }
        let mut also = Vec::new();
        let mut look = || {
            // The attempt may have ended while the fault lasted, and its slot be free.
            let idle = points.is_idle();
            let is_away = self.ask().is_away().unwrap_or(true);
            also.push(is_away || idle || !counts || points.is_idle());
            Ok(())
        };
        points.strike(case, grip, &self.lengths, &mut look)?;
        away.append(&mut also);
        Ok(true)
    }

    /// Waits until the rollout has ended or paused and the agent has nothing more to do or to tell.
    fn await_end(&self, rollout: &str) -> Result<(), MatrixError> {
        let (ask, points) = (self.ask(), self.points());
        self.wait("the end of the attempt", END_MAX, || {
            let known = ask.rollouts()?;
            let of_it = known.iter().find(|known| known.id == rollout);
            let ended = of_it.is_none_or(|rollout| rollout.state != "active");
            Ok(ended && points.is_idle())
        })
    }

    fn see(
        &self,
        before: StorePath,
        target: StorePath,
        rollout: &str,
        away: Vec<bool>,
    ) -> Result<Seen, MatrixError> {
        let ask = self.ask();
        // The machine may just be starting again.
        self.fleet.await_up(self.machine)?;
        let timers = ["systemctl", "list-units", "--plain", "--no-legend"];
        let timers = [&timers[..], &["lab-updater-dead-man-*.timer"]].concat();
        let timers = self.fleet.run(self.machine, &timers)?;
        Ok(Seen {
            before,
            target,
            verdicts: ask.verdicts(rollout)?,
            running: ask.link("/run/current-system")?,
            profile: ask.link("/nix/var/nix/profiles/system")?,
            boot_default: ask.link("/boot/default")?,
            hooks: self.points().told()?,
            away,
            away_in_the_end: ask.is_away()?,
            timers: timers.lines().map(str::to_owned).collect(),
        })
    }

    /// The system that the case goes to.
    fn target(&self, case: &Case) -> Result<SystemSpec, MatrixError> {
        let way = case.situation.way;
        let mut system = self.system()?;
        if way.is_soft() {
            let (_, other) = self.fleet.dbus(self.machine)?;
            system = system.dbus(other);
        } else if way.boots() {
            let other = if system.kernel == "6.12.1" {
                "6.12.2"
            } else {
                "6.12.1"
            };
            system = system.kernel(other);
        }
        Ok(if way.is_good() {
            system
        } else {
            system.failing(Failure::Health)
        })
    }

    /// A good system that the one that runs can be switched to live.
    fn system(&self) -> Result<SystemSpec, MatrixError> {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let kernel = self.ask().link("/run/booted-system/kernel")?;
        let kernel = kernel
            .split_once("-linux-")
            .map_or("6.12.1", |(_, rest)| rest);
        let (dbus, _) = self.fleet.dbus(self.machine)?;
        Ok(SystemSpec::new(self.machine, &version.to_string())
            .dbus(dbus)
            .kernel(kernel.trim_end_matches("/bzImage"))
            .unit("toy-slow.service", points::SLOW_UNIT)
            .agent(self.hardening, CONFIG))
    }

    /// A healthy machine with nothing open, on a system of ours, and with the scripts in place.
    fn make_ready(&self, case: &Case) -> Result<(), MatrixError> {
        let (ask, points) = (self.ask(), self.points());
        self.undo()?;
        points.install()?;
        for rollout in ask.rollouts()? {
            if ["active", "paused"].contains(&rollout.state.as_str()) {
                // It may be just ending by itself.
                ask.lab(&["update", "abort", &rollout.id])?;
            }
        }
        // What the last case changed of the unit goes; what it left running of the agent too. After
        // another bus, logind runs on without one.
        let plain = format!(
            "rm -rf /run/systemd/system/{AGENT_UNIT}.d && systemctl daemon-reload &&
             systemctl restart systemd-logind.service {AGENT_UNIT}"
        );
        points.run(&["sh", "-ec", &plain])?;
        self.wait("an agent without an attempt", READY_MAX, || {
            Ok(points.is_idle())
        })?;
        // What a case that was given up told since.
        points.reset()?;
        if ask.is_away()? {
            let name = self.machine.as_str();
            let reason = "--reason=the next case";
            ask.lab_yes(&["machines", "forget", name, reason, "--yes"])?;
        }
        let running = ask.link("/run/current-system")?;
        let settled = running == ask.link("/boot/default")?
            && running == ask.link("/nix/var/nix/profiles/system")?;
        if self.distrusted.swap(false, Ordering::Relaxed) || !settled {
            self.fleet.deploy(&[self.system()?])?;
            points.run(&["systemctl", "restart", AGENT_UNIT])?;
        }
        points.make_clock(case)?;
        let running = ask.link("/run/current-system")?;
        self.wait("a healthy machine", READY_MAX, || {
            let shown = ask.shown()?;
            if shown["state"] == json!("unhealthy") {
                let machine = format!("--machine={}", self.machine);
                ask.lab(&["health-check", &machine])?;
            }
            Ok(shown["state"] == json!("healthy") && text(&shown["running"]) == running)
        })
    }

    /// Undoes whatever a case does.
    fn undo(&self) -> Result<(), FleetError> {
        let (fleet, machine) = (self.fleet, self.machine);
        fleet.refuse_calls(machine, false)?;
        fleet.free(machine, "/")?;
        fleet.free(machine, "/boot")?;
        for unit in [crate::fleet::PID_1, AGENT_UNIT] {
            fleet.signal(machine, unit, nix::sys::signal::Signal::SIGCONT);
        }
        self.points().reset()?;
        // One that is on its way down or up can be told nothing yet.
        if fleet.status_of(machine)?.power == Power::On {
            fleet.await_up(machine)?;
        }
        fleet.heal(machine)
    }

    fn wait(
        &self,
        what: &str,
        limit: Duration,
        so: impl Fn() -> Result<bool, MatrixError>,
    ) -> Result<(), MatrixError> {
        let since = Instant::now();
        while !so()? {
            if since.elapsed() > limit {
                let what = format!("{what} of {}", self.machine);
                return Err(FleetError::Deadline { what, limit }.into());
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn scene(&self, seen: Option<&Seen>) -> String {
        let units = ["lab-updater*", "dbus*", "systemd-logind*"];
        let journals = units.map(|unit| self.fleet.journal(self.machine, unit));
        let state = self.points().journal().unwrap_or_default();
        format!("{seen:#?}\n{state:#}\n{}", journals.concat())
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            fleet: self.fleet,
            machine: self.machine,
        }
    }

    fn points(&self) -> Points<'_> {
        Points {
            fleet: self.fleet,
            machine: self.machine,
        }
    }
}
