//! Moves the traffic of groups with two sides, where no scripts of their machines do. Nothing is decided
//! here: a move says where the traffic has to be, and doing it twice does it once. One that is not wanted any
//! longer is broken off.

pub mod haproxy;

use std::collections::BTreeMap;

use common::{GroupName, error_chain::Chain};
use coordinator_core::{
    Request,
    traffic::{Answered, Side, UP_WITHIN, Wanted},
};
use tokio::task::JoinHandle;

use self::haproxy::{Backend, Limits, Placed};
use crate::driver::Handle;

/// Works until the driver ends.
pub(crate) async fn run(handle: Handle) {
    let mut moves = handle.moves();
    let mut at_work: BTreeMap<GroupName, (Wanted, JoinHandle<()>)> = BTreeMap::new();
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
            } else if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%group, "moving its traffic broke off: {error}");
            }
        }
        for wanted in wanted {
            at_work.entry(wanted.group.clone()).or_insert_with(|| {
                let task = tokio::spawn(perform(handle.clone(), wanted.clone()));
                (wanted, task)
            });
        }
        if moves.changed().await.is_err() {
            return;
        }
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

/// Puts the traffic where it is wanted; what is to be known about it, or why it is not there.
async fn place(wanted: &Wanted) -> Result<String, String> {
    let sides = &wanted.sides;
    let side = sides.side(&wanted.to);
    let side = side.ok_or_else(|| format!("there is no side {}", wanted.to))?;
    let servers = |side: &'_ Side| -> Vec<String> {
        let machines = side.machines.iter();
        machines
            .map(|machine| wanted.haproxy.server(machine).to_owned())
            .collect()
    };
    let (into, out_of) = (servers(side), servers(sides.other(&side.name)));
    let (into, out_of): (Vec<&str>, Vec<&str>) = (
        into.iter().map(String::as_str).collect(),
        out_of.iter().map(String::as_str).collect(),
    );
    let limits = Limits {
        up: UP_WITHIN,
        drain: sides.drain,
    };
    let backend = Backend {
        at: &wanted.haproxy.at,
        name: &wanted.haproxy.backend,
    };
    let placed = backend.place(&into, &out_of, limits).await;
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
