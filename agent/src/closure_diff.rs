//! What a target changes: the packages of two closures, compared.
//!
//! Packages and versions are read from the names of store paths as Nix reads them, and versions are
//! ordered as Nix orders them (Nix manual, `nix-env --upgrade`; `src/libstore/names.cc`). What has no
//! version and hardly changes in size (units, generated files) is not listed.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
};

use common::{
    StorePath,
    report::{CHANGE_VERSIONS_MAX, CHANGES_MAX, ChangeKind, Changes, PackageChange},
    text,
};

/// Smallest change in size, in bytes, for which a package with the same versions is listed; `nix
/// store diff-closures` draws the line there too.
const BYTES_MIN: u64 = 8 * 1024;

/// Longest name or version that is told, in characters.
const WORD_MAX: usize = 64;

/// Outputs of a package besides the first (nixpkgs, `setup-hooks/multiple-outputs.sh`, and the
/// kernel's): parts of the same package.
const OUTPUTS: [&str; 12] = [
    "bin", "data", "debug", "dev", "devdoc", "doc", "info", "lib", "man", "modules", "out",
    "static",
];

/// A store path and its size in bytes.
pub type Part = (StorePath, u64);

/// Two closures without what they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Only in the first.
    pub before: Vec<Part>,
    /// Only in the second.
    pub after: Vec<Part>,
}

/// What there is of one package in a closure.
#[derive(Default)]
struct Held {
    versions: BTreeSet<String>,
    bytes: u64,
}

/// What going from one system to another changes.
pub fn changes(from: &StorePath, to: &StorePath, difference: &Difference) -> Changes {
    let part_of = |parts: &[Part], system: &StorePath| {
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        for (path, bytes) in parts.iter().filter(|(path, _)| path != system) {
            let (package, version) = package_and_version(path.name());
            let package = held.entry(package.to_owned()).or_default();
            package.versions.insert(version.to_owned());
            package.bytes += bytes;
        }
        held
    };
    let mut before = part_of(&difference.before, from);
    let mut after = part_of(&difference.after, to);
    let names: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
    let mut packages: Vec<PackageChange> = names
        .into_iter()
        .filter_map(|name| {
            let held = |of: &mut BTreeMap<String, Held>| of.remove(&name).unwrap_or_default();
            let (before, after) = (held(&mut before), held(&mut after));
            change_of(&name, &before, &after)
        })
        .collect();
    packages.sort_by_cached_key(|change| {
        let same_versions = change.before == change.after;
        (
            same_versions,
            Reverse(change.bytes.unsigned_abs()),
            change.name.clone(),
        )
    });
    let more = packages.len().saturating_sub(CHANGES_MAX);
    packages.truncate(CHANGES_MAX);
    let sum = |parts: &[Part]| parts.iter().map(|(_, bytes)| bytes).sum();
    Changes {
        from: from.clone(),
        bytes: less(sum(&difference.after), sum(&difference.before)),
        packages,
        more: u32::try_from(more).unwrap_or(u32::MAX),
    }
}

/// How one package changes, if that is worth telling.
fn change_of(name: &str, before: &Held, after: &Held) -> Option<PackageChange> {
    let bytes = less(after.bytes, before.bytes);
    let versions = |held: &Held| -> Vec<String> {
        let mut sorted: Vec<&String> = held.versions.iter().filter(|v| !v.is_empty()).collect();
        sorted.sort_by(|one, other| compare_versions(one, other));
        let told = sorted.iter().rev().take(CHANGE_VERSIONS_MAX).rev();
        told.map(|version| text::tame_line(version, WORD_MAX))
            .collect()
    };
    let (old, new) = (versions(before), versions(after));
    let kind = match (before.versions.is_empty(), after.versions.is_empty()) {
        (true, _) => ChangeKind::Added,
        (_, true) => ChangeKind::Removed,
        (false, false) => match (old.last(), new.last()) {
            (Some(old), Some(new)) => match compare_versions(old, new) {
                Ordering::Less => ChangeKind::Upgraded,
                Ordering::Greater => ChangeKind::Downgraded,
                Ordering::Equal => ChangeKind::Resized,
            },
            (None | Some(_), None | Some(_)) => ChangeKind::Resized,
        },
    };
    let has_version = !old.is_empty() || !new.is_empty();
    let worth_telling = match kind {
        ChangeKind::Upgraded | ChangeKind::Downgraded => true,
        ChangeKind::Added | ChangeKind::Removed => has_version || bytes.unsigned_abs() >= BYTES_MIN,
        ChangeKind::Resized => old != new || bytes.unsigned_abs() >= BYTES_MIN,
    };
    worth_telling.then(|| PackageChange {
        name: text::tame_line(name, WORD_MAX),
        kind,
        before: old,
        after: new,
        bytes,
    })
}

fn less(one: u64, other: u64) -> i64 {
    i64::try_from(i128::from(one) - i128::from(other)).unwrap_or(i64::MAX)
}

/// The package and the version in a store path's name: the version begins after the first dash
/// that is followed by something else than a letter.
fn package_and_version(name: &str) -> (&str, &str) {
    let is_version = |(at, _): &(usize, &str)| {
        let next = name[at + 1..].chars().next();
        next.is_some_and(|next| !next.is_alphabetic())
    };
    let dash = name.match_indices('-').find(is_version);
    let (package, version) = match dash {
        Some((at, _)) => (&name[..at], &name[at + 1..]),
        None => (name, ""),
    };
    let of_output = |text: &'_ str| -> Option<usize> {
        let (rest, output) = text.rsplit_once('-')?;
        OUTPUTS.contains(&output).then_some(rest.len())
    };
    if version.is_empty() {
        let end = of_output(package).unwrap_or(package.len());
        (&package[..end], version)
    } else {
        let end = of_output(version).unwrap_or(version.len());
        (package, &version[..end])
    }
}

/// As `builtins.compareVersions`.
fn compare_versions(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (components(one), components(other));
    loop {
        let (a, b) = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (a, b) => (a.unwrap_or_default(), b.unwrap_or_default()),
        };
        if is_before(a, b) {
            return Ordering::Less;
        }
        if is_before(b, a) {
            return Ordering::Greater;
        }
    }
}

/// Runs of digits and runs of anything else between dots and dashes.
fn components(version: &str) -> impl Iterator<Item = &str> {
    version
        .split(['.', '-'])
        .flat_map(|part| {
            part.as_bytes()
                .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        })
        // Cut only between a digit and something else, so between whole characters.
        .filter_map(|run| std::str::from_utf8(run).ok())
}

fn is_before(one: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<u128>().ok();
    match (number(one), number(other)) {
        (Some(one), Some(other)) => one < other,
        (None, Some(_)) if one.is_empty() => true,
        // Before a release, and before what comes before it in any other way.
        (_, _) if one == "pre" => other != "pre",
        (_, _) if other == "pre" => false,
        // `2.3a` comes before `2.3.1`.
        (None, Some(_)) => true,
        (Some(_), None) => false,
        (None, None) => one < other,
    }
}

#[cfg(test)]
mod tests;
