//! Moves the traffic of groups with two sides, where no scripts of their machines do. Nothing is decided
//! here: a move says where the traffic has to be, and doing it twice does it once. One that is not wanted any
//! longer is broken off.

pub mod haproxy;

use std::{collections::BTreeMap, time::Duration};

use common::{GroupName, error_chain::Chain};
use coordinator_core::{
    Request,
    traffic::{Answered, Side, UP_WITHIN, Wanted},
};
use tokio::{task::JoinHandle, time::sleep};

use self::haproxy::{Backend, Limits, Placed};
use crate::driver::Handle;

/// From one look at traffic that is to stay where it is to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// The same where it could not be put back: somebody has to read why.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(60);

/// Works until the driver ends.
pub(crate) async fn run(handle: Handle) {
    let mut moves = handle.moves();
    let mut at_work: BTreeMap<GroupName, (Wanted, JoinHandle<()>)> = BTreeMap::new();
    let mut keeping: BTreeMap<GroupName, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = moves.borrow_and_update().clone();
        // One that is not wanted any longer says nothing more before another one of its group begins.
        for (_, task) in at_work
            .values()
            .filter(|(known, _)| !wanted.contains(known))
        {
            task.abort();
        }
        for (group, (known, task)) in std::mem::take(&mut at_work) {
            if wanted.contains(&known) {
                at_work.insert(group, (known, task));
            } else {
                ended(&group, task).await;
            }
        }
        keep(&handle, &wanted, &mut keeping).await;
        for wanted in wanted {
            at_work.entry(wanted.group.clone()).or_insert_with(|| {
                let task = tokio::spawn(perform(handle.clone(), wanted.clone()));
                (wanted, task)
            });
        }
        tokio::select! {
            changed = moves.changed() => if changed.is_err() {
                return;
            },
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn ended(group: &GroupName, task: JoinHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(%group, "moving its traffic broke off: {error}");
    }
}

/// Looks whether traffic that is to stay has stayed, except where a move is wanted: nothing is put back any more
/// when that begins.
async fn keep(
    handle: &Handle,
    wanted: &[Wanted],
    keeping: &mut BTreeMap<GroupName, JoinHandle<()>>,
) {
    let kept = handle.kept_traffic();
    let moves = |group: &GroupName| wanted.iter().any(|wanted| wanted.group == *group);
    let stays = |group: &GroupName| kept.iter().any(|kept| kept.group == *group) && !moves(group);
    for (group, task) in std::mem::take(keeping) {
        if !stays(&group) {
            task.abort();
        } else if !task.is_finished() {
            keeping.insert(group, task);
            continue;
        }
        ended(&group, task).await;
    }
    for kept in kept {
        if !moves(&kept.group) && !keeping.contains_key(&kept.group) {
            let group = kept.group.clone();
            keeping.insert(group, tokio::spawn(put_back(kept)));
        }
    }
}

/// Puts traffic back where it was if HAProxy has forgotten that, as it does when it is reloaded.
async fn put_back(kept: Wanted) {
    let Wanted { group, to, .. } = &kept;
    match strayed(&kept).await {
        Ok(None) => {}
        Ok(Some(server)) => {
            tracing::warn!(
                %group,
                "HAProxy does not keep the traffic of {group} on {to} ({server}), as after a reload; it is put \
                 there again"
            );
            if let Err(error) = place(&kept).await {
                tracing::warn!(%group, "the traffic of {group} is not back on {to}: {error}");
                sleep(COMPLAIN_AGAIN).await;
            }
        }
        Err(error) => tracing::debug!(%group, "its traffic cannot be looked at: {error}"),
    }
}

async fn perform(handle: Handle, wanted: Wanted) {
    let result = place(&wanted).await;
    let answered = Answered {
        group: wanted.group,
        number: wanted.number,
        attempt: wanted.attempt,
        result,
    };
    if let Err(error) = handle.ask(Request::TrafficMoved(answered)).await {
        tracing::debug!("nobody wants this move any more: {}", Chain(&error));
    }
}

/// The servers that are to have the traffic, and those that are not to.
fn servers(wanted: &Wanted) -> Result<(Vec<&str>, Vec<&str>), String> {
    let sides = &wanted.sides;
    let side = sides.side(&wanted.to);
    let side = side.ok_or_else(|| format!("there is no side {}", wanted.to))?;
    let other = sides.other(&side.name);
    Ok((servers_of(wanted, side), servers_of(wanted, other)))
}

fn servers_of<'a>(wanted: &'a Wanted, side: &'a Side) -> Vec<&'a str> {
    let machines = side.machines.iter();
    machines
        .map(|machine| wanted.haproxy.server(machine))
        .collect()
}

fn backend(wanted: &Wanted) -> Backend<'_> {
    Backend {
        at: &wanted.haproxy.at,
        name: &wanted.haproxy.backend,
    }
}

async fn strayed(kept: &Wanted) -> Result<Option<String>, String> {
    let (into, out_of) = servers(kept)?;
    let strayed = backend(kept).strayed(&into, &out_of).await;
    strayed.map_err(|error| Chain(&error).to_string())
}

/// Puts the traffic where it is wanted; what is to be known about it, or why it is not there.
async fn place(wanted: &Wanted) -> Result<String, String> {
    let (into, out_of) = servers(wanted)?;
    let limits = Limits {
        up: UP_WITHIN,
        drain: wanted.sides.drain,
    };
    let placed = backend(wanted).place(&into, &out_of, limits).await;
    let placed = placed.map_err(|error| Chain(&error).to_string())?;
    Ok(said(&placed))
}

/// What is to be known about traffic that has been moved.
fn said(placed: &Placed) -> String {
    let left = placed.left.iter();
    let left: Vec<String> = left
        .map(|(server, count)| format!("{count} on {server}"))
        .collect();
    match left[..] {
        [] => String::new(),
        _ => format!("sessions that outlasted the drain: {}", left.join(", ")),
    }
}
