//! `bench footprint`: what an agent takes on its machine. On a real machine of the test bed, with the
//! sandbox and the settings of the NixOS module, beside the real coordinator: first while nothing
//! happens but one held poll, then through a whole update with the machine's memory limited.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::id::MachineName;
use serde_json::json;

use super::{Error, figures::Figures};
use crate::fleet::{AGENT_UNIT, Fleet, FleetOptions, MemoryUse, Programs, SystemSpec};

const MIB: f64 = 1024.0 * 1024.0;

/// What the agent is left alone for after its start: enrolment, first poll, first health checks.
const SETTLE: Duration = Duration::from_secs(10);

/// How often the machine's memory is looked at while it updates.
const GLANCE: Duration = Duration::from_millis(50);

/// How long the agent may take to be there, and each command of the operator.
const PATIENCE: Duration = Duration::from_secs(240);

/// The settings of the module, where those of the test bed are made for haste.
const SETTINGS: &str = "poll_hold = \"1m\"\nlimits.stage_timeout = \"300s\"";

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How long nothing happens.
    pub idle: Duration,
    /// The machine's memory, in bytes.
    pub memory: u64,
    /// How much the update adds to the machine's closure, in bytes.
    pub closure: u64,
}

/// What the kernel says of a process at one instant.
struct Reading {
    at: Instant,
    switches: u64,
    processor: Duration,
}

/// The machine that is measured.
struct Bed {
    fleet: Fleet,
    machine: MachineName,
}

/// Runs it; machines keep their files in this directory.
///
/// # Errors
/// When this host cannot run real machines, the agent does not come up, or the update does not go
/// through.
pub fn run(size: Size, state: &Path) -> Result<Figures, Error> {
    let mut figures = Figures::new("footprint");
    let program = fleet_program()?;
    let programs = Programs::release(&program)?;
    let binary = fs::metadata(programs.path("lab-agent"))?.len();
    figures.add("size of the program", binary as f64 / MIB, "MiB");
    let bed = Bed::start(&program, &programs, size, state)?;
    let measured = bed
        .idle(size.idle, &mut figures)
        .and_then(|()| bed.update(size, &mut figures));
    bed.fleet.down()?;
    measured.map(|()| figures)
}

/// The `fleet` program of this build.
fn fleet_program() -> Result<PathBuf, Error> {
    Ok(std::env::current_exe()?.with_file_name("fleet"))
}

impl Bed {
    fn start(program: &Path, programs: &Programs, size: Size, state: &Path) -> Result<Self, Error> {
        let machine: MachineName = "machine-1"
            .parse()
            .map_err(|_| Error::Name("machine-1".to_owned()))?;
        let options = FleetOptions {
            name: format!("bench-{}", std::process::id()),
            machines: vec![machine.clone()],
            program: program.to_owned(),
            disk: None,
            files: Some(state.to_owned()),
            memory: Some(size.memory),
            ends_with_us: true,
        };
        let fleet = Fleet::up(&options, &|_| ())?;
        let bed = Self { fleet, machine };
        match bed.install(programs) {
            Ok(()) => Ok(bed),
            Err(error) => {
                bed.fleet.down()?;
                Err(error)
            }
        }
    }

    fn install(&self, programs: &Programs) -> Result<(), Error> {
        self.fleet.install_coordinator(programs)?;
        let group = json!({
            "machines": [self.machine],
            "updatePolicy": "aggressive",
            "expectedDuration": "30s",
        });
        let document = json!({ "updateGroups": { "all": group } });
        self.fleet.import_config(&document)?;
        let machines = std::slice::from_ref(&self.machine);
        self.fleet.install_agents(programs, machines, SETTINGS)?;
        let since = Instant::now();
        while !self.lab_says(&["machines", "show", self.machine.as_str()], "healthy")? {
            if since.elapsed() > PATIENCE {
                return Err(Error::Answer {
                    doing: "waiting for the agent",
                    answer: self.fleet.journal(&self.machine, AGENT_UNIT),
                });
            }
            thread::sleep(GLANCE);
        }
        thread::sleep(SETTLE);
        Ok(())
    }

    /// What the agent takes while nothing happens.
    fn idle(&self, idle: Duration, figures: &mut Figures) -> Result<(), Error> {
        let words = ["show", "--value", "--property=MainPID", AGENT_UNIT];
        let pid = self.on_machine(&[&["systemctl"][..], &words].concat())?;
        let pid = pid.trim();
        let before = self.reading(pid)?;
        thread::sleep(idle);
        let after = self.reading(pid)?;
        let minutes = (after.at - before.at).as_secs_f64() / 60.0;
        let switches = (after.switches - before.switches) as f64;
        let processor = after.processor.saturating_sub(before.processor);
        let share = processor.as_secs_f64() / (minutes * 60.0) * 100.0;

        let status = self.on_machine(&["cat", &format!("/proc/{pid}/status")])?;
        let rollup = self.on_machine(&["cat", &format!("/proc/{pid}/smaps_rollup")])?;
        for (what, text, name) in [
            ("memory (RSS)", &status, "VmRSS:"),
            ("the most so far", &status, "VmHWM:"),
            ("anonymous memory", &status, "RssAnon:"),
            ("its share of memory (PSS)", &rollup, "Pss:"),
        ] {
            let kib = field(text, name).ok_or_else(|| unread("memory", text))?;
            figures.add(what, kib as f64 / 1024.0, "MiB");
        }
        let threads = field(&status, "Threads:").ok_or_else(|| unread("threads", &status))?;
        figures.add_count("threads", threads);
        figures.add("wake-ups while idle", switches / minutes, "/min");
        figures.add("processor while idle", share, "% of a core");
        Ok(())
    }

    fn reading(&self, pid: &str) -> Result<Reading, Error> {
        let script = format!("cat /proc/{pid}/task/*/status /proc/{pid}/task/*/schedstat");
        let text = self.on_machine(&["sh", "-c", &script])?;
        let at = Instant::now();
        let switches = text
            .lines()
            .filter(|line| line.starts_with("voluntary_ctxt_switches:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        // Three numbers: time on the processor, time waiting for it, how often.
        let nanoseconds = text
            .lines()
            .filter_map(|line| {
                let numbers: Vec<_> = line.split(' ').map(str::parse::<u64>).collect();
                (numbers.len() == 3).then(|| numbers.into_iter().next()?.ok())?
            })
            .sum();
        Ok(Reading {
            at,
            switches,
            processor: Duration::from_nanos(nanoseconds),
        })
    }

    /// A whole update that brings much with it, within the machine's memory.
    fn update(&self, size: Size, figures: &mut Figures) -> Result<(), Error> {
        let hardening = self.fleet.hardening()?;
        let target = SystemSpec {
            bulk: size.closure,
            ..SystemSpec::new(&self.machine, "2").agent(&hardening, SETTINGS)
        };
        let path = self.fleet.publish(&[target])?.remove(0);
        let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
        let begin = Instant::now();
        let updated = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(now) = self.fleet.memory(&self.machine) {
                        most.fetch_max(now.anonymous, Ordering::Relaxed);
                    }
                    thread::sleep(GLANCE);
                }
            });
            let updated = self.roll_out(path.as_str());
            done.store(true, Ordering::Relaxed);
            updated
        });
        let took = begin.elapsed();
        let MemoryUse {
            peak, oom_kills, ..
        } = self.fleet.memory(&self.machine)?;
        if oom_kills > 0 {
            return Err(Error::Answer {
                doing: "updating a machine with little memory",
                answer: format!("{oom_kills} processes were killed for want of memory"),
            });
        }
        updated?;
        let running = self.on_machine(&["readlink", "/run/current-system"])?;
        if running.trim() != path.as_str() {
            return Err(unread("the update", &running));
        }
        figures.add("memory of the machine", size.memory as f64 / MIB, "MiB");
        figures.add("closure of the update", size.closure as f64 / MIB, "MiB");
        figures.add("the update, from its order", took.as_secs_f64(), "s");
        figures.add("the most memory, with page cache", peak as f64 / MIB, "MiB");
        let most = most.load(Ordering::Relaxed) as f64 / MIB;
        figures.add("the most memory, without", most, "MiB");
        figures.add_count("killed for want of memory", oom_kills);
        Ok(())
    }

    fn roll_out(&self, path: &str) -> Result<(), Error> {
        let closure = format!("--closure={}={path}", self.machine);
        let limit = format!("--timeout={}", PATIENCE.as_secs());
        for words in [
            &["update", "prepare", &limit, &closure][..],
            &["update", "execute", "--yes", &limit],
        ] {
            let finished = self.fleet.lab(words)?;
            if finished.code() != 0 {
                return Err(Error::Answer {
                    doing: "updating a machine with little memory",
                    answer: finished.stdout + &finished.stderr,
                });
            }
        }
        Ok(())
    }

    fn lab_says(&self, words: &[&str], what: &str) -> Result<bool, Error> {
        Ok(self.fleet.lab(words)?.stdout.contains(what))
    }

    fn on_machine(&self, words: &[&str]) -> Result<String, Error> {
        Ok(self.fleet.run(&self.machine, words)?)
    }
}

/// The number after this name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn unread(doing: &'static str, answer: &str) -> Error {
    Error::Answer {
        doing,
        answer: answer.to_owned(),
    }
}
