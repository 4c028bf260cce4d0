//! `lab update plan|execute|status|watch|approve|reject|promote|pause|resume|abort`

use lab_proto::operator::{
    ApproveRequest, ExecuteRequest, PlanReply, PromoteRequest, RolloutRequest, StatusRequest,
};
use serde::Serialize;

use super::{Context, wait};
use crate::{
    args::update::{Approve, Execute, GoOn, Plan, Promote, Rollout, Status, Waiting, Watch},
    client::{Client, ask},
    error::{Exit, LabError},
    view,
};

/// What is printed when nothing was begun.
#[derive(Serialize)]
struct NobodyGoes<'a> {
    result: &'a str,
    plan: &'a PlanReply,
}

/// Shows what `execute` would do.
pub async fn plan(context: &Context, args: &Plan) -> Result<Exit, LabError> {
    let request = ExecuteRequest {
        selection: Some(args.select.selection()),
        kind: args.kind.word().into(),
        parallel: args.parallel.parallel.unwrap_or(0),
        retry_failed: args.retry_failed,
        immediate: args.emergency,
        ..ExecuteRequest::default()
    };
    let mut client = context.open().await?;
    show_plan(context, &mut client, request).await
}

/// Shows what a rollout would do.
pub async fn show_plan(
    context: &Context,
    client: &mut Client,
    request: ExecuteRequest,
) -> Result<Exit, LabError> {
    let plan = ask(client.plan(request)).await?;
    let show = |look: &view::Look| view::plan::plan(&plan, look);
    context.output.result(&plan, show)?;
    Ok(Exit::Yes)
}

/// Runs an update. On a terminal the plan is shown first, and what was shown is what runs.
pub async fn execute(context: &Context, args: &Execute) -> Result<Exit, LabError> {
    let mut request = ExecuteRequest {
        selection: Some(args.select.selection()),
        kind: "update".into(),
        parallel: args.parallel.parallel.unwrap_or(0),
        if_plan: args.if_plan.clone().unwrap_or_default(),
        reason: args.reason.clone(),
        retry_failed: args.retry_failed,
        immediate: args.emergency,
        ..ExecuteRequest::default()
    };
    let mut client = context.open().await?;
    if args.dry_run {
        return show_plan(context, &mut client, request).await;
    }
    if context.output.asks() {
        let plan = ask(client.plan(request.clone())).await?;
        as_named(&plan, &request)?;
        if is_empty(&plan) {
            return nobody_goes(context, &plan, &request.kind);
        }
        let look = context.output.look();
        context.output.note(&view::plan::plan(&plan, look));
        let question = match args.emergency {
            true => "Begin now, past windows, soak and stagger?",
            false => "Begin?",
        };
        context.output.confirm(question)?;
        request.if_plan = plan.id;
    }
    begin(context, &mut client, request, args.waiting).await
}

/// Refuses a plan that is not the one that was named with `--if-plan`: nobody is asked about another one.
pub fn as_named(plan: &PlanReply, request: &ExecuteRequest) -> Result<(), LabError> {
    let named = &request.if_plan;
    if named.is_empty() || *named == plan.id {
        return Ok(());
    }
    let text = format!(
        "the plan no longer holds: it is {} now, not {named}",
        plan.id
    );
    Err(LabError::new(Exit::Changed, text).hint(look_again(&request.kind)))
}

/// What shows the plan of such a rollout anew.
fn look_again(kind: &str) -> &'static str {
    match kind {
        "rollback" => "look at it again: lab update rollback --dry-run",
        "reboot" => "look at it again: lab update plan --kind=reboot",
        _ => "look at it again: lab update plan",
    }
}

/// Begins a rollout and waits for it as asked.
pub async fn begin(
    context: &Context,
    client: &mut Client,
    request: ExecuteRequest,
    waiting: Waiting,
) -> Result<Exit, LabError> {
    let emergency = request.immediate && request.kind == "update";
    let kind = request.kind.clone();
    let reply = match emergency {
        true => ask(client.execute_emergency(request)).await,
        false => ask(client.execute(request)).await,
    };
    let reply = reply.map_err(|error| match error.exit == Exit::Changed {
        true => error.hint(look_again(&kind)),
        false => error,
    })?;
    if reply.rollout.is_empty() {
        return nobody_goes(context, &reply.plan.unwrap_or_default(), &kind);
    }
    if waiting.detach {
        return wait::detached(context, &reply.rollout);
    }
    wait::for_rollout(context, client, &reply.rollout, waiting.timeout).await
}

/// Whether a plan moves no machine.
pub fn is_empty(plan: &PlanReply) -> bool {
    let mut waves = plan.groups.iter().flat_map(|group| &group.waves);
    waves.all(|wave| wave.machines.is_empty())
}

/// Says that nobody goes, and why not who. That is a yes where nothing is left undone.
pub fn nobody_goes(context: &Context, plan: &PlanReply, kind: &str) -> Result<Exit, LabError> {
    let (result, exit) = match view::plan::leaves_nothing_undone(plan, kind) {
        true => ("nothing-to-do", Exit::Yes),
        false => ("nobody-can-go", Exit::No),
    };
    let show = |look: &view::Look| view::plan::nobody(plan, kind, look);
    context.output.result(&NobodyGoes { result, plan }, show)?;
    Ok(exit)
}

/// Shows where the rollouts stand.
pub async fn status(context: &Context, args: &Status) -> Result<Exit, LabError> {
    let request = StatusRequest {
        selection: Some(args.select.selection()),
        all: args.all,
    };
    let mut client = context.open().await?;
    let status = ask(client.get_status(request)).await?;
    let show = |look: &view::Look| view::status::status(&status, look);
    context.output.result(&status, show)?;
    Ok(Exit::Yes)
}

/// Comes back to a rollout.
pub async fn watch(context: &Context, args: &Watch) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let id = match &args.rollout {
        Some(id) => id.to_string(),
        None => only_active(&mut client).await?,
    };
    wait::for_rollout(context, &mut client, &id, args.timeout).await
}

async fn only_active(client: &mut Client) -> Result<String, LabError> {
    let status = ask(client.get_status(StatusRequest::default())).await?;
    let mut active = status
        .rollouts
        .into_iter()
        .filter(|rollout| rollout.ended_at.is_none());
    match (active.next(), active.next()) {
        (Some(one), None) => Ok(one.id),
        (None, _) => Err(LabError::new(Exit::NotFound, "no rollout is under way")
            .hint("see the last ones: lab update status")),
        (Some(one), Some(two)) => {
            let rest = active.map(|rollout| rollout.id);
            let ids: Vec<String> = [one.id, two.id].into_iter().chain(rest).collect();
            Err(LabError::usage("several rollouts are under way")
                .hint(format!("name one of {}", ids.join(", "))))
        }
    }
}

/// Lets waiting groups go, or refuses them.
pub async fn approve(context: &Context, args: Approve, reject: bool) -> Result<Exit, LabError> {
    let request = ApproveRequest {
        rollout: args.rollout.map(String::from).unwrap_or_default(),
        group: args.group.map(String::from).unwrap_or_default(),
        reject,
        comment: args.comment,
    };
    let mut client = context.open().await?;
    let done = ask(client.approve(request)).await?;
    context.output.done(&done)
}

/// Lets groups go on after a wave.
pub async fn promote(context: &Context, args: Promote) -> Result<Exit, LabError> {
    let request = PromoteRequest {
        rollout: args.rollout.map(String::from).unwrap_or_default(),
        group: args.group.map(String::from).unwrap_or_default(),
        full: args.full,
        reason: args.reason,
    };
    let mut client = context.open().await?;
    let done = ask(client.promote(request)).await?;
    context.output.done(&done)
}

/// Gives out no further leases.
pub async fn pause(context: &Context, args: Rollout) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let done = ask(client.pause(request(args))).await?;
    context.output.done(&done)
}

/// Goes on with a paused rollout.
pub async fn resume(context: &Context, args: GoOn) -> Result<Exit, LabError> {
    let request = RolloutRequest {
        measure_again: args.measure_again,
        ..request(args.which)
    };
    let mut client = context.open().await?;
    let done = ask(client.resume_rollout(request)).await?;
    context.output.done(&done)
}

/// Ends a rollout, after asking on a terminal.
pub async fn abort(context: &Context, args: Rollout) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let which = args
        .rollout
        .as_ref()
        .map_or("the rollout".to_owned(), |id| format!("rollout {id}"));
    context.output.confirm(&format!(
        "End {which}? Machines that are away finish; the others stay as they are."
    ))?;
    let done = ask(client.abort(request(args))).await?;
    context.output.done(&done)
}

fn request(args: Rollout) -> RolloutRequest {
    RolloutRequest {
        rollout: args.rollout.map(String::from).unwrap_or_default(),
        reason: args.reason,
        measure_again: false,
    }
}
