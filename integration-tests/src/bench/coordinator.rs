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

use common::{MachineName, Timestamp};
use coordinator::{
    Config, Server,
    store::{Archive, Batch, Loaded, Store, StoreError, sled::SledStore},
};
use coordinator_core::{
    Change, FleetConfig,
    fleet::Facts,
    identity::{Certificate, Holder},
};
use platform::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::Error;

/// The file in the state directory that says what a new store begins with.
const BEGINNING: &str = "beginning.json";

/// What a new store begins with: machines that have their certificates already.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Beginning {
    /// Machines and the serial numbers of their certificates.
    pub(super) machines: Vec<(MachineName, String)>,
    /// Groups they are spread over.
    pub(super) groups: usize,
    /// Machines that may be away at once.
    pub(super) away: usize,
}

impl Beginning {
    pub(super) fn write(&self, state: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec(self)?;
        Ok(fs::write(state.join(BEGINNING), text)?)
    }

    fn batch(&self, now: Timestamp) -> Result<Batch, Error> {
        let mut groups = Map::new();
        let per_group = self.machines.len().div_ceil(self.groups.max(1)).max(1);
        for (number, machines) in self.machines.chunks(per_group).enumerate() {
            let names: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
            let policy = json!({ "machines": names, "updatePolicy": "aggressive" });
            groups.insert(format!("g{number}"), policy);
        }
        let document = json!({
            "updateGroups": groups,
            "updateSettings": { "maxParallel": self.away, "offlineAfter": "10h" },
        });
        let mut batch = Batch::at(now);
        batch.changes.push(Change::ConfigSet {
            revision: 1,
            config: Box::new(FleetConfig::parse(&document)?),
            by: "bench".to_owned(),
            at: now,
        });
        batch
            .changes
            .extend(
                self.machines
                    .iter()
                    .map(|(name, serial)| Change::CertificateIssued {
                        serial: serial.clone(),
                        certificate: Certificate {
                            holder: Holder::Machine(name.clone()),
                            issued_at: now,
                            expires_at: now + Duration::from_secs(24 * 3600),
                            revoked: false,
                        },
                        token: None,
                    }),
            );
        Ok(batch)
    }
}

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
        listen: anywhere,
        enrol_listen: anywhere,
        lives: coordinator::ca::Lives::default(),
        rates: coordinator::limits::Rates::default(),
        caps: coordinator::connections::Caps::members(20_000, 20_000),
        clock: Clock::system(),
    };
    let mut store = SledStore::open(&state.join("store"))?;
    let beginning = state.join(BEGINNING);
    if beginning.exists() {
        let said: Beginning = serde_json::from_slice(&fs::read(&beginning)?)?;
        store.append(&said.batch(config.clock.now())?)?;
        fs::remove_file(&beginning)?;
    }
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
    Ok(())
}

/// That process, from outside.
pub(super) struct Coordinator {
    child: Child,
    input: ChildStdin,
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
            input,
            output,
            address,
            started_in: begin.elapsed(),
            state: state.to_owned(),
        })
    }

    /// What its store has counted so far.
    pub(super) fn counts(&mut self) -> Result<Counts, Error> {
        writeln!(self.input)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Where its state is.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) -> Result<(), Error> {
        self.child.kill()?;
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
        self.kill().ok();
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
