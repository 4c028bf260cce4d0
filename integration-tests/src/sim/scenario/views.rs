//! What `lab` prints of a look at the fleet.

use cli::{
    args,
    view::{self, Look},
};
use coordinator::grpc::{shown, shown_plan, shown_schedules, shown_traffic};
use coordinator_core::{
    request::{Selection, Wish},
    view::{Query, View},
};
use jiff::tz::TimeZone;

use super::{Stage, typed::selection};

impl Stage {
    pub(super) fn look(&self) -> Look {
        let now = self.run.world.coordinator_time().as_millis();
        Look {
            width: Some(80),
            height: 24,
            zone: TimeZone::UTC,
            now: jiff::Timestamp::from_millisecond(now).unwrap_or(jiff::Timestamp::MAX),
        }
    }

    pub(super) fn view(&self, query: &Query) -> Result<View, String> {
        let fleet = self.run.world.coordinator.fleet.as_ref();
        let fleet = fleet.ok_or("the coordinator cannot be reached")?;
        Ok(fleet.view(query, self.run.world.coordinator_time()))
    }

    pub(super) fn why(&self, why: args::Why) -> Result<String, String> {
        match self.view(&Query::Why(why.machine))? {
            View::Why(seen) => Ok(view::why::why(&shown::why(seen), &self.look())),
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) fn list(&self, select: &args::Select) -> Result<String, String> {
        let now = self.run.world.coordinator_time();
        match self.view(&Query::Machines(selection(select)))? {
            View::Machines(seen) => {
                let machines = seen.into_iter().map(|one| shown::machine(one, now));
                let list = lab_proto::operator::MachineList {
                    machines: machines.collect(),
                };
                Ok(view::machines::list(&list, &self.look()))
            }
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) fn show(&self, which: args::machines::Show) -> Result<String, String> {
        let now = self.run.world.coordinator_time();
        let only = Selection {
            machines: vec![which.machine],
            groups: Vec::new(),
        };
        match self.view(&Query::Machines(only))? {
            View::Machines(seen) => {
                let shown = seen.into_iter().map(|one| shown::machine(one, now));
                let shown = shown.map(|machine| view::machines::show(&machine, &self.look()));
                Ok(shown.collect())
            }
            other => Err(format!("{other:?}")),
        }
    }

    /// Of what this wish would do.
    pub(super) fn plan(&self, wish: &Wish) -> Result<String, String> {
        let fleet = self.run.world.coordinator.fleet.as_ref();
        let fleet = fleet.ok_or("the coordinator cannot be reached")?;
        let now = self.run.world.coordinator_time();
        Ok(match fleet.plan(wish) {
            Ok(plan) => {
                let outlook = fleet.outlook(&plan, wish.immediate, now);
                let shown = shown_plan::plan(&plan, Some(&outlook), now);
                view::plan::plan(&shown, &self.look())
            }
            Err(refusal) => format!("lab: {refusal}\n"),
        })
    }

    pub(super) fn targets(&self) -> Result<String, String> {
        match self.view(&Query::Targets)? {
            View::Targets(seen) => {
                let list = shown::targets(seen);
                Ok(view::targets::list(&list, &self.look()))
            }
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) fn schedules(&self) -> Result<String, String> {
        let now = self.run.world.coordinator_time();
        match self.view(&Query::Schedules)? {
            View::Schedules(seen) => Ok(view::schedule::list(
                &shown_schedules::schedules(seen, now),
                &self.look(),
            )),
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) fn traffic(&self) -> Result<String, String> {
        let now = self.run.world.coordinator_time();
        match self.view(&Query::Traffic)? {
            View::Traffic(seen) => Ok(view::traffic::list(
                &shown_traffic::list(seen, now),
                &self.look(),
            )),
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) fn status(&self, status: &args::update::Status) -> Result<String, String> {
        let query = Query::Status {
            selection: selection(&status.select),
            all: status.all,
        };
        let now = self.run.world.coordinator_time();
        match self.view(&query)? {
            View::Status(seen) => Ok(view::status::status(
                &shown::status(seen, now),
                &self.look(),
            )),
            other => Err(format!("{other:?}")),
        }
    }
}
