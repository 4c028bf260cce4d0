//! What is shown of schedules, and what a driver has to find out for them.

use common::{GroupName, MachineName, ScheduleName};
use serde_json::Value;

use super::{Past, Planned, ScheduleRun, ScheduledAction, Skip, Stage};
use crate::fleet::Fleet;

/// One schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleView {
    /// Which.
    pub name: ScheduleName,
    /// Its expression.
    pub cron: String,
    /// IANA name of its zone.
    pub timezone: String,
    /// `update`, `health-check`, `cleanup`.
    pub action: &'static str,
    /// Its groups; empty: all.
    pub groups: Vec<GroupName>,
    /// Its next instant.
    pub next: Option<Planned>,
    /// Somebody wants that left out.
    pub skip: Option<Skip>,
    /// The run that is not finished.
    pub run: Option<ScheduleRun>,
    /// How the newest instant or run ended.
    pub last: Option<Past>,
}

/// A run that waits for its targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Unresolved {
    /// Of which schedule.
    pub schedule: ScheduleName,
    /// Number of the run.
    pub run: u64,
    /// Where targets come from, as it is written; none where nothing says so.
    pub source: Option<Value>,
    /// The machines that it is for.
    pub machines: Vec<MachineName>,
}

impl Fleet {
    /// Every schedule, by name.
    pub(crate) fn schedules(&self) -> Vec<ScheduleView> {
        let config = self.facts().config.as_ref();
        let schedules = config.iter().flat_map(|config| &config.schedules);
        let view = schedules.map(|(name, schedule)| {
            let course = self.course(name);
            let after = course.map(|course| course.dealt_with);
            ScheduleView {
                name: name.clone(),
                cron: schedule.when.cron.clone(),
                timezone: schedule.when.timezone.clone(),
                action: schedule.action.word(),
                groups: schedule.groups.clone(),
                next: after.and_then(|after| schedule.when.next(name, after)),
                skip: course.and_then(|course| course.skip.clone()),
                run: course.and_then(|course| course.run.clone()),
                last: course.and_then(|course| course.last.clone()),
            }
        });
        view.collect()
    }

    /// Runs whose targets somebody outside has to find out, and answer with
    /// [`crate::Request::ScheduleResolved`].
    pub fn unresolved(&self) -> Vec<Unresolved> {
        let runs = self.facts().courses.iter().filter_map(|(name, course)| {
            let run = course.run.as_ref()?;
            (run.stage == Stage::Resolving).then_some((name, run))
        });
        let unresolved = runs.map(|(name, run)| Unresolved {
            schedule: name.clone(),
            run: run.number,
            source: self.source_of(name),
            machines: self.machines_of(&run.groups),
        });
        unresolved.collect()
    }

    fn source_of(&self, name: &ScheduleName) -> Option<Value> {
        let own = self
            .schedule(name)
            .and_then(|schedule| match &schedule.action {
                ScheduledAction::Update { source } => source.clone(),
                ScheduledAction::HealthCheck | ScheduledAction::CleanUp(_) => None,
            });
        own.or_else(|| {
            let config = self.facts().config.as_ref()?;
            config.document.pointer("/updateSettings/source").cloned()
        })
    }
}
