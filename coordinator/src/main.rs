//! `lab-coordinator`: the coordinator as a program of its own. All of it is in the library, so that
//! the demo can start the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    coordinator::run::main(std::env::args_os())
}
