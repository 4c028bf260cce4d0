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
    /// What a group avoids is not looked at.
    CalendarsIgnored,
    /// A machine's own rules are not looked at.
    OwnRulesIgnored,
    /// Everybody is waited for as the fleet says, whatever its group or the machine itself says.
    OwnTimesIgnored,
    /// Machines go in the order of the document, whatever else was to count.
    OrderIgnored,
    /// What a machine's attempts have taken is not looked at.
    TimeTakenIgnored,
    /// An older report replaces a newer one.
    StaleReportWins,
    /// The budget counts only machines that say that they failed.
    BudgetIgnoresSilence,
    /// Machines that must not be away together are.
    ApartIgnored,
    /// Whoever was updated is taken back, whatever its rules say.
    TakesBackEverybody,
    /// What is immediate passes over limits, too.
    ImmediateWithoutLimits,
    /// A wave opens although somebody was to be asked before.
    PauseSkipped,
    /// Failures of several groups are not added up.
    FleetBudgetIgnored,
    /// The coordinator's own machine does not wait for the others.
    CoordinatorNotLast,
    /// More of the coordinator's machines are away than it can do without.
    QuorumIgnored,
    /// A measurement of a gate that got lost counts as passed.
    SilentGatePasses,
    /// A schedule begins a run while one of its own is not finished.
    ScheduleOverlaps,
    /// Whoever began a rollout approves it, although somebody else was to.
    OwnApproved,
    /// An approval of one wave counts for those after it as well.
    ApprovedOnce,
    /// A machine that fails tries again without end.
    RetriesUnlimited,
    /// Others begin beside machines that failed and are to try again, whatever the budget.
    RetryingCountsForNothing,
    /// Machines are updated to a target that was put aside.
    BadTargetIgnored,
    /// Nobody is told of machines that are not updated for too long.
    NoAlarms,
    /// Machines in quarantine go.
    QuarantineIgnored,
    /// The side with the traffic is updated before the idle one.
    LiveSideFirst,
    /// What is immediate goes whether its side holds traffic or not.
    ImmediateWithTraffic,
    /// Traffic is thought to be where it was put in an earlier rollout.
    TrafficTakenForGranted,
    /// Traffic moves to a side of which somebody failed.
    TrafficToFailed,
    /// Two rollouts move the traffic of a group to and fro.
    TrafficFoughtOver,
    /// Traffic follows a side that was updated at whatever time.
    TrafficOutsideWindow,
    /// Traffic stays on a side that the gates find bad.
    TrafficStays,
    /// A run is not left out although somebody wanted that.
    SkipIgnored,
    /// Machines that failed try again without waiting.
    RetryAtOnce,
    /// Nothing becomes of an approval that nobody gives.
    ApprovalForEver,
    /// Nobody waits for an answer that comes by itself after a while.
    ConsentAtOnce,
    /// Machines that are offline are waited for for ever.
    LateForEver,
    /// Machines that have left the configuration are waited for.
    LeaversWaitedFor,
    /// What counts is how many the configuration lets go by now, not what the rollout began with.
    LimitsOfNow,
    /// A rollout begins although the plan is not the one that was shown.
    PlanNotCompared,
    /// Nobody is told of a window that went by with machines still to go.
    WindowsUntold,
    /// A gate passes whatever else it found.
    GateLimitsIgnored,
    /// The sides of a rollout are thought to be those of the traffic, whatever the configuration says by now.
    SidesForGood,
    /// Machines leave their traffic before the others have it.
    OutBeforeIn,
    /// A canary by name that does not go is dropped, and everybody else goes at once.
    CanaryDropped,
    /// A percentage of canaries is of the whole group, whoever goes.
    CanaryOfAll,
    /// Machines that have said that they refuse a target are sent to it all the same.
    RefusalsForgotten,
    /// A generation may be gone back to by its number although what is in it was put aside.
    BackToBad,
    /// A check that machines made before a gate asked for it counts as an answer.
    OldAnswersCount,
    /// One machine that is at work for another rollout makes a schedule's run fail.
    BusyFailsRun,
    /// A wave closes before it has soaked.
    SoakCutShort,
    /// What a rollout has brought where too much failed stays as it is.
    NothingTakenBack,
    /// A run that was missed begins however late it has become.
    LateRunsBegin,
    /// Each look of a gate that compares may take chance for a change as often as all of them together.
    EveryLookCounts,
    /// Calendars of events are not looked at.
    EventsIgnored,
    /// Of several windows of a group only the first counts.
    FirstWindowOnly,
    /// The machine's name is taken from the lease in the message.
    IdentityFromMessage,
}
