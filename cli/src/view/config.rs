//! `lab update-config`: documents, faults, differences, revisions.

use lab_proto::operator::{CheckConfigReply, ConfigFault, ConfigLog, RolloutAsBefore};
use serde_json::Value;

use crate::config_edit::Change;

use super::Look;

/// A document as it is read best: pretty JSON.
pub fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// All faults of a document, each with its key path and what to do.
pub fn faults(faults: &[ConfigFault]) -> String {
    let one = |fault: &ConfigFault| {
        let hint = match fault.hint.as_str() {
            "" => String::new(),
            hint => format!("    hint: {hint}\n"),
        };
        let path = if fault.path.is_empty() {
            "(document)"
        } else {
            &fault.path
        };
        format!("  {path}: {}\n{hint}", fault.message)
    };
    faults.iter().map(one).collect()
}

/// What differs between two documents, one line for each key.
pub fn changes(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no difference\n".to_owned();
    }
    changes
        .iter()
        .map(|change| match (&change.before, &change.after) {
            (None, Some(after)) => format!("+ {}: {after}\n", change.path),
            (Some(before), None) => format!("- {}: {before}\n", change.path),
            (Some(before), Some(after)) => format!("~ {}: {before} → {after}\n", change.path),
            (None, None) => String::new(),
        })
        .collect()
}

/// What has come into force, and which rollouts it does not change.
pub fn written(differences: &[Change], reply: &CheckConfigReply) -> String {
    let differences = match differences {
        [] => "nothing to change\n".to_owned(),
        differences => changes(differences),
    };
    let as_before: String = reply
        .as_before
        .iter()
        .map(|one| as_before(one, "goes"))
        .collect();
    let (revision, warnings) = (reply.revision, warnings(&reply.warnings));
    format!("{differences}revision {revision} is in force\n{as_before}{warnings}")
}

/// What would come of a document without faults.
pub fn checked(reply: &CheckConfigReply) -> String {
    let as_before = reply.as_before.iter().map(|one| as_before(one, "would go"));
    let as_before: String = as_before.collect();
    format!("✔ no faults\n{as_before}{}", warnings(&reply.warnings))
}

/// What is valid and perhaps not what was meant.
pub fn warnings(warnings: &[ConfigFault]) -> String {
    match warnings {
        [] => String::new(),
        warnings => format!("perhaps not what you mean:\n{}", faults(warnings)),
    }
}

/// That a rollout goes on under the rules of before, and what else can be done about it.
pub fn as_before(one: &RolloutAsBefore, goes: &str) -> String {
    let (rollout, groups) = (&one.rollout, one.groups.join(", "));
    let on = format!("on under the rules that {groups} had when it began");
    if one.paused {
        return format!(
            "rollout {rollout} is paused; once resumed it {goes} {on}; `lab update abort {rollout}` ends it\n"
        );
    }
    format!(
        "rollout {rollout} {goes} {on}; `lab update pause {rollout}` holds it, `lab update abort \
         {rollout}` ends it\n"
    )
}

/// Who changed the configuration, newest first.
pub fn log(log: &ConfigLog, look: &Look) -> String {
    if log.revisions.is_empty() {
        return "no configuration yet: lab update-config import update-config.nix\n".to_owned();
    }
    look.columns(
        0,
        log.revisions.iter().map(|revision| {
            vec![
                format!("revision {}", revision.revision),
                look.stamp(&revision.set_at),
                format!("by {}", revision.set_by),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::ConfigReply;

    #[test]
    fn faults_are_listed_all_at_once() {
        let fault = |path: &str, message: &str, hint: &str| ConfigFault {
            path: path.into(),
            message: message.into(),
            hint: hint.into(),
        };
        insta::assert_snapshot!(
            "faults",
            faults(&[
                fault(
                    "updateGroups.dev.maintenanceWindow",
                    "\"02:00\" is not a window",
                    "\"02:00-06:00\""
                ),
                fault(
                    "updateGroups.dev.machines[1]",
                    "dev-01 is in two groups",
                    ""
                ),
                fault("", "updateGroups is missing", ""),
            ])
        );
    }

    #[test]
    fn revisions_are_listed_with_their_author() {
        let revision = ConfigReply {
            revision: 7,
            set_by: "geir".into(),
            set_at: "2026-11-22T11:00:00Z".into(),
            ..ConfigReply::default()
        };
        let text = log(
            &ConfigLog {
                revisions: vec![revision],
            },
            &look(),
        );
        assert_eq!(text, "revision 7  2026-11-22 12:00:00  by geir\n");
    }
}
