//! Which cases there are: the steps of six ways that an attempt can take, times the faults.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the attempt goes when nothing is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A switch to a good target.
    Switch,
    /// A switch to a target that fails its health checks.
    SwitchBack,
    /// A reboot into a good target.
    Boot,
    /// A reboot into a target that fails its health checks.
    BootBack,
    /// A soft-reboot into a good target.
    Soft,
    /// A soft-reboot into a target that fails its health checks.
    SoftBack,
}

impl Way {
    /// Whether the target is good.
    pub(super) fn is_good(self) -> bool {
        match self {
            Self::Switch | Self::Boot | Self::Soft => true,
            Self::SwitchBack | Self::BootBack | Self::SoftBack => false,
        }
    }

    /// Whether the target takes a reboot.
    pub(super) fn boots(self) -> bool {
        match self {
            Self::Boot | Self::BootBack | Self::Soft | Self::SoftBack => true,
            Self::Switch | Self::SwitchBack => false,
        }
    }

    /// Whether user space alone is enough for that.
    pub(super) fn is_soft(self) -> bool {
        match self {
            Self::Soft | Self::SoftBack => true,
            Self::Switch | Self::SwitchBack | Self::Boot | Self::BootBack => false,
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::SwitchBack => "switch, back",
            Self::Boot => "reboot",
            Self::BootBack => "reboot, back",
            Self::Soft => "soft-reboot",
            Self::SoftBack => "soft-reboot, back",
        }
    }
}

/// The step of the attempt in which the fault strikes; named as in the agent's journal, and two that
/// are before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// Obtaining the target ahead of the turn.
    Staging,
    /// Noting how the machine is.
    Snapshot,
    /// Starting the dead-man timer.
    Arming,
    /// The pre-update hook.
    PreHook,
    /// `switch-to-configuration`.
    Activating,
    /// Telling the coordinator of the silence to come.
    Announcing,
    /// The reboot.
    Rebooting,
    /// Starting the dead-man timer again after the boot.
    Rearming,
    /// The post-update hook.
    PostHook,
    /// Judging the target.
    Judging,
    /// Going back.
    RollingBack,
    /// The reboot back.
    RebootingBack,
    /// The rollback hook.
    RollbackHook,
    /// Judging the previous system.
    JudgingRollback,
    /// Stopping the dead-man timer.
    Closing,
    /// Handing in the result.
    Reporting,
}

impl At {
    /// The step's name in the agent's journal, and in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Snapshot => "snapshot",
            Self::Arming => "arming",
            Self::PreHook => "pre-hook",
            Self::Activating => "activating",
            Self::Announcing => "announcing",
            Self::Rebooting => "rebooting",
            Self::Rearming => "rearming",
            Self::PostHook => "post-hook",
            Self::Judging => "judging",
            Self::RollingBack => "rolling-back",
            Self::RebootingBack => "rebooting-back",
            Self::RollbackHook => "rollback-hook",
            Self::JudgingRollback => "judging-rollback",
            Self::Closing => "closing",
            Self::Reporting => "reporting",
        }
    }

    /// Whether the target runs, or may, and has not been found bad: from here on only the machine
    /// itself may decide against it.
    pub(super) fn is_past_no_return(self) -> bool {
        match self {
            Self::Rebooting
            | Self::Rearming
            | Self::PostHook
            | Self::Judging
            | Self::Closing
            | Self::Reporting => true,
            Self::Staging
            | Self::Snapshot
            | Self::Arming
            | Self::PreHook
            | Self::Activating
            | Self::Announcing
            | Self::RollingBack
            | Self::RebootingBack
            | Self::RollbackHook
            | Self::JudgingRollback => false,
        }
    }
}

/// What is done to the machine in that step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL of the agent.
    Kill,
    /// SIGSTOP of the agent, longer than its lease.
    Pause,
    /// Every process of the machine ends at once.
    PowerCut,
    /// The D-Bus daemon is restarted.
    Bus,
    /// Not a byte is left on the disk, for a while.
    StoreFull,
    /// Not a file fits into the boot directory, for a while.
    BootFull,
    /// The network cable is pulled, for longer than the lease.
    Network,
    /// The coordinator refuses connections, for longer than the lease.
    Coordinator,
    /// The agent's clock is set a day ahead, and back.
    ClockAhead,
    /// The agent's clock is set a day back, and ahead again.
    ClockBack,
    /// What the step does fails.
    Error,
    /// What the step does does not end.
    Hang,
}

impl Fault {
    /// All, in the order of the table.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::Pause,
        Self::PowerCut,
        Self::Bus,
        Self::StoreFull,
        Self::BootFull,
        Self::Network,
        Self::Coordinator,
        Self::ClockAhead,
        Self::ClockBack,
        Self::Error,
        Self::Hang,
    ];

    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::PowerCut => "power cut",
            Self::Bus => "bus",
            Self::StoreFull => "store full",
            Self::BootFull => "boot full",
            Self::Network => "network",
            Self::Coordinator => "coordinator",
            Self::ClockAhead => "clock ahead",
            Self::ClockBack => "clock back",
            Self::Error => "error",
            Self::Hang => "hang",
        }
    }

    /// Whether it says nothing about the target, so that a good one must come to stay.
    pub(super) fn blames_nobody(self) -> bool {
        match self {
            Self::Bus | Self::Coordinator | Self::ClockAhead | Self::ClockBack => true,
            Self::Kill
            | Self::Pause
            | Self::PowerCut
            | Self::StoreFull
            | Self::BootFull
            | Self::Network
            | Self::Error
            | Self::Hang => false,
        }
    }
}

/// One step on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Situation {
    /// The way.
    pub way: Way,
    /// The step.
    pub at: At,
}

/// One fault in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// When.
    #[serde(flatten)]
    pub situation: Situation,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Situation { way, at } = self.situation;
        write!(f, "{} / {} / {}", way.name(), at.word(), self.fault.name())
    }
}

/// The steps on all ways, those left out that a way shares with the one before it.
pub(super) fn situations() -> Vec<Situation> {
    let ways: [(Way, &[At]); 6] = [
        (
            Way::Switch,
            &[
                At::Staging,
                At::Snapshot,
                At::Arming,
                At::PreHook,
                At::Activating,
                At::PostHook,
                At::Judging,
                At::Closing,
                At::Reporting,
            ],
        ),
        (
            Way::SwitchBack,
            &[
                At::RollingBack,
                At::RollbackHook,
                At::JudgingRollback,
                At::Closing,
            ],
        ),
        (
            Way::Boot,
            &[
                At::Activating,
                At::Announcing,
                At::Rebooting,
                At::Rearming,
                At::PostHook,
                At::Judging,
                At::Closing,
            ],
        ),
        (
            Way::BootBack,
            &[
                At::RollingBack,
                At::RebootingBack,
                At::RollbackHook,
                At::JudgingRollback,
                At::Closing,
            ],
        ),
        (Way::Soft, &[At::Rebooting, At::Rearming, At::Judging]),
        (Way::SoftBack, &[At::RollingBack, At::RebootingBack]),
    ];
    let each =
        |(way, steps): (Way, &'static [At])| steps.iter().map(move |at| Situation { way, at: *at });
    ways.into_iter().flat_map(each).collect()
}

/// Whether the fault can strike in this step. What a step does with the coordinator fails when the
/// coordinator does, and a timer that is not there is as good as one that was stopped.
pub(super) fn applies(at: At, fault: Fault) -> bool {
    match (at, fault) {
        (At::Announcing | At::Reporting, Fault::Error | Fault::Hang)
        | (At::Closing, Fault::Error) => false,
        (_, _) => true,
    }
}

/// All of them.
pub fn whole() -> Vec<Case> {
    let each = |situation: Situation| {
        let faults = Fault::ALL.into_iter();
        let faults = faults.filter(move |fault| applies(situation.at, *fault));
        faults.map(move |fault| Case { situation, fault })
    };
    situations().into_iter().flat_map(each).collect()
}

/// One for each step, with the faults spread over them; another number, others.
pub fn sample(number: usize) -> Vec<Case> {
    let spread = |(index, situation): (usize, Situation)| {
        // The second time round each step has another fault than the one twelve before it.
        let begin = index * 5 + 3 * (index / Fault::ALL.len()) + number;
        let mut faults = Fault::ALL.iter().cycle().skip(begin % Fault::ALL.len());
        let fault = faults.find(|fault| applies(situation.at, **fault));
        // Most faults can strike in any step.
        let fault = fault.copied().unwrap_or(Fault::Kill);
        Case { situation, fault }
    };
    situations().into_iter().enumerate().map(spread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_more_than_two_hundred_and_a_sample_has_every_step_and_every_fault() {
        let whole = whole();
        assert!(whole.len() >= 200, "{}", whole.len());
        for number in 0..12 {
            let sample = sample(number);
            assert_eq!(sample.len(), situations().len());
            for fault in Fault::ALL {
                assert!(sample.iter().any(|case| case.fault == fault), "{fault:?}");
            }
            assert!(sample.iter().all(|case| whole.contains(case)));
        }
    }
}
