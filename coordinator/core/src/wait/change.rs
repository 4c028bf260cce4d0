//! What would change a wait reason: time, what machines report, or a command.

use common::{Action, GroupName, MachineName, RolloutId, Timestamp};

use super::WaitReason;

/// Groups that a command names at most.
const GROUPS_NAMED: usize = 4;

/// Of whom a reason is told: what a command has to name, so that it does not act on the whole fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whom<'a> {
    /// The machine; none where it is told of a group as a whole.
    pub machine: Option<&'a MachineName>,
    /// The group.
    pub group: Option<&'a GroupName>,
    /// The unfinished rollout that it has a part in, and what that does.
    pub rollout: Option<(&'a RolloutId, Action)>,
}

impl Whom<'_> {
    /// The command with the flag that chooses them: it is not told without one.
    fn choose(self, command: &str) -> Option<String> {
        match (self.machine, self.group) {
            (Some(machine), _) => Some(format!("{command} --machine={machine}")),
            (None, Some(group)) => Some(format!("{command} --group={group}")),
            (None, None) => None,
        }
    }

    fn show(self) -> Option<String> {
        self.machine.map(show)
    }

    /// An update past windows, calendars, soak and stagger. A rollout that is at work gives nobody up, one
    /// that is paused does.
    fn emergency(self) -> Option<String> {
        let (machine, (rollout, action)) = (self.machine?, self.rollout?);
        (action == Action::Update).then(|| {
            format!(
                "lab update pause {rollout}; lab update execute --emergency --machine={machine} \
                 --reason=…; lab update resume {rollout}"
            )
        })
    }

    /// A rollout of its own, which takes it over.
    fn taken_over(self) -> Option<String> {
        let (machine, (rollout, action)) = (self.machine?, self.rollout?);
        (action == Action::Update).then(|| {
            format!(
                "lab update pause {rollout}; lab update execute --machine={machine}; lab update resume \
                 {rollout}"
            )
        })
    }

    fn promote(self) -> Option<String> {
        // A group's line in the status has no room for it.
        self.machine?;
        let (group, (rollout, _)) = (self.group?, self.rollout?);
        Some(format!("lab update promote {rollout} --group={group}"))
    }

    /// Asks why the first of those does not go that are waited for, or shows their group.
    fn look_at(self, machines: &[MachineName], group: Option<&GroupName>) -> Option<String> {
        // A group's line in the status has no room for it.
        self.machine?;
        match (machines.first(), group) {
            (Some(machine), _) => Some(format!("lab why {machine}")),
            (None, Some(group)) => Some(format!("lab update status --group={group}")),
            (None, None) => None,
        }
    }

    /// What to do about a part that has ended so.
    fn ended(self, state: &str) -> Option<String> {
        match state {
            "updated" => None,
            "reboot-required" => self.choose("lab machines reboot"),
            _ => self.choose("lab update-history"),
        }
    }
}

fn show(machine: &MachineName) -> String {
    format!("lab machines show {machine}")
}

/// Shows what is not done of these groups.
fn status_of(groups: &[GroupName]) -> Option<String> {
    let named: Vec<&str> = groups
        .iter()
        .take(GROUPS_NAMED)
        .map(GroupName::as_str)
        .collect();
    (!named.is_empty()).then(|| format!("lab update status --group={}", named.join(",")))
}

impl WaitReason {
    /// The next instant at which it can change by the clock alone, where one is known: it ends by itself
    /// then, or what [`WaitReason::then`] says happens.
    pub fn next(&self) -> Option<Timestamp> {
        self.next_and_then().map(|(at, _)| at)
    }

    /// What happens at the next instant, where it is something else than that it ends.
    pub fn then(&self) -> Option<String> {
        let (_, then) = self.next_and_then()?;
        (!then.is_empty()).then_some(then)
    }

    /// Both; what happens is empty where it ends.
    fn next_and_then(&self) -> Option<(Timestamp, String)> {
        let says = |at: &Option<Timestamp>, then: &str| at.map(|at| (at, then.to_owned()));
        match self {
            Self::Retrying { next, machines, .. } => match &machines[..] {
                [machine] => says(next, &format!("{machine} tries again")),
                _ => says(next, "one of them tries again"),
            },
            Self::WaveNotOpen { next, .. } => says(next, ""),
            Self::Staging { ends_at, .. } | Self::StagingFailed { ends_at, .. } => says(
                ends_at,
                "it counts as failed if it has not obtained its target",
            ),
            Self::CleaningUp { until, .. } => says(until, "it goes without that"),
            // Nothing is looked for further ahead: with its end more may be seen.
            Self::Frozen {
                opens_at: None,
                ends_at,
                ..
            } => says(ends_at, "that is over, and it is looked again"),
            Self::Frozen { opens_at, .. } => says(opens_at, ""),
            Self::Approval {
                counts_at,
                expires_at,
                ..
            } => {
                let in_time = |at: &Timestamp| expires_at.is_none_or(|end| *at <= end);
                says(&counts_at.filter(in_time), "the approval counts as given")
                    .or_else(|| says(expires_at, "the rollout pauses if nobody has answered"))
            }
            Self::Stopped { .. }
            | Self::Paused { .. }
            | Self::NoRollout
            | Self::UpToDate
            | Self::MovedOn { .. }
            | Self::NoSuchGeneration { .. }
            | Self::NothingBefore
            | Self::NoTarget
            | Self::UnknownMachine
            | Self::Quarantined { .. }
            | Self::Retry { .. }
            | Self::TargetQuarantined { .. }
            | Self::BadTarget { .. }
            | Self::TargetNotAllowed { .. }
            | Self::Final { .. }
            | Self::Offline { .. }
            | Self::Dependency { .. }
            | Self::Stagger { .. }
            | Self::Held { .. }
            | Self::WindowClosed { .. }
            | Self::WindowTooShort { .. }
            | Self::Soaking { .. }
            | Self::Analysing { .. }
            | Self::GroupUnhealthy { .. }
            | Self::MachineUnhealthy { .. }
            | Self::GroupLimit { .. }
            | Self::Apart { .. }
            | Self::CoordinatorLast { .. }
            | Self::Quorum { .. }
            | Self::FleetLimit { .. }
            | Self::LiveSide { .. }
            | Self::TrafficMoving { .. }
            | Self::SideNotReady { .. } => says(&self.until(), ""),
        }
    }

    /// Whether it can end without anybody doing something about it: by the clock, or by what machines report.
    pub fn by_itself(&self) -> bool {
        match self {
            Self::Retry { .. }
            | Self::Retrying { .. }
            | Self::Offline { .. }
            | Self::Staging { .. }
            | Self::CleaningUp { .. }
            | Self::StagingFailed { .. }
            | Self::Dependency { .. }
            | Self::Stagger { .. }
            | Self::WaveNotOpen { .. }
            | Self::Soaking { .. }
            | Self::Analysing { .. }
            | Self::GroupUnhealthy { .. }
            | Self::MachineUnhealthy { .. }
            | Self::GroupLimit { .. }
            | Self::Apart { .. }
            | Self::CoordinatorLast { .. }
            | Self::Quorum { .. }
            | Self::FleetLimit { .. }
            | Self::TrafficMoving { .. }
            | Self::SideNotReady { .. } => true,
            Self::Approval { counts_at, .. } => counts_at.is_some() && self.next() == *counts_at,
            Self::WindowClosed { opens_at, .. } | Self::WindowTooShort { opens_at, .. } => {
                opens_at.is_some()
            }
            Self::Frozen {
                opens_at, ends_at, ..
            } => opens_at.or(*ends_at).is_some(),
            // Within a rollout the traffic moves to the other side once that is updated.
            Self::LiveSide { behind, was, .. } => behind.is_empty() && was.is_none(),
            Self::Stopped { .. }
            | Self::Paused { .. }
            | Self::NoRollout
            | Self::UpToDate
            | Self::MovedOn { .. }
            | Self::NoSuchGeneration { .. }
            | Self::NothingBefore
            | Self::NoTarget
            | Self::UnknownMachine
            | Self::Quarantined { .. }
            | Self::TargetQuarantined { .. }
            | Self::BadTarget { .. }
            | Self::TargetNotAllowed { .. }
            | Self::Final { .. }
            | Self::Held { .. } => false,
        }
    }

    /// The command that would change it, or look at those who hold it, where there is one.
    pub fn hint(&self, whom: Whom<'_>) -> Option<String> {
        match self {
            Self::Stopped { .. } => Some("lab resume --reason …".to_owned()),
            Self::Paused {
                rollout,
                asks_again: true,
                ..
            } => Some(format!("lab update resume {rollout}, which asks again")),
            Self::Paused { rollout, .. } => Some(format!("lab update resume {rollout}")),
            Self::NoRollout => whom.choose("lab update execute"),
            Self::NoTarget => whom.choose("lab update prepare"),
            // Within a rollout that would not have it try sooner: what it obtains there is the rollout's.
            Self::StagingFailed {
                ends_at: Some(_), ..
            } => whom.show(),
            Self::StagingFailed { .. } => whom
                .choose("lab update prepare")
                .map(|command| format!("{command}, once that is mended: it tries again at once")),
            Self::BadTarget { .. } => whom.choose("lab update execute --retry-failed"),
            Self::TargetNotAllowed { .. } => whom.choose("lab update prepare").map(|command| {
                format!("`targets` in the machine's own configuration, then {command}")
            }),
            Self::UnknownMachine => whom
                .machine
                .map(|machine| format!("lab update-config import FILE, with {machine} in a group")),
            Self::Quarantined { machine, .. } => Some(format!("lab machines release {machine}")),
            Self::TargetQuarantined { target, .. } => Some(format!("lab targets release {target}")),
            Self::Approval { group, rollout, .. } => {
                Some(format!("lab update approve {rollout} --group={group}"))
            }
            Self::Held { group, rollout, .. } => {
                Some(format!("lab update promote {rollout} --group={group}"))
            }
            Self::GroupUnhealthy { machines }
            | Self::Retrying { machines, .. }
            | Self::SideNotReady { machines, .. }
            | Self::Apart { machines }
            | Self::Quorum { machines, .. } => machines.first().map(show),
            Self::GroupLimit { away, .. } | Self::FleetLimit { away, .. } => away.first().map(show),
            Self::Offline { .. } | Self::MachineUnhealthy { .. } => whom.show(),
            Self::Dependency {
                group, machines, ..
            } => whom.look_at(machines, Some(group)),
            Self::WaveNotOpen { machines, .. } => whom.look_at(machines, whom.group),
            Self::CoordinatorLast { groups } => whom.machine.and_then(|_| status_of(groups)),
            Self::Soaking { .. } => whom.promote(),
            Self::Stagger { .. } | Self::WindowClosed { .. } | Self::WindowTooShort { .. } => {
                whom.emergency()
            }
            Self::Frozen { calendar, .. } => whom.emergency().or_else(|| {
                Some(format!(
                    "lab update-config set --key=calendars.{calendar} --value=…"
                ))
            }),
            Self::LiveSide { was: Some(_), .. } => whom.taken_over(),
            Self::LiveSide {
                group,
                first: Some(_),
                ..
            } => Some(format!("lab update status --group={group}")),
            Self::LiveSide { group, behind, .. } if !behind.is_empty() => {
                Some(format!("lab update execute --group={group}"))
            }
            Self::LiveSide { .. } | Self::TrafficMoving { .. } => Some("lab traffic".to_owned()),
            Self::CleaningUp { .. } => Some("lab schedule list".to_owned()),
            Self::Final { state, .. } => whom.ended(state),
            Self::NoSuchGeneration { .. } => whom.show(),
            Self::UpToDate
            | Self::MovedOn { .. }
            | Self::NothingBefore
            | Self::Retry { .. }
            | Self::Staging { .. }
            | Self::Analysing { .. } => None,
        }
    }
}
