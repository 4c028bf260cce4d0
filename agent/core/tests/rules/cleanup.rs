//! What a cleanup may take, and when it may come.

use std::{collections::BTreeSet, time::Duration};

use agent_core::{
    Directive, Facts, Failure, NextBoot, UnitState, Work,
    cleanup::{Aged, removable},
};
use common::{CleanUp, Epoch, Generation, StopMode, StorePath};
use proptest::prelude::*;

use crate::world::{Script, World, path, proceed, stage};

/// A request with the usual rule.
pub(crate) fn clean_up(request: u64) -> Directive {
    let cleanup = keep(5, 14);
    Directive::CleanUp { request, cleanup }
}

fn keep(generations: u32, days: u64) -> CleanUp {
    CleanUp {
        generations,
        younger_s: days * 86_400,
        collect: true,
    }
}

/// Generations by number, system and age in days; `None`: nobody knows.
fn aged(all: &[(u64, &str, Option<u64>)]) -> Vec<Aged> {
    let aged = all.iter().map(|(number, system, days)| Aged {
        generation: Generation {
            number: *number,
            path: path(system),
        },
        age: days.map(|days| Duration::from_secs(days * 86_400)),
    });
    aged.collect()
}

fn facts(running: &str, booted: &str, profile: &str, generation: u64) -> Facts {
    Facts {
        boot_id: "boot-1".parse().expect("a boot id"),
        running: Some(path(running)),
        booted: Some(path(booted)),
        profile: Some(path(profile)),
        next_boot: NextBoot::Unknown,
        generation,
        generations: Vec::new(),
        store_free_bytes: 0,
    }
}

/// Nine systems, one a generation, each ten days younger than the one before.
fn nine() -> Vec<Aged> {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let all = names.iter().zip(1..).map(|(name, number)| {
        let days = (9 - number) * 10;
        (number, *name, Some(days))
    });
    aged(&all.collect::<Vec<_>>())
}

#[test]
fn what_is_kept_is_kept() {
    let usual = facts("i", "i", "i", 9);
    let gone = |facts: &Facts, cleanup: CleanUp, needed: &[&str]| {
        let needed: Vec<StorePath> = needed.iter().map(|name| path(name)).collect();
        removable(&nine(), facts, &cleanup, &needed).expect("known")
    };
    let table: [(&str, Vec<u64>, Vec<u64>); 12] = [
        (
            "the newest",
            gone(&usual, keep(5, 0), &[]),
            vec![1, 2, 3, 4],
        ),
        (
            "what is young",
            gone(&usual, keep(2, 55), &[]),
            vec![1, 2, 3],
        ),
        (
            "what is exactly so old goes",
            gone(&usual, keep(2, 60), &[]),
            vec![1, 2, 3],
        ),
        (
            "two in any case",
            gone(&usual, keep(0, 0), &[]),
            (1..=7).collect(),
        ),
        (
            "what runs",
            gone(&facts("c", "i", "i", 9), keep(2, 0), &[]),
            vec![1, 2, 4, 5, 6, 7],
        ),
        (
            "what was booted",
            gone(&facts("i", "d", "i", 9), keep(2, 0), &[]),
            vec![1, 2, 3, 5, 6, 7],
        ),
        (
            "the current one, and the one before it",
            gone(&facts("i", "i", "c", 3), keep(2, 0), &[]),
            vec![1, 4, 5, 6, 7],
        ),
        (
            "the way back, what is staged, what was confirmed",
            gone(&usual, keep(2, 0), &["b", "e", "x"]),
            vec![1, 3, 4, 6, 7],
        ),
        (
            "what the boot loader starts next",
            gone(
                &Facts {
                    next_boot: NextBoot::System(path("a")),
                    ..usual.clone()
                },
                keep(2, 0),
                &[],
            ),
            vec![2, 3, 4, 5, 6, 7],
        ),
        ("everything", gone(&usual, keep(9, 0), &[]), vec![]),
        (
            "more than there are",
            gone(&usual, keep(u32::MAX, 0), &[]),
            vec![],
        ),
        (
            "what is younger than the oldest",
            gone(&usual, keep(2, 81), &[]),
            vec![],
        ),
    ];
    for (what, found, expected) in table {
        assert_eq!(found, expected, "{what}");
    }
    let unknown = aged(&[
        (1, "a", None),
        (2, "b", Some(90)),
        (3, "c", Some(1)),
        (4, "d", Some(0)),
    ]);
    let found = removable(&unknown, &facts("d", "d", "d", 4), &keep(2, 0), &[]);
    assert_eq!(found, Ok(vec![2]), "whose age nobody knows");
}

#[test]
fn nothing_goes_where_the_machine_does_not_know_itself() {
    let whole = facts("i", "i", "i", 9);
    let spoil: [fn(&mut Facts); 4] = [
        |facts| facts.running = None,
        |facts| facts.booted = None,
        |facts| facts.profile = None,
        |facts| facts.generation = 0,
    ];
    for spoil in spoil {
        let mut facts = whole.clone();
        spoil(&mut facts);
        assert!(removable(&nine(), &facts, &keep(2, 0), &[]).is_err());
    }
}

#[derive(Clone, Debug)]
struct Machine {
    generations: Vec<(u64, usize, Option<u64>)>,
    running: usize,
    booted: usize,
    current: usize,
    next: Option<usize>,
    needed: Vec<usize>,
    keep: u32,
    days: u64,
}

fn machine() -> impl Strategy<Value = Machine> {
    let systems = 0..6_usize;
    let generation = (
        1..4_u64,
        systems.clone(),
        prop::option::weighted(0.9, 0..30_u64),
    );
    let parts = (
        prop::collection::vec(generation, 1..12),
        systems.clone(),
        systems.clone(),
        any::<prop::sample::Index>(),
        prop::option::of(systems.clone()),
        prop::collection::vec(systems, 0..3),
        0..8_u32,
        0..30_u64,
    );
    parts.prop_map(
        |(steps, running, booted, current, next, needed, keep, days)| {
            let mut number = 0;
            let generations = steps.into_iter().map(|(step, system, age)| {
                number += step;
                (number, system, age)
            });
            let generations: Vec<_> = generations.collect();
            Machine {
                current: current.index(generations.len()),
                generations,
                running,
                booted,
                next,
                needed,
                keep,
                days,
            }
        },
    )
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

proptest! {
    /// Against an oracle that asks each generation for itself and counts instead of sorting.
    #[test]
    fn exactly_what_no_rule_keeps_goes(machine in machine()) {
        let all: Vec<_> = machine.generations.iter().map(|(n, s, age)| (*n, NAMES[*s], *age)).collect();
        let (current, system, _) = machine.generations[machine.current];
        let mut facts = facts(NAMES[machine.running], NAMES[machine.booted], NAMES[system], current);
        facts.next_boot = machine.next.map_or(NextBoot::Unknown, |s| NextBoot::System(path(NAMES[s])));
        let needed: Vec<StorePath> = machine.needed.iter().map(|s| path(NAMES[*s])).collect();
        let mut shuffled = aged(&all);
        shuffled.reverse();
        let gone = removable(&shuffled, &facts, &keep(machine.keep, machine.days), &needed)
            .expect("the machine knows itself");
        let numbers = || machine.generations.iter().map(|(number, ..)| *number);
        for (number, system, age) in &machine.generations {
            let newer = numbers().filter(|other| other > number).count();
            let is_new = newer < 2 || newer < machine.keep as usize;
            let is_young = age.is_none_or(|age| age < machine.days);
            let between = numbers().any(|other| *number < other && other < current);
            let leads_up = *number == current || (*number < current && !between);
            let leads = [machine.running, machine.booted, machine.generations[machine.current].1];
            let leads = leads.contains(system) || machine.needed.contains(system) || machine.next == Some(*system);
            let stays = is_new || is_young || leads_up || leads;
            prop_assert_eq!(!gone.contains(number), stays, "generation {}", number);
        }
        let unique: BTreeSet<&u64> = gone.iter().collect();
        prop_assert_eq!(unique.len(), gone.len());
        prop_assert!(gone.is_sorted());
    }
}

/// What the machine says of its last cleanup, in the words of the report.
fn told(world: &mut World) -> (u64, u32, Option<String>) {
    let report = world.agent.report(world.now).expect("it is started");
    let done = report.cleaned_up.expect("it can clean up");
    (done.request, done.removed, done.failure)
}

#[test]
fn a_number_is_answered_once() {
    let mut world = World::new(Script::default());
    world.work_all();
    assert_eq!(told(&mut world), (0, 0, None));
    world.say(clean_up(7));
    world.say(clean_up(7));
    world.say(clean_up(8));
    assert_eq!(
        world.open.len(),
        1,
        "one at a time, and the same is no other"
    );
    assert_eq!(told(&mut world), (0, 0, None), "not before it has ended");
    world.work_all();
    assert_eq!(told(&mut world), (7, 3, None));
    world.say(clean_up(7));
    assert!(world.open.is_empty(), "answered already");
    // Also by the next process.
    world.restart(UnitState::Absent);
    world.work_all();
    world.say(clean_up(7));
    assert!(world.open.is_empty());
    world.say(clean_up(8));
    world.work_all();
    assert_eq!(told(&mut world), (8, 3, None));
}

#[test]
fn one_that_fails_or_never_ends_is_told_as_such() {
    let mut world = World::new(Script::default());
    world.work_all();
    world.script.cleanup = Err(Failure::Failed("the\nprofile is locked".to_owned()));
    world.say(clean_up(1));
    world.work_all();
    assert_eq!(
        told(&mut world),
        (1, 0, Some("the profile is locked".to_owned()))
    );
    world.say(clean_up(2));
    world.open.clear();
    for _ in 0..10_000 {
        if told(&mut world).0 == 2 {
            break;
        }
        world.pass_time();
        world.open.clear();
    }
    let (request, _, failure) = told(&mut world);
    assert_eq!(request, 2);
    assert!(failure.is_some_and(|why| why.contains("in time")));
}

#[test]
fn an_attempt_waits_for_a_cleanup_and_a_cleanup_for_an_attempt() {
    let mut world = World::staged(Script::default());
    world.say(clean_up(1));
    let job = world.open.pop().expect("begun");
    world.say(Directive::Proceed(proceed(7)));
    assert_eq!(world.disk.attempt, None, "it is cleaned up");
    // Health checks and obtaining a target go on beside it.
    world.say(stage(common::Action::Update));
    world.open.push(job);
    world.work_all();
    assert_eq!(told(&mut world).0, 1);
    world.say(Directive::Proceed(proceed(7)));
    assert!(world.disk.attempt.is_some(), "the lease was not used up");
    world.say(clean_up(2));
    assert!(world.disk.cleaning.is_none());
    world.finish();
    world.say(clean_up(2));
    assert!(world.disk.cleaning.is_some());
    // What an emergency stop forbids has not begun here; this goes on.
    world.epoch = Epoch(2);
    world.say(Directive::StandDown(agent_core::StandDown {
        epoch: Epoch(2),
        mode: StopMode::Rollback,
        reason: String::new(),
    }));
    world.work_all();
    assert_eq!(told(&mut world).0, 2);
}

#[test]
fn it_goes_on_over_a_restart_and_a_boot() {
    let mut world = World::new(Script::default());
    world.work_all();
    world.say(clean_up(3));
    let begun = world.open[0].clone();
    world.restart(UnitState::Absent);
    let again = world.open.iter().find(|job| job.step == begun.step);
    let again = again.expect("the same step is waited for");
    assert!(matches!(&again.work, Work::CleanUp { begun: Some(_), .. }));
    world.reboot();
    assert!(world.open.iter().any(|job| job.step == begun.step));
    world.work_all();
    assert_eq!(told(&mut world), (3, 3, None));
}

#[test]
fn what_the_last_attempts_may_go_back_to_is_named() {
    let mut world = World::staged(Script::default());
    world.say(Directive::Proceed(proceed(7)));
    world.finish();
    assert_eq!(world.disk.confirmed, [path("new")]);
    world.say(Directive::Stage {
        rollout: None,
        target: crate::world::target("newer"),
        action: common::Action::Update,
        force: false,
        wish: 1,
    });
    world.work_all();
    world.say(clean_up(1));
    let job = world.open.last().expect("begun");
    let Work::CleanUp { needed, .. } = &job.work else {
        panic!("{job:?}");
    };
    for name in ["old", "new", "newer"] {
        assert!(needed.contains(&path(name)), "{name}: {needed:?}");
    }
}
