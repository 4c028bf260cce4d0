//! `lab schedule …`

use lab_proto::operator::{ListSchedulesRequest, ScheduleRequest};

use super::Context;
use crate::{
    args::schedule::{Schedule, Which},
    client::ask,
    error::{Exit, LabError},
    view,
};

/// Runs one verb.
pub async fn run(context: &Context, verb: Schedule) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let done = match verb {
        Schedule::List => {
            let list = ask(client.list_schedules(ListSchedulesRequest {})).await?;
            context
                .output
                .result(&list, |look| view::schedule::list(&list, look))?;
            return Ok(Exit::Yes);
        }
        Schedule::Run(which) => ask(client.run_schedule(request(which))).await?,
        Schedule::Skip(which) => ask(client.skip_schedule(request(which))).await?,
    };
    context.output.done(&done)
}

fn request(which: Which) -> ScheduleRequest {
    ScheduleRequest {
        schedule: which.schedule.into(),
        reason: which.reason,
    }
}
