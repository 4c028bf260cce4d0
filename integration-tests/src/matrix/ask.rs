//! What the coordinator knows of a machine, and what the machine itself shows.

use common::id::MachineName;
use serde_json::{Value, json};

use super::run::MatrixError;
use crate::fleet::{Finished, Fleet};

/// What the coordinator is asked about one machine, which has a group and rollouts of its own.
pub(super) struct Ask<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) machine: &'a MachineName,
}

/// How a rollout of one machine stands.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    pub(super) id: String,
    pub(super) state: String,
}

impl Ask<'_> {
    /// Runs `lab`; any exit status is an answer.
    pub(super) fn lab(&self, words: &[&str]) -> Result<Finished, MatrixError> {
        Ok(self.fleet.lab(words)?)
    }

    /// Runs `lab`, which must say yes.
    pub(super) fn lab_yes(&self, words: &[&str]) -> Result<(), MatrixError> {
        let finished = self.lab(words)?;
        if finished.code() == 0 {
            return Ok(());
        }
        let said = format!("lab {words:?}: {}{}", finished.stdout, finished.stderr);
        Err(MatrixError::Said(said))
    }

    fn json(&self, words: &[&str]) -> Result<Value, MatrixError> {
        let finished = self.lab(&[words, &["--output=json"]].concat())?;
        serde_json::from_str(&finished.stdout).map_err(|source| MatrixError::Answer {
            words: words.join(" "),
            source,
        })
    }

    /// The machine, as the coordinator knows it.
    pub(super) fn shown(&self) -> Result<Value, MatrixError> {
        let shown = self.json(&["machines", "show", self.machine.as_str()])?;
        Ok(if shown["name"].is_null() {
            shown["machines"][0].clone()
        } else {
            shown
        })
    }

    /// Whether it counts as away.
    pub(super) fn is_away(&self) -> Result<bool, MatrixError> {
        Ok(!text(&self.shown()?["away"]).is_empty())
    }

    /// Its rollouts, newest last.
    pub(super) fn rollouts(&self) -> Result<Vec<Rollout>, MatrixError> {
        let status = self.json(&["update", "status", "--all"])?;
        let mut found: Vec<(String, Rollout)> = Vec::new();
        for rollout in status["rollouts"].as_array().into_iter().flatten() {
            if rollout
                .to_string()
                .contains(&format!("\"{}\"", self.machine))
            {
                let known = Rollout {
                    id: text(&rollout["id"]).to_owned(),
                    state: text(&rollout["state"]).to_owned(),
                };
                found.push((text(&rollout["created_at"]).to_owned(), known));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found.into_iter().map(|(_, rollout)| rollout).collect())
    }

    /// The verdicts on the machine in the history of one rollout, with their reasons, oldest first.
    pub(super) fn verdicts(&self, rollout: &str) -> Result<Vec<(String, String)>, MatrixError> {
        let history = self.json(&["update-history", "--days=1"])?;
        let entries = history["entries"].as_array().into_iter().flatten();
        let of_it = entries.filter(|entry| {
            entry["machine"] == json!(self.machine)
                && entry["rollout"] == rollout
                && entry["kind"] == "attempt"
        });
        let verdict = |entry: &Value| {
            let (verdict, reason) = (text(&entry["verdict"]), text(&entry["text"]));
            (verdict.to_owned(), reason.to_owned())
        };
        let mut verdicts: Vec<_> = of_it.map(verdict).collect();
        // The history begins with what came last.
        verdicts.reverse();
        Ok(verdicts)
    }

    /// Where a link of the machine leads; empty when it is none.
    pub(super) fn link(&self, path: &str) -> Result<String, MatrixError> {
        let finished = self.fleet.exec(self.machine, &["readlink", "-f", path])?;
        Ok(finished.stdout.trim().to_owned())
    }
}

/// The text of a JSON string; empty when it is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
