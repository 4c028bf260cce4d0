//! The course of a rollout: promote, pause, resume, abort.

use common::{GroupName, OperatorName, RolloutId, Timestamp};

use super::Draft;
use crate::{
    analysis::Resumption,
    change::Change,
    fleet::{Fleet, rollout_id},
    request::{Promotion, Refusal, Reply},
    rollout::{PauseReason, Rollout, RolloutGroup, RolloutState, WaveState},
};

/// How many waves of the group nobody is to be asked about any more when it is let go on now; `None`
/// when it waits for nothing of that kind.
fn promoted(group: &RolloutGroup, full: bool) -> Option<usize> {
    let soaks = matches!(
        group.waves.get(group.current).map(|wave| wave.state),
        Some(WaveState::Soaking(_))
    );
    let waves = if full {
        group.waves.len()
    } else if soaks {
        group.current + 1
    } else {
        group.held_at()? + 1
    };
    (group.finished_at.is_none() && waves > group.promoted).then_some(waves)
}

impl Fleet {
    /// Lets groups go on that soak, or that somebody is asked about, after a wave; with `full`
    /// without asking again.
    pub(super) fn promote(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        promotion: Promotion,
        reason: &str,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let Promotion {
            rollout,
            group,
            full,
        } = promotion;
        let number = self.find(rollout, "waits after a wave", |rollout| {
            let mut groups = rollout.groups.iter();
            rollout.state == RolloutState::Active && groups.any(|g| promoted(g, full).is_some())
        })?;
        let id = rollout_id(number);
        let groups = &self.facts().rollouts[&number].groups;
        let chosen = groups
            .iter()
            .filter(|g| group.as_ref().is_none_or(|name| *name == g.name));
        let found: Vec<(GroupName, usize)> = chosen
            .filter_map(|g| Some((g.name.clone(), promoted(g, full)?)))
            .collect();
        if found.is_empty() {
            let what = "group that waits after a wave in this rollout";
            let name = group.map_or_else(|| "any".to_owned(), |group| group.to_string());
            return Err(Refusal::NotFound { what, name });
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!("{} of rollout {id} goes on", names.join(", "));
        for (group, waves) in found {
            let (rollout, by) = (id.clone(), by.to_string());
            self.commit(
                draft,
                Change::Promoted {
                    rollout,
                    group,
                    waves,
                    by,
                    reason: reason.to_owned(),
                    at: now,
                },
            );
        }
        self.all_moved(number, now);
        Ok(Reply::Done(text))
    }

    pub(super) fn pause(
        &mut self,
        by: &OperatorName,
        rollout: Option<RolloutId>,
        reason: String,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let active = |rollout: &Rollout| rollout.state == RolloutState::Active;
        let rollout = rollout_id(self.find(rollout, "is active", active)?);
        let text = format!("rollout {rollout} is paused; machines at work finish");
        let reason = PauseReason::Operator {
            by: by.to_string(),
            reason,
        };
        self.pause_rollout(&rollout, reason, draft);
        Ok(Reply::Done(text))
    }

    pub(super) fn resume_rollout(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        rollout: Option<RolloutId>,
        (gates, reason): (Resumption, String),
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let paused = |rollout: &Rollout| matches!(rollout.state, RolloutState::Paused(_));
        let number = self.find(rollout, "is paused", paused)?;
        let rollout = rollout_id(number);
        let anew = gates == Resumption::MeasuresAnew;
        if anew && !self.facts().rollouts[&number].is_paused_by_a_gate() {
            let text = format!("no gate has paused {rollout}: there is nothing to measure again");
            return Err(Refusal::NotNow(text));
        }
        let text = if anew {
            format!("rollout {rollout} goes on; the gates of its wave are measured anew")
        } else {
            format!("rollout {rollout} goes on")
        };
        self.commit(
            draft,
            Change::RolloutResumed {
                rollout,
                by: by.to_string(),
                reason,
                gates,
            },
        );
        self.all_moved(number, now);
        Ok(Reply::Done(text))
    }

    pub(super) fn abort(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        rollout: Option<RolloutId>,
        reason: String,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let rollout = rollout_id(self.find(rollout, "is unfinished", |_| true)?);
        let text = format!("rollout {rollout} is aborted; machines at work finish");
        self.commit(
            draft,
            Change::RolloutAborted {
                rollout,
                by: by.to_string(),
                reason,
                at: now,
            },
        );
        Ok(Reply::Done(text))
    }

    /// The number of the named rollout, which must fit; or of the only unfinished one that fits.
    pub(crate) fn find(
        &self,
        id: Option<RolloutId>,
        what: &str,
        fits: impl Fn(&Rollout) -> bool,
    ) -> Result<u64, Refusal> {
        let Some(id) = id else {
            let unfinished = self.index().unfinished.iter();
            let mut fitting = unfinished.filter(|number| fits(&self.facts().rollouts[*number]));
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Ok(*only),
                (Some(_), Some(_)) => Err(Refusal::Invalid(format!(
                    "more than one rollout {what}: name it (`lab update status`)"
                ))),
                (None, _) => Err(Refusal::NotNow(format!("no rollout {what}"))),
            };
        };
        let found = crate::fleet::number_of(&id)
            .and_then(|number| Some((number, self.facts().rollouts.get(&number)?)));
        let Some((number, rollout)) = found else {
            return Err(Refusal::NotFound {
                what: "rollout",
                name: id.to_string(),
            });
        };
        if rollout.is_final() || !fits(rollout) {
            return Err(Refusal::NotNow(format!(
                "rollout {id} is not one that {what}"
            )));
        }
        Ok(number)
    }
}
