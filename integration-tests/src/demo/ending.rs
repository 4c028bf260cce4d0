//! How a demo should end, and whether it did.

use std::{collections::BTreeSet, fs, io, path::Path};

use common::{GroupName, MachineName, StorePath};
use lab_proto::operator::{Rollout, RolloutMachine};
use serde::Serialize;

use super::{
    error::DemoError,
    fleet_file::Fleet,
    options::{Approve, Kind},
    witness::Violation,
};

/// How the rollout should end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Every group is done.
    Finished,
    /// More machines of this group fail than its policy takes: what the rollout brought is taken back, and
    /// where that is nothing, it pauses itself.
    TooMany(GroupName),
    /// This group waits for an approval that nobody gives.
    AwaitingApproval(GroupName),
}

impl Expected {
    /// For this fleet and what goes wrong in it.
    pub(super) fn of(fleet: &Fleet, approve: Approve) -> Self {
        for (name, group) in fleet.groups() {
            if group.policy.needs_approval && approve == Approve::Never {
                return Self::AwaitingApproval(name.clone());
            }
            let kept_back = group.machines.iter().filter(|machine| {
                let kind = fleet.failure_of(machine);
                kind.is_some_and(Kind::keeps_back)
            });
            let kept_back = u32::try_from(kept_back.count()).unwrap_or(u32::MAX);
            if kept_back > group.policy.max_failures {
                return Self::TooMany(name.clone());
            }
        }
        Self::Finished
    }

    /// Whether the rollout, and the rollback that takes it back if there is one, has got there, or will not
    /// get any further.
    pub(super) fn is_reached(&self, rollout: &Rollout, rollback: Option<&Rollout>) -> bool {
        let away = machines_of(rollout).any(is_away);
        match rollout.state.as_str() {
            "finished" | "failed" => true,
            "aborted" => rollback.is_none_or(is_over),
            "paused" => !away,
            _ => {
                let Self::AwaitingApproval(waiting) = self else {
                    return false;
                };
                let at_rest = |group: &str, state: &str| match state {
                    "finished" => true,
                    "awaiting-approval" | "waiting" => group == waiting.as_str() || !away,
                    _ => false,
                };
                let asked = rollout.groups.iter().any(|group| {
                    group.name == waiting.as_str() && group.state == "awaiting-approval"
                });
                asked && rollout.groups.iter().all(|g| at_rest(&g.name, &g.state))
            }
        }
    }

    /// What is not as it should be about the rollout itself.
    fn differs(&self, rollout: &Rollout, rollback: Option<&Rollout>) -> Option<String> {
        let pause = rollout
            .pause
            .as_ref()
            .map_or("", |pause| pause.kind.as_str());
        let (right, wanted) = match self {
            Self::Finished => (rollout.state == "finished", "finished".to_owned()),
            Self::TooMany(group) => (
                (rollout.state == "paused" && pause == "budget-spent")
                    || (rollout.state == "aborted"
                        && rollback.is_some_and(|rollback| rollback.state == "finished")),
                format!("taken back or paused, since group {group} takes no more failures"),
            ),
            Self::AwaitingApproval(group) => (
                rollout.state == "active",
                format!("active, with group {group} waiting for approval"),
            ),
        };
        (!right).then(|| {
            let pause = rollout
                .pause
                .as_ref()
                .map_or("", |pause| pause.text.as_str());
            format!(
                "the rollout is {} {pause}, and should be {wanted}",
                rollout.state
            )
        })
    }
}

fn is_away(machine: &RolloutMachine) -> bool {
    matches!(machine.state.as_str(), "leased" | "overdue")
}

fn is_over(rollout: &Rollout) -> bool {
    matches!(
        rollout.state.as_str(),
        "finished" | "failed" | "aborted" | "paused"
    )
}

/// Every machine of a rollout.
pub(super) fn machines_of(rollout: &Rollout) -> impl Iterator<Item = &RolloutMachine> {
    let waves = rollout.groups.iter().flat_map(|group| &group.waves);
    waves.flat_map(|wave| &wave.machines)
}

/// What became of one machine, seen from both sides.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Which.
    pub(super) name: MachineName,
    /// Its group.
    pub(super) group: GroupName,
    /// What it ran before.
    pub(super) before: StorePath,
    /// What it was to run.
    pub(super) target: StorePath,
    /// What it really runs, by its own link.
    pub(super) running: Option<StorePath>,
    /// What it was booted into last, by its own link.
    pub(super) booted: Option<StorePath>,
    /// Whether its target has another kernel, so that it takes a boot.
    pub(super) takes_boot: bool,
    /// The profile's generation, by its own link.
    pub(super) generation: u64,
    /// What the coordinator says about it, if it was in the rollout.
    pub(super) said: Option<RolloutMachine>,
    /// What was to go wrong.
    pub(super) failure: Option<Kind>,
    /// Whether it is one of those that were to be taken back.
    pub(super) taken_back: bool,
}

impl Found {
    /// The coordinator's word for where it stands.
    pub(super) fn state(&self) -> &str {
        self.said.as_ref().map_or("", |said| said.state.as_str())
    }

    /// The machine's own verdict, as the coordinator keeps it.
    pub(super) fn verdict(&self) -> &str {
        self.said.as_ref().map_or("", |said| said.verdict.as_str())
    }

    /// What the machine runs must be what its verdict says, and the coordinator must know it.
    pub(super) fn violation(&self) -> Option<Violation> {
        if self.failure == Some(Kind::Silent) {
            return None;
        }
        let said = self.said.as_ref()?;
        let running = self.running.as_ref();
        let what = match self.verdict() {
            _ if self.taken_back && running == Some(&self.before) => return None,
            _ if self.taken_back => "was to be taken back, and was not",
            "confirmed" if running != Some(&self.target) => {
                "confirmed, but does not run its target"
            }
            "confirmed" if self.takes_boot && self.booted.as_ref() != Some(&self.target) => {
                "confirmed, but was not booted into its target"
            }
            "rolled-back" | "refused" if running != Some(&self.before) => {
                "did not come back to what it ran before"
            }
            "" if running != Some(&self.before) && self.state() == "pending" => {
                "was changed without its turn"
            }
            _ if running.map_or("", StorePath::as_str) != said.running => {
                "runs something else than the coordinator says"
            }
            _ => return None,
        };
        Some(Violation::Verdict {
            machine: self.name.clone(),
            what: what.to_owned(),
        })
    }

    /// What is not as it should be: what fails is kept back, everything else arrives.
    fn differs(&self, expected: &Expected) -> Option<String> {
        let state = self.state();
        let mut wanted = match self.failure {
            None | Some(Kind::Crash) => vec!["updated"],
            Some(Kind::Silent) => vec!["failed"],
            Some(Kind::Health | Kind::Switch | Kind::Hook | Kind::Hang) => vec!["rolled-back"],
        };
        if *expected != Expected::Finished {
            // It may have been before its turn.
            wanted.extend(["pending", "staging", "ready", "skipped"]);
        }
        (!wanted.contains(&state)).then(|| {
            let reason = self.said.as_ref().map_or("", |said| said.reason.as_str());
            let wanted = wanted.join(" or ");
            format!(
                "{} is {state:?} and should be {wanted} ({reason})",
                self.name
            )
        })
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// The rollout; `None` when none was begun.
    pub(super) rollout: Option<Rollout>,
    /// The one that takes it back.
    pub(super) rollback: Option<Rollout>,
    /// Every machine.
    pub(super) machines: Vec<Found>,
    /// Most machines that were really away at once.
    pub(super) max_away: usize,
    /// Most that may be.
    pub(super) max_away_allowed: u32,
    /// What must not have happened.
    pub(super) violations: Vec<Violation>,
    /// What did not end as it should.
    pub(super) differences: Vec<String>,
    /// Real seconds from the first program's start.
    pub(super) seconds: f64,
}

impl Ending {
    /// Compares what was found with what was expected.
    pub(super) fn judge(&mut self, expected: &Expected) {
        let Some(rollout) = &self.rollout else {
            return;
        };
        let differs = expected.differs(rollout, self.rollback.as_ref());
        self.differences.extend(differs);
        let machines = self.machines.iter();
        self.differences
            .extend(machines.filter_map(|machine| machine.differs(expected)));
        let machines = self.machines.iter();
        self.violations
            .extend(machines.filter_map(Found::violation));
    }

    /// Whether everything ended as it should.
    pub(super) fn is_good(&self) -> bool {
        self.violations.is_empty() && self.differences.is_empty()
    }

    /// As JSON, for `--report`.
    pub(super) fn report(&self) -> Report<'_> {
        Report {
            machines: self.machines.iter().map(MachineReport::of).collect(),
            rollout: RolloutReport {
                id: self.rollout.as_ref().map_or("", |r| r.id.as_str()),
                state: self.rollout.as_ref().map_or("", |r| r.state.as_str()),
            },
            max_away: self.max_away,
            max_away_allowed: self.max_away_allowed,
            violations: self.violations.len(),
            seconds: (self.seconds * 10.0).round() / 10.0,
        }
    }
}

/// What `--report` writes. Its shape is fixed: programs read it.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    machines: Vec<MachineReport<'a>>,
    rollout: RolloutReport<'a>,
    max_away: usize,
    max_away_allowed: u32,
    violations: usize,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct MachineReport<'a> {
    name: &'a MachineName,
    group: &'a GroupName,
    state: &'a str,
    generation: u64,
    running: &'a str,
    verdict: &'a str,
}

impl Report<'_> {
    /// Writes it to a file.
    pub(super) fn write(&self, file: &Path) -> Result<(), DemoError> {
        let failed = |source: io::Error| DemoError::file("write", file)(source);
        let mut text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        text.push('\n');
        fs::write(file, text).map_err(failed)
    }
}

impl<'a> MachineReport<'a> {
    fn of(found: &'a Found) -> Self {
        Self {
            name: &found.name,
            group: &found.group,
            state: found.state(),
            generation: found.generation,
            running: found.running.as_ref().map_or("", StorePath::as_str),
            verdict: found.verdict(),
        }
    }
}

#[derive(Debug, Serialize)]
struct RolloutReport<'a> {
    id: &'a str,
    state: &'a str,
}

/// Machines whose agents never come back: their attempts have no end.
pub(super) fn silent(fleet: &Fleet) -> BTreeSet<MachineName> {
    let failures = fleet.failures.iter();
    failures
        .filter(|(_, kind)| *kind == Kind::Silent)
        .map(|(machine, _)| machine.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(fail: &[&str], approve: Approve) -> Expected {
        let fail: Vec<_> = fail.iter().map(|f| f.parse().expect("a failure")).collect();
        Expected::of(&Fleet::load(None, &fail).expect("valid"), approve)
    }

    #[test]
    fn the_policies_say_how_it_ends() {
        let group = |name: &str| name.parse::<GroupName>().expect("a name");
        assert_eq!(expected(&[], Approve::Auto), Expected::Finished);
        assert_eq!(
            expected(&["dev-01=health", "dev-02=switch"], Approve::Auto),
            Expected::TooMany(group("dev"))
        );
        assert_eq!(
            expected(&["log-server=hang"], Approve::Auto),
            Expected::TooMany(group("infrastructure"))
        );
        assert_eq!(
            expected(&["log-server=crash"], Approve::Auto),
            Expected::Finished
        );
        assert_eq!(
            expected(&["none"], Approve::Never),
            Expected::AwaitingApproval(group("critical"))
        );
    }

    fn found(verdict: &str, running: &str) -> Found {
        let path = |name: &str| -> StorePath {
            format!("/nix/store/{}-{name}", "0".repeat(32))
                .parse()
                .expect("a path")
        };
        let running = path(running);
        Found {
            name: "a".parse().expect("a name"),
            group: "g".parse().expect("a name"),
            before: path("one"),
            target: path("two"),
            running: Some(running.clone()),
            booted: Some(path("one")),
            takes_boot: false,
            generation: 2,
            said: Some(RolloutMachine {
                state: "updated".to_owned(),
                verdict: verdict.to_owned(),
                running: running.to_string(),
                ..RolloutMachine::default()
            }),
            failure: None,
            taken_back: false,
        }
    }

    #[test]
    fn a_verdict_that_the_machine_does_not_bear_out_is_a_violation() {
        assert_eq!(found("confirmed", "two").violation(), None);
        assert_eq!(found("rolled-back", "one").violation(), None);
        assert!(found("confirmed", "one").violation().is_some());
        assert!(found("rolled-back", "two").violation().is_some());
        let mut lied = found("confirmed", "two");
        lied.running = None;
        assert!(lied.violation().is_some());
        let mut switched = found("confirmed", "two");
        switched.takes_boot = true;
        assert!(switched.violation().is_some());
        switched.booted = Some(switched.target.clone());
        assert_eq!(switched.violation(), None);
        let mut left = found("confirmed", "two");
        left.taken_back = true;
        assert!(left.violation().is_some());
        let mut back = found("confirmed", "one");
        back.taken_back = true;
        assert_eq!(back.violation(), None);
    }
}
