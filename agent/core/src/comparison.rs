//! How a machine is, compared with how it was before the attempt. One rule for the judgement on the
//! way there and for the one after going back:
//!
//! * What has become worse speaks against the machine: a unit that failed since, a check that
//!   fails and did not before.
//! * What had failed before and still fails does not: the target did not break it, and going back
//!   would not mend it. It is told, and as the machine's health it stays what it is.
//! * What had failed before and is well now is well.

use std::collections::BTreeSet;

use common::Health;

use crate::{facts::Facts, input::Judgement, reading::line, state::Baseline};

/// A unit of the machine that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedUnit {
    /// Its name.
    pub name: String,
    /// It is about to be started again by itself, so it may yet come good.
    pub restarting: bool,
}

/// One look at a machine, compared with how it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What has become worse, one short line each.
    pub worse: Vec<String>,
    /// What had failed before and still does, one short line each.
    pub no_better: Vec<String>,
    /// Units that failed since and that nobody starts again, by name.
    pub failed_units: BTreeSet<String>,
    /// Some check fails: it may yet come good, whether it had failed before or not.
    pub checks_fail: bool,
}

impl Comparison {
    /// Compares what is seen now with how it was.
    pub fn of(baseline: &Baseline, units: &[FailedUnit], health: &Health) -> Self {
        let mut found = Self::default();
        for unit in units {
            let name = line(&unit.name);
            let says = if unit.restarting {
                "keeps being started again"
            } else {
                "failed"
            };
            if baseline.failed_units.contains(&name) {
                found.no_better.push(format!("{name} {says}, as before"));
            } else {
                found.worse.push(format!("{name} {says}"));
                if !unit.restarting {
                    found.failed_units.insert(name);
                }
            }
        }
        for check in health.checks.iter().filter(|check| !check.passed) {
            found.checks_fail = true;
            let name = line(&check.name);
            if baseline.failed_checks.contains(&name) {
                let says = format!("{name} fails, as before: {}", check.detail);
                found.no_better.push(says);
            } else {
                found.worse.push(format!("{name}: {}", check.detail));
            }
        }
        found
    }

    /// Nothing is worse than it was, and there is nothing to wait for.
    pub fn is_settled(&self) -> bool {
        self.worse.is_empty() && !self.checks_fail
    }

    /// The judgement that this look comes to, on a machine that is not cut off from the network.
    pub fn judgement(self, health: Health, facts: Facts) -> Judgement {
        Judgement {
            healthy: self.worse.is_empty(),
            findings: self.worse,
            no_better: self.no_better,
            cut_off: false,
            health,
            facts,
        }
    }
}

#[cfg(test)]
mod tests {
    use common::CheckResult;

    use super::*;

    fn unit(name: &str, restarting: bool) -> FailedUnit {
        FailedUnit {
            name: name.to_owned(),
            restarting,
        }
    }

    fn health(checks: &[(&str, bool)]) -> Health {
        let result = |(name, passed): &(&str, bool)| CheckResult {
            name: (*name).to_owned(),
            passed: *passed,
            detail: "status 500".to_owned(),
        };
        Health::of(checks.iter().map(result).collect())
    }

    fn before() -> Baseline {
        Baseline {
            failed_units: vec!["old.service".to_owned()],
            failed_checks: vec!["web".to_owned()],
            reached: Vec::new(),
        }
    }

    #[test]
    fn what_had_failed_before_is_told_and_held_against_nobody() {
        let units = [unit("old.service", false)];
        let look = Comparison::of(&before(), &units, &health(&[("web", false), ("db", true)]));
        assert_eq!(look.worse, Vec::<String>::new());
        assert_eq!(
            look.no_better,
            [
                "old.service failed, as before",
                "web fails, as before: status 500"
            ]
        );
        assert_eq!(look.failed_units, BTreeSet::new());
        assert!(!look.is_settled(), "the check may yet come good");
    }

    #[test]
    fn what_has_become_worse_speaks_against_the_machine() {
        let units = [
            unit("old.service", false),
            unit("new.service", false),
            unit("slow.service", true),
        ];
        let look = Comparison::of(&before(), &units, &health(&[("web", true), ("db", false)]));
        assert_eq!(
            look.worse,
            [
                "new.service failed",
                "slow.service keeps being started again",
                "db: status 500"
            ]
        );
        assert_eq!(
            look.failed_units,
            BTreeSet::from(["new.service".to_owned()])
        );
        assert!(!look.is_settled());
    }

    #[test]
    fn a_machine_that_was_mended_is_well() {
        let look = Comparison::of(&before(), &[], &health(&[("web", true)]));
        assert_eq!(look, Comparison::default());
        assert!(look.is_settled());
        // What fails as a unit alone does not come good by waiting.
        let look = Comparison::of(&before(), &[unit("old.service", false)], &health(&[]));
        assert!(look.is_settled());
    }

    #[test]
    fn a_name_that_is_tamed_on_disk_is_found_again() {
        let strange = "a\u{1b}[31m\nb.service";
        let mut baseline = Baseline {
            failed_units: vec![strange.to_owned()],
            failed_checks: Vec::new(),
            reached: Vec::new(),
        };
        baseline = crate::reading::bounded(baseline);
        let look = Comparison::of(&baseline, &[unit(strange, false)], &health(&[]));
        assert_eq!(look.worse, Vec::<String>::new());
    }
}
