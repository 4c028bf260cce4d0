//! What a seed is: a fleet, its configuration, how often what goes wrong; and what every seed
//! shares: a certificate authority with an identity for everybody.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{MachineName, Timestamp};
use coordinator::ca::{Ca, Serial, SigningRequest};
use coordinator_core::{
    Change,
    identity::{Certificate, Holder, Role},
};
use platform::{
    clock::{Clock, TimeSource},
    identity::{Identity, KeyAndRequest},
};
use serde_json::{Map, Value, json};

use crate::sim::rng::Rng;

/// Milliseconds of simulated time.
pub(crate) type At = u64;

pub(crate) const SECOND: At = 1000;
pub(crate) const MINUTE: At = 60 * SECOND;
pub(crate) const HOUR: At = 60 * MINUTE;

/// Names in the simulated network.
pub(crate) const COORDINATOR: &str = "coordinator";
pub(crate) const OUTSIDE: &str = "outside";

/// Names in certificates.
const OPERATOR: &str = "operator";
const STRANGER: &str = "stranger";

/// Port of the coordinator's members' door.
pub(crate) const PORT: u16 = 7443;

/// Most machines of a fleet here.
const MACHINES_MAX: u64 = 6;

/// When every simulation begins; certificates are good around the real now, whatever this is.
const START: Timestamp = Timestamp(1_795_000_000_000);

/// Kinds of faults that come by themselves, each with a weight.
pub(crate) const KINDS: usize = 12;

/// Those with which the coordinator dies.
pub(crate) const COORDINATOR_DIES: [usize; 2] = [9, 10];

/// One seed.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) machines: Vec<MachineName>,
    pub(crate) document: Value,
    pub(crate) poll_hold: Duration,
    pub(crate) poll_pause: Duration,
    pub(crate) health_every: Duration,
    /// How long things go wrong.
    pub(crate) trouble: At,
    /// Mean time between two faults.
    pub(crate) between_faults: At,
    pub(crate) weights: [u64; KINDS],
    /// In a million: releases that need a reboot, and machines on which one is bad.
    pub(crate) needs_reboot: u64,
    pub(crate) flawed: u64,
    /// In a million: chance that a process dies at a write.
    pub(crate) agent_cut: u64,
    pub(crate) coordinator_cut: u64,
}

impl Setup {
    pub(crate) fn draw(seed: u64, hours: u64, rng: &mut Rng) -> Self {
        let count = rng.between(3, MACHINES_MAX);
        let machines: Vec<MachineName> = (1..=count).map(|n| name(&format!("m{n}"))).collect();
        let hold = rng.one([60, 120, 240]);
        let mut weights = [0; KINDS];
        for (kind, weight) in weights.iter_mut().enumerate() {
            // A kind in three does not happen at all in a run. The coordinator dies less often:
            // everybody has to come back each time.
            let most = if COORDINATOR_DIES.contains(&kind) {
                30
            } else {
                100
            };
            *weight = if rng.once_in(3) {
                0
            } else {
                rng.between(1, most)
            };
        }
        Self {
            seed,
            document: document(&machines, hold, rng),
            machines,
            poll_hold: Duration::from_secs(hold),
            poll_pause: Duration::from_secs(rng.one([30, 60])),
            health_every: Duration::from_secs(rng.one([600, 1800])),
            trouble: hours * HOUR,
            between_faults: rng.one([45 * SECOND, 60 * SECOND, 90 * SECOND]),
            weights,
            needs_reboot: rng.below(900_000),
            flawed: rng.below(250_000),
            agent_cut: rng.below(15_000),
            coordinator_cut: rng.below(8_000),
        }
    }
}

pub(crate) fn name(text: &str) -> MachineName {
    text.parse()
        .unwrap_or_else(|_| unreachable!("{text} is a name"))
}

fn document(machines: &[MachineName], hold: u64, rng: &mut Rng) -> Value {
    let count = rng.between(1, 3).min(machines.len() as u64);
    let mut groups = Map::new();
    for index in 0..count {
        let of_it = (index..machines.len() as u64).step_by(usize::try_from(count).unwrap_or(1));
        let members: Vec<&MachineName> = of_it
            .filter_map(|n| machines.get(usize::try_from(n).ok()?))
            .collect();
        let mut group = Map::new();
        group.insert("machines".to_owned(), json!(members));
        let preset = rng.one(["aggressive", "conservative"]);
        group.insert("updatePolicy".to_owned(), json!(preset));
        group.insert("allowReboot".to_owned(), json!(!rng.once_in(5)));
        group.insert("maxParallel".to_owned(), json!(rng.between(1, 3)));
        group.insert("maxFailures".to_owned(), json!(rng.below(4)));
        group.insert("soak".to_owned(), json!(rng.one([0, 60, 300])));
        group.insert("canary".to_owned(), json!(rng.below(2)));
        group.insert("canarySoak".to_owned(), json!(60));
        group.insert("requireApproval".to_owned(), json!(rng.once_in(5)));
        if index > 0 && rng.once_in(2) {
            let on = format!("g{}", rng.below(index));
            group.insert("dependencies".to_owned(), json!([on]));
        }
        groups.insert(format!("g{index}"), Value::Object(group));
    }
    json!({
        "updateGroups": groups,
        "updateSettings": {
            "maxParallel": rng.between(1, 4),
            "healthCheckTimeout": 120,
            "rollbackOnFailure": !rng.once_in(6),
            "staggerDelay": rng.one([0, 60, 300]),
            "leaseTime": rng.one([120, 300]),
            "graceTime": rng.one([300, 900]),
            "offlineAfter": 2 * hold + 300,
            "catchUp": 2 * 3600,
            "stageTimeout": 1800,
            "noProgressAfter": 2 * 3600,
            "approvalExpiry": 4 * 3600,
        }
    })
}

/// Everybody's identity. Keys are made once for each process: they are the one thing that no seed
/// decides, and nothing that is decided depends on them.
pub struct Identities {
    pub(crate) ca: Arc<Ca>,
    pub(crate) machines: Vec<Identity>,
    pub(crate) operator: Identity,
    /// A machine with a good certificate that is nobody's in the configuration.
    pub(crate) stranger: Identity,
    /// Of another fleet's CA, with the name of a machine of this one.
    pub(crate) impostor: Identity,
    pub(crate) hook: PathBuf,
    directory: tempfile::TempDir,
}

impl Identities {
    /// Makes all of them.
    pub fn make() -> io::Result<Self> {
        let directory = scratch()?;
        let ca = authority(&directory.path().join("ca"))?;
        let other = authority(&directory.path().join("other"))?;
        let machine = |n: u64| Holder::Machine(name(&format!("m{n}")));
        let machines = (1..=MACHINES_MAX)
            .map(|n| identity(&ca, &machine(n), n))
            .collect::<io::Result<Vec<_>>>()?;
        let hook = directory.path().join("hook");
        fs::write(&hook, "")?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            operator: identity(&ca, &operator(), 100)?,
            stranger: identity(&ca, &Holder::Machine(name(STRANGER)), 101)?,
            impostor: identity(&other, &machine(1), 1)?,
            machines,
            ca: Arc::new(ca),
            hook,
            directory,
        })
    }

    /// A directory for one run, gone when it is dropped.
    pub(crate) fn directory(&self) -> io::Result<tempfile::TempDir> {
        tempfile::tempdir_in(self.directory.path())
    }

    /// The facts that make the coordinator know them.
    pub(crate) fn facts(&self) -> Vec<Change> {
        let machines = self.machines.iter().enumerate().map(|(index, identity)| {
            let holder = Holder::Machine(name(&format!("m{}", index + 1)));
            (identity, holder)
        });
        let others = [
            (&self.operator, operator()),
            (&self.stranger, Holder::Machine(name(STRANGER))),
        ];
        let issued = machines
            .chain(others)
            .map(|(identity, holder)| Change::CertificateIssued {
                serial: identity.serial().to_owned(),
                certificate: Certificate {
                    holder,
                    issued_at: START,
                    expires_at: START + Duration::from_secs(365 * 24 * 3600),
                    revoked: false,
                },
                token: None,
            });
        issued.collect()
    }
}

/// A directory in memory where there is one: agents sync every step that they take.
fn scratch() -> io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(directory) = tempfile::tempdir_in(memory)
    {
        return Ok(directory);
    }
    tempfile::tempdir()
}

fn operator() -> Holder {
    let name = OPERATOR
        .parse()
        .unwrap_or_else(|_| unreachable!("{OPERATOR} is a name"));
    Holder::Operator {
        name,
        role: Role::Admin,
    }
}

fn authority(directory: &Path) -> io::Result<Ca> {
    fs::create_dir_all(directory)?;
    Ca::open(directory).map_err(io::Error::other)
}

/// The serial number is chosen: the age at which the coordinator ends a connection follows from it.
fn identity(ca: &Ca, holder: &Holder, serial: u64) -> io::Result<Identity> {
    let own = KeyAndRequest::generate().map_err(io::Error::other)?;
    let request = SigningRequest::parse(&own.request_pem).map_err(io::Error::other)?;
    let chain = ca.sign(&request, holder, &Serial::chosen(serial));
    let chain = chain.map_err(io::Error::other)?;
    Identity::from_parts(&own.key_pem, &chain).map_err(io::Error::other)
}

/// A host's clock: the simulation's time, a wall clock that may be wrong, and a boot.
#[derive(Debug, Default)]
pub(crate) struct SimClock {
    pub(crate) offset_ms: AtomicI64,
    pub(crate) booted_at: AtomicU64,
}

impl SimClock {
    pub(crate) fn clock(self: &Arc<Self>) -> Clock {
        Clock::given(self.clone())
    }
}

impl TimeSource for SimClock {
    fn now(&self) -> Timestamp {
        let offset = self.offset_ms.load(Ordering::Relaxed);
        let passed = i64::try_from(elapsed()).unwrap_or(i64::MAX / 2);
        Timestamp(START.0 + passed + offset)
    }

    fn uptime(&self) -> Duration {
        let booted_at = self.booted_at.load(Ordering::Relaxed);
        Duration::from_millis(elapsed().saturating_sub(booted_at) + SECOND)
    }
}

/// How long the simulation runs, as whoever runs in it sees it.
pub(crate) fn elapsed() -> At {
    let elapsed = ::turmoil::sim_elapsed().unwrap_or_default();
    At::try_from(elapsed.as_millis()).unwrap_or(At::MAX)
}
