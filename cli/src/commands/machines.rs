//! `lab machines …`

use lab_proto::operator::{
    ForgetMachineRequest, ListMachinesRequest, QuarantineMachinesRequest, ReleaseMachinesRequest,
    Selection,
};

use super::{Context, rollback};
use crate::{
    args::{
        Select,
        machines::{Forget, Machines, Quarantine, Release, Show, Verb},
    },
    client::ask,
    error::{Exit, LabError},
    view,
};

/// Runs one verb; the list without one.
pub async fn run(context: &Context, args: Machines) -> Result<Exit, LabError> {
    let Machines { verb, mut select } = args;
    match verb {
        None => list(context, &select).await,
        Some(Verb::List(args)) => {
            select.group.extend(args.select.group);
            select.machine.extend(args.select.machine);
            list(context, &select).await
        }
        // Before the verb, --group and --machine are about the list.
        Some(_) if !select.group.is_empty() || !select.machine.is_empty() => Err(LabError::usage(
            "--group and --machine belong behind the verb",
        )
        .hint("lab machines reboot --group=G")),
        Some(Verb::Show(args)) => show(context, &args).await,
        Some(Verb::Forget(args)) => forget(context, args).await,
        Some(Verb::Quarantine(args)) => quarantine(context, args).await,
        Some(Verb::Release(args)) => release(context, args).await,
        Some(Verb::Reboot(args)) => rollback::reboot(context, &args).await,
    }
}

async fn list(context: &Context, select: &Select) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = ListMachinesRequest {
        selection: Some(select.selection()),
    };
    let list = ask(client.list_machines(request)).await?;
    context
        .output
        .result(&list, |look| view::machines::list(&list, look))?;
    Ok(Exit::Yes)
}

async fn show(context: &Context, args: &Show) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = ListMachinesRequest {
        selection: Some(Selection {
            machines: vec![args.machine.to_string()],
            ..Selection::default()
        }),
    };
    let list = ask(client.list_machines(request)).await?;
    let Some(machine) = list.machines.first() else {
        let what = format!("there is no machine {}", args.machine);
        return Err(LabError::new(Exit::NotFound, what).hint("see what there is: lab machines"));
    };
    context
        .output
        .result(machine, |look| view::machines::show(machine, look))?;
    Ok(Exit::Yes)
}

async fn forget(context: &Context, args: Forget) -> Result<Exit, LabError> {
    let name = args.machine.to_string();
    context.output.confirm_destructive(&format!(
        "Free what {name} holds? If it is still switching, another machine may begin beside it."
    ))?;
    let mut client = context.open().await?;
    let request = ForgetMachineRequest {
        machine: name,
        reason: args.reason,
    };
    let done = ask(client.forget_machine(request)).await?;
    context.output.done(&done)
}

async fn quarantine(context: &Context, args: Quarantine) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = QuarantineMachinesRequest {
        machines: args.machines.iter().map(ToString::to_string).collect(),
        reason: args.reason,
    };
    let done = ask(client.quarantine_machines(request)).await?;
    context.output.done(&done)
}

async fn release(context: &Context, args: Release) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = ReleaseMachinesRequest {
        machines: args.machines.iter().map(ToString::to_string).collect(),
        reason: args.reason,
    };
    let done = ask(client.release_machines(request)).await?;
    context.output.done(&done)
}
