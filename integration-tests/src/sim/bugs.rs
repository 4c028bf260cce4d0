//! Known bugs that can be switched on, one at a time, to show that the simulator would find them.

use serde::{Deserialize, Serialize};

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// In the coordinator's core.
    Coordinator(coordinator_core::bug::Bug),
    /// In the agent's core.
    Agent(agent_core::Bug),
    /// In the simulated coordinator's driver.
    Driver(DriverBug),
}

/// Known bugs of the simulated driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriverBug {
    /// Replies leave before the batch is durable.
    ReplyBeforeDurable,
    /// A restart takes the newest snapshot for the newest state, so lease numbers come twice.
    StaleSnapshot,
}

impl SeededBug {
    /// Every known bug.
    pub fn all() -> Vec<Self> {
        use coordinator_core::bug::Bug;
        let coordinator = [
            Bug::SlotFreedOnExpiry,
            Bug::EpochNotFenced,
            Bug::ResultNotIdempotent,
            Bug::WaveGateOffByOne,
            Bug::StopNotCheckedInGrant,
            Bug::WindowIgnoresClockChange,
            Bug::CalendarsIgnored,
            Bug::OwnRulesIgnored,
            Bug::OwnTimesIgnored,
            Bug::OrderIgnored,
            Bug::TimeTakenIgnored,
            Bug::StaleReportWins,
            Bug::BudgetIgnoresSilence,
            Bug::ApartIgnored,
            Bug::TakesBackEverybody,
            Bug::ImmediateWithoutLimits,
            Bug::PauseSkipped,
            Bug::OwnApproved,
            Bug::NoAlarms,
            Bug::RetriesUnlimited,
            Bug::RetryingCountsForNothing,
            Bug::BadTargetIgnored,
            Bug::ApprovedOnce,
            Bug::FleetBudgetIgnored,
            Bug::CoordinatorNotLast,
            Bug::QuorumIgnored,
            Bug::SilentGatePasses,
            Bug::ScheduleOverlaps,
            Bug::QuarantineIgnored,
            Bug::LiveSideFirst,
            Bug::ImmediateWithTraffic,
            Bug::TrafficTakenForGranted,
            Bug::TrafficToFailed,
            Bug::TrafficStays,
            Bug::TrafficOutsideWindow,
            Bug::TrafficFoughtOver,
            Bug::OutBeforeIn,
            Bug::SidesForGood,
            Bug::ApprovalForEver,
            Bug::ConsentAtOnce,
            Bug::LateForEver,
            Bug::LeaversWaitedFor,
            Bug::LimitsOfNow,
            Bug::PlanNotCompared,
            Bug::WindowsUntold,
            Bug::GateLimitsIgnored,
            Bug::SkipIgnored,
            Bug::RetryAtOnce,
            Bug::CanaryDropped,
            Bug::CanaryOfAll,
            Bug::RefusalsForgotten,
            Bug::BackToBad,
            Bug::OldAnswersCount,
            Bug::BusyFailsRun,
            Bug::SoakCutShort,
            Bug::NothingTakenBack,
            Bug::LateRunsBegin,
            Bug::EveryLookCounts,
            Bug::EventsIgnored,
            Bug::FirstWindowOnly,
            Bug::IdentityFromMessage,
        ];
        let driver = [DriverBug::ReplyBeforeDurable, DriverBug::StaleSnapshot];
        coordinator
            .into_iter()
            .map(Self::Coordinator)
            .chain(agent_core::Bug::ALL.into_iter().map(Self::Agent))
            .chain(driver.into_iter().map(Self::Driver))
            .collect()
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Coordinator(bug) => format!("coordinator: {bug:?}"),
            Self::Agent(bug) => format!("agent: {bug:?}"),
            Self::Driver(bug) => format!("driver: {bug:?}"),
        }
    }

    /// The known bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|bug| bug.name() == name)
    }

    pub(crate) fn of_coordinator(self) -> Option<coordinator_core::bug::Bug> {
        match self {
            Self::Coordinator(bug) => Some(bug),
            Self::Agent(_) | Self::Driver(_) => None,
        }
    }

    pub(crate) fn of_agent(self) -> Option<agent_core::Bug> {
        match self {
            Self::Agent(bug) => Some(bug),
            Self::Coordinator(_) | Self::Driver(_) => None,
        }
    }
}
