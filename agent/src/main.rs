//! `lab-agent`: the agent as a program of its own. All of it is in the library, so that the demo
//! can start the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Read at the start: a switch may replace the file later.
    let program = std::env::current_exe().map_or_else(
        |_| "lab-agent".into(),
        |path| path.to_string_lossy().into_owned(),
    );
    agent::run::main(vec![program], std::env::args_os())
}
