//! What time brings: runs that begin, are missed, skipped, or end.

use std::{collections::BTreeMap, time::Duration};

use common::{CleanedUp, GroupName, MachineName, RolloutId, ScheduleName, Timestamp, time::span};

use super::{
    AHEAD_MAX, Course, How, ON_TIME, Planned, RESOLVE_WITHIN, Schedule, ScheduleRun, ScheduleStep,
    ScheduledAction, Stage,
};
use crate::{
    change::Change, decide::Draft, fleet::Fleet, request::Selection, rollout::RolloutState,
};

/// How long machines have beyond their own time for a health check: they have to hear of it first.
pub(super) const TO_HEAR: Duration = Duration::from_secs(5 * 60);

/// What is known of an unfinished run and need not outlive the process.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// Number of the run.
    pub(super) run: u64,
    /// When it is given up.
    pub(super) until: Timestamp,
    /// Number of the question that its machines were asked.
    pub(super) request: u64,
    /// Those machines.
    pub(super) machines: Vec<MachineName>,
    /// What they say came of a cleanup.
    pub(super) answers: BTreeMap<MachineName, CleanedUp>,
    /// Who was not asked for one, because nothing was heard of them.
    pub(super) offline: Vec<MachineName>,
    /// And who, because their agents cannot.
    pub(super) unable: Vec<MachineName>,
}

impl UnderWay {
    /// A run that asks nobody anything yet.
    pub(super) fn new(run: u64, until: Timestamp) -> Self {
        Self {
            run,
            until,
            request: 0,
            machines: Vec::new(),
            answers: BTreeMap::new(),
            offline: Vec::new(),
            unable: Vec::new(),
        }
    }
}

impl Fleet {
    /// Ends runs that are over and deals with every instant that has come.
    pub(crate) fn advance_schedules(&mut self, now: Timestamp, draft: &mut Draft) {
        self.forget_gone_runs();
        let names: Vec<ScheduleName> = self.facts().courses.keys().cloned().collect();
        for name in names {
            self.end_run(&name, now, draft);
            self.follow_the_clock_back(&name, now, draft);
            // Each round deals with an instant, and the last of them with the newest that is due.
            while let Some(planned) = self.planned_of(&name)
                && planned.due <= now
            {
                self.deal_with(&name, planned, now, draft);
            }
        }
    }

    /// Nothing is waited for on account of schedules that another configuration does not have.
    fn forget_gone_runs(&mut self) {
        let courses = &self.facts().courses;
        let names = self.hearsay.under_way.keys();
        let gone: Vec<ScheduleName> = names
            .filter(|name| !courses.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.forget_run(&name);
        }
    }

    /// Nobody waits for this schedule's run any more, and nobody is to be asked on its account.
    fn forget_run(&mut self, name: &ScheduleName) {
        if let Some(ended) = self.hearsay.under_way.remove(name) {
            for machine in &ended.machines {
                self.forget_cleanup(machine, ended.run);
            }
        }
    }

    /// When time alone does something next.
    pub(crate) fn schedule_deadline(&self) -> Option<Timestamp> {
        let planned = self.hearsay.planned.values();
        let planned = planned.filter_map(|(_, planned)| planned.map(|planned| planned.due));
        let ends = self.hearsay.under_way.values().map(|run| run.until);
        planned.chain(ends).min()
    }

    pub(crate) fn schedule(&self, name: &ScheduleName) -> Option<&Schedule> {
        self.facts().config.as_ref()?.schedules.get(name)
    }

    pub(crate) fn course(&self, name: &ScheduleName) -> Option<&Course> {
        self.facts().courses.get(name)
    }

    /// The next instant of a schedule. Looked up once for each that was dealt with.
    pub(crate) fn planned_of(&mut self, name: &ScheduleName) -> Option<Planned> {
        let after = self.course(name)?.dealt_with;
        if let Some((of, planned)) = self.hearsay.planned.get(name)
            && *of == after
        {
            return *planned;
        }
        let planned = self.schedule(name)?.when.next(name, after);
        self.hearsay.planned.insert(name.clone(), (after, planned));
        planned
    }

    /// An instant that lies far ahead of the clock was dealt with while the clock was wrong; the
    /// schedule would stand still until time comes there. One that lies a little ahead has run.
    fn follow_the_clock_back(&mut self, name: &ScheduleName, now: Timestamp, draft: &mut Draft) {
        let ahead = self
            .course(name)
            .is_some_and(|course| now + AHEAD_MAX < course.dealt_with);
        if ahead {
            self.step(name, ScheduleStep::SetBack { to: now }, draft);
        }
    }

    fn deal_with(
        &mut self,
        name: &ScheduleName,
        first: Planned,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let (Some(schedule), Some(course)) = (self.schedule(name), self.course(name)) else {
            return;
        };
        let pass =
            |how: How, from: Timestamp, planned: Timestamp, text: String| ScheduleStep::Passed {
                how,
                first: from,
                planned,
                text,
                at: now,
            };
        let skip = course.skip.as_ref();
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what somebody wanted left out runs.
        let skip = skip.filter(|_| !self.has(crate::bug::Bug::SkipIgnored));
        if let Some(skip) = skip {
            let because = match skip.reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            let text = format!("left out, as {} wished{because}", skip.by);
            let step = pass(How::Skipped, first.at, first.at, text);
            self.step(name, step, draft);
            return;
        }
        let newest = schedule.when.newest(name, first, now);
        let late = now.since(newest.due);
        let too_late = schedule.catch_up.max(ON_TIME) < late;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): better late than never.
        let too_late = too_late && !self.has(crate::bug::Bug::LateRunsBegin);
        // Of several that were missed the newest alone may run.
        let missed = if too_late {
            Some(newest.at)
        } else if newest.at > first.at {
            schedule.when.last_before(newest.at)
        } else {
            None
        };
        if let Some(last) = missed {
            let text = if too_late {
                format!(
                    "nobody was there to begin it; {} late is more than catchUpWithin",
                    span(late)
                )
            } else {
                "nobody was there to begin it; a later one takes its place".to_owned()
            };
            let step = pass(How::Missed, first.at, last, text);
            self.step(name, step, draft);
            return;
        }
        let stands = match (self.stop_over_any(&schedule.groups), &course.run) {
            (true, _) => Some("an emergency stop holds".to_owned()),
            (false, Some(run)) => Some(format!("run {} is not finished: {run}", run.number)),
            (false, None) => None,
        };
        #[cfg(feature = "seeded-bugs")]
        let stands = stands.filter(|_| !self.has(crate::bug::Bug::ScheduleOverlaps));
        match stands {
            Some(text) => {
                let step = pass(How::Skipped, newest.at, newest.at, text);
                self.step(name, step, draft);
            }
            None => self.begin_run(name, Some(newest.at), "", now, draft),
        }
    }

    pub(crate) fn step(&mut self, name: &ScheduleName, step: ScheduleStep, draft: &mut Draft) {
        let schedule = name.clone();
        self.commit(draft, Change::Schedule { schedule, step });
    }

    /// Begins a run: for a planned instant, or because somebody asks for it.
    pub(crate) fn begin_run(
        &mut self,
        name: &ScheduleName,
        planned: Option<Timestamp>,
        by: &str,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let Some(schedule) = self.schedule(name) else {
            return;
        };
        let stage = match schedule.action {
            ScheduledAction::Update { .. } => Stage::Resolving,
            ScheduledAction::HealthCheck => Stage::Checking,
            ScheduledAction::CleanUp(cleanup) => Stage::Cleaning(cleanup),
        };
        let run = ScheduleRun {
            number: self.facts().schedule_runs + 1,
            planned,
            by: by.to_owned(),
            began_at: now,
            groups: schedule.groups.clone(),
            stage,
            left_out: Vec::new(),
        };
        self.step(name, ScheduleStep::Began { run }, draft);
        self.end_run(name, now, draft);
    }

    /// Whether an emergency stop holds over any of these groups; of none: over anything.
    pub(crate) fn stop_over_any(&self, groups: &[GroupName]) -> bool {
        let stop = self.facts().stop.as_ref();
        stop.is_some_and(|stop| groups.is_empty() || groups.iter().any(|group| stop.covers(group)))
    }

    /// Ends the run if it is over.
    fn end_run(&mut self, name: &ScheduleName, now: Timestamp, draft: &mut Draft) {
        let Some(run) = self.course(name).and_then(|course| course.run.clone()) else {
            self.forget_run(name);
            return;
        };
        let ended = match &run.stage {
            Stage::Resolving => {
                let until = self.under_way(name, &run, now, draft).until;
                let text = format!("no targets within {}", span(RESOLVE_WITHIN));
                (until <= now).then_some((false, text))
            }
            Stage::Rollout(id) => self.rollout_ended(id).map(|(succeeded, text)| {
                let text = format!("{text}{}", run.without());
                (succeeded, text)
            }),
            Stage::Checking | Stage::Cleaning(_) if self.stop_over_any(&run.groups) => {
                Some((false, "an emergency stop holds".to_owned()))
            }
            Stage::Checking => self.checked(name, &run, now, draft),
            Stage::Cleaning(_) => self.all_cleaned_up(name, &run, now, draft),
        };
        if let Some((succeeded, text)) = ended {
            let how = match succeeded {
                true => How::Finished,
                false => How::Failed,
            };
            self.finish_run(name, how, text, now, draft);
        } else if matches!(run.stage, Stage::Rollout(_)) {
            self.hearsay.under_way.remove(name);
        }
    }

    /// Whether the rollout of a run went well, and what came of it; `None` while it goes on.
    fn rollout_ended(&self, id: &RolloutId) -> Option<(bool, String)> {
        match self.rollout(id).map(|rollout| &rollout.state) {
            Some(RolloutState::Active | RolloutState::Paused(_)) => None,
            Some(RolloutState::Finished) => Some((true, format!("rollout {id} finished"))),
            Some(RolloutState::Failed) => Some((false, format!("rollout {id} failed"))),
            Some(RolloutState::Aborted { by, .. }) => {
                Some((false, format!("rollout {id} was aborted by {by}")))
            }
            None => Some((false, format!("rollout {id} is not known any more"))),
        }
    }

    pub(crate) fn finish_run(
        &mut self,
        name: &ScheduleName,
        how: How,
        text: String,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        self.forget_run(name);
        let step = ScheduleStep::Ended {
            succeeded: how == How::Finished,
            skipped: how == How::Skipped,
            text,
            at: now,
        };
        self.step(name, step, draft);
    }

    /// What is known of this run; begun anew after a restart, with its whole time.
    pub(super) fn under_way(
        &mut self,
        name: &ScheduleName,
        run: &ScheduleRun,
        now: Timestamp,
        draft: &mut Draft,
    ) -> UnderWay {
        if let Some(known) = self.hearsay.under_way.get(name)
            && known.run == run.number
        {
            return known.clone();
        }
        let begun = match run.stage {
            Stage::Checking => self.ask_for_health(run, now, draft),
            Stage::Cleaning(cleanup) => self.ask_to_clean_up(run, cleanup, now, draft),
            Stage::Resolving | Stage::Rollout(_) => UnderWay::new(run.number, now + RESOLVE_WITHIN),
        };
        self.hearsay.under_way.insert(name.clone(), begun.clone());
        begun
    }

    /// The machines of these groups, or all; groups that are no more have none.
    pub(crate) fn machines_of(&self, groups: &[GroupName]) -> Vec<MachineName> {
        let known = |group: &&GroupName| {
            let config = self.facts().config.as_ref();
            config.is_some_and(|config| config.groups.contains_key(*group))
        };
        let selection = Selection {
            groups: groups.iter().filter(known).cloned().collect(),
            machines: Vec::new(),
        };
        if selection.groups.is_empty() && !groups.is_empty() {
            return Vec::new();
        }
        self.select(&selection).unwrap_or_default()
    }

    /// A machine has answered a question: whoever asked may be done.
    pub(crate) fn has_answered(
        &mut self,
        machine: &MachineName,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let runs = self.hearsay.under_way.iter();
        let waiting = runs.filter(|(_, run)| run.machines.contains(machine));
        let waiting: Vec<ScheduleName> = waiting.map(|(name, _)| name.clone()).collect();
        for name in waiting {
            self.end_run(&name, now, draft);
        }
    }
}

impl std::fmt::Display for ScheduleRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.stage {
            Stage::Resolving => f.write_str("its targets are being found out"),
            Stage::Rollout(id) => write!(f, "rollout {id}{}", self.without()),
            Stage::Checking => f.write_str("machines are asked for their health"),
            Stage::Cleaning(_) => f.write_str("machines are being cleaned up"),
        }
    }
}
