//! `lab update prepare`: what machines are to run, and waiting until they have it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::MachineName;
use lab_proto::operator::{
    ListMachinesRequest, Machine, PinTargetsRequest, PinnedTarget, Selection, WhyRequest,
    pinned_target::Kind,
};
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Context,
    config::document_in_force,
    flake::build,
    wait::{Waited, bounded},
};
use crate::{
    args::update::Prepare,
    client::{Client, ask},
    error::{Exit, LabError},
    output::Progress,
    targets::{self, Closures, Source},
    view::{Look, counted, marked},
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
    let pins = match source {
        Source::Closures(closures) => closure_pins(closures, &selected, explicit)?,
        Source::Channel(url) => {
            let pin = |name: &MachineName| (name.clone(), Kind::Channel(url.clone()));
            selected.iter().map(pin).collect()
        }
        Source::Flake(flake) => build(context, &flake, &selected).await?,
    };
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
        let staging = Staging::of(
            pinned
                .into_iter()
                .map(|name| (name, Stage::Waiting))
                .collect(),
        );
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

/// Of the named closures those of the selected machines; every one of them must have one when they
/// were selected explicitly.
fn closure_pins(
    mut closures: Closures,
    selected: &[MachineName],
    explicit: bool,
) -> Result<Pins, LabError> {
    if explicit {
        let missing: Vec<&str> = selected
            .iter()
            .filter(|name| !closures.contains_key(name))
            .map(MachineName::as_str)
            .collect();
        if !missing.is_empty() {
            return Err(LabError::usage("some selected machines have no target")
                .at(missing.join(", "))
                .hint("add them to the targets, or select fewer: --machine=a,b"));
        }
        closures.retain(|name, _| selected.contains(name));
    }
    let pin = |(name, path): (MachineName, common::StorePath)| (name, Kind::Closure(path.into()));
    Ok(closures.into_iter().map(pin).collect())
}

/// Where a machine stands on the way to having its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Staged,
    Waiting,
    Offline,
    /// It takes part in this rollout, to another target, first.
    Engaged(String),
    Failed(Failure),
}

/// Why a machine does not stage its target, and what to try next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Failure {
    why: String,
    hint: String,
}

/// Where all of them stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Staging {
    staged: Vec<String>,
    waiting: Vec<String>,
    offline: Vec<String>,
    /// Machines and the rollouts they take part in first.
    engaged: BTreeMap<String, String>,
    failed: BTreeMap<String, String>,
    #[serde(skip)]
    hints: BTreeSet<String>,
}

impl Staging {
    fn of(stages: BTreeMap<String, Stage>) -> Self {
        let mut staging = Self::default();
        for (name, stage) in stages {
            match stage {
                Stage::Staged => staging.staged.push(name),
                Stage::Waiting => staging.waiting.push(name),
                Stage::Offline => staging.offline.push(name),
                Stage::Engaged(rollout) => {
                    staging.hints.insert("lab update status".to_owned());
                    staging.engaged.insert(name, rollout);
                }
                Stage::Failed(failure) => {
                    staging.failed.insert(name, failure.why);
                    staging.hints.insert(failure.hint);
                }
            }
        }
        staging
    }

    fn view(&self, look: &Look) -> String {
        let row = |name: &str, state: &str, why: &str| {
            vec![name.to_owned(), marked(state), why.to_owned()]
        };
        let failed = self
            .failed
            .iter()
            .map(|(name, why)| row(name, "failed", why));
        let offline = self
            .offline
            .iter()
            .map(|name| row(name, "offline", "catches up later"));
        let engaged = self.engaged.iter().map(|(name, rollout)| {
            let why = format!("stages it when its part of {rollout} is over");
            row(name, "later", &why)
        });
        let waiting = self.waiting.iter().map(|name| row(name, "staging", ""));
        let rows = failed.chain(offline).chain(engaged).chain(waiting);
        let mut text = look.columns(0, rows);
        let later = self.waiting.len() + self.offline.len() + self.engaged.len();
        let all = self.staged.len() + later + self.failed.len();
        text.push_str(&format!(
            "{} of {} staged\n",
            self.staged.len(),
            counted(all, "machine")
        ));
        for hint in self.hints.iter().filter(|hint| !hint.is_empty()) {
            text.push_str(&format!("try: {hint}\n"));
        }
        text
    }

    fn exit(&self) -> Exit {
        if self.failed.is_empty() {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

async fn wait(
    context: &Context,
    client: &mut Client,
    pinned: Vec<String>,
    args: &Prepare,
) -> Result<Exit, LabError> {
    let progress = context.output.progress();
    let waited = bounded(
        staged(context, client, pinned, &progress),
        Some(args.timeout),
    )
    .await;
    drop(progress);
    let (exit, why) = match waited? {
        Waited::Ended(staging) => {
            context.output.result(&staging, |look| staging.view(look))?;
            return Ok(staging.exit());
        }
        Waited::Late => (Exit::Timeout, "the time to wait is up"),
        Waited::Interrupted => (Exit::Interrupted, "interrupted"),
    };
    context.output.note(&format!(
        "{why}; the machines go on staging; see: lab machines"
    ));
    Ok(exit)
}

async fn staged(
    context: &Context,
    client: &mut Client,
    pinned: Vec<String>,
    progress: &Progress<'_>,
) -> Result<Staging, LabError> {
    let mut told: BTreeMap<String, Stage> = BTreeMap::new();
    loop {
        match look_at(client, &pinned, &told).await {
            Err(error) if error.is_passing() => {
                progress.say(&format!("connection lost ({}); trying again", error.what));
            }
            Err(error) => return Err(error),
            Ok(stages) => {
                tell(progress, &told, &stages);
                told = stages;
                let staging = Staging::of(told.clone());
                if staging.waiting.is_empty() {
                    return Ok(staging);
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
    told: &BTreeMap<String, Stage>,
) -> Result<BTreeMap<String, Stage>, LabError> {
    let request = ListMachinesRequest {
        selection: Some(Selection {
            machines: pinned.to_vec(),
            ..Selection::default()
        }),
    };
    let list = ask(client.list_machines(request)).await?;
    let mut stages = BTreeMap::new();
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

fn stage(machine: &Machine) -> Stage {
    let runs_it = !machine.target.is_empty() && machine.target == machine.running;
    match machine.state.as_str() {
        _ if machine.staged || runs_it => Stage::Staged,
        "offline" | "never-seen" => Stage::Offline,
        _ if !machine.engaged.is_empty() => Stage::Engaged(machine.engaged.clone()),
        _ => Stage::Waiting,
    }
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

fn tell(progress: &Progress<'_>, before: &BTreeMap<String, Stage>, now: &BTreeMap<String, Stage>) {
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
    fn selected_machines_need_a_target_and_others_are_left_alone() {
        let pinned = |of: &[&str], selected: &[&str], explicit| {
            let pins = closure_pins(closures(of), &names(selected), explicit);
            pins.map(|pins| pins.into_keys().map(String::from).collect::<Vec<_>>())
        };
        assert_eq!(pinned(&["a", "b"], &["a"], true), Ok(vec!["a".to_owned()]));
        assert_eq!(
            pinned(&["a"], &["a", "b", "c"], false),
            Ok(vec!["a".to_owned()])
        );
        let error = pinned(&["a"], &["a", "b", "c"], true).expect_err("no target");
        assert_eq!(error.places, ["b, c"]);
    }

    #[test]
    fn staged_means_here_or_already_running() {
        let machine = |state: &str, staged, running: &str| Machine {
            state: state.into(),
            staged,
            target: "/t".into(),
            running: running.into(),
            ..Machine::default()
        };
        assert_eq!(stage(&machine("healthy", true, "/r")), Stage::Staged);
        assert_eq!(stage(&machine("healthy", false, "/t")), Stage::Staged);
        assert_eq!(stage(&machine("healthy", false, "/r")), Stage::Waiting);
        assert_eq!(stage(&machine("offline", false, "/r")), Stage::Offline);
        assert_eq!(stage(&machine("never-seen", false, "")), Stage::Offline);
        let mut engaged = machine("healthy", false, "/r");
        engaged.engaged = "r-3".into();
        assert_eq!(stage(&engaged), Stage::Engaged("r-3".into()));
        engaged.staged = true;
        assert_eq!(stage(&engaged), Stage::Staged);
    }

    #[test]
    fn offline_machines_are_named_but_are_no_failure() {
        let stages = |stages: &[(&str, Stage)]| {
            let owned = stages
                .iter()
                .map(|(name, stage)| ((*name).to_owned(), stage.clone()));
            Staging::of(owned.collect())
        };
        let fine = stages(&[("a", Stage::Staged), ("b", Stage::Offline)]);
        assert_eq!(fine.exit(), Exit::Yes);
        let full = Failure {
            why: "no space left".into(),
            hint: "lab update prepare".into(),
        };
        let failed = stages(&[
            ("a", Stage::Staged),
            ("b", Stage::Offline),
            ("c", Stage::Failed(full.clone())),
            ("d", Stage::Failed(full)),
            ("e", Stage::Engaged("r-3".into())),
        ]);
        assert_eq!(failed.exit(), Exit::No);
        assert_eq!(
            failed.view(&crate::view::tests::look()),
            "c  ✖ failed   no space left\n\
             d  ✖ failed   no space left\n\
             b  ⚠ offline  catches up later\n\
             e  ○ later    stages it when its part of r-3 is over\n\
             1 of 5 machines staged\n\
             try: lab update prepare\n\
             try: lab update status\n"
        );
    }
}
