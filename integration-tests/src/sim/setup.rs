//! What a seed draws before the time begins: the fleet, its configuration, its machines' limits,
//! and how often what goes wrong. Some kinds of faults are left out of each seed altogether
//! ("swarm testing"): a world in which everything fails at once never gets far enough to be wrong.

use std::time::Duration;

use agent_core::Limits;
use common::{StorePath, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{event::At, events, machine::Machine, other_words, rng::Rng, waves};

pub(crate) const MINUTE: At = 60_000;
pub(crate) const HOUR: At = 60 * MINUTE;

/// Zones with and without changes of the clocks, on both halves of the world.
const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Africa/Casablanca",
];

/// Days around which clocks change somewhere, and ordinary ones.
const STARTS: [&str; 8] = [
    "2026-03-27T08:00:00Z",
    "2026-10-23T15:00:00Z",
    "2026-03-06T01:00:00Z",
    "2026-10-30T20:00:00Z",
    "2026-04-03T05:00:00Z",
    "2026-07-15T11:00:00Z",
    "2026-12-29T22:00:00Z",
    "2028-02-28T03:00:00Z",
];

/// The world of a seed, complete enough to be built again without chance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    /// The true time at the beginning, milliseconds since 1970.
    pub(crate) start: i64,
    pub(crate) document: Value,
    pub(crate) machines: Vec<String>,
    /// By how many millionths each machine's clock is fast.
    #[serde(default)]
    pub(crate) drifts: Vec<i64>,
    pub(crate) poll_hold_s: u64,
    pub(crate) poll_pause_s: u64,
    pub(crate) health_every_s: u64,
    /// How long faults go on.
    pub(crate) duration: At,
}

/// How often what goes wrong. Chances are in a million; means in milliseconds between two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) lost: u64,
    /// What the coordinator says unasked: nobody notices when it gets lost.
    pub(crate) push_lost: u64,
    pub(crate) delayed: u64,
    pub(crate) doubled: u64,
    pub(crate) agent_cut: u64,
    pub(crate) batch_cut: u64,
    pub(crate) unit_fails: u64,
    pub(crate) unit_slow: u64,
    pub(crate) odd_boot: u64,
    pub(crate) slow_return: u64,
    pub(crate) flawed: u64,
    pub(crate) needs_reboot: u64,
    /// Between two faults of the kinds below; 0: none.
    pub(crate) chaos: At,
    /// Weights of: coordinator dies, clock jumps, agent dies, power cut, ill, partition, one way,
    /// clog, forgery, agent stands still, disk full, restore from a backup.
    pub(crate) kinds: [u64; 12],
    /// Between two acts of the operators.
    pub(crate) operator: At,
    /// Measurements that do not pass.
    pub(crate) gate: u64,
}

impl Rates {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut rate = |most: u64| {
            if rng.chance(400_000) {
                0
            } else {
                let part = rng.between(1, 100);
                most * part * part / 10_000
            }
        };
        let mut rates = Self {
            lost: rate(80_000),
            // Some networks let nothing through that was not asked for.
            push_lost: rate(2_000_000),
            delayed: rate(60_000),
            doubled: rate(150_000),
            agent_cut: rate(15_000),
            batch_cut: rate(8_000),
            unit_fails: rate(60_000),
            unit_slow: rate(60_000),
            odd_boot: rate(150_000),
            slow_return: rate(200_000),
            flawed: rate(300_000),
            needs_reboot: rate(900_000),
            ..Self::default()
        };
        for kind in &mut rates.kinds {
            *kind = rate(100);
        }
        rates.chaos = rng.one([0, 20 * MINUTE, HOUR, 4 * HOUR]);
        rates.operator = rng.one([30 * MINUTE, 90 * MINUTE, 4 * HOUR]);
        rates.gate = rng.one([0, 20_000, 200_000]);
        rates
    }
}

impl Setup {
    pub(crate) fn draw(seed: u64, rng: &mut Rng) -> Self {
        let size = match rng.below(100) {
            0..=1 => rng.between(100, 250),
            2..=40 => rng.between(3, 9),
            _ => rng.between(10, 40),
        };
        let size = usize::try_from(size).unwrap_or(9);
        let machines: Vec<String> = (1..=size).map(|n| format!("m{n}")).collect();
        let start = rng.pick(&STARTS).copied().unwrap_or(STARTS[0]);
        let start: jiff::Timestamp = start
            .parse()
            .unwrap_or_else(|_| unreachable!("{start} is a time"));
        let poll_hold_s = rng.one([600, 1800, 3600]);
        let drifts = machines.iter().map(|_| rng.between(0, 2_000));
        let drifts = drifts.map(|drift| i64::try_from(drift).unwrap_or(0) - 1_000);
        let drifts = drifts.collect();
        let days = if size >= 100 { 1 } else { rng.between(1, 4) };
        Self {
            seed,
            start: start.as_millisecond() + i64::try_from(rng.below(48 * HOUR)).unwrap_or(0),
            document: document(&machines, poll_hold_s, start, rng),
            machines,
            drifts,
            poll_hold_s,
            poll_pause_s: rng.one([30, 60, 300]),
            health_every_s: rng.one([3600, 7200, 4 * 3600]),
            duration: days * 24 * HOUR,
        }
    }

    pub(crate) fn start(&self) -> Timestamp {
        Timestamp(self.start)
    }

    pub(crate) fn build(&self) -> Vec<Machine> {
        let machines = self.machines.iter().enumerate().map(|(index, name)| {
            let name = name
                .parse()
                .unwrap_or_else(|_| unreachable!("{name} is a name"));
            let drift = self.drifts.get(index).copied().unwrap_or(0);
            let limits = Limits {
                agent_version: "simulated".to_owned(),
                seed: self.seed ^ (index as u64) << 32,
                poll_hold: Duration::from_secs(self.poll_hold_s),
                poll_pause: Duration::from_secs(self.poll_pause_s),
                health_every: Duration::from_secs(self.health_every_s),
                backoff_max: Duration::from_secs(300),
                has_traffic_script: true,
                ..Limits::default()
            };
            Machine::new(name, limits, drift, system(0))
        });
        machines.collect()
    }
}

/// The n-th system closure of the world.
pub(crate) fn system(number: u64) -> StorePath {
    let text = format!("/nix/store/{number:032}-nixos-system-{number}");
    text.parse()
        .unwrap_or_else(|_| unreachable!("{text} is a store path"))
}

fn document(machines: &[String], poll_hold_s: u64, begin: jiff::Timestamp, rng: &mut Rng) -> Value {
    let count = rng.between(1, 6).min(machines.len() as u64);
    let mut members: Vec<Vec<&String>> = (0..count).map(|_| Vec::new()).collect();
    for (index, machine) in machines.iter().enumerate() {
        let group = if index < members.len() {
            index
        } else {
            rng.index(members.len())
        };
        members[group].push(machine);
    }
    // One of three may be away; those who run a coordinator, and the one that serves, the first of them.
    // Groups of theirs have no two sides: of some fleets only the one that serves.
    let coordinators = if machines.len() % 4 == 2 { 1..2 } else { 1..4 };
    let coordinators = machines.get(coordinators).unwrap_or_default();
    // It goes last unlisted as well.
    let listed = match machines.len() % 8 {
        3 => coordinators.get(1..).unwrap_or_default(),
        _ => coordinators,
    };
    let mut groups = Map::new();
    for (index, members) in members.iter().enumerate() {
        groups.insert(
            format!("g{index}"),
            group(index, members, coordinators, rng),
        );
    }
    // Neighbours in the list, of one group or of two.
    let apart: Vec<&[String]> = machines.chunks_exact(2).step_by(3).collect();
    // Drawn by what was drawn before, so that this moves no other draw.
    let max_failures = [json!(null), json!("20%"), json!(2)];
    let max_failures = &max_failures[machines.len() % 3];
    let quarantine = [json!(3), json!(2), json!(null)];
    let quarantine = &quarantine[machines.len() / 3 % 3];
    let days = ["8h", "24h", "0s"];
    let day = |nth: usize| days[(machines.len() + nth) % 3];
    let alarms = json!({ "notUpdated": day(0), "notApplied": day(1) });
    let gates = gates(&mut groups, rng);
    two_sides(&mut groups, coordinators);
    // Silence must be longer than a held poll, or everybody who waits counts as offline.
    let offline = 2 * poll_hold_s + 300;
    let mut document = json!({
        "analysis": gates,
        "updateGroups": groups,
        "updateSettings": {
            "maxParallel": rng.between(1, 6),
            "apart": apart,
            "coordinators": listed,
            "maxFailures": max_failures,
            "quarantineAfter": quarantine,
            "quarantineTargetAfter": (machines.len() + 1) % 4,
            "alarms": alarms,
            "fourEyes": machines.len() % 4 == 1,
            "healthCheckTimeout": rng.one([120, 300]),
            "rollbackOnFailure": !rng.once_in(6),
            "staggerDelay": rng.one([0, 600, 1800]),
            "leaseTime": rng.one([300, 900]),
            "graceTime": rng.one([300, 900, 3600]),
            "offlineAfter": offline,
            "catchUp": rng.one([6 * 3600, 24 * 3600]),
            "stageTimeout": 7200,
            "approvalExpiry": rng.one([6 * 3600, 48 * 3600]),
            "timezone": rng.one(ZONES),
        }
    });
    document["updateMachines"] = of_their_own(machines);
    avoid(&mut document, begin, rng);
    document["updateSettings"]["source"] = json!({ "targets": "/targets.json" });
    if rng.once_in(2) {
        document["schedules"] = schedules(rng);
    }
    // Drawn by what was drawn before, so that this moves no other draw.
    if machines.len().is_multiple_of(2) {
        let crons = ["*/50 * * * *", "20 */3 * * *", "0 1 * * *"];
        document["schedules"]["tidy"] = json!({
            "cron": crons[machines.len() / 2 % 3],
            "action": "cleanup",
            "keep": 2,
            "keepFor": "20m",
            "collectGarbage": machines.len().is_multiple_of(4),
        });
    }
    other_words::say(&mut document);
    super::times::of_some(&mut document, machines);
    document
}

/// Keys of their own for some machines, by what was drawn before, so that this moves no other draw.
fn of_their_own(machines: &[String]) -> Value {
    let keys = [
        json!({ "maintenanceWindow": "01:30-05:30", "timezone": "Europe/Berlin", "retries": 2, "retryAfter": "4m" }),
        json!({ "maintenanceWindow": ["20:00-23:00", "02:00-04:00", { "times": "00:00-24:00", "days": ["sat"] }], "healthCheckTimeout": 240 }),
        json!({ "allowReboot": false, "avoid": [], "expectedDuration": "20m", "rollbackOnFailure": "machine", "retries": 0 }),
    ];
    let own = machines.iter().enumerate().filter_map(|(index, machine)| {
        let odd = index + 2 * machines.len();
        Some((machine.clone(), keys.get(odd % 7)?.clone()))
    });
    Value::Object(own.collect())
}

/// Calendars, and groups that avoid them: of every hour of some of the day the middle, which leaves time
/// enough in whatever window, and a few days about the beginning.
fn avoid(document: &mut Value, begin: jiff::Timestamp, rng: &mut Rng) {
    document["updateSettings"]["calendars"] = calendars(begin, rng);
    let Some(groups) = document["updateGroups"].as_object_mut() else {
        return;
    };
    for group in groups.values_mut() {
        match rng.below(6) {
            0 => group["avoid"] = json!(["hours"]),
            1 => group["avoid"] = json!(["days"]),
            2 => group["avoid"] = json!(["hours", "days"]),
            _ => {}
        }
    }
}

pub(crate) fn calendars(begin: jiff::Timestamp, rng: &mut Rng) -> Value {
    let first = rng.below(24);
    let hours = first..first + rng.between(1, 12);
    let hours = hours.map(|hour| {
        let hour = hour % 24;
        format!("{hour:02}:20-{hour:02}:40")
    });
    let day = |days: u64| {
        let hours = i64::try_from(24 * days).unwrap_or(0);
        let at = begin.checked_add(jiff::SignedDuration::from_hours(hours));
        at.unwrap_or(begin).strftime("%Y-%m-%d").to_string()
    };
    let from = rng.below(4);
    let to = from + rng.below(3);
    let dates = [
        format!("{}/{}", day(from), day(to)),
        day(to + 2)[5..].to_owned(),
    ];
    json!({
        "hours": { "hours": hours.collect::<Vec<_>>() },
        "days": { "dates": dates },
        "events": { "ics": events::text(&day, first, to) },
    })
}

/// Often enough that runs overlap, and where clocks change.
fn schedules(rng: &mut Rng) -> Value {
    let crons = ["*/30 * * * *", "0 */4 * * *", "30 2 * * *", "0 1 * * 0,3"];
    let jitters: [u64; 2] = [0, 1200];
    let mut schedules = Map::new();
    for (name, action) in [("nightly", "update"), ("health", "health-check")] {
        let mut schedule = json!({
            "cron": rng.one(crons),
            "action": action,
            "jitter": rng.one(jitters),
            "catchUpWithin": rng.one([0, 3600, 6 * 3600]),
        });
        if rng.once_in(3) {
            schedule["groups"] = json!(["g0"]);
        }
        schedules.insert(name.to_owned(), schedule);
    }
    Value::Object(schedules)
}

fn group(index: usize, members: &[&String], coordinators: &[String], rng: &mut Rng) -> Value {
    let mut group = Map::new();
    group.insert("machines".to_owned(), json!(members));
    let preset = ["aggressive", "conservative", "manual-approval"];
    let preset = rng.one(preset);
    group.insert("updatePolicy".to_owned(), json!(preset));
    let reboots = !rng.once_in(4);
    group.insert("allowReboot".to_owned(), json!(reboots));
    group.insert(
        "softReboot".to_owned(),
        json!(reboots && index.is_multiple_of(2)),
    );
    if rng.once_in(2) {
        let quarters = rng.between(1, 4);
        let parallel = if index.is_multiple_of(2) {
            json!(quarters)
        } else {
            json!(format!("{}%", quarters * 25))
        };
        group.insert("maxParallel".to_owned(), parallel);
    }
    if rng.once_in(3) {
        group.insert("maxFailures".to_owned(), json!(rng.below(3)));
    }
    if rng.once_in(3) {
        group.insert("soak".to_owned(), json!(rng.one([300, 3600])));
    }
    if rng.once_in(4) && members.len() > 2 {
        group.insert("canary".to_owned(), json!(rng.between(0, 2)));
    }
    if !rng.once_in(3) {
        group.insert("maintenanceWindow".to_owned(), window(rng));
    }
    if rng.once_in(3) {
        group.insert("timezone".to_owned(), json!(rng.one(ZONES)));
    }
    if index > 0 && rng.once_in(2) {
        let on = rng.index(index);
        group.insert("dependencies".to_owned(), json!([format!("g{on}")]));
    }
    if members.len() % 3 != 1 {
        group.insert("retries".to_owned(), json!(members.len() % 3 + 1));
        group.insert("retryAfter".to_owned(), json!("20m"));
    }
    // Less than most attempts take, so that what machines have shown counts.
    if index % 3 == 1 {
        group.insert("expectedDuration".to_owned(), json!("1m"));
    }
    waves::of_group(index, members, coordinators, &mut group);
    Value::Object(group)
}

/// Two sides for some groups, by what was drawn before, so that this moves no other draw.
fn two_sides(groups: &mut Map<String, Value>, coordinators: &[String]) {
    for (index, group) in groups.values_mut().enumerate() {
        let members = group["machines"].as_array().cloned().unwrap_or_default();
        let runs_one = |machine: &Value| coordinators.iter().any(|one| *machine == **one);
        let fits = members.len() >= 2 && !members.iter().any(runs_one);
        let Some(keys) = group.as_object_mut() else {
            continue;
        };
        if !fits || (members.len() + index) % 3 != 1 {
            continue;
        }
        for key in ["canary", "waves", "soak"] {
            keys.remove(key);
        }
        if keys
            .get("pauseAfter")
            .is_some_and(|after| after == "canary")
        {
            keys.remove("pauseAfter");
        }
        let (blue, green) = members.split_at(members.len() / 2);
        let watches = ["2m", "10m", "1h"];
        let traffic = match index % 2 {
            0 => json!({ "haproxy": { "socket": "/run/haproxy.sock", "backend": "web" } }),
            _ => json!({ "hook": true }),
        };
        let sides = json!({
            "sides": { "blue": blue, "green": green },
            "traffic": traffic,
            "watch": watches[members.len() % 3],
        });
        keys.insert("blueGreen".to_owned(), sides);
    }
}

/// What gates measure; some of the groups get some of them.
fn gates(groups: &mut Map<String, Value>, rng: &mut Rng) -> Value {
    for group in groups.values_mut() {
        let named: &[&str] = rng.one([&["site"][..], &["site", "rate"], &["system", "rate"]]);
        if rng.once_in(3) {
            group["gates"] = json!(named);
        }
    }
    json!({
        "site": { "http": "https://www.example.org", "passes": rng.between(1, 3), "interval": rng.one([5, 60]) },
        "rate": {
            "promql": "up", "prometheus": "http://localhost:9090", "atLeast": 1, "passes": 2,
            "failureLimit": rng.below(3), "inconclusiveLimit": rng.below(3), "errorLimit": rng.below(3),
            "initialDelay": rng.one([0, 120]),
        },
        "system": { "healthCheck": "system", "passes": rng.between(1, 2) },
    })
}

/// A window, more often than not where clocks change.
pub(crate) fn window(rng: &mut Rng) -> Value {
    let from = if rng.once_in(2) {
        rng.between(0, 3)
    } else {
        rng.below(24)
    };
    let minutes = rng.one([0, 30]);
    let length = rng.one([1, 2, 4, 10]);
    let to = (from + length) % 24;
    // Midnight in its other form.
    let to = if (to, minutes) == (0, 0) { 24 } else { to };
    let times = format!("{from:02}:{minutes:02}-{to:02}:{minutes:02}");
    if rng.once_in(4) {
        json!({ "times": times, "days": ["Mon", "Tue", "Thu", "Fri", "Sun"] })
    } else {
        json!(times)
    }
}
