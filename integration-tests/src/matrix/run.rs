//! A fleet of its own, a lane for each of its machines, and the cases spread over them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process,
    sync::{Mutex, PoisonError},
    thread,
};

use common::{
    closure::StorePathError,
    id::{MachineName, NameError},
};
use serde_json::{Value, json};

use super::{Case, Lengths, Row, lane::Lane};
use crate::fleet::{Fleet, FleetError, FleetOptions, Programs};

/// What each machine may write.
const DISK_BYTES: u64 = 768 << 20;

/// How the matrix is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Machines that go through cases side by side.
    pub lanes: u8,
    /// How long faults last.
    pub lengths: Lengths,
    /// The `fleet` program, beside which the daemons are built.
    pub program: PathBuf,
}

/// Why the matrix could not be run, or a case not be gone through.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The machines did not do what they were told.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// `lab` said no.
    #[error("{0}")]
    Said(String),
    /// `lab` said something that is not JSON.
    #[error("lab {words} does not answer in JSON")]
    Answer {
        /// What was asked.
        words: String,
        /// Where, and what is wrong.
        source: serde_json::Error,
    },
    /// A link of the machine leads to no system.
    #[error("what the machine runs is no system")]
    StorePath(#[from] StorePathError),
    /// Not a machine's name.
    #[error("a machine cannot have this name")]
    Name(#[from] NameError),
    /// The agent could not be stopped while it was in this step.
    #[error("the agent was never caught in the step {0}")]
    Missed(&'static str),
}

/// Goes through the cases; `progress` hears of each as it ends. The rows are in the order of the
/// cases.
///
/// # Errors
/// When there is no fleet to go through them on. What happens to one case is in its row.
pub fn run(
    cases: &[Case],
    options: &Options,
    progress: &(dyn Fn(&Row) + Sync),
    step: &dyn Fn(&str),
) -> Result<Vec<Row>, MatrixError> {
    let machines: Vec<MachineName> = (1..=options.lanes)
        .map(|number| format!("lane-{number}").parse())
        .collect::<Result<_, _>>()?;
    let fleet = Fleet::up(
        &FleetOptions {
            name: format!("matrix-{}", process::id()),
            machines: machines.clone(),
            program: options.program.clone(),
            ends_with_us: true,
            disk: Some(DISK_BYTES),
            files: None,
            memory: None,
        },
        step,
    )?;
    step("installing the coordinator and the agents");
    let programs = Programs::ready(&options.program)?;
    fleet.install_coordinator(&programs)?;
    fleet.import_config(&config(&machines))?;
    fleet.install_agents(&programs, &machines, "")?;
    let hardening = fleet.hardening()?;
    step("going through the cases");
    let open = Mutex::new(cases.iter().enumerate());
    let next = || open.lock().unwrap_or_else(PoisonError::into_inner).next();
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for machine in &machines {
            scope.spawn(|| {
                let lane = Lane::new(&fleet, machine, &hardening, options.lengths);
                while let Some((index, case)) = next() {
                    let row = lane.go(case);
                    progress(&row);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(index, row);
                }
            });
        }
    });
    fleet.down()?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(done.into_values().collect())
}

/// Each machine a group of its own, so that none waits for another.
fn config(machines: &[MachineName]) -> Value {
    let group = |machine: &MachineName| {
        let group = json!({
            "machines": [machine],
            "updatePolicy": "aggressive",
            "maxFailures": 0,
            "allowReboot": true,
            "softReboot": true,
            "healthCheckTimeout": "6s",
            "expectedDuration": "30s",
        });
        (machine.to_string(), group)
    };
    let groups: serde_json::Map<String, Value> = machines.iter().map(group).collect();
    json!({
        "updateGroups": groups,
        "updateSettings": {
            "maxParallel": machines.len(),
            "staggerDelay": 0,
            "leaseTime": "30s",
            "graceTime": "15m",
        },
    })
}
