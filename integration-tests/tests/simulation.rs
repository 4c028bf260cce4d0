//! A few seeds of the simulator in every test run, and the simulator's own promises. The long runs
//! are `simulate`'s.

use std::{fs, path::Path};

use integration_tests::sim::{self, SeededBug};

/// Seeds of every test run; small, because tests are built without optimisation.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

#[track_caller]
fn check(seed: u64) {
    let outcome = sim::run(seed, None);
    assert!(
        outcome.is_good(),
        "`simulate --seed {seed}` shows it: {:?} {:?}",
        outcome.violations,
        outcome.unfinished
    );
}

#[test]
fn nothing_goes_wrong_and_everything_ends() {
    for seed in SEEDS {
        check(seed);
    }
}

#[test]
fn a_seed_means_one_run() {
    let (one, other) = (sim::run(3, None), sim::run(3, None));
    assert_eq!((one.trace, one.events), (other.trace, other.events));
}

#[test]
fn looking_at_every_step_changes_nothing() {
    let (quick, (slow, recording)) = (sim::run(2, None), sim::record(2, None));
    assert_eq!((quick.trace, quick.events), (slow.trace, slow.events));
    assert_eq!(recording.len() as u64, slow.events);
    assert!(slow.is_good(), "{:?}", slow.violations);
}

#[test]
fn a_recording_shows_the_same_without_chance() {
    let bug = SeededBug::named("driver: ReplyBeforeDurable").expect("a known bug");
    let (outcome, recording) = sim::record(1, Some(bug));
    assert!(!outcome.violations.is_empty(), "the bug is found");
    let stored = serde_json::to_vec(&recording).expect("JSON");
    let recording: sim::Recording = serde_json::from_slice(&stored).expect("a recording");
    let again = sim::replay(&recording, |_, _, _| {});
    assert_eq!(again, outcome.violations);
}

/// Each story is played and prints what its file says. With `UPDATE_STORIES=1` the files are
/// written anew, to be read in the diff.
#[test]
fn lab_prints_what_the_stories_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let update = std::env::var_os("UPDATE_STORIES").is_some();
    let mut differ = Vec::new();
    for entry in fs::read_dir(directory).expect("the stories") {
        let path = entry.expect("a file").path();
        let story = fs::read_to_string(&path).expect("a story");
        let told = sim::scenario::play(&story)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if told != story && update {
            fs::write(&path, &told).expect("written");
        } else if told != story {
            differ.push(format!("{}:\n{told}", path.display()));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
