//! `lab targets …`

use lab_proto::operator::{ListTargetsRequest, QuarantineTargetRequest, ReleaseTargetRequest};

use super::Context;
use crate::{
    args::targets::Targets,
    client::ask,
    error::{Exit, LabError},
    view,
};

/// Runs one verb.
pub async fn run(context: &Context, verb: Targets) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let done = match verb {
        Targets::List => {
            let list = ask(client.list_targets(ListTargetsRequest {})).await?;
            context
                .output
                .result(&list, |look| view::targets::list(&list, look))?;
            return Ok(Exit::Yes);
        }
        Targets::Quarantine(args) => {
            let request = QuarantineTargetRequest {
                target: args.target,
                reason: args.reason,
            };
            ask(client.quarantine_target(request)).await?
        }
        Targets::Release(args) => {
            let request = ReleaseTargetRequest {
                target: args.target,
                reason: args.reason,
            };
            ask(client.release_target(request)).await?
        }
    };
    context.output.done(&done)
}
