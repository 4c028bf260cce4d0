//! Schedules as messages.

use common::Timestamp;
use coordinator_core::{
    request::OperatorRequest,
    schedule::{Past, ScheduleRun, ScheduleView, Stage},
};
use lab_proto::operator as wire;

use super::{Malformed, name, operator::text, time};

/// Run it now.
pub(in crate::grpc) fn run(message: &wire::ScheduleRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::RunSchedule {
        schedule: name("schedule", &message.schedule)?,
        reason: text(&message.reason),
    })
}

/// Leave out the next run.
pub(in crate::grpc) fn skip(message: &wire::ScheduleRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::SkipSchedule {
        schedule: name("schedule", &message.schedule)?,
        reason: text(&message.reason),
    })
}

/// All of them.
pub fn schedules(views: Vec<ScheduleView>, now: Timestamp) -> wire::ScheduleList {
    wire::ScheduleList {
        schedules: views.into_iter().map(schedule).collect(),
        time: time(now),
    }
}

fn schedule(view: ScheduleView) -> wire::Schedule {
    wire::Schedule {
        name: view.name.into(),
        action: view.action.to_owned(),
        cron: view.cron,
        timezone: view.timezone,
        groups: view.groups.iter().map(ToString::to_string).collect(),
        next: view.next.map(|planned| time(planned.due)),
        next_planned: view.next.map(|planned| time(planned.at)),
        skip: view.skip.map(|skip| wire::ScheduleSkip {
            by: skip.by,
            reason: skip.reason,
        }),
        run: view.run.map(of_run),
        last: view.last.map(past),
    }
}

fn of_run(run: ScheduleRun) -> wire::ScheduleRun {
    let stage = match run.stage {
        Stage::Resolving => "resolving",
        Stage::Rollout(_) => "rollout",
        Stage::Checking => "checking",
        Stage::Cleaning(_) => "cleaning",
    };
    let left_out = run.left_out.iter().map(|(machine, rollout)| wire::LeftOut {
        machine: machine.to_string(),
        rollout: rollout.to_string(),
    });
    wire::ScheduleRun {
        left_out: left_out.collect(),
        number: run.number,
        planned: run.planned.map(time),
        rollout: run.rollout().map(ToString::to_string).unwrap_or_default(),
        by: run.by,
        began_at: time(run.began_at),
        stage: stage.to_owned(),
    }
}

fn past(past: Past) -> wire::SchedulePast {
    wire::SchedulePast {
        how: past.how.word().to_owned(),
        planned: past.planned.map(time),
        at: time(past.at),
        text: past.text,
        rollout: past.rollout.map(|id| id.to_string()).unwrap_or_default(),
    }
}
