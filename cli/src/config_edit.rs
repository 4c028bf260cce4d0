//! Changing one key of the configuration document, and telling two documents apart.

use serde_json::{Map, Value};

use crate::error::{Exit, LabError};

/// Where settings live that belong to no group.
const SETTINGS: &str = "updateSettings";

/// Where groups live.
const GROUPS: &str = "updateGroups";

/// A key that differs between two documents.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    /// `updateGroups.dev.maintenanceWindow`
    pub path: String,
    /// What was there.
    pub before: Option<Value>,
    /// What is there now.
    pub after: Option<Value>,
}

/// A value as it is typed: JSON where it is JSON, text otherwise.
pub fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Sets `key` (dots go deeper) of a group or of the settings.
pub fn set(
    document: &mut Value,
    group: Option<&str>,
    key: &str,
    value: Value,
) -> Result<(), LabError> {
    let (parents, last) = split(key)?;
    let mut place = section(document, group)?;
    for parent in parents {
        let child = place
            .entry(parent)
            .or_insert_with(|| Value::Object(Map::new()));
        place = child
            .as_object_mut()
            .ok_or_else(|| LabError::usage(format!("{parent:?} is not a set of keys")).at(key))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// Removes `key` of a group or of the settings.
pub fn unset(document: &mut Value, group: Option<&str>, key: &str) -> Result<(), LabError> {
    let (parents, last) = split(key)?;
    let missing = || LabError::new(Exit::NotFound, format!("the key {key:?} is not set"));
    let mut place = section(document, group)?;
    for parent in parents {
        let child = place.get_mut(parent).and_then(Value::as_object_mut);
        place = child.ok_or_else(missing)?;
    }
    place.remove(last).map(|_| ()).ok_or_else(missing)
}

/// The part of the document that belongs to one group.
pub fn group<'a>(document: &'a Value, name: &str) -> Result<&'a Value, LabError> {
    let groups = document.get(GROUPS).and_then(Value::as_object);
    let found = groups.and_then(|groups| groups.get(name));
    found.ok_or_else(|| no_group(name, groups))
}

fn section<'a>(
    document: &'a mut Value,
    group: Option<&str>,
) -> Result<&'a mut Map<String, Value>, LabError> {
    let odd = || LabError::usage("the configuration in force is not a set of keys");
    let whole = document.as_object_mut().ok_or_else(odd)?;
    let Some(name) = group else {
        let settings = whole
            .entry(SETTINGS)
            .or_insert_with(|| Value::Object(Map::new()));
        return settings.as_object_mut().ok_or_else(odd);
    };
    let groups = whole.get_mut(GROUPS).and_then(Value::as_object_mut);
    let groups = groups.ok_or_else(|| no_group(name, None))?;
    if !groups.contains_key(name) {
        return Err(no_group(name, Some(groups)));
    }
    let found = groups.get_mut(name).and_then(Value::as_object_mut);
    found.ok_or_else(odd)
}

fn no_group(name: &str, groups: Option<&Map<String, Value>>) -> LabError {
    let known: Vec<&str> = groups
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let error = LabError::new(Exit::NotFound, format!("there is no group {name:?}"));
    if known.is_empty() {
        error.hint("import a configuration first: lab update-config import update-config.nix")
    } else {
        error.hint(format!("the groups are: {}", known.join(", ")))
    }
}

/// The keys on the way, and the last one.
fn split(key: &str) -> Result<(Vec<&str>, &str), LabError> {
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    if last.is_empty() || parts.iter().any(|part| part.is_empty()) {
        return Err(LabError::usage(format!("{key:?} is not a key"))
            .hint("keys look like maintenanceWindow, or source.flake"));
    }
    Ok((parts, last))
}

/// What differs, in the order of the keys. Lists differ as wholes.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    found
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
    if before == after {
        return;
    }
    let empty = Map::new();
    let keys = |value: Option<&Value>| match value {
        Some(Value::Object(map)) => Some(map.clone()),
        // A set that appears or goes is told key by key, so that nothing is hidden in one line.
        None => Some(empty.clone()),
        Some(_) => None,
    };
    let as_sets = before.is_some_and(Value::is_object) || after.is_some_and(Value::is_object);
    if let (true, Some(old), Some(new)) = (as_sets, keys(before), keys(after)) {
        let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let path = match path {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            compare(&path, old.get(name), new.get(name), found);
        }
        return;
    }
    found.push(Change {
        path: path.to_owned(),
        before: before.cloned(),
        after: after.cloned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "updateGroups": {
                "dev": { "machines": ["dev-01"], "maintenanceWindow": "02:00-06:00" },
                "critical": { "machines": ["web-01"] },
            },
            "updateSettings": { "maxParallel": 3, "source": { "flake": "." } },
        })
    }

    #[test]
    fn values_are_json_or_text() {
        for (text, read) in [
            ("5", json!(5)),
            ("true", json!(true)),
            ("[\"a\"]", json!(["a"])),
            ("\"5\"", json!("5")),
            ("02:00-06:00", json!("02:00-06:00")),
            ("30m", json!("30m")),
            ("-5", json!(-5)),
            ("", json!("")),
        ] {
            assert_eq!(value(text), read, "{text:?}");
        }
    }

    #[test]
    fn one_key_is_set() {
        let mut edited = document();
        set(
            &mut edited,
            Some("dev"),
            "maintenanceWindow",
            json!("01:00-02:00"),
        )
        .expect("set");
        set(&mut edited, None, "maxParallel", json!(5)).expect("set");
        set(&mut edited, None, "canary.size", json!(1)).expect("set");
        set(&mut edited, None, "source.flake", json!("git+https://x")).expect("set");
        let told: Vec<String> = changes(&document(), &edited)
            .iter()
            .map(|change| format!("{} {:?} {:?}", change.path, change.before, change.after))
            .collect();
        assert_eq!(
            told,
            [
                "updateGroups.dev.maintenanceWindow Some(String(\"02:00-06:00\")) \
                 Some(String(\"01:00-02:00\"))",
                "updateSettings.canary.size None Some(Number(1))",
                "updateSettings.maxParallel Some(Number(3)) Some(Number(5))",
                "updateSettings.source.flake Some(String(\".\")) Some(String(\"git+https://x\"))",
            ]
        );
    }

    #[test]
    fn one_key_is_removed() {
        let mut edited = document();
        unset(&mut edited, Some("dev"), "maintenanceWindow").expect("unset");
        unset(&mut edited, None, "source.flake").expect("unset");
        assert_eq!(
            edited["updateGroups"]["dev"],
            json!({ "machines": ["dev-01"] })
        );
        let again = unset(&mut edited, Some("dev"), "maintenanceWindow");
        assert_eq!(again.map_err(|error| error.exit), Err(Exit::NotFound));
    }

    #[test]
    fn what_cannot_be_edited_says_why() {
        let error = |group, key| set(&mut document(), group, key, json!(1)).expect_err("refused");
        assert_eq!(
            error(Some("prod"), "x").hint.as_deref(),
            Some("the groups are: critical, dev")
        );
        assert_eq!(error(None, "a..b").exit, Exit::Usage);
        assert_eq!(error(None, "").exit, Exit::Usage);
        assert_eq!(error(None, "maxParallel.deep").exit, Exit::Usage);
        let mut odd = json!([1]);
        assert!(set(&mut odd, None, "a", json!(1)).is_err());
    }

    #[test]
    fn sets_that_come_and_go_are_told_key_by_key() {
        let mut after = document();
        after["updateGroups"]["new"] = json!({ "machines": ["n"] });
        after["updateGroups"]
            .as_object_mut()
            .expect("a set")
            .remove("critical");
        let text = crate::view::config::changes(&changes(&document(), &after));
        assert_eq!(
            text,
            "- updateGroups.critical.machines: [\"web-01\"]\n\
             + updateGroups.new.machines: [\"n\"]\n"
        );
        assert_eq!(crate::view::config::changes(&[]), "no difference\n");
    }
}
