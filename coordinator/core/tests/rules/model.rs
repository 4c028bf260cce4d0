//! Limits, budgets, waves and dependencies against a model of them: the rules as the handbook has them, by
//! looking at everybody each time, in random fleets to which random things happen.

use common::{HealthState, OutcomeKind};
use coordinator_core::{
    request::{Directive, Grant, OperatorRequest},
    rollout::RolloutState,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fleet::{World, name};

/// A machine's part in the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    ToGo,
    AtWork,
    Updated,
    Failed,
}

#[derive(Clone, Debug)]
struct Machine {
    name: String,
    part: Part,
    /// It failed, and has not said since that it is healthy.
    stuck: bool,
    ill: bool,
}

impl Machine {
    fn is_away(&self) -> bool {
        self.part == Part::AtWork || self.stuck
    }

    fn has_ended(&self) -> bool {
        matches!(self.part, Part::Updated | Part::Failed)
    }
}

#[derive(Clone, Debug)]
struct Group {
    machines: Vec<Machine>,
    parallel: usize,
    may_fail: usize,
    canary: usize,
    after: Vec<usize>,
    forgiven: usize,
    /// Somebody went on although nobody of the canary was updated.
    unshown_accepted: bool,
}

impl Group {
    fn failed(&self) -> usize {
        let failed = |machine: &&Machine| machine.part == Part::Failed;
        self.machines.iter().filter(failed).count()
    }

    fn is_finished(&self) -> bool {
        self.machines.iter().all(Machine::has_ended)
    }

    /// The canary has ended, and nobody of it was updated.
    fn shows_nothing(&self) -> bool {
        let canary = &self.machines[..self.canary];
        let updated = canary.iter().any(|machine| machine.part == Part::Updated);
        !canary.is_empty() && canary.iter().all(Machine::has_ended) && !updated
    }
}

#[derive(Clone, Debug)]
struct Model {
    groups: Vec<Group>,
    at_once: usize,
    /// Of all groups together.
    may_fail: Option<usize>,
    /// Machines of which one may be away at a time.
    apart: Vec<[String; 2]>,
    paused: bool,
}

impl Model {
    fn may_go(&self, g: usize, m: usize) -> bool {
        let group = &self.groups[g];
        let machine = &group.machines[m];
        let waits_for_the_canary = m >= group.canary && {
            let canary = &group.machines[..group.canary];
            let done = canary.iter().all(Machine::has_ended);
            !done || (group.shows_nothing() && !group.unshown_accepted)
        };
        let others = group.machines.iter().enumerate();
        let taken = others.filter(|(other, o)| *other != m && (o.is_away() || o.ill));
        let away = self.groups.iter().flat_map(|group| &group.machines);
        let everybody = || self.groups.iter().flat_map(|group| &group.machines);
        let is_away =
            |name: &String| everybody().any(|m| m.name == *name && (m.is_away() || m.ill));
        let kept_apart = self.apart.iter().any(|[one, other]| {
            (*one == machine.name && is_away(other)) || (*other == machine.name && is_away(one))
        });
        let hurt = |machine: &Machine| machine.part == Part::Updated && machine.ill;
        !self.paused
            && machine.part == Part::ToGo
            && !machine.ill
            && !machine.stuck
            && group
                .after
                .iter()
                .all(|before| self.groups[*before].is_finished())
            && !waits_for_the_canary
            && !kept_apart
            && !group.machines.iter().any(hurt)
            && taken.count() < group.parallel
            && away.filter(|machine| machine.is_away()).count() < self.at_once
    }

    /// What follows from what has happened.
    fn settle(&mut self) {
        let spent = |group: &Group| group.failed() - group.forgiven > group.may_fail;
        let unshown = |group: &Group| {
            let left = group.machines[group.canary..].iter();
            let left = left.filter(|machine| !machine.has_ended()).count() > 0;
            group.shows_nothing() && !group.unshown_accepted && left
        };
        let groups = &self.groups;
        let counted = groups.iter().map(|group| group.failed() - group.forgiven);
        let counted: usize = counted.sum();
        self.paused |= groups.iter().any(|group| spent(group) || unshown(group))
            || self.may_fail.is_some_and(|may_fail| counted > may_fail);
    }

    fn resume(&mut self) {
        self.paused = false;
        for group in &mut self.groups {
            group.forgiven = group.failed();
            group.unshown_accepted |= group.shows_nothing();
        }
    }

    fn is_over(&self) -> bool {
        self.groups.iter().all(Group::is_finished)
    }
}

/// Size, machines at once, failures, canary, and which groups before it each group depends on.
type Drawn = (usize, usize, usize, bool, u8);

/// Of the fleet: machines at once, failures, and pairs of machines that are kept apart.
type Limits<'a> = (usize, Option<usize>, &'a [(usize, usize)]);

/// So many of a group, written as a number or as a percentage of which a part of a machine counts for nothing.
fn at_once(parallel: usize, size: usize, percent: bool) -> (usize, Value) {
    let number = parallel.min(size);
    if !percent {
        return (number, json!(number));
    }
    let percent = [10, 40, 75][number % 3];
    ((size * percent / 100).max(1), json!(format!("{percent}%")))
}

fn fleet(drawn: &[Drawn], (most, may_fail, apart): Limits<'_>) -> (World, Model) {
    let all: Vec<String> = drawn
        .iter()
        .enumerate()
        .flat_map(|(index, (size, ..))| (0..*size).map(move |m| format!("m{index}-{m}")))
        .collect();
    let apart = apart
        .iter()
        .map(|(one, other)| (one % all.len(), other % all.len()));
    let apart = apart.filter(|(one, other)| one != other);
    let apart: Vec<[String; 2]> = apart
        .map(|(one, other)| [all[one].clone(), all[other].clone()])
        .collect();
    let mut groups = Map::new();
    let mut model = Model {
        groups: Vec::new(),
        at_once: most.min(all.len()),
        may_fail,
        apart: apart.clone(),
        paused: false,
    };
    for (index, (size, parallel, may_fail, canary, after)) in drawn.iter().enumerate() {
        let (parallel, written) = at_once(*parallel, *size, after % 3 == 0);
        let canary = usize::from(*canary && *size > 1);
        let after: Vec<usize> = (0..index)
            .filter(|before| after >> before & 1 == 1)
            .collect();
        let names: Vec<String> = (0..*size).map(|m| format!("m{index}-{m}")).collect();
        let before: Vec<String> = after.iter().map(|before| format!("g{before}")).collect();
        groups.insert(
            format!("g{index}"),
            json!({
                "machines": names, "updatePolicy": "aggressive", "maxParallel": written,
                "maxFailures": may_fail, "canary": canary, "canarySoak": 0, "dependencies": before,
            }),
        );
        let machines = names.into_iter().map(|name| Machine {
            name,
            part: Part::ToGo,
            stuck: false,
            ill: false,
        });
        model.groups.push(Group {
            machines: machines.collect(),
            parallel,
            may_fail: *may_fail,
            canary,
            after,
            forgiven: 0,
            unshown_accepted: false,
        });
    }
    let settings = json!({
        "maxParallel": most.min(all.len()), "staggerDelay": 0, "rollbackOnFailure": "machine",
        "maxFailures": may_fail, "apart": apart,
    });
    (World::new(Value::Object(groups), settings), model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whoever_may_go_may_by_the_handbook_and_the_other_way_round(
        drawn in proptest::collection::vec(
            (1_usize..5, 1_usize..4, 0_usize..3, any::<bool>(), any::<u8>()), 1..4,
        ),
        limits in (1_usize..5, proptest::option::of(0_usize..4)),
        apart in proptest::collection::vec((0_usize..12, 0_usize..12), 0..3),
        events in proptest::collection::vec((0_u8..12, any::<prop::sample::Index>()), 1..60),
    ) {
        let (mut world, mut model) = fleet(&drawn, (limits.0, limits.1, &apart));
        // Everybody obtains what they are to run.
        for machine in world.reports.keys().cloned().collect::<Vec<_>>() {
            world.poll(machine.as_str());
        }
        let rollout = world.execute();
        let places: Vec<(usize, usize)> = model.groups.iter().enumerate()
            .flat_map(|(g, group)| (0..group.machines.len()).map(move |m| (g, m)))
            .collect();
        let mut grants: Vec<Option<Grant>> = vec![None; places.len()];
        for (event, index) in events {
            let at = index.index(places.len());
            let (g, m) = places[at];
            let machine = model.groups[g].machines[m].clone();
            match (event, grants[at].take()) {
                (0..=3, None) => {
                    let may = model.may_go(g, m);
                    let told = world.poll(&machine.name);
                    prop_assert_eq!(matches!(told, Directive::Proceed(_)), may, "{:?}", told);
                    if let Directive::Proceed(grant) = told {
                        model.groups[g].machines[m].part = Part::AtWork;
                        grants[at] = Some(grant);
                    }
                }
                (0..=7, Some(grant)) => {
                    let kind = match event {
                        0 => OutcomeKind::Stuck,
                        1 => OutcomeKind::RolledBack,
                        2 => OutcomeKind::Refused,
                        _ => OutcomeKind::Confirmed,
                    };
                    world.end(&machine.name, &grant, kind);
                    let known = &mut model.groups[g].machines[m];
                    let well = kind == OutcomeKind::Confirmed;
                    known.part = if well { Part::Updated } else { Part::Failed };
                    known.stuck = kind == OutcomeKind::Stuck;
                    known.ill |= known.stuck;
                }
                (8 | 9, None) => {
                    // Who is told of a turn when saying how it is has one.
                    let ill = event == 8;
                    let mut after = model.clone();
                    after.groups[g].machines[m].ill = ill;
                    after.groups[g].machines[m].stuck &= ill;
                    let may = after.may_go(g, m);
                    let health = if ill { HealthState::Unhealthy } else { HealthState::Healthy };
                    world.report(&machine.name).health.state = health;
                    let told = world.poll(&machine.name);
                    model = after;
                    prop_assert_eq!(matches!(told, Directive::Proceed(_)), may, "{:?}", told);
                    if let Directive::Proceed(grant) = told {
                        model.groups[g].machines[m].part = Part::AtWork;
                        grants[at] = Some(grant);
                    }
                }
                (10, grant) => {
                    grants[at] = grant;
                    if model.paused {
                        world.done(OperatorRequest::ResumeRollout {
                            rollout: None,
                            reason: "known".to_owned(),
                        });
                        model.resume();
                    }
                }
                (_, grant) => grants[at] = grant,
            }
            if model.is_over() {
                let rollout = world.fleet.rollout(&rollout).expect("kept");
                prop_assert!(rollout.is_final(), "{:?}", rollout.state);
                return Ok(());
            }
            model.settle();
            let state = world.state(&rollout);
            prop_assert_eq!(matches!(state, RolloutState::Paused(_)), model.paused, "{:?}", state);
            for (g, m) in &places {
                let machine = &model.groups[*g].machines[*m];
                if machine.part == Part::AtWork {
                    continue;
                }
                let permission = world.fleet.permission(&name(&machine.name), world.now);
                let may = model.may_go(*g, *m);
                prop_assert_eq!(permission.is_ok(), may, "{}: {:?}", machine.name, permission);
            }
        }
    }
}
