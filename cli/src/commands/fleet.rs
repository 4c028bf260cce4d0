//! `lab why`, `lab update-history`, `lab notify`.

use lab_proto::operator::{HistoryRequest, NotifyRequest, WhyRequest};

use super::Context;
use crate::{
    args::{self, Level},
    client::ask,
    error::{Exit, LabError},
    view,
};

/// Why a machine does not go now.
pub async fn why(context: &Context, args: &args::Why) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = WhyRequest {
        machine: args.machine.to_string(),
    };
    let reply = ask(client.why(request)).await?;
    context
        .output
        .result(&reply, |look| view::why::why(&reply, look))?;
    Ok(Exit::Yes)
}

/// What happened.
pub async fn history(context: &Context, args: &args::UpdateHistory) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = HistoryRequest {
        selection: Some(args.select.selection()),
        days: args.days,
        limit: args.limit,
    };
    let history = ask(client.get_history(request)).await?;
    let show = |look: &view::Look| view::history::history(&history, look);
    context.output.result(&history, show)?;
    Ok(Exit::Yes)
}

/// Sends a message.
pub async fn notify(context: &Context, args: args::Notify) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let level = match args.level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let request = NotifyRequest {
        level: level.into(),
        message: args.message,
        channel: args.channel,
    };
    let reply = ask(client.notify(request)).await?;
    context
        .output
        .result(&reply, |_| match reply.channels.as_slice() {
            [] => "noted in the history; no channel is configured\n".to_owned(),
            channels => format!("sent over {}\n", channels.join(", ")),
        })?;
    Ok(Exit::Yes)
}
