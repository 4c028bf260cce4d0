//! The coordinator that is measured: a process of its own with the real server and the real store,
//! so that its processor time and memory are its own. Only the store is wrapped, to count.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use coordinator::{
    Config, Server,
    store::{Archive, Batch, Loaded, Store, StoreError, sled::SledStore},
};
use coordinator_core::fleet::Facts;
use platform::clock::Clock;
use serde::{Deserialize, Serialize};

use super::{Error, beginning::Beginning};

/// What the store did since it was opened.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Batches made durable: one `fdatasync` each.
    pub(super) batches: u64,
    /// Facts in them.
    pub(super) facts: u64,
    /// How long the longest took, and all of them.
    pub(super) longest: Duration,
    pub(super) all: Duration,
    /// Snapshots, and how long the longest kept the driver.
    pub(super) snapshots: u64,
    pub(super) longest_snapshot: Duration,
}

/// The real store, counted.
struct Counted {
    store: SledStore,
    counts: Arc<Mutex<Counts>>,
}

impl Counted {
    fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Store for Counted {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let begin = Instant::now();
        self.store.append(batch)?;
        let took = begin.elapsed();
        self.count(|counts| {
            counts.batches += 1;
            counts.facts += batch.changes.len() as u64;
            counts.longest = counts.longest.max(took);
            counts.all += took;
        });
        Ok(())
    }

    fn snapshot(&mut self, facts: &Facts) -> Result<(), StoreError> {
        let begin = Instant::now();
        self.store.snapshot(facts)?;
        let took = begin.elapsed();
        self.count(|counts| {
            counts.snapshots += 1;
            counts.longest_snapshot = counts.longest_snapshot.max(took);
        });
        Ok(())
    }

    fn journal_len(&self) -> u64 {
        self.store.journal_len()
    }

    fn archive(&self) -> Arc<dyn Archive> {
        self.store.archive()
    }
}

/// The process itself: serves until its standard input ends, and answers every line there with its
/// counts.
///
/// # Errors
/// When the coordinator does not start.
pub fn serve(state: &Path) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        state_dir: state.to_owned(),
        machine: None,
        listen: anywhere,
        enrol_listen: anywhere,
        lives: coordinator::ca::Lives::default(),
        rates: coordinator::limits::Rates::default(),
        caps: coordinator::connections::Caps::members(20_000, 20_000),
        clock: Clock::system(),
    };
    let mut store = SledStore::open(&state.join("store"))?;
    Beginning::take(state, &mut store, config.clock.now())?;
    let counts: Arc<Mutex<Counts>> = Arc::default();
    let store = Counted {
        store,
        counts: counts.clone(),
    };
    let server = runtime.block_on(Server::start_with(&config, Box::new(store)))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", server.address())?;
    for line in io::stdin().lock().lines() {
        line?;
        let now = *counts.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(out, "{}", serde_json::to_string(&now)?)?;
    }
    runtime.block_on(server.stop())?;
    Ok(())
}

/// How a coordinator ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Killed.
    Crash,
    /// Asked to.
    Orderly,
}

/// That process, from outside.
pub(super) struct Coordinator {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where agents and operators are served.
    pub(super) address: SocketAddr,
    /// From its start until it served.
    pub(super) started_in: Duration,
    state: PathBuf,
}

impl Coordinator {
    /// Starts it on this state directory.
    pub(super) fn start(state: &Path) -> Result<Self, Error> {
        let begin = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(state)
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Coordinator);
        };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| Error::Coordinator)?;
        Ok(Self {
            child,
            input: Some(input),
            output,
            address,
            started_in: begin.elapsed(),
            state: state.to_owned(),
        })
    }

    /// What its store has counted so far.
    pub(super) fn counts(&mut self) -> Result<Counts, Error> {
        let input = self.input.as_mut().ok_or(Error::Coordinator)?;
        writeln!(input)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Where its state is.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Ends it.
    pub(super) fn end(&mut self, end: End) -> Result<(), Error> {
        match end {
            End::Crash => self.child.kill()?,
            End::Orderly => drop(self.input.take()),
        }
        self.child.wait()?;
        Ok(())
    }

    /// Processor time of all its threads so far.
    pub(super) fn processor(&self) -> Result<Duration, Error> {
        self.processor_of(|_| true)
    }

    /// Processor time of its driver so far: deciding, and making durable.
    pub(super) fn driver(&self) -> Result<Duration, Error> {
        self.processor_of(|name| name == "driver")
    }

    fn processor_of(&self, which: impl Fn(&str) -> bool) -> Result<Duration, Error> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(self.proc("task"))? {
            let thread = thread?.path();
            // A thread may end meanwhile.
            let (Ok(name), Ok(times)) = (
                fs::read_to_string(thread.join("comm")),
                fs::read_to_string(thread.join("schedstat")),
            ) else {
                continue;
            };
            let run = times
                .split(' ')
                .next()
                .and_then(|run| run.parse::<u64>().ok());
            if which(name.trim_end()) {
                nanoseconds += run.unwrap_or(0);
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Memory that it keeps, in bytes.
    pub(super) fn memory(&self) -> Result<u64, Error> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or(Error::Coordinator)
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.id()))
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.end(End::Crash).ok();
    }
}

/// What of a process's counts is between two looks.
impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            batches: self.batches - before.batches,
            facts: self.facts - before.facts,
            all: self.all - before.all,
            snapshots: self.snapshots - before.snapshots,
            // The longest are of the whole time.
            ..self
        }
    }
}
