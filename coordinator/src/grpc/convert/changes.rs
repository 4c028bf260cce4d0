//! What going to a target changes, as agents say it.

use common::{
    ChangeKind, Changes, PackageChange,
    report::{CHANGE_VERSIONS_MAX, CHANGES_MAX},
    text::tame_line,
};
use lab_proto::changes as wire;

use super::agent::WORD_MAX;

/// What a target changes; nothing when it makes no sense: no decision hangs on it.
pub(super) fn heard(changes: wire::Changes) -> Option<Changes> {
    let words = |words: Vec<String>| {
        let words = words.into_iter().take(CHANGE_VERSIONS_MAX);
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
