//! The world's truth, kept by the simulation and asked of no program; and the trace: everything
//! that can be observed, in order.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent::host::Unit;
use common::{LeaseId, MachineName, StorePath};
use coordinator::store::{Batch, memory::MemoryStore};
use coordinator_core::Fleet;
use sha2::{Digest as _, Sha256};

use super::{
    check::Granted,
    machine::{Machine, switch_of},
    setup::{At, Setup, SimClock, elapsed},
};
use crate::sim::{SeededBug, rng::Rng};

/// Lines of a trace that are kept to be shown; all of them are in its hash.
const LINES_KEPT: usize = 200_000;

/// Violations that are kept: after the first ones the rest is mostly the same again.
const VIOLATIONS_KEPT: usize = 20;

/// The world, for everybody in it. One thread, so nobody ever waits for the lock.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        // A panic ends the run anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything there is.
pub(crate) struct World {
    /// The step of the network that is under way, for what happens between two of them.
    pub(crate) step: At,
    pub(crate) setup: Setup,
    pub(crate) rng: Rng,
    pub(crate) bug: Option<SeededBug>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) coordinator: Coordinator,
    /// Kernel of each system.
    pub(crate) kernels: BTreeMap<StorePath, u64>,
    /// Systems made so far.
    pub(crate) systems: u64,
    /// Every lease that is recorded as granted.
    pub(crate) granted: BTreeMap<LeaseId, Granted>,
    /// Whether things still go wrong.
    pub(crate) troubled: bool,
    /// Faults injected, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) violations: Vec<String>,
    /// Results that were taken in.
    pub(crate) results: u64,
    pub(crate) trace: Trace,
}

/// The coordinator, from outside.
pub(crate) struct Coordinator {
    pub(crate) disk: MemoryStore,
    /// With the bug that acknowledges too early: what is not on the disk yet.
    pub(crate) unsynced: Option<Batch>,
    pub(crate) clock: Arc<SimClock>,
    /// The facts that were acknowledged, applied as they were written.
    pub(crate) mirror: Option<Fleet>,
    pub(crate) up: bool,
    /// When it is to be started again.
    pub(crate) down_until: At,
}

/// Everything that could be observed.
#[derive(Default)]
pub(crate) struct Trace {
    hash: Sha256,
    pub(crate) lines: Vec<String>,
    pub(crate) count: u64,
}

impl Trace {
    pub(crate) fn hash(&self) -> String {
        let digest = self.hash.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl World {
    pub(crate) fn new(
        setup: Setup,
        rng: Rng,
        bug: Option<SeededBug>,
        directory: &Path,
    ) -> std::io::Result<Self> {
        let machines = setup.machines.iter();
        let machines = machines.map(|name| Machine::install(name.clone(), directory));
        Ok(Self {
            machines: machines.collect::<std::io::Result<_>>()?,
            step: 0,
            setup,
            rng,
            bug,
            coordinator: Coordinator {
                disk: MemoryStore::new(),
                unsynced: None,
                clock: Arc::default(),
                mirror: None,
                up: false,
                down_until: 0,
            },
            kernels: BTreeMap::new(),
            systems: 0,
            granted: BTreeMap::new(),
            troubled: true,
            faults: BTreeMap::new(),
            violations: Vec::new(),
            results: 0,
            trace: Trace::default(),
        })
    }

    pub(crate) fn index_of(&self, name: &MachineName) -> Option<usize> {
        self.setup
            .machines
            .iter()
            .position(|machine| machine == name)
    }

    /// The time now, wherever it is asked for.
    pub(crate) fn now(&self) -> At {
        elapsed().max(self.step)
    }

    /// Adds a line to the trace.
    pub(crate) fn tell(&mut self, text: impl FnOnce(&Self) -> String) {
        let line = format!("{} {}", clock(self.now()), text(self));
        self.trace.hash.update(line.as_bytes());
        self.trace.hash.update(b"\n");
        self.trace.count += 1;
        if self.trace.lines.len() < LINES_KEPT {
            self.trace.lines.push(line);
        }
    }

    pub(crate) fn violate(&mut self, text: String) {
        let line = format!("{} {text}", clock(self.now()));
        self.tell(|_| format!("VIOLATION: {text}"));
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(line);
        }
    }

    /// True this many times in a million, as long as things go wrong; counted as this fault.
    pub(crate) fn strikes(&mut self, per_million: u64, kind: &'static str) -> bool {
        let strikes = self.troubled && self.rng.chance(per_million);
        if strikes {
            self.fault(kind);
        }
        strikes
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// A unit begins on a machine.
    pub(crate) fn begin(&mut self, machine: usize, unit: &Unit) {
        self.check_unit(machine, unit);
        let verb = switch_of(unit).map_or_else(String::new, |(system, verb)| {
            format!(" {verb} {}", system.name())
        });
        self.tell(|w| {
            let (name, word) = (&w.machines[machine].name, unit.family.word());
            format!("{name} begins {word}{verb} ({})", unit.tag)
        });
        let now = self.now();
        self.machines[machine].begin(unit, now, &mut self.rng);
    }

    /// Ends the units of a machine whose time has come.
    pub(crate) fn settle(&mut self, machine: usize, now: At) {
        match self.machines[machine].settle(now) {
            Ok(false) => return,
            Ok(true) => self.tell(|w| runs(&w.machines[machine])),
            Err(error) => self.violate(format!("the simulation's own files fail: {error}")),
        }
        self.recovered(machine);
    }
}

/// What a machine runs, as a line.
pub(crate) fn runs(machine: &Machine) -> String {
    let running = machine.running();
    let running = running.as_ref().map_or("nothing", StorePath::name);
    format!("{} runs {running}", machine.name)
}

/// Hours, minutes, seconds of simulated time.
fn clock(at: At) -> String {
    let seconds = at / 1000;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{rest:02}.{:03}", at % 1000)
}
