//! `lab update rollback` and `lab machines reboot`: rollouts of another kind, shown before they run.

use lab_proto::operator::{ExecuteRequest, PlanReply};

use super::{
    Context,
    update::{as_named, begin, is_empty, nobody_goes, show_plan},
};
use crate::{
    args::{machines::Reboot, update::Rollback},
    client::ask,
    error::{Exit, LabError},
    view::{counted, plan::plan as plan_view, progress::way_back},
};

/// Goes back. Shows where each machine goes first; asks only on a terminal, because scripts call
/// this when something is wrong already.
pub async fn run(context: &Context, args: &Rollback) -> Result<Exit, LabError> {
    let request = ExecuteRequest {
        selection: Some(args.select.selection()),
        kind: "rollback".into(),
        parallel: args.parallel.parallel.unwrap_or(0),
        to_generation: args.to_generation.unwrap_or(0),
        before: args.rollout.clone().map(String::from).unwrap_or_default(),
        immediate: args.immediate,
        reason: args.reason.clone(),
        if_plan: args.if_plan.clone().unwrap_or_default(),
        ..ExecuteRequest::default()
    };
    let mut client = context.open().await?;
    if args.dry_run {
        return show_plan(context, &mut client, request).await;
    }
    let plan = ask(client.plan(request.clone())).await?;
    if context.output.asks() {
        as_named(&plan, &request)?;
    }
    // A script that names a plan hears from the coordinator whether it holds.
    if is_empty(&plan) && (args.if_plan.is_none() || context.output.asks()) {
        return nobody_goes(context, &plan, &request.kind);
    }
    context.output.note(&way_back(&plan, context.output.look()));
    let count = counted(machines(&plan), "machine");
    context.output.confirm(&format!("Take {count} back?"))?;
    let request = match args.if_plan {
        Some(_) => request,
        None => ExecuteRequest {
            if_plan: answered_plan(context, plan),
            ..request
        },
    };
    begin(context, &mut client, request, args.waiting).await
}

/// Boots machines again, in waves.
pub async fn reboot(context: &Context, args: &Reboot) -> Result<Exit, LabError> {
    let mut selection = args.select.selection();
    selection
        .machines
        .extend(args.machines.iter().map(ToString::to_string));
    let request = ExecuteRequest {
        selection: Some(selection),
        kind: "reboot".into(),
        parallel: args.parallel.parallel.unwrap_or(0),
        reason: args.reason.clone(),
        ..ExecuteRequest::default()
    };
    let mut client = context.open().await?;
    let plan = ask(client.plan(request.clone())).await?;
    if is_empty(&plan) {
        return nobody_goes(context, &plan, &request.kind);
    }
    context
        .output
        .note(&plan_view(&plan, context.output.look()));
    let count = counted(machines(&plan), "machine");
    context
        .output
        .confirm_destructive(&format!("Reboot {count}?"))?;
    let request = ExecuteRequest {
        if_plan: answered_plan(context, plan),
        ..request
    };
    begin(context, &mut client, request, args.waiting).await
}

/// The plan that somebody said yes to. A script, which saw none, is not held to one.
fn answered_plan(context: &Context, plan: PlanReply) -> String {
    if context.output.asks() {
        plan.id
    } else {
        String::new()
    }
}

fn machines(plan: &PlanReply) -> usize {
    let waves = plan.groups.iter().flat_map(|group| &group.waves);
    waves.map(|wave| wave.machines.len()).sum()
}
