//! One seed from its beginning to its end: first safety, with everything that can go wrong, then
//! liveness, when nothing does any more. And the same events once more, without chance.

use std::{
    collections::BTreeMap,
    hash::{Hash as _, Hasher},
};

use serde::{Deserialize, Serialize};

use super::{
    bugs::SeededBug,
    chance::{Chance, Item},
    event::{At, BootInto, Command, Event, MachineIndex},
    rng::Rng,
    setup::{HOUR, MINUTE, Rates, Setup},
    world::{Violation, World},
};

/// How long after the last fault everything must have ended.
const PATIENCE: At = 60 * 24 * HOUR;

/// Applied events after which a run is not going anywhere: a hundred machines that have an hour a day
/// for an update of one at a time come to millions.
const EVENTS_MAX: u64 = 30_000_000;

/// A run, complete: what `--replay` reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    setup: Setup,
    /// The known bug that was switched on.
    bug: Option<String>,
    /// What the world looked like to whoever wrote the file.
    pub found: Vec<String>,
    events: Vec<(At, Event)>,
}

impl Recording {
    /// How many events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub violations: Vec<Violation>,
    /// What had not ended in time.
    pub unfinished: Option<String>,
    /// Events applied.
    pub events: u64,
    /// Rollouts created.
    pub rollouts: u64,
    /// Attempts that machines carried out and judged.
    pub attempts: u64,
    /// Simulated time, in hours.
    pub hours: f64,
    /// Machines in the fleet.
    pub machines: usize,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Most machines really away at once.
    pub most_away: usize,
    /// A number that differs when any event does.
    pub trace: u64,
}

impl Outcome {
    /// Whether nothing was wrong and everything ended.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.unfinished.is_none()
    }
}

/// Runs a seed. It ends at the first violation.
pub fn run(seed: u64, bug: Option<SeededBug>) -> Outcome {
    play(seed, bug, false).0
}

/// Runs a seed and keeps everything that happens.
pub fn record(seed: u64, bug: Option<SeededBug>) -> (Outcome, Recording) {
    play(seed, bug, true)
}

fn play(seed: u64, bug: Option<SeededBug>, records: bool) -> (Outcome, Recording) {
    let mut rng = Rng::new(seed);
    let setup = Setup::draw(seed, &mut rng);
    let rates = Rates::draw(&mut rng);
    let chance = Chance::new(rng, rates, setup.machines.len());
    let mut run = Run::new(setup, chance, bug);
    run.records = records;
    run.world.pedantic = records;
    run.begin();
    run.chance.push(2 * MINUTE, Item::Operator);
    run.chance.push(MINUTE, Item::Chaos);
    run.until(run.recording.setup.duration);
    let unfinished = run.settle();
    run.world.check_whole();
    run.finish(seed, unfinished)
}

/// A world and the chance that moves it.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) chance: Chance,
    recording: Recording,
    /// Whether every event is kept.
    records: bool,
    trace: u64,
}

impl Run {
    pub(crate) fn new(setup: Setup, chance: Chance, bug: Option<SeededBug>) -> Self {
        Self {
            world: World::new(setup.start(), setup.build(), bug),
            chance,
            recording: Recording {
                setup,
                bug: bug.map(SeededBug::name),
                found: Vec::new(),
                events: Vec::new(),
            },
            records: false,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// The coordinator starts and gets its configuration, and the machines come up.
    pub(crate) fn begin(&mut self) {
        let machines = self.world.machines.len();
        self.chance.event(0, Event::CoordinatorStarts);
        let document = self.recording.setup.document.clone();
        let command = Box::new(Command::Configure { document });
        self.chance.event(1, Event::Operator { command });
        for machine in 0..machines {
            let at = 10 + self.chance.rng.below(MINUTE);
            let into = BootInto::Default;
            self.chance.event(at, Event::Boot { machine, into });
        }
    }

    fn over(&self) -> bool {
        !self.world.violations.is_empty() || self.endless().is_some()
    }

    /// Whether more has happened than happens in a run that is going anywhere.
    fn endless(&self) -> Option<String> {
        let events = self.world.events;
        (events >= EVENTS_MAX).then(|| format!("{events} events, and no end of them"))
    }

    /// Lets things happen until this time.
    pub(crate) fn until(&mut self, end: At) {
        while let Some((at, item)) = self.chance.pop() {
            if at > end || self.over() {
                self.chance.put_back(at, item);
                return;
            }
            let event = match item {
                Item::Event(event) => event,
                Item::Chaos => {
                    self.world.now = self.world.now.max(at);
                    self.chance.chaos(&self.world);
                    continue;
                }
                Item::Operator => {
                    self.world.now = self.world.now.max(at);
                    self.chance.operate(&self.world);
                    continue;
                }
                Item::AgentDue(machine) => match self.due(machine, at) {
                    Some(event) => event,
                    None => continue,
                },
                Item::CoordinatorDue => Event::Batch { cut: None },
            };
            self.happen(at, event);
        }
    }

    /// Whether the agent's time has really come.
    fn due(&mut self, machine: MachineIndex, at: At) -> Option<Event> {
        let m = &self.world.machines[machine];
        let due = m.due()?;
        if m.at(due) > at {
            self.world.now = self.world.now.max(at);
            self.chance.watch(&self.world, Some(machine));
            return None;
        }
        let cut = self.chance.agent_cut();
        Some(Event::AgentTick { machine, cut })
    }

    fn happen(&mut self, at: At, event: Event) {
        self.world.answers.clear();
        let touched = touched(&self.world, &event);
        let follows = self.world.apply(at, &event);
        self.trace = mix(self.trace, self.world.now, follows.len(), &event);
        if let Event::Arrive { message, .. } = event
            && self.chance.has_arrived(message)
        {
            self.world.post.let_go(message);
        }
        if self.records {
            self.recording.events.push((at, event));
        }
        for consequence in follows {
            self.chance.react(&self.world, consequence);
        }
        self.chance.watch(&self.world, touched);
    }

    /// Faults end; within a bounded time everything must.
    fn settle(&mut self) -> Option<String> {
        if !self.world.violations.is_empty() {
            return None;
        }
        if let Some(endless) = self.endless() {
            return Some(endless);
        }
        self.chance.heal(&self.world);
        let begin = self.world.now;
        let mut resumed = BTreeMap::new();
        self.until(begin + 5 * MINUTE);
        while !self.over() {
            if self.world.now >= begin + 30 * MINUTE && self.world.unfinished().is_none() {
                return None;
            }
            if self.world.now >= begin + PATIENCE {
                break;
            }
            self.chance.settle(&self.world, &mut resumed);
            let end = self.world.now + HOUR;
            self.until(end);
            self.world.now = self.world.now.max(end);
        }
        self.world
            .unfinished()
            .or_else(|| self.endless())
            .filter(|_| self.world.violations.is_empty())
    }

    fn finish(mut self, seed: u64, unfinished: Option<String>) -> (Outcome, Recording) {
        let found = self.world.violations.iter().map(|v| v.text.clone());
        self.recording.found = found.chain(unfinished.clone()).collect();
        let mut faults = self.chance.faults;
        faults.insert("message-in-partition", self.world.swallowed);
        let fleet = &self.world.coordinator.mirror;
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let hours = self.world.now as f64 / HOUR as f64;
        let outcome = Outcome {
            seed,
            violations: self.world.violations,
            unfinished,
            events: self.world.events,
            rollouts: fleet.facts().next_rollout - 1,
            attempts: self.world.truth.attempts,
            hours,
            machines: self.world.machines.len(),
            faults,
            most_away: self.world.truth.most_away,
            trace: self.trace,
        };
        (outcome, self.recording)
    }
}

/// The machine whose agent's next deadline this event may have moved.
fn touched(world: &World, event: &Event) -> Option<MachineIndex> {
    match event {
        Event::Arrive { message, .. } => world.post.machine_of(*message),
        Event::CallFails { machine, .. }
        | Event::AgentTick { machine, .. }
        | Event::AgentDies { machine }
        | Event::AgentStarts { machine, .. }
        | Event::AgentThaws { machine }
        | Event::UnitEnds { machine, .. }
        | Event::Measured { machine }
        | Event::DeadMan { machine, .. }
        | Event::PowerOff { machine, .. }
        | Event::Boot { machine, .. } => Some(*machine),
        Event::Batch { .. }
        | Event::HoldEnds { .. }
        | Event::CoordinatorDies
        | Event::CoordinatorStarts
        | Event::CoordinatorClock { .. }
        | Event::CoordinatorDisk { .. }
        | Event::Backup
        | Event::Restore
        | Event::AgentFreezes { .. }
        | Event::MachineDisk { .. }
        | Event::Ill { .. }
        | Event::Link { .. }
        | Event::Forge { .. }
        | Event::Nature { .. }
        | Event::Operator { .. }
        | Event::Measurement { .. }
        | Event::ScheduleResolved { .. }
        | Event::Gate { .. }
        | Event::Traffic { .. }
        | Event::Balancer { .. }
        | Event::BalancerStarts { .. } => None,
    }
}

/// FNV-1a over what happened and how much followed.
fn mix(trace: u64, now: At, follows: usize, event: &Event) -> u64 {
    let mut fnv = Fnv(trace);
    (now, follows, std::mem::discriminant(event)).hash(&mut fnv);
    fnv.finish()
}

/// FNV-1a, word by word: what is hashed here are numbers.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        let words = bytes.chunks(8).map(|word| {
            let word = word.iter().rev();
            word.fold(0, |word, byte| word << 8 | u64::from(*byte))
        });
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The same events once more. Each line of the story goes to `tell`, after each event.
pub fn replay(recording: &Recording, mut tell: impl FnMut(u64, &str, &[String])) -> Vec<Violation> {
    let setup = &recording.setup;
    let bug = recording.bug.as_deref().and_then(SeededBug::named);
    let mut world = World::new(setup.start(), setup.build(), bug);
    world.story = Some(Vec::new());
    world.pedantic = true;
    for (at, event) in &recording.events {
        world.apply(*at, event);
        let story = world.story.replace(Vec::new()).unwrap_or_default();
        let event = serde_json::to_string(event).unwrap_or_default();
        tell(*at, &event, &story);
        if !world.violations.is_empty() {
            break;
        }
    }
    world.violations
}
