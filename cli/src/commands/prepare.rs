//! `lab update prepare`: what machines are to run, and waiting until they have it.

mod staging;

use std::{collections::BTreeMap, time::Duration};

use common::{MachineName, Target};
use lab_proto::operator::{
    ListMachinesRequest, PinTargetsRequest, PinnedFlake, PinnedTarget, Selection, WhyRequest,
    pinned_target::Kind,
};
use platform::sources::{self, Closures, Source, Step};
use tokio::time::sleep;

use self::staging::{Failure, Stage, Stages, Staging, begun, stage};

use super::{
    Context,
    config::document_in_force,
    wait::{Early, Waited, bounded},
};
use crate::{
    args::update::Prepare,
    client::{Client, ask},
    error::{Exit, LabError},
    output::Progress,
    targets,
    view::counted,
};

/// How often is looked whether machines have staged their targets.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What each machine is to run.
pub(super) type Pins = BTreeMap<MachineName, Kind>;

/// Sets the targets and waits until every machine that can be reached has staged its own.
pub async fn run(context: &Context, args: &Prepare) -> Result<Exit, LabError> {
    let named = targets::named(&args.source)?;
    let mut client = context.open().await?;
    let source = match named {
        Some(source) => source,
        None => targets::configured(&document_in_force(&mut client).await?.1)?,
    };
    let selection = args.select.selection();
    let explicit = !selection.groups.is_empty() || !selection.machines.is_empty();
    let selected = select(&mut client, selection).await?;
    if let (Source::Closures(closures), true) = (&source, explicit) {
        every_one_named(closures, &selected)?;
    }
    // Without a selection a file means every machine that it names, also one that is not known.
    let wanted = match &source {
        Source::Closures(closures) if !explicit => closures.keys().cloned().collect(),
        Source::Closures(_) | Source::Flake(_) | Source::Channel(_) => selected,
    };
    let pins = found(context, source, &wanted).await?;
    if pins.is_empty() {
        context.output.result(&Staging::default(), |_| {
            "no machines to prepare\n".to_owned()
        })?;
        return Ok(Exit::Yes);
    }
    let target = |kind: Kind| PinnedTarget { kind: Some(kind) };
    let request = PinTargetsRequest {
        targets: pins
            .into_iter()
            .map(|(name, kind)| (name.into(), target(kind)))
            .collect(),
        reason: args.reason.clone(),
    };
    let pinned = ask(client.pin_targets(request)).await?.machines;
    context.output.note(&format!(
        "targets set for {}",
        counted(pinned.len(), "machine")
    ));
    if args.detach {
        let staging = Staging::of(begun(pinned));
        context.output.result(&staging, |_| {
            "the machines stage them; see: lab machines\n".to_owned()
        })?;
        return Ok(Exit::Yes);
    }
    wait(context, &mut client, pinned, args).await
}

/// Names of the selected machines; a name that is no name was made by nobody of ours.
async fn select(client: &mut Client, selection: Selection) -> Result<Vec<MachineName>, LabError> {
    let request = ListMachinesRequest {
        selection: Some(selection),
    };
    let list = ask(client.list_machines(request)).await?;
    let names = list
        .machines
        .into_iter()
        .map(|machine| machine.name.parse());
    names
        .collect::<Result<_, _>>()
        .map_err(|error: common::id::NameError| LabError::new(Exit::Bug, error.to_string()))
}

/// Every machine that was selected by name must have a closure.
fn every_one_named(closures: &Closures, selected: &[MachineName]) -> Result<(), LabError> {
    let missing: Vec<&str> = selected
        .iter()
        .filter(|name| !closures.contains_key(name))
        .map(MachineName::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::usage("some selected machines have no target")
        .at(missing.join(", "))
        .hint("add them to the targets, or select fewer: --machine=a,b"))
}

/// The targets of these machines, with what is done to find them out shown.
async fn found(
    context: &Context,
    source: Source,
    machines: &[MachineName],
) -> Result<Pins, LabError> {
    let progress = context.output.progress();
    let mut say = |step: Step| match step {
        Step::Passing(line) if progress.is_drawn() => progress.draw(&line),
        Step::Passing(line) | Step::Told(line) => progress.say(&line),
    };
    let targets = sources::targets(source, machines, &mut say).await?;
    let pin = |(name, target): (MachineName, Target)| (name, pinned(target));
    Ok(targets.into_iter().map(pin).collect())
}

fn pinned(target: Target) -> Kind {
    match target {
        Target::Closure(path) => Kind::Closure(path.into()),
        Target::Flake {
            reference,
            attribute,
        } => Kind::Flake(PinnedFlake {
            reference,
            attribute,
        }),
        Target::Channel { url } => Kind::Channel(url),
    }
}

async fn wait(
    context: &Context,
    client: &mut Client,
    pinned: Vec<String>,
    args: &Prepare,
) -> Result<Exit, LabError> {
    let progress = context.output.progress();
    let mut stages = Stages::new();
    let waited = bounded(
        staged(context, client, &pinned, &mut stages, &progress),
        Some(args.timeout),
    )
    .await;
    drop(progress);
    let early = match waited? {
        Waited::Ended(()) => None,
        Waited::Early(early) => Some(early),
    };
    if let Some(early) = early {
        context.output.note(&format!(
            "{}; the machines go on staging; see: lab machines",
            early.why()
        ));
        if stages.is_empty() {
            stages = begun(pinned);
        }
    }
    let staging = Staging::of(stages);
    context.output.result(&staging, |look| staging.view(look))?;
    Ok(early.map_or(staging.exit(), Early::exit))
}

/// Looks until no machine is waited for; `stages` is what the last look saw.
async fn staged(
    context: &Context,
    client: &mut Client,
    pinned: &[String],
    stages: &mut Stages,
    progress: &Progress<'_>,
) -> Result<(), LabError> {
    loop {
        match look_at(client, pinned, stages).await {
            Err(error) if error.is_passing() => {
                progress.say(&format!("connection lost ({}); trying again", error.what));
            }
            Err(error) => return Err(error),
            Ok(seen) => {
                tell(progress, stages, &seen);
                stages.clone_from(&seen);
                let staging = Staging::of(seen);
                if staging.waiting.is_empty() {
                    return Ok(());
                }
                progress.draw(&staging.view(context.output.look()));
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn look_at(
    client: &mut Client,
    pinned: &[String],
    told: &Stages,
) -> Result<Stages, LabError> {
    let request = ListMachinesRequest {
        selection: Some(Selection {
            machines: pinned.to_vec(),
            ..Selection::default()
        }),
    };
    let list = ask(client.list_machines(request)).await?;
    let mut stages = Stages::new();
    for machine in list.machines {
        let mut stage = stage(&machine);
        // A failure is the coordinator's word. It is final for this command, so it is asked for
        // only as long as nothing else is known.
        if stage == Stage::Waiting {
            stage = match told.get(&machine.name) {
                Some(failed @ Stage::Failed(_)) => failed.clone(),
                Some(_) | None => failure(client, &machine.name)
                    .await?
                    .unwrap_or(Stage::Waiting),
            };
        }
        stages.insert(machine.name, stage);
    }
    Ok(stages)
}

async fn failure(client: &mut Client, machine: &str) -> Result<Option<Stage>, LabError> {
    let request = WhyRequest {
        machine: machine.to_owned(),
    };
    let reason = ask(client.why(request)).await?.wait_reason;
    Ok(reason
        .filter(|reason| {
            ["staging-failed", "bad-target", "target-not-allowed"].contains(&reason.kind.as_str())
        })
        .map(|reason| {
            Stage::Failed(Failure {
                why: reason.text,
                hint: reason.hint,
            })
        }))
}

fn tell(progress: &Progress<'_>, before: &Stages, now: &Stages) {
    if progress.is_drawn() {
        return;
    }
    for (name, stage) in now
        .iter()
        .filter(|(name, stage)| before.get(*name) != Some(stage))
    {
        progress.say(&match stage {
            Stage::Staged => format!("{name}  ✔ staged"),
            Stage::Waiting => format!("{name}  ▶ staging"),
            Stage::Offline => format!("{name}  ⚠ offline, catches up later"),
            Stage::Engaged(rollout) => {
                format!("{name}  ⚠ stages it when its part of {rollout} is over")
            }
            Stage::Failed(failure) => format!("{name}  ✖ failed: {}", failure.why),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<MachineName> {
        names
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect()
    }

    fn closures(of: &[&str]) -> Closures {
        let path = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-system";
        let entry = |name| (name, path.parse().expect("a path"));
        names(of).into_iter().map(entry).collect()
    }

    #[test]
    fn machines_that_are_selected_by_name_need_a_target() {
        assert_eq!(
            every_one_named(&closures(&["a", "b"]), &names(&["a"])),
            Ok(())
        );
        let error = every_one_named(&closures(&["a"]), &names(&["a", "b", "c"]));
        assert_eq!(error.expect_err("no target").places, ["b, c"]);
    }
}
