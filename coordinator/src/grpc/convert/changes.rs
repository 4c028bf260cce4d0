//! What going to a target changes, as agents say it and operators are shown it.

use common::{ChangeKind, Changes, PackageChange, report::CHANGES_MAX, text::tame_line};
use lab_proto::changes as wire;

use super::agent::WORD_MAX;

/// Most versions of one package.
const VERSIONS_MAX: usize = 4;

/// What a target changes; nothing when it makes no sense: no decision hangs on it.
pub(super) fn heard(changes: wire::Changes) -> Option<Changes> {
    let words = |words: Vec<String>| {
        let words = words.into_iter().take(VERSIONS_MAX);
        words.map(|word| tame_line(&word, WORD_MAX)).collect()
    };
    let package = |change: wire::PackageChange| {
        let mut kinds = ChangeKind::ALL.into_iter();
        Some(PackageChange {
            name: tame_line(&change.name, WORD_MAX),
            kind: kinds.find(|kind| kind.word() == change.kind)?,
            before: words(change.before),
            after: words(change.after),
            bytes: change.size_bytes,
        })
    };
    let packages = changes.packages.into_iter().take(CHANGES_MAX);
    Some(Changes {
        from: changes.from.parse().ok()?,
        bytes: changes.size_bytes,
        packages: packages.filter_map(package).collect(),
        more: changes.more,
    })
}

/// The same for operators.
pub(super) fn told(changes: &Changes) -> wire::Changes {
    let package = |change: &PackageChange| wire::PackageChange {
        name: change.name.clone(),
        kind: change.kind.word().to_owned(),
        before: change.before.clone(),
        after: change.after.clone(),
        size_bytes: change.bytes,
    };
    wire::Changes {
        from: changes.from.to_string(),
        size_bytes: changes.bytes,
        packages: changes.packages.iter().map(package).collect(),
        more: changes.more,
    }
}
