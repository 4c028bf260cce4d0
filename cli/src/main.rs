//! The program `lab`.

use std::process::ExitCode;

use clap::Parser as _;
use cli::{args::Lab, run};

fn main() -> ExitCode {
    ExitCode::from(run(Lab::parse()).code())
}
