//! `lab completions`, `lab man`, `lab help`: what needs no coordinator.

use std::fs;

use clap::{Command, CommandFactory as _};

use super::Context;
use crate::{
    args::{Completions, Help, Lab, Man},
    error::{Exit, LabError, exit_codes},
};

/// The topic of `lab help` that is no command.
const EXIT_CODES: &str = "exit-codes";

/// Prints a completion script.
pub fn completions(context: &Context, args: &Completions) -> Result<Exit, LabError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Lab::command(), "lab", &mut script);
    context.output.raw(&script)?;
    Ok(Exit::Yes)
}

/// Prints the manual page, or writes one for every command.
pub fn man(context: &Context, args: &Man) -> Result<Exit, LabError> {
    let command = Lab::command().after_long_help(exit_codes());
    let failed = |error: std::io::Error| LabError::usage(format!("failed to write: {error}"));
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(failed)?;
        context.output.raw(&page)?;
        return Ok(Exit::Yes);
    };
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory))
        .map_err(|error| failed(error).at(directory.display()))?;
    Ok(Exit::Yes)
}

/// Prints the help of a command, or of a topic.
pub fn help(context: &Context, args: &Help) -> Result<Exit, LabError> {
    context.output.text(&help_text(&args.words)?)?;
    Ok(Exit::Yes)
}

fn help_text(words: &[String]) -> Result<String, LabError> {
    if words == [EXIT_CODES] {
        return Ok(exit_codes());
    }
    let mut command = Lab::command();
    command.build();
    let mut place: &mut Command = &mut command;
    for word in words {
        place = place.find_subcommand_mut(word).ok_or_else(|| {
            LabError::usage(format!("there is no command {:?}", words.join(" "))).hint(format!(
                "see `lab --help`; the one other topic is {EXIT_CODES}"
            ))
        })?;
    }
    Ok(place.render_long_help().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn help_is_found_for_commands_and_topics() {
        assert!(
            help_text(&words("exit-codes"))
                .expect("a topic")
                .contains("130")
        );
        let execute = help_text(&words("update execute")).expect("a command");
        assert!(execute.contains("--wait-for-completion"), "{execute}");
        assert!(
            help_text(&[])
                .expect("the whole")
                .contains("emergency-stop")
        );
        let error = help_text(&words("update explode")).expect_err("no such command");
        assert_eq!(error.exit, Exit::Usage);
    }

    #[test]
    fn completions_and_pages_are_made_for_every_command() {
        let mut script = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut Lab::command(),
            "lab",
            &mut script,
        );
        let script = String::from_utf8(script).expect("text");
        assert!(script.contains("emergency-stop") && script.contains("--to-generation"));
        let directory = tempfile::tempdir().expect("a directory");
        clap_mangen::generate_to(Lab::command(), directory.path()).expect("written");
        let pages = fs::read_dir(directory.path()).expect("listed").count();
        assert!(pages > 30, "{pages} pages");
    }
}
