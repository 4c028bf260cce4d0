//! Schedules: what operators ask of them, and what comes of the targets of a run.

use common::{MachineName, OperatorName, RolloutId, ScheduleName, Target, Timestamp, time::span};

use super::{Draft, rollouts::Author};
use crate::{
    change::Change,
    fleet::Fleet,
    plan::Plan,
    request::{Back, Refusal, Reply, Selection, Wish},
    rollout::RolloutState,
    schedule::{How, LeftOut, ScheduleStep, Stage, author, of_another, shown, told},
    wait::WaitReason,
};

type Targets = Vec<(MachineName, Target)>;

impl Fleet {
    /// Runs a schedule now. Its next planned run stays what it is.
    pub(super) fn run_schedule(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        name: &ScheduleName,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let schedule = self.schedule(name).ok_or_else(|| unknown(name))?;
        if self.stop_over_any(&schedule.groups) {
            let text = "an emergency stop holds: `lab resume --reason …` lifts it";
            return Err(Refusal::Forbidden(text.to_owned()));
        }
        if let Some(run) = self.course(name).and_then(|course| course.run.as_ref()) {
            let text = format!("run {} of it is not finished: {run}", run.number);
            return Err(Refusal::NotNow(text));
        }
        self.begin_run(name, None, by.as_str(), now, draft);
        let number = self.facts().schedule_runs;
        Ok(Reply::Done(format!("{name} runs: run {number}")))
    }

    /// Leaves out the next planned run, and no other.
    pub(super) fn skip_schedule(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        name: &ScheduleName,
        reason: String,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let course = self.course(name).ok_or_else(|| unknown(name))?;
        if let Some(skip) = &course.skip {
            let text = format!(
                "the next run is to be left out already, as {} wished",
                skip.by
            );
            return Err(Refusal::NotNow(text));
        }
        let Some(planned) = self.planned_of(name) else {
            return Err(Refusal::NotNow(format!("{name} has no next run")));
        };
        let step = ScheduleStep::Skip {
            by: by.to_string(),
            reason,
            at: now,
        };
        self.step(name, step, draft);
        let text = format!(
            "the run of {name} planned for {}, in {}, is left out",
            shown(planned.at),
            span(planned.due.since(now))
        );
        Ok(Reply::Done(text))
    }

    /// The targets of a run, or why there are none. Pinning and executing are one decision.
    pub(super) fn schedule_resolved(
        &mut self,
        now: Timestamp,
        name: &ScheduleName,
        number: u64,
        targets: Result<Targets, String>,
        draft: &mut Draft,
    ) -> Reply {
        let run = self.course(name).and_then(|course| course.run.clone());
        let waits = |run: &crate::schedule::ScheduleRun| {
            run.number == number && run.stage == Stage::Resolving
        };
        let Some(run) = run.filter(waits) else {
            let text = format!("run {number} of {name} does not wait for targets");
            return Reply::Refused(Refusal::Changed(text));
        };
        let result = match targets {
            Ok(_) if self.stop_over_any(&run.groups) => Err("an emergency stop holds".to_owned()),
            Ok(mut targets) => {
                let mine = self.machines_of(&run.groups);
                targets.retain(|(machine, _)| mine.contains(machine));
                self.execute_targets(now, name, run.by, targets, draft)
            }
            Err(why) => Err(why),
        };
        match result {
            Ok(Came::Rollout) => {}
            Ok(Came::Nothing(text)) => self.finish_run(name, How::Finished, text, now, draft),
            Ok(Came::NobodyIsFree(text)) => self.finish_run(name, How::Skipped, text, now, draft),
            Err(text) => self.finish_run(name, How::Failed, text, now, draft),
        }
        Reply::Done(String::new())
    }

    /// A rollout of those that are free to these targets; or why there is none.
    fn execute_targets(
        &mut self,
        now: Timestamp,
        name: &ScheduleName,
        asked: String,
        targets: Targets,
        draft: &mut Draft,
    ) -> Result<Came, String> {
        if targets.is_empty() {
            return Err("its source names none of its machines".to_owned());
        }
        let mut left_out = Vec::new();
        // Of those that are busy nothing changes, not even what they are to run.
        let targets = self.free_of(targets, &mut left_out);
        if targets.is_empty() {
            let others = told(left_out.iter().map(of_another));
            return Ok(Came::NobodyIsFree(format!("nobody is free; {others}")));
        }
        let machines: Vec<MachineName> = targets.iter().map(|(name, _)| name.clone()).collect();
        let reason = self.schedule(name).map(|schedule| schedule.reason.clone());
        let by = author(name);
        self.commit(
            draft,
            Change::Pinned {
                targets,
                by: by.clone(),
                at: now,
            },
        );
        let wish = Wish {
            selection: Selection {
                groups: Vec::new(),
                machines: machines.clone(),
            },
            action: common::Action::Update,
            parallel: None,
            back: Back::Previous,
            immediate: false,
            retry_failed: false,
            reason: reason.unwrap_or_default(),
        };
        draft.wake.extend(machines);
        let by = Author {
            name: &by,
            asked: &asked,
        };
        match self.execute(now, by, &wish, None, draft) {
            Ok(Reply::Executed {
                rollout: Some(rollout),
                ..
            }) => {
                let step = ScheduleStep::Executed { rollout, left_out };
                self.step(name, step, draft);
                Ok(Came::Rollout)
            }
            Ok(Reply::Executed {
                rollout: None,
                plan,
            }) => Ok(Came::Nothing(nothing_to_do(&plan, &left_out))),
            Ok(_) => Ok(Came::Rollout),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// The targets of those that no other rollout has; the others are put with those left out.
    fn free_of(&self, targets: Targets, left_out: &mut Vec<LeftOut>) -> Targets {
        let free = targets.into_iter().filter(|(machine, _)| {
            let taken = self.taken(machine);
            #[cfg(feature = "seeded-bugs")]
            // BUG (seeded): whoever is at work is waited for by nobody.
            let taken = taken.filter(|_| !self.has(crate::bug::Bug::BusyFailsRun));
            let free = taken.is_none();
            left_out.extend(taken.map(|rollout| (machine.clone(), rollout)));
            free
        });
        free.collect()
    }

    /// The rollout for which this machine is not to be had: unlike a person's, a schedule's rollout
    /// does not take over machines from one that is paused, because somebody has to decide about that
    /// first.
    fn taken(&self, machine: &MachineName) -> Option<RolloutId> {
        if let Some(lease) = self.lease_of(machine) {
            return Some(lease.rollout.clone());
        }
        let (rollout, group, place) = self.at(*self.index().place_of.get(machine)?)?;
        let paused = matches!(rollout.state, RolloutState::Paused(_));
        let open = !place.state.is_final() && paused;
        (open || group.finished_at.is_none()).then(|| rollout.id.clone())
    }
}

/// What came of the targets of a run.
enum Came {
    /// A rollout, which the run goes on with.
    Rollout,
    /// Nobody has to move.
    Nothing(String),
    /// Every machine takes part in another rollout.
    NobodyIsFree(String),
}

/// That a plan moves nobody, with whom it leaves out although they do not run their target.
fn nothing_to_do(plan: &Plan, busy: &[LeftOut]) -> String {
    let excluded = plan.excluded.iter();
    let out = excluded.filter(|(_, why)| !matches!(why, WaitReason::UpToDate));
    let out = out.map(|(machine, why)| format!("{machine} ({})", why.kind()));
    let out: Vec<String> = out.chain(busy.iter().map(of_another)).collect();
    if out.is_empty() {
        return "nothing to do: every machine runs its target".to_owned();
    }
    format!("nothing to do; {}", told(out.into_iter()))
}

fn unknown(name: &ScheduleName) -> Refusal {
    Refusal::NotFound {
        what: "schedule in the configuration",
        name: name.to_string(),
    }
}
