//! Known bugs, one at a time, that the simulator must find. Only under the feature `seeded-bugs`,
//! which no product build turns on.

/// A deliberate deviation from the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A hook whose result was lost is begun a second time.
    HookRunTwice,
    /// Going back does not know where from: the running system is taken for the previous one.
    PreviousNotRecorded,
    /// A lease of an old epoch, or an old lease, is accepted.
    OldLeaseAccepted,
    /// A result that is sent again says something else than the first time.
    ResultNotIdempotent,
    /// A cleanup does not know what the last attempts may have to go back to.
    CleanUpTakesWayBack,
    /// An order about traffic is run although a newer one was answered.
    StaleTrafficOrder,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::HookRunTwice,
        Self::PreviousNotRecorded,
        Self::OldLeaseAccepted,
        Self::ResultNotIdempotent,
        Self::CleanUpTakesWayBack,
        Self::StaleTrafficOrder,
    ];
}
