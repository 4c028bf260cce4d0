//! The handbook's page of commands, written from the declarations; a test keeps it true.

use std::{env, fs, path::Path};

use clap::{Command, CommandFactory as _};

use super::Lab;

/// Set to write the page anew.
const UPDATE: &str = "UPDATE_DOCS";

const HEAD: &str = "# Every command

What `lab COMMAND --help` says, in one page. It is written from the program itself:
`UPDATE_DOCS=1 cargo test -p cli --lib handbook` writes it anew.
";

/// A command and all below it, each as what its `--help` prints.
fn pages(command: &Command, path: &str, out: &mut String) {
    let own = command.clone().bin_name(path).term_width(96);
    let below = path.contains(' ');
    // Said once, by `lab` itself.
    let own = own.mut_args(|arg| {
        let global = below && arg.get_help_heading() == Some("Global options");
        arg.hide(global).hide_env_values(true)
    });
    let help = own.disable_help_flag(true).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    out.push_str(&format!(
        "\n## `{path}`\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    ));
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        pages(one, &format!("{path} {}", one.get_name()), out);
    }
}

#[test]
fn the_page_of_commands_is_what_the_program_says() {
    let mut text = HEAD.to_owned();
    let mut command = Lab::command();
    command.build();
    pages(&command, "lab", &mut text);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    if env::var_os(UPDATE).is_some() {
        fs::write(&page, &text).expect("written");
    }
    let page = fs::read_to_string(&page).expect("docs/commands.md");
    assert!(
        page == text,
        "docs/commands.md is out of date: set {UPDATE}=1"
    );
}
