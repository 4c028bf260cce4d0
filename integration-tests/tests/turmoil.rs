//! A few hours of the real programs in a simulated network in every test run, and what that tier
//! promises of itself. The long runs are the program `turmoil`'s.

use std::sync::Arc;

use integration_tests::{
    sim::SeededBug,
    turmoil::{self, Identities, Outcome},
};

/// Simulated hours in which things go wrong; few, because tests are built without optimisation.
const HOURS: u64 = 1;

fn identities() -> Arc<Identities> {
    Arc::new(Identities::make().expect("identities"))
}

fn run(seed: u64, bug: Option<&str>, identities: &Arc<Identities>) -> Outcome {
    let bug = bug.map(|name| SeededBug::named(name).expect("a known bug"));
    turmoil::run(seed, HOURS, bug, identities).expect("a run")
}

#[test]
fn nothing_goes_wrong_and_every_seed_does_the_same_again() {
    let (one, other) = (identities(), identities());
    for seed in [1, 2] {
        let first = run(seed, None, &one);
        assert!(
            first.is_good(),
            "`turmoil --seed {seed} --hours {HOURS}` shows it: {:?} {:?}",
            first.violations,
            first.unfinished
        );
        // With other keys, too: nothing that happens depends on them.
        let again = run(seed, None, &other);
        let differs = first.trace.iter().zip(&again.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.hash, again.hash, "seed {seed}");
        assert!(first.leases > 0 && !first.faults.is_empty(), "seed {seed}");
    }
}

/// A check that never fails is worth nothing: what is broken on purpose is found.
#[track_caller]
fn is_found(bug: &str, within: u64) {
    let identities = identities();
    let found = (1..=within).any(|seed| !run(seed, Some(bug), &identities).is_good());
    assert!(found, "{bug} is not found within {within} seeds");
}

#[test]
fn replies_before_the_store_is_durable_are_found() {
    is_found("driver: ReplyBeforeDurable", 3);
}

#[test]
fn a_name_taken_from_a_message_is_found() {
    is_found("coordinator: IdentityFromMessage", 24);
}
