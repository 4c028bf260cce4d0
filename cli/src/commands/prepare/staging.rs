//! Where machines stand on the way to having their targets.

use std::collections::{BTreeMap, BTreeSet};

use lab_proto::operator::Machine;
use serde::Serialize;

use crate::{
    error::Exit,
    view::{Look, counted, marked},
};

/// Machines and where each stands.
pub(super) type Stages = BTreeMap<String, Stage>;

/// Where machines stand whose targets were set just now.
pub(super) fn begun(pinned: Vec<String>) -> Stages {
    let waiting = |name| (name, Stage::Waiting);
    pinned.into_iter().map(waiting).collect()
}

/// Where a machine stands on the way to having its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    Staged,
    Waiting,
    Offline,
    /// It takes part in this rollout, to another target, first.
    Engaged(String),
    Failed(Failure),
}

/// Why a machine does not stage its target, and what to try next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    pub(super) why: String,
    pub(super) hint: String,
}

/// Where all of them stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Staging {
    staged: Vec<String>,
    pub(super) waiting: Vec<String>,
    offline: Vec<String>,
    /// Machines and the rollouts they take part in first.
    engaged: BTreeMap<String, String>,
    failed: BTreeMap<String, String>,
    #[serde(skip)]
    hints: BTreeSet<String>,
}

impl Staging {
    pub(super) fn of(stages: Stages) -> Self {
        let mut staging = Self::default();
        for (name, stage) in stages {
            match stage {
                Stage::Staged => staging.staged.push(name),
                Stage::Waiting => staging.waiting.push(name),
                Stage::Offline => staging.offline.push(name),
                Stage::Engaged(rollout) => {
                    staging.hints.insert("lab update status".to_owned());
                    staging.engaged.insert(name, rollout);
                }
                Stage::Failed(failure) => {
                    staging.failed.insert(name, failure.why);
                    staging.hints.insert(failure.hint);
                }
            }
        }
        staging
    }

    pub(super) fn view(&self, look: &Look) -> String {
        let row = |name: &str, state: &str, why: &str| {
            vec![name.to_owned(), marked(state), why.to_owned()]
        };
        let failed = self
            .failed
            .iter()
            .map(|(name, why)| row(name, "failed", why));
        let offline = self
            .offline
            .iter()
            .map(|name| row(name, "offline", "catches up later"));
        let engaged = self.engaged.iter().map(|(name, rollout)| {
            let why = format!("stages it when its part of {rollout} is over");
            row(name, "later", &why)
        });
        let waiting = self.waiting.iter().map(|name| row(name, "staging", ""));
        let rows = failed.chain(offline).chain(engaged).chain(waiting);
        let mut text = look.columns(0, rows);
        let later = self.waiting.len() + self.offline.len() + self.engaged.len();
        let all = self.staged.len() + later + self.failed.len();
        text.push_str(&format!(
            "{} of {} staged\n",
            self.staged.len(),
            counted(all, "machine")
        ));
        for hint in self.hints.iter().filter(|hint| !hint.is_empty()) {
            text.push_str(&format!("try: {hint}\n"));
        }
        text
    }

    pub(super) fn exit(&self) -> Exit {
        if self.failed.is_empty() {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

/// Where a machine stands, as far as its own report says.
pub(super) fn stage(machine: &Machine) -> Stage {
    let runs_it = !machine.target.is_empty() && machine.target == machine.running;
    match machine.state.as_str() {
        _ if machine.staged || runs_it => Stage::Staged,
        "offline" | "never-seen" => Stage::Offline,
        _ if !machine.engaged.is_empty() => Stage::Engaged(machine.engaged.clone()),
        _ => Stage::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_means_here_or_already_running() {
        let machine = |state: &str, staged, running: &str| Machine {
            state: state.into(),
            staged,
            target: "/t".into(),
            running: running.into(),
            ..Machine::default()
        };
        assert_eq!(stage(&machine("healthy", true, "/r")), Stage::Staged);
        assert_eq!(stage(&machine("healthy", false, "/t")), Stage::Staged);
        assert_eq!(stage(&machine("healthy", false, "/r")), Stage::Waiting);
        assert_eq!(stage(&machine("offline", false, "/r")), Stage::Offline);
        assert_eq!(stage(&machine("never-seen", false, "")), Stage::Offline);
        let mut engaged = machine("healthy", false, "/r");
        engaged.engaged = "r-3".into();
        assert_eq!(stage(&engaged), Stage::Engaged("r-3".into()));
        engaged.staged = true;
        assert_eq!(stage(&engaged), Stage::Staged);
    }

    #[test]
    fn offline_machines_are_named_but_are_no_failure() {
        let stages = |stages: &[(&str, Stage)]| {
            let owned = stages
                .iter()
                .map(|(name, stage)| ((*name).to_owned(), stage.clone()));
            Staging::of(owned.collect())
        };
        let fine = stages(&[("a", Stage::Staged), ("b", Stage::Offline)]);
        assert_eq!(fine.exit(), Exit::Yes);
        let full = Failure {
            why: "no space left".into(),
            hint: "lab update prepare".into(),
        };
        let failed = stages(&[
            ("a", Stage::Staged),
            ("b", Stage::Offline),
            ("c", Stage::Failed(full.clone())),
            ("d", Stage::Failed(full)),
            ("e", Stage::Engaged("r-3".into())),
        ]);
        assert_eq!(failed.exit(), Exit::No);
        assert_eq!(
            failed.view(&crate::view::tests::look()),
            "c  ✖ failed   no space left\n\
             d  ✖ failed   no space left\n\
             b  ⚠ offline  catches up later\n\
             e  ○ later    stages it when its part of r-3 is over\n\
             1 of 5 machines staged\n\
             try: lab update prepare\n\
             try: lab update status\n"
        );
    }
}
