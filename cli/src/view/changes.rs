//! What a target changes on a machine: packages that come, go, or change their version.

use indicatif::BinaryBytes;
use lab_proto::changes::{Changes, PackageChange};

use super::Look;

/// A headline and a line for each package.
pub fn show(changes: &Changes, look: &Look) -> String {
    let mut text = format!("changes  {}\n", size(changes.size_bytes));
    text.push_str(&look.columns(2, changes.packages.iter().map(row)));
    if changes.more > 0 {
        text.push_str(&format!("  and {} more\n", changes.more));
    }
    text
}

/// The first packages, behind so many spaces, and how many more there are.
pub(super) fn first(changes: &Changes, most: usize, indent: usize, look: &Look) -> String {
    let packages = changes.packages.iter();
    let mut text = look.columns(indent, packages.take(most).map(row));
    let more = changes.packages.len().saturating_sub(most);
    let more = u64::try_from(more).unwrap_or(u64::MAX) + u64::from(changes.more);
    if more > 0 {
        text.push_str(&format!("{}and {more} more\n", " ".repeat(indent)));
    }
    text
}

fn row(change: &PackageChange) -> Vec<String> {
    let (before, after) = (change.before.join(", "), change.after.join(", "));
    let versions = match change.kind.as_str() {
        "added" => after,
        "removed" => before,
        _ if before == after => after,
        _ => format!("{before} → {after}"),
    };
    vec![
        change.name.clone(),
        change.kind.clone(),
        versions,
        size(change.size_bytes),
    ]
}

/// How much larger or smaller.
pub(super) fn size(bytes: i64) -> String {
    let sign = if bytes < 0 { '-' } else { '+' };
    format!("{sign}{}", BinaryBytes(bytes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::look, *};

    #[test]
    fn packages_with_versions_and_sizes() {
        let change = |name: &str, kind: &str, before: &[&str], after: &[&str], size_bytes| {
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            PackageChange {
                name: name.into(),
                kind: kind.into(),
                before: words(before),
                after: words(after),
                size_bytes,
            }
        };
        let changes = Changes {
            from: "/nix/store/x".into(),
            size_bytes: 12_345_678,
            packages: vec![
                change("linux", "upgraded", &["6.12.8"], &["6.12.10"], 13_000_000),
                change(
                    "openssl",
                    "resized",
                    &["3.0.13"],
                    &["1.1.1", "3.0.13"],
                    600_000,
                ),
                change("htop", "added", &[], &["3.3.0"], 400_000),
                change("vim", "removed", &["9.0"], &[], -1_654_322),
                change("glibc", "resized", &["2.38"], &["2.38"], -9_000),
            ],
            more: 1,
        };
        insta::assert_snapshot!("changes", show(&changes, &look()));
    }
}
