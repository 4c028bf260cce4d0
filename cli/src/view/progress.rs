//! Following a rollout: what changed between two looks at it, and how it ended.

use std::collections::BTreeMap;

use lab_proto::operator::{Rollout, RolloutGroup, RolloutMachine};

use super::{Look, counted, marked, span, transition};
use crate::error::Exit;

/// How waiting for a rollout ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every machine had its turn; perhaps some failed, within the budget.
    Finished,
    /// Only machines that cannot be reached are left; they catch up by themselves.
    OnlyLateLeft,
    /// The same, and none of the others went as it should: nobody could be reached.
    NobodyReached,
    /// It paused itself: a person has to decide.
    Paused,
    /// It failed, and at least one machine is not fine.
    Failed,
    /// It failed, and every machine that failed is back and healthy; or too many did, and what it
    /// brought was taken back.
    RolledBack,
    /// Somebody ended it.
    Aborted,
}

impl Ending {
    /// How the rollout ended, once nothing more is to be waited for.
    pub fn of(rollout: &Rollout) -> Option<Self> {
        match rollout.state.as_str() {
            "finished" => Some(Self::Finished),
            "aborted" => Some(Self::Aborted),
            "failed" => {
                let mut failed = machines(rollout)
                    .filter(|machine| is_failed(machine))
                    .peekable();
                let any = failed.peek().is_some();
                let all_back = failed.all(|machine| machine.state == "rolled-back");
                Some(if any && all_back {
                    Self::RolledBack
                } else {
                    Self::Failed
                })
            }
            // It goes on by itself: what it brought is taken back.
            "paused" if rollout.takes_back => None,
            "paused" => {
                let by_hand = |kind: &str| kind == "operator";
                let own = rollout
                    .pause
                    .as_ref()
                    .is_none_or(|pause| !by_hand(&pause.kind));
                own.then_some(Self::Paused)
            }
            _ if rollout.only_late_left => {
                let went = |machine: &RolloutMachine| {
                    ["updated", "reboot-required"].contains(&machine.state.as_str())
                };
                Some(if machines(rollout).any(went) {
                    Self::OnlyLateLeft
                } else {
                    Self::NobodyReached
                })
            }
            _ => None,
        }
    }

    /// How a rollout ended that was taken back by itself, once the rollback has ended.
    pub fn of_undone(rollback: &Rollout) -> Option<Self> {
        Some(match Self::of(rollback)? {
            Self::Finished | Self::OnlyLateLeft => Self::RolledBack,
            Self::NobodyReached
            | Self::Paused
            | Self::Failed
            | Self::RolledBack
            | Self::Aborted => Self::Failed,
        })
    }

    /// The exit status that scripts see.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Finished | Self::OnlyLateLeft => Exit::Yes,
            Self::NobodyReached | Self::Paused | Self::Failed | Self::Aborted => Exit::No,
            Self::RolledBack => Exit::RolledBack,
        }
    }

    /// The word in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::OnlyLateLeft => "only-late-left",
            Self::NobodyReached => "nobody-reached",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Aborted => "aborted",
        }
    }
}

/// All machines of a rollout.
pub fn machines(rollout: &Rollout) -> impl Iterator<Item = &RolloutMachine> {
    let waves = rollout.groups.iter().flat_map(|group| &group.waves);
    waves.flat_map(|wave| &wave.machines)
}

/// Whether a machine ended without the target.
pub fn is_failed(machine: &RolloutMachine) -> bool {
    ["rolled-back", "refused", "failed", "overdue"].contains(&machine.state.as_str())
}

/// Machines that have not ended: the late ones, once only they are left.
fn is_late(machine: &RolloutMachine) -> bool {
    ["pending", "staging", "ready"].contains(&machine.state.as_str())
}

/// What happened between two looks, one line each. The first look tells what is under way.
pub fn news(before: Option<&Rollout>, now: &Rollout) -> Vec<String> {
    let mut lines = Vec::new();
    let state_before = before.map(|rollout| rollout.state.as_str());
    if state_before != Some(&now.state) {
        let why = now.pause.as_ref().map_or_else(String::new, |pause| {
            format!(": {} (way out: {})", pause.text, pause.way_out)
        });
        lines.push(format!(
            "{} {}  {}{why}",
            now.kind,
            now.id,
            marked(&now.state)
        ));
    }
    let groups: BTreeMap<&str, &RolloutGroup> = before
        .iter()
        .flat_map(|rollout| &rollout.groups)
        .map(|group| (group.name.as_str(), group))
        .collect();
    let old_machines: BTreeMap<&str, &RolloutMachine> = before
        .iter()
        .flat_map(|rollout| machines(rollout))
        .map(|machine| (machine.name.as_str(), machine))
        .collect();
    for group in &now.groups {
        lines.extend(group_news(groups.get(group.name.as_str()).copied(), group));
        for machine in group.waves.iter().flat_map(|wave| &wave.machines) {
            let old = old_machines.get(machine.name.as_str()).copied();
            lines.extend(machine_news(old, machine, &group.name));
        }
    }
    lines
}

fn group_news(before: Option<&RolloutGroup>, now: &RolloutGroup) -> Option<String> {
    let kind = |group: &RolloutGroup| group.wait_reason.as_ref().map(|reason| reason.kind.clone());
    let same = |before: &RolloutGroup| before.state == now.state && kind(before) == kind(now);
    if before.is_some_and(same) {
        return None;
    }
    let why = now.wait_reason.as_ref().map_or_else(String::new, |reason| {
        let hint = match reason.hint.as_str() {
            "" => String::new(),
            hint => format!(" (try: {hint})"),
        };
        format!(": {}{hint}", reason.text)
    });
    Some(format!("{}  {}{why}", now.name, marked(&now.state)))
}

fn machine_news(
    before: Option<&RolloutMachine>,
    now: &RolloutMachine,
    group: &str,
) -> Option<String> {
    let waiting = ["pending", "ready", "skipped"].contains(&now.state.as_str());
    let same = |before: &RolloutMachine| before.state == now.state && before.step == now.step;
    if before.map_or(waiting, same) {
        return None;
    }
    let step = if now.step.is_empty() {
        String::new()
    } else {
        format!("  {}", now.step)
    };
    let because = if now.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", now.reason)
    };
    Some(format!(
        "{group}  {}  {}{step}{because}",
        now.name,
        marked(&now.state)
    ))
}

/// The last words: how it ended, how many, which not, and what to do next.
pub fn summary(ending: &Ending, rollout: &Rollout, look: &Look) -> String {
    let count = |state: &str| {
        machines(rollout)
            .filter(|machine| machine.state == state)
            .count()
    };
    let whole = machines(rollout).count();
    let took = took(rollout).map_or_else(String::new, |seconds| format!(" in {}", span(seconds)));
    let (mark, said) = match ending {
        Ending::Finished if rollout.failed == 0 => ('✔', "finished"),
        Ending::Finished => ('⚠', "finished within its failure budget"),
        Ending::OnlyLateLeft => ('✔', "finished but for machines that cannot be reached"),
        Ending::NobodyReached => (
            '✖',
            "reached nobody so far; it goes on when machines come back",
        ),
        Ending::Paused => ('⚠', "paused itself"),
        Ending::Failed => ('✖', "failed"),
        Ending::RolledBack if rollout.state == "aborted" => {
            ('✖', "failed; what it brought was taken back")
        }
        Ending::RolledBack => ('✖', "failed; every machine that failed is back and healthy"),
        Ending::Aborted => ('✖', "was aborted"),
    };
    let mut text = format!(
        "{mark} {} {} {said}: {} of {} updated{took}\n",
        rollout.kind,
        rollout.id,
        count("updated"),
        counted(whole, "machine"),
    );
    let shown =
        |machine: &&RolloutMachine| is_failed(machine) || machine.state == "reboot-required";
    let failed = machines(rollout).filter(shown).map(|machine| {
        vec![
            machine.name.clone(),
            marked(&machine.state),
            machine.reason.clone(),
        ]
    });
    text.push_str(&look.columns(2, failed));
    if let Some(pause) = &rollout.pause {
        text.push_str(&format!("  {}\n  way out: {}\n", pause.text, pause.way_out));
    }
    if matches!(ending, Ending::OnlyLateLeft | Ending::NobodyReached) {
        let late: Vec<String> = late(rollout);
        text.push_str(&format!("  late: {}\n", late.join(", ")));
    }
    text
}

/// The machines that are left when only late ones are.
pub fn late(rollout: &Rollout) -> Vec<String> {
    let late = machines(rollout).filter(|machine| is_late(machine));
    late.map(|machine| machine.name.clone()).collect()
}

/// What `lab update verify` will say no to, for standard error.
pub fn verify_will_fail(rollout: &Rollout) -> Option<String> {
    let failed = machines(rollout).filter(|machine| is_failed(machine));
    let named: Vec<String> = failed
        .map(|machine| format!("{} ({})", machine.name, machine.state))
        .collect();
    (!named.is_empty()).then(|| {
        format!(
            "note: not on their target: {}; `lab update verify` will say no",
            named.join(", ")
        )
    })
}

fn took(rollout: &Rollout) -> Option<u64> {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let (begin, end) = (
        time(&rollout.created_at)?,
        time(rollout.ended_at.as_deref()?)?,
    );
    u64::try_from(end.duration_since(begin).as_secs()).ok()
}

/// What each machine of a rollback goes back to.
pub fn way_back(plan: &lab_proto::operator::PlanReply, look: &Look) -> String {
    let machines = plan
        .groups
        .iter()
        .flat_map(|group| &group.waves)
        .flat_map(|wave| &wave.machines);
    look.columns(
        0,
        machines.map(|machine| {
            vec![
                machine.name.clone(),
                transition(&machine.running, &machine.target, &machine.name),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{made, tests::look};
    use lab_proto::operator::{PauseReason, WaitReason};

    fn rollout(state: &str, machines: &[(&str, &str)]) -> Rollout {
        Rollout {
            created_at: "2026-11-22T11:00:00Z".into(),
            ended_at: Some("2026-11-22T11:20:00Z".into()),
            ..made::rollout("r-1", state, machines)
        }
    }

    fn paused(kind: &str) -> Rollout {
        let pause = PauseReason {
            kind: kind.into(),
            text: "2 machines failed, 1 is allowed".into(),
            way_out: "lab update resume r-1".into(),
        };
        Rollout {
            pause: Some(pause),
            ended_at: None,
            ..rollout("paused", &[("a", "failed")])
        }
    }

    #[test]
    fn endings_and_their_exit_codes() {
        let late = Rollout {
            only_late_left: true,
            ..rollout("active", &[("a", "updated"), ("b", "pending")])
        };
        let nobody = Rollout {
            only_late_left: true,
            ..rollout("active", &[("a", "refused"), ("b", "pending")])
        };
        for (rollout, code) in [
            (rollout("active", &[("a", "leased")]), None),
            (rollout("finished", &[("a", "updated")]), Some(0)),
            (
                rollout("finished", &[("a", "updated"), ("b", "rolled-back")]),
                Some(0),
            ),
            (
                rollout("failed", &[("a", "rolled-back"), ("b", "updated")]),
                Some(9),
            ),
            (
                rollout("failed", &[("a", "rolled-back"), ("b", "failed")]),
                Some(1),
            ),
            (
                rollout("failed", &[("a", "rolled-back"), ("b", "overdue")]),
                Some(1),
            ),
            (rollout("failed", &[]), Some(1)),
            (rollout("aborted", &[("a", "pending")]), Some(1)),
            (paused("budget-spent"), Some(1)),
            (paused("no-progress"), Some(1)),
            (paused("rejected"), Some(1)),
            (paused("operator"), None),
            (late, Some(0)),
            (nobody, Some(1)),
        ] {
            let ending = Ending::of(&rollout).map(|ending| ending.exit().code());
            assert_eq!(ending, code, "{rollout:?}");
        }
    }

    #[test]
    fn news_tells_each_change_once() {
        let first = rollout("active", &[("a", "leased"), ("b", "pending")]);
        let mut second = rollout("active", &[("a", "updated"), ("b", "leased")]);
        second.groups[0].waves[0].machines[1].step = "activating".into();
        let mut third = paused("budget-spent");
        third.groups[0].waves[0].machines[0].reason = "health check failed".into();
        third.groups[0].state = "waiting".into();
        third.groups[0].wait_reason = Some(WaitReason {
            kind: "approval".into(),
            text: "somebody has to approve".into(),
            hint: "lab update approve".into(),
            ..WaitReason::default()
        });
        let mut told = news(None, &first);
        told.push("--".into());
        told.extend(news(Some(&first), &second));
        told.push("--".into());
        told.extend(news(Some(&second), &third));
        insta::assert_snapshot!("news", told.join("\n"));
        assert!(news(Some(&third), &third).is_empty());
    }

    #[test]
    fn the_summary_names_what_failed_and_what_to_do() {
        let mut within = rollout("finished", &[("a", "updated"), ("b", "rolled-back")]);
        within.failed = 1;
        within.groups[0].waves[0].machines[1].reason = "health check failed".into();
        let late = Rollout {
            ended_at: None,
            ..rollout("active", &[("a", "updated"), ("b", "pending")])
        };
        let whole = [
            summary(
                &Ending::Finished,
                &rollout("finished", &[("a", "updated")]),
                &look(),
            ),
            summary(&Ending::Finished, &within, &look()),
            summary(&Ending::OnlyLateLeft, &late, &look()),
            summary(&Ending::Paused, &paused("budget-spent"), &look()),
        ];
        insta::assert_snapshot!("summary", whole.join("\n"));
        assert_eq!(
            verify_will_fail(&within).as_deref(),
            Some("note: not on their target: b (rolled-back); `lab update verify` will say no")
        );
        assert_eq!(verify_will_fail(&late), None);
    }
}
