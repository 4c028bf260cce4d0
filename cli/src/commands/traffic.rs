//! `lab traffic …`

use std::time::Duration;

use common::GroupName;
use lab_proto::operator::{GroupTraffic, ListTrafficRequest, MoveTrafficRequest, TrafficList};
use tokio::time::sleep;

use super::{
    Context,
    wait::{Waited, bounded},
};
use crate::{
    args::traffic::{Common, Traffic, Verb},
    client::{Client, ask},
    error::{Exit, LabError},
    view,
};

/// From one look at a move to the next.
const LOOK: Duration = Duration::from_millis(500);

/// Runs one verb; the list without one.
pub async fn run(context: &Context, args: Traffic) -> Result<Exit, LabError> {
    match args.verb {
        None => {
            let mut client = context.open().await?;
            let list = list(&mut client).await?;
            context
                .output
                .result(&list, |look| view::traffic::list(&list, look))?;
            Ok(Exit::Yes)
        }
        Some(Verb::Move(args)) => {
            let question = format!(
                "Move the traffic of group {} to side {}?",
                args.group, args.to
            );
            let to = args.to.to_string();
            moved(context, &args.group, to, &question, args.common).await
        }
        Some(Verb::Back(args)) => {
            let question = format!(
                "Move the traffic of group {} back to the side it was on before?",
                args.group
            );
            moved(context, &args.group, String::new(), &question, args.common).await
        }
    }
}

async fn list(client: &mut Client) -> Result<TrafficList, LabError> {
    ask(client.list_traffic(ListTrafficRequest {})).await
}

async fn moved(
    context: &Context,
    group: &GroupName,
    to: String,
    question: &str,
    common: Common,
) -> Result<Exit, LabError> {
    context.output.confirm(question)?;
    let mut client = context.open().await?;
    let request = MoveTrafficRequest {
        group: group.to_string(),
        to,
        reason: common.reason,
    };
    let begun = ask(client.move_traffic(request)).await?;
    if common.detach {
        context
            .output
            .result(&begun, |_| format!("{}\n", begun.text))?;
        return Ok(Exit::Yes);
    }
    context.output.note(&begun.text);
    match bounded(until_there(&mut client, group), common.timeout).await? {
        Waited::Ended(traffic) => {
            context
                .output
                .result(&traffic, |look| view::traffic::one(&traffic, look))?;
            if let Some(why) = view::traffic::missing(&traffic, &begun.to) {
                context.output.note(&why);
                return Ok(Exit::No);
            }
            Ok(Exit::Yes)
        }
        Waited::Early(early) => {
            let why = early.why();
            context
                .output
                .note(&format!("{why}; the move goes on: lab traffic"));
            Ok(early.exit())
        }
    }
}

/// The group's traffic when no move of it is under way any more.
async fn until_there(client: &mut Client, group: &GroupName) -> Result<GroupTraffic, LabError> {
    loop {
        let list = list(client).await?;
        let mut groups = list.groups.into_iter();
        let found = groups.find(|traffic| traffic.group == group.as_str());
        let Some(traffic) = found else {
            let what = format!("group {group} has no sides any more");
            return Err(LabError::new(Exit::Changed, what));
        };
        if traffic.moving.is_none() {
            return Ok(traffic);
        }
        sleep(LOOK).await;
    }
}
