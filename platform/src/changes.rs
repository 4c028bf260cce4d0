//! What a target changes, as it is said on the wire: by agents, and to operators, alike.

use common::{Changes, PackageChange};
use lab_proto::changes as wire;

/// The message.
pub fn to_wire(changes: &Changes) -> wire::Changes {
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
