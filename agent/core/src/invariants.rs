//! What must hold of the durable state at every instant.

use crate::state::Durable;

/// Something that must never be true, and is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An attempt holds a lease that is not the highest seen.
    #[error("the attempt's lease is not the highest seen")]
    LeaseNotHighest,
}

/// Every violation in this state; empty in a sound one.
pub fn violations(durable: &Durable) -> Vec<Violation> {
    let mut found = Vec::new();
    if durable
        .attempt
        .as_ref()
        .is_some_and(|attempt| attempt.lease != durable.lease)
    {
        found.push(Violation::LeaseNotHighest);
    }
    found
}
