//! `lab`, the operator's tool: it asks the coordinator and shows the answer.
//!
//! A library beside the program, so that tests and other programs of the project print what `lab`
//! prints. Views know nothing of printing, commands nothing of layout, and only `output` prints.

pub mod args;
pub mod client;
pub mod commands;
pub mod config_edit;
pub mod error;
pub mod output;
pub mod targets;
pub mod view;

use args::Lab;
use commands::Context;
use error::{Exit, LabError};
use output::Output;

/// Runs what was typed, prints how it went, and gives the exit status.
pub fn run(lab: Lab) -> Exit {
    let output = Output::new(lab.global.output, lab.global.yes);
    let context = Context {
        global: lab.global,
        output,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(&context, lab.command)),
        Err(error) => Err(LabError::new(
            Exit::Bug,
            format!("failed to start: {error}"),
        )),
    };
    ended.unwrap_or_else(|error| {
        context.output.error(&error);
        error.exit
    })
}
