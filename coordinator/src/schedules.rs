//! Finds out what machines are to run when a run of a schedule wants to know it: reads a file, or has
//! Nix build a flake, beside everything else, and answers the core. It decides nothing; a run that is
//! over meanwhile is not worked for any longer.

use std::collections::BTreeMap;

use common::{
    MachineName, Target,
    error_chain::Chain,
    text::{REASON_MAX, tame_line},
    time::span,
};
use coordinator_core::{
    Request,
    schedule::{RESOLVE_WITHIN, Unresolved},
};
use platform::sources::{self, Step};
use tokio::task::{AbortHandle, JoinSet};

use crate::driver::Handle;

/// Works until the driver ends.
pub(crate) async fn run(handle: Handle) {
    let mut unresolved = handle.unresolved();
    let mut at_work: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = unresolved.borrow_and_update().clone();
        at_work.retain(|run, task| {
            let keep = wanted.iter().any(|waits| waits.run == *run);
            if !keep {
                // Nix ends with the task.
                task.abort();
            }
            keep
        });
        for waits in wanted {
            at_work
                .entry(waits.run)
                .or_insert_with(|| tasks.spawn(resolve(handle.clone(), waits)));
        }
        tokio::select! {
            changed = unresolved.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn resolve(handle: Handle, waits: Unresolved) {
    let Unresolved {
        schedule,
        run,
        source,
        machines,
    } = waits;
    let found = tokio::time::timeout(RESOLVE_WITHIN, targets(source, machines));
    let found = found.await.unwrap_or_else(|_| {
        let within = span(RESOLVE_WITHIN);
        Err(format!("its source gave no targets within {within}"))
    });
    let targets = found.map_err(|why| tame_line(&why, REASON_MAX));
    let request = Request::ScheduleResolved {
        schedule,
        run,
        targets,
    };
    if let Err(error) = handle.ask(request).await {
        tracing::debug!("nobody wants these targets any more: {}", Chain(&error));
    }
}

async fn targets(
    source: Option<serde_json::Value>,
    machines: Vec<MachineName>,
) -> Result<Vec<(MachineName, Target)>, String> {
    let source = source.ok_or("nothing says what the machines are to run")?;
    let read = tokio::task::spawn_blocking(move || sources::written(&source));
    let source = read
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let mut say = |step: Step| {
        let (Step::Told(line) | Step::Passing(line)) = step;
        tracing::info!("{line}");
    };
    let found = sources::targets(source, &machines, &mut say).await;
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.into_iter().collect())
}
