//! What must be true of every case in the end, whatever the fault was.

use common::StorePath;
use serde::Serialize;

use super::case::{At, Case, Fault};

/// What was seen of a case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Seen {
    /// Where the machine came from.
    pub(super) before: StorePath,
    /// Where it was to go.
    pub(super) target: StorePath,
    /// What the coordinator has in its history, verdicts and reasons.
    pub(super) verdicts: Vec<(String, String)>,
    /// `/run/current-system` in the end.
    pub(super) running: String,
    /// The system profile.
    pub(super) profile: String,
    /// What the next boot starts.
    pub(super) boot_default: String,
    /// The hooks that ran, in order.
    pub(super) hooks: Vec<String>,
    /// Whether the machine counted as away while it was in the step, and while the fault lasted.
    pub(super) away: Vec<bool>,
    /// Whether it does when all is over.
    pub(super) away_in_the_end: bool,
    /// Timers that would still take the machine back.
    pub(super) timers: Vec<String>,
}

impl Seen {
    /// The last verdict; empty when there is none.
    pub(super) fn verdict(&self) -> &str {
        self.verdicts.last().map_or("", |(verdict, _)| verdict)
    }

    /// Whether each but the last is of an attempt that ended before anything was changed: the machine
    /// was then staged anew, and had another turn.
    fn is_one_of_each(&self) -> bool {
        let earlier = self.verdicts.split_last().map_or(&[][..], |(_, rest)| rest);
        let changed_nothing = |verdict: &str| ["refused", "abandoned"].contains(&verdict);
        earlier.iter().all(|(verdict, _)| changed_nothing(verdict))
    }
}

/// Everything that is not as it must be.
pub(super) fn violations(case: &Case, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |so: bool, else_say: String| {
        if !so {
            found.push(else_say);
        }
    };
    let (before, target) = (seen.before.as_str(), seen.target.as_str());
    let verdict = seen.verdict();
    must(
        seen.is_one_of_each(),
        format!("{} verdicts instead of one", seen.verdicts.len()),
    );
    let known = [before, target].contains(&seen.running.as_str());
    must(known, format!("it runs {}", seen.running));
    let same = seen.profile == seen.running && seen.boot_default == seen.running;
    // A machine that needs a human may be between the two; every other is at one place altogether.
    must(
        same || verdict == "stuck",
        format!(
            "it runs {}, its profile is {} and it boots {}",
            seen.running, seen.profile, seen.boot_default
        ),
    );
    match verdict {
        "confirmed" => {
            must(
                seen.running == target,
                "confirmed, and not there".to_owned(),
            );
            must(
                case.situation.way.is_good(),
                "a bad target was confirmed".to_owned(),
            );
        }
        "rolled-back" | "refused" | "abandoned" => {
            must(seen.running == before, format!("{verdict}, and not back"));
        }
        "stuck" => must(may_be_stuck(case), "it is stuck".to_owned()),
        other => must(false, format!("the verdict is {other:?}")),
    }
    if case.situation.way.is_good()
        && case.situation.at.is_past_no_return()
        && case.fault.blames_nobody()
    {
        must(
            verdict == "confirmed",
            format!(
                "a good target is {verdict} because of the {}",
                case.fault.name()
            ),
        );
    }
    must(
        seen.away.iter().all(|away| *away),
        "the slot was free before the end".to_owned(),
    );
    // One that needs a human stays away until it shows itself to be well, or the human says so.
    must(
        !seen.away_in_the_end || verdict == "stuck",
        format!("in the end it is away: {}", seen.away_in_the_end),
    );
    must(
        seen.timers.is_empty(),
        format!("timers are left: {}", seen.timers.join(", ")),
    );
    found.extend(unpaired(case, seen));
    found
}

/// Only where going back itself is made to fail, or the previous system to look ill.
fn may_be_stuck(case: &Case) -> bool {
    matches!(
        (case.situation.at, case.fault),
        (
            At::RollingBack | At::RebootingBack | At::JudgingRollback,
            Fault::Error | Fault::Hang | Fault::StoreFull | Fault::BootFull
        )
    )
}

/// What the hooks did that they must not do.
fn unpaired(case: &Case, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    let times = |hook: &str| seen.hooks.iter().filter(|told| *told == hook).count();
    for hook in ["pre", "post", "rollback"] {
        if times(hook) > 1 {
            found.push(format!("the hook {hook} ran {} times", times(hook)));
        }
    }
    let (pre, post, rollback) = (times("pre"), times("post"), times("rollback"));
    let refused = case.situation.at == At::PreHook && case.fault == Fault::Error;
    let ends_well = match seen.verdict() {
        "confirmed" => pre == 1 && post == 1 && rollback == 0,
        _ if refused => post == 0 && rollback == 0,
        // Without it there is nothing to make up for; what began unseen may be made up for.
        _ => pre == 0 || rollback == 1,
    };
    if !ends_well {
        found.push(format!(
            "{} after the hooks {}",
            seen.verdict(),
            seen.hooks.join(", ")
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::case::{Situation, Way};

    fn path(name: &str) -> StorePath {
        let text = format!("/nix/store/{}-nixos-system-{name}", "a".repeat(32));
        text.parse().expect("a store path")
    }

    fn seen(verdict: &str, at: &str) -> Seen {
        let running = path(at).to_string();
        Seen {
            before: path("before"),
            target: path("target"),
            verdicts: vec![(verdict.to_owned(), String::new())],
            running: running.clone(),
            profile: running.clone(),
            boot_default: running,
            hooks: ["pre", "post"].map(str::to_owned).to_vec(),
            away: vec![true],
            away_in_the_end: false,
            timers: Vec::new(),
        }
    }

    fn case(way: Way, at: At, fault: Fault) -> Case {
        let situation = Situation { way, at };
        Case { situation, fault }
    }

    #[test]
    fn what_ends_well_has_no_violations() {
        let good = case(Way::Switch, At::PostHook, Fault::Coordinator);
        assert_eq!(violations(&good, &seen("confirmed", "target")), [""; 0]);
        let back = case(Way::SwitchBack, At::RollingBack, Fault::PowerCut);
        let mut end = seen("rolled-back", "before");
        end.hooks.push("rollback".to_owned());
        assert_eq!(violations(&back, &end), [""; 0]);
    }

    #[test]
    fn each_thing_that_must_not_be_is_named() {
        let case = case(Way::Switch, At::PostHook, Fault::Coordinator);
        let end = || seen("confirmed", "target");
        let says = |what: &str, wrong: Seen| {
            let found = violations(&case, &wrong).join("; ");
            assert!(found.contains(what), "{what}: {found}");
        };
        says("2 verdicts", {
            let mut wrong = end();
            wrong.verdicts.push(("confirmed".to_owned(), String::new()));
            wrong
        });
        says(
            "it runs /nix",
            Seen {
                running: path("other").to_string(),
                ..end()
            },
        );
        says(
            "its profile is",
            Seen {
                profile: path("before").to_string(),
                ..end()
            },
        );
        says("confirmed, and not there", seen("confirmed", "before"));
        says("rolled-back, and not back", seen("rolled-back", "target"));
        says("because of the coordinator", seen("rolled-back", "before"));
        says("it is stuck", seen("stuck", "target"));
        says(
            "free before the end",
            Seen {
                away: vec![true, false],
                ..end()
            },
        );
        says(
            "it is away: true",
            Seen {
                away_in_the_end: true,
                ..end()
            },
        );
        says(
            "timers are left: t",
            Seen {
                timers: vec!["t".to_owned()],
                ..end()
            },
        );
        says("ran 2 times", {
            let mut wrong = end();
            wrong.hooks.push("post".to_owned());
            wrong
        });
        says(
            "confirmed after the hooks pre",
            Seen {
                hooks: vec!["pre".to_owned()],
                ..end()
            },
        );
        says(
            "rolled-back after the hooks pre, post",
            seen("rolled-back", "before"),
        );
    }
}
