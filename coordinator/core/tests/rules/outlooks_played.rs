//! The times of a plan against those of its rollout, in which everybody goes at once and well, every
//! measurement passes, and traffic moves as soon as it is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{MachineName, OutcomeKind, RolloutId, Timestamp};
use coordinator_core::{
    Request,
    analysis::Finding,
    plan::Plan,
    request::{Directive, Grant, OperatorRequest, Reply, Wish},
    traffic::Answered,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{
    fleet::{World, minutes, wish},
    outlooks::seen,
};

/// Who is at work: until when, and with which grant.
type Away = BTreeMap<MachineName, (Timestamp, Grant)>;

/// A rollout in the making.
struct Played<'a> {
    world: &'a mut World,
    rollout: RolloutId,
    /// Those who have not begun, in the order of the plan, and what they take.
    to_go: Vec<(MachineName, Duration)>,
    away: Away,
    turns: BTreeMap<MachineName, (Timestamp, Timestamp)>,
}

/// When everybody had their turn, and when it was over; `None`: not within a week.
fn played(
    world: &mut World,
    plan: &Plan,
    wish: &Wish,
) -> (
    BTreeMap<MachineName, (Timestamp, Timestamp)>,
    Option<Timestamp>,
) {
    let to_go = plan.groups.iter().flat_map(|group| {
        let machines = group.waves.iter().flat_map(|wave| &wave.machines);
        machines.map(|machine| (machine.name.clone(), group.policy.expected_duration))
    });
    let to_go = to_go.collect();
    let request = OperatorRequest::Execute {
        wish: wish.clone(),
        if_plan: None,
    };
    let Reply::Executed { rollout, .. } = world.ask(request) else {
        panic!("not executed");
    };
    let mut played = Played {
        world,
        rollout: rollout.expect("something to do"),
        to_go,
        away: Away::new(),
        turns: BTreeMap::new(),
    };
    let end = played.world.now + minutes(7 * 24 * 60);
    while played.ended_at().is_none() && played.world.now < end {
        played.instant();
        played.world.now = played.next();
    }
    let ended = played.ended_at();
    (played.turns, ended)
}

impl Played<'_> {
    fn ended_at(&self) -> Option<Timestamp> {
        self.world.fleet.rollout(&self.rollout)?.ended_at
    }

    /// Everything that happens now.
    fn instant(&mut self) {
        self.give_signs_of_life();
        loop {
            let before = (self.to_go.len(), self.away.len());
            self.come_back();
            self.answer();
            self.begin();
            let quiet = self.world.wanted.is_empty() && self.world.fleet.wanted_moves().is_empty();
            if quiet && before == (self.to_go.len(), self.away.len()) {
                return;
            }
        }
    }

    /// The next instant at which something may happen: nobody is silent for longer than a few minutes.
    fn next(&self) -> Timestamp {
        let now = self.world.now;
        let back = self.away.values().map(|(back, _)| *back);
        let deadline = self.world.fleet.next_deadline();
        back.chain([deadline, now + minutes(4)])
            .min()
            .unwrap_or(now)
    }

    fn give_signs_of_life(&mut self) {
        drop(self.world.handle(Request::Tick));
        for machine in self.world.reports.keys().cloned().collect::<Vec<_>>() {
            if let Some((_, grant)) = self.away.get(&machine) {
                drop(self.world.renew(machine.as_str(), grant));
                continue;
            }
            drop(self.world.sign_of_life(machine.as_str()));
        }
    }

    fn come_back(&mut self) {
        let now = self.world.now;
        let is_back = |(_, (back, _)): &(&MachineName, &(Timestamp, Grant))| *back <= now;
        let back: Vec<MachineName> = self
            .away
            .iter()
            .filter(is_back)
            .map(|(m, _)| m.clone())
            .collect();
        for machine in back {
            let (_, grant) = self.away.remove(&machine).expect("away");
            self.world
                .end(machine.as_str(), &grant, OutcomeKind::Confirmed);
        }
    }

    /// What is measured passes, and traffic moves.
    fn answer(&mut self) {
        for measurement in std::mem::take(&mut self.world.wanted) {
            drop(self.world.handle(Request::Measured {
                id: measurement.id,
                finding: Finding::Pass,
                detail: String::new(),
            }));
        }
        for wanted in self.world.fleet.wanted_moves() {
            drop(self.world.handle(Request::TrafficMoved(Answered {
                group: wanted.group,
                number: wanted.number,
                attempt: wanted.attempt,
                result: Ok(String::new()),
            })));
        }
    }

    fn begin(&mut self) {
        let now = self.world.now;
        let mut left = Vec::new();
        for (machine, takes) in std::mem::take(&mut self.to_go) {
            match self.world.poll(machine.as_str()) {
                Directive::Proceed(grant) => {
                    self.turns.insert(machine.clone(), (now, now + takes));
                    self.away.insert(machine, (now + takes, grant));
                }
                _ => left.push((machine, takes)),
            }
        }
        self.to_go = left;
    }
}

/// One group of random rules.
#[derive(Clone, Debug)]
struct Drawn {
    size: usize,
    parallel: u32,
    takes: u64,
    soak: u64,
    waves: bool,
    sides: bool,
    after: u8,
    /// Of each gate: delay and interval in seconds, and how many must pass.
    gates: Vec<(u64, u64, u32)>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let gate = (0_u64..600, 1_u64..300, 1_u32..4);
    let gates = proptest::collection::vec(gate, 0..3);
    let numbers = (1_usize..5, 1_u32..4, 1_u64..30, 0_u64..20);
    let rest = (any::<bool>(), any::<bool>(), any::<u8>(), gates);
    (numbers, rest).prop_map(
        |((size, parallel, takes, soak), (waves, sides, after, gates))| Drawn {
            size,
            parallel,
            takes,
            soak,
            waves,
            sides,
            after,
            gates,
        },
    )
}

/// The configuration of these groups, with the first machines of one of them, so many, for coordinators', and
/// with these pairs apart.
fn document(
    groups: &[Drawn],
    (most, stagger): (u32, u64),
    coordinator: Option<(usize, usize)>,
    apart: &[(usize, usize)],
) -> Value {
    let mut analysis = Map::new();
    let mut all = Map::new();
    let mut fleet = 0;
    for (index, drawn) in groups.iter().enumerate() {
        let machines: Vec<String> = (0..drawn.size).map(|n| format!("m{index}-{n}")).collect();
        fleet += drawn.size;
        let after = (0..index).filter(|other| drawn.after >> other & 1 == 1);
        let after: Vec<String> = after.map(|other| format!("g{other}")).collect();
        let mut names = Vec::new();
        for (number, (delay, interval, passes)) in drawn.gates.iter().enumerate() {
            let gate = json!({
                "tcp": "example.org:443", "initialDelay": format!("{delay}s"),
                "interval": format!("{interval}s"), "passes": passes,
            });
            analysis.insert(format!("gate-{index}-{number}"), gate);
            names.push(format!("gate-{index}-{number}"));
        }
        let parallel = usize::try_from(drawn.parallel)
            .expect("small")
            .min(drawn.size);
        let mut group = json!({
            "machines": machines, "updatePolicy": "aggressive", "dependencies": after,
            "maxParallel": parallel, "expectedDuration": format!("{}m", drawn.takes),
            "soak": format!("{}m", drawn.soak), "gates": names,
        });
        if drawn.sides && drawn.size > 1 && coordinator.is_none() {
            let (blue, green) = machines.split_at(drawn.size / 2);
            group["blueGreen"] = json!({
                "sides": { "blue": blue, "green": green },
                "traffic": { "haproxy": { "socket": "/run/haproxy.sock", "backend": format!("b{index}") } },
                "watch": format!("{}m", drawn.soak),
            });
            group.as_object_mut().expect("one").remove("soak");
        } else if drawn.waves && drawn.size > 2 {
            group["waves"] = json!([1, 2]);
        }
        all.insert(format!("g{index}"), group);
    }
    let most = usize::try_from(most).expect("small").min(fleet);
    let coordinators = coordinator.iter().flat_map(|(group, count)| {
        let count = (*count).min(groups[*group].size);
        (0..count).map(move |number| format!("m{group}-{number}"))
    });
    let coordinators: Vec<String> = coordinators.collect();
    let names: Vec<&Value> = all.values().map(|group| &group["machines"]).collect();
    let names: Vec<&Value> = names
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .collect();
    let apart = apart
        .iter()
        .map(|(one, other)| [names[one % fleet], names[other % fleet]]);
    let apart: Vec<[&Value; 2]> = apart.filter(|[one, other]| one != other).collect();
    json!({
        "analysis": analysis,
        "updateGroups": all,
        "updateSettings": {
            "maxParallel": most, "staggerDelay": format!("{stagger}m"), "coordinators": coordinators,
            "apart": apart,
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_rollout_that_goes_well_keeps_the_times_of_its_plan(
        groups in proptest::collection::vec(drawn(), 1..4),
        most in 1_u32..5,
        stagger in 0_u64..30,
        coordinator in proptest::option::of((0_usize..3, 1_usize..5)),
        apart in proptest::collection::vec((0_usize..12, 0_usize..12), 0..3),
        immediate in any::<bool>(),
    ) {
        let coordinator = coordinator.filter(|(group, _)| *group < groups.len());
        let mut world = World::of(&document(&groups, (most, stagger), coordinator, &apart));
        let wish = Wish { immediate, ..wish(&[]) };
        let (plan, outlook) = seen(&world, &wish);
        let (turns, ended) = played(&mut world, &plan, &wish);
        let names: BTreeSet<&MachineName> = world.reports.keys().collect();
        prop_assert_eq!(turns.keys().collect::<BTreeSet<_>>(), names);
        prop_assert_eq!(outlook.turns, turns);
        prop_assert_eq!(outlook.ends_at, ended);
    }
}
