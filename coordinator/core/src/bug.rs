//! Known bugs, one of which the simulator can switch on to show that it would be found.
//!
//! Only under the `seeded-bugs` feature; a product build has none of this.

/// A deliberate mistake in one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A lease that runs out frees its slot.
    SlotFreedOnExpiry,
    /// A renewal under an old epoch is taken.
    EpochNotFenced,
    /// A result that comes twice counts twice.
    ResultNotIdempotent,
    /// A wave opens when the one before it still has one machine out.
    WaveGateOffByOne,
    /// A grant does not look at the emergency stop.
    StopNotCheckedInGrant,
    /// A window's end is taken from the zone's offset at its beginning.
    WindowIgnoresClockChange,
    /// An older report replaces a newer one.
    StaleReportWins,
    /// The budget counts only machines that say that they failed.
    BudgetIgnoresSilence,
    /// Machines that must not be away together are.
    ApartIgnored,
    /// A wave opens although somebody was to be asked before.
    PauseSkipped,
    /// A schedule begins a run while one of its own is not finished.
    ScheduleOverlaps,
    /// The machine's name is taken from the lease in the message.
    IdentityFromMessage,
}
