//! Child processes: argument vectors, output collected, failures that say what was run.

use std::process::{Command, ExitStatus, Stdio};

use super::FleetError;

/// How much of a failed program's output an error quotes, in bytes from its end.
const QUOTED_MAX: usize = 2000;

/// A program that ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit status; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// Runs a program to its end, without standard input; any exit status is an answer.
pub(super) fn finish(command: &mut Command) -> Result<Finished, FleetError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FleetError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a program that must succeed and returns what it printed on standard output.
pub(crate) fn run(command: &mut Command) -> Result<String, FleetError> {
    let finished = finish(command)?;
    if finished.status.success() {
        return Ok(finished.stdout);
    }
    Err(failed(command, &finished))
}

/// The error for a program that ended badly.
pub(super) fn failed(command: &Command, finished: &Finished) -> FleetError {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    let output = format!("{}{}", finished.stdout, finished.stderr);
    let mut from = output.len().saturating_sub(QUOTED_MAX);
    while !output.is_char_boundary(from) {
        from += 1;
    }
    FleetError::Failed {
        command: words.join(" "),
        status: finished.status.to_string(),
        output: output[from..].trim_end().to_owned(),
    }
}
