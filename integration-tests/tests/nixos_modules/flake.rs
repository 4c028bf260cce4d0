//! The flake: its outputs evaluate, and what its checks build from has every file that they read.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use serde_json::{Value, json};

use crate::evaluation::{outputs, root};

const SYSTEM: &str = "x86_64-linux";

fn names(set: &Value) -> Vec<&str> {
    let set = set.as_object().expect("a set");
    set.keys().map(String::as_str).collect()
}

#[test]
fn every_output_of_the_flake_evaluates() {
    let Some(outputs) = outputs() else { return };
    for (output, expected) in [
        ("packages", &["default", "lab-updater"][..]),
        (
            "checks",
            &[
                "clippy", "modules", "nixfmt", "package", "rollout", "rustfmt", "tests",
            ],
        ),
        ("devShells", &["default"]),
    ] {
        assert_eq!(names(&outputs[output]), ["aarch64-linux", SYSTEM]);
        assert_eq!(names(&outputs[output][SYSTEM]), expected, "{output}");
    }
    assert_eq!(
        outputs["modules"],
        json!(["agent", "coordinator", "default"])
    );
    // Only where packages are stood in for is it seen what they were called with.
    let takes = &outputs["moduleTakes"];
    if takes.is_null() {
        return;
    }
    assert_eq!(
        *takes,
        json!({ "agent": "lab-updater", "coordinator": "lab-updater" })
    );
    let checks = &outputs["checks"][SYSTEM];
    for (check, command) in [
        ("clippy", "cargo clippy --workspace --all-targets --offline"),
        (
            "tests",
            "cargo test --workspace --exclude integration-tests --offline",
        ),
        ("rustfmt", "cargo fmt --check"),
    ] {
        let said = checks[check]["buildPhase"].as_str().unwrap_or_default();
        assert!(said.contains(command), "{check}: {said}");
        assert_eq!(checks[check]["src"], outputs["sources"], "{check}");
    }
}

/// All Rust files below a directory.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The string literal that comes first in `text`, when only `between` comes before it.
fn literal<'a>(text: &'a str, between: &[&str]) -> Option<&'a str> {
    let mut rest = text.trim_start();
    for word in between {
        rest = rest.strip_prefix(word)?.trim_start();
    }
    rest.strip_prefix('"')?.split('"').next()
}

/// Paths that a source names relative to `own` (its file's directory), `package` or the workspace.
fn named(text: &str, own: &Path, package: &Path) -> Vec<PathBuf> {
    let after = |marker: &'static str| {
        text.match_indices(marker)
            .map(move |(at, _)| at + marker.len())
    };
    let mut paths = Vec::new();
    for marker in [concat!("include_", "str!("), concat!("include_", "bytes!(")] {
        let included = after(marker).filter_map(|at| literal(&text[at..], &[]));
        paths.extend(included.map(|path| own.join(path)));
    }
    for at in after(concat!("\"CARGO_", "MANIFEST_DIR\")")) {
        let rest = &text[at..];
        let path = literal(rest, &[","]).or_else(|| literal(rest, &[")", ".", "join("]));
        // Without one it is the directory itself, or its parent, which `root()` gives.
        let path = path.unwrap_or_default().trim_start_matches('/');
        paths.push(package.join(path));
    }
    for at in after(concat!("root()", ".join(")) {
        let path = literal(&text[at..], &[]).or_else(|| literal(&text[at..], &["format!("]));
        // Up to the part that is only known when it runs.
        let fixed = path.and_then(|path| path.split('{').next());
        paths.extend(fixed.map(|path| root().join(path)));
    }
    paths
}

/// Without `..`, and from the workspace on.
fn from_root(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
        .strip_prefix(root())
        .expect("of the workspace")
        .to_owned()
}

#[test]
fn the_checks_have_every_file_that_the_sources_name() {
    let Some(outputs) = outputs() else { return };
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let members = manifest["workspace"]["members"]
        .as_array()
        .expect("members");
    let mut read = BTreeSet::new();
    for member in members {
        let package = root().join(member.as_str().expect("a path"));
        let mut files = Vec::new();
        rust_files(&package, &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("readable");
            let own = file.parent().expect("a directory");
            // A package within another one (its core) is looked at for itself, as a member.
            let nested = own.ancestors().find(|dir| dir.join("Cargo.toml").exists());
            if nested == Some(&package) {
                read.extend(
                    named(&text, own, &package)
                        .iter()
                        .map(|path| from_root(path)),
                );
            }
        }
    }
    // That the search finds what it is there for: each of its three ways.
    for known in [
        "nixos-modules/hardening.nix",
        "docs/commands.md",
        "flake.lock",
    ] {
        assert!(
            read.contains(Path::new(known)),
            "{known} is not in {read:#?}"
        );
    }
    let sources = outputs["sources"].as_array().expect("paths");
    let sources: Vec<_> = sources.iter().filter_map(Value::as_str).collect();
    for path in &read {
        assert!(
            root().join(path).exists(),
            "{} is not there",
            path.display()
        );
        let has = sources.iter().any(|source| path.starts_with(source));
        assert!(
            has,
            "nixos-modules/package.nix leaves out {}",
            path.display()
        );
    }
}
