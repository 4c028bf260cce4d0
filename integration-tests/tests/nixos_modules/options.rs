//! The handbook's page of options, written from the modules; a test keeps it true.

use std::{env, fmt::Write as _, fs};

use serde::Deserialize;
use serde_json::Value;

use crate::evaluation::{evaluate, evaluated, root};

/// Set to write the page anew.
const UPDATE: &str = "UPDATE_DOCS";

const HEAD: &str = "# Every option

What the NixOS modules of [machines and the coordinator](nixos.md) can be told, in one page. It is written
from the modules themselves:
`UPDATE_DOCS=1 cargo test -p integration-tests --test nixos_modules options` writes it anew.

With the modules of the flake, the package is the flake's own unless another one is given.
";

/// One option, as `nixos-modules/tests/options-doc.nix` gives it.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct NixOption {
    name: String,
    r#type: String,
    default: Option<Text>,
    example: Option<Text>,
    description: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    Nix(String),
    Markdown(String),
}

/// By our own stand-ins, so that the page is the same wherever it is written.
fn options() -> Vec<NixOption> {
    let options = evaluate("(import ./nixos-modules/tests { }).optionsDoc");
    parsed(&options.expect("the options evaluate"))
}

fn parsed(options: &Value) -> Vec<NixOption> {
    Vec::deserialize(options).expect("options")
}

/// Markdown of NixOS' documentation as plain Markdown: of {option}`x` only `x` stays.
fn plain(markdown: &str) -> String {
    let mut plain = String::new();
    let mut rest = markdown.trim_end();
    while let Some((before, after)) = rest.split_once('{') {
        plain.push_str(before);
        let is_role =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        match after.split_once('}') {
            Some((word, code)) if is_role(word) && code.starts_with('`') => rest = code,
            _ => {
                plain.push('{');
                rest = after;
            }
        }
    }
    plain + rest
}

/// A line of the list below an option; code of several lines is a block in it.
fn item(label: &str, text: &Text, out: &mut String) {
    let written = match text {
        Text::Markdown(text) => writeln!(out, "- {label}: {}", plain(text)),
        Text::Nix(code) => match code.trim_end() {
            code if code.contains('\n') => {
                let code = code.replace('\n', "\n  ");
                writeln!(out, "- {label}:\n\n  ```nix\n  {code}\n  ```")
            }
            code => writeln!(out, "- {label}: `{code}`"),
        },
    };
    written.expect("a String takes it all");
}

fn page(options: &[NixOption]) -> String {
    let mut out = HEAD.to_owned();
    let mut module = "";
    for option in options {
        let name = &option.name;
        let own = name.match_indices('.').nth(1).map_or(0, |(at, _)| at);
        if &name[..own] != module {
            module = &name[..own];
            out.push_str(&format!("\n## `{module}`\n"));
        }
        let description = option.description.as_deref().unwrap_or_default();
        out.push_str(&format!("\n### `{name}`\n\n{}\n\n", plain(description)));
        item("Type", &Text::Markdown(option.r#type.clone()), &mut out);
        for (label, text) in [("Default", &option.default), ("Example", &option.example)] {
            if let Some(text) = text {
                item(label, text, &mut out);
            }
        }
    }
    out
}

#[test]
fn the_page_of_options_is_what_the_modules_say() {
    if evaluated().is_none() {
        return;
    }
    let text = page(&options());
    let file = root().join("docs/nixos-options.md");
    if env::var_os(UPDATE).is_some() {
        fs::write(&file, &text).expect("written");
    }
    let page = fs::read_to_string(&file).expect("docs/nixos-options.md");
    assert!(
        page == text,
        "docs/nixos-options.md is out of date: set {UPDATE}=1"
    );
}

#[test]
fn every_option_is_described_and_shows_a_value() {
    if evaluated().is_none() {
        return;
    }
    let options = options();
    for option in &options {
        let said = option.description.as_deref().unwrap_or_default();
        assert!(!said.trim().is_empty(), "{} says nothing", option.name);
        let shows = option.default.is_some() || option.example.is_some();
        assert!(
            shows,
            "{} has neither a default nor an example",
            option.name
        );
    }
    // That the walk comes everywhere: into lists, into settings, into what is nested in them.
    for known in [
        "services.lab-updater.enable",
        "services.lab-updater.targets.flakes",
        "services.lab-updater.checks.*.kind",
        "services.lab-updater.settings.limits.boot_timeout",
        "services.lab-coordinator.settings.limits.machine.burst",
    ] {
        let found = options.iter().any(|option| option.name == known);
        assert!(found, "{known} is missing");
    }
}

/// What the page says is what NixOS' own documentation would, where nixpkgs can be had.
#[test]
fn nixpkgs_says_the_same_of_the_options() {
    let Some(cases) = evaluated() else { return };
    let ours = options();
    let mut theirs = parsed(&cases["optionsDoc"]);
    // Before 25.11 nixpkgs had other words for some types.
    let words_are_ours = theirs
        .iter()
        .any(|option| option.r#type.starts_with("open submodule"));
    for (theirs, ours) in theirs.iter_mut().zip(&ours) {
        if !words_are_ours {
            theirs.r#type.clone_from(&ours.r#type);
        }
    }
    assert_eq!(theirs, ours);
}

#[test]
fn roles_of_documentation_are_plain_code() {
    assert_eq!(
        plain("as {option}`a.b` and `{ }` {x}, {see\n"),
        "as `a.b` and `{ }` {x}, {see"
    );
}
