//! Changing one key of the configuration document, and telling two documents apart.

use serde_json::{Map, Value, json};

use crate::error::{Exit, LabError};

/// Where settings live that belong to nobody.
const SETTINGS: &str = "updateSettings";

/// Whose keys, where they are not the settings.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A group's.
    Group(&'a str),
    /// A machine's own.
    Machine(&'a str),
    /// Those of a policy of the document; presets have none.
    Policy(&'a str),
}

impl<'a> Place<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Group(name) | Self::Machine(name) | Self::Policy(name) => name,
        }
    }

    /// The section of the document that has it.
    fn section(self) -> &'static str {
        match self {
            Self::Group(_) => "updateGroups",
            Self::Machine(_) => "updateMachines",
            Self::Policy(_) => "updatePolicies",
        }
    }

    /// It is not there; what is there instead?
    fn missing(self, known: Option<&Map<String, Value>>) -> LabError {
        let known: Vec<&str> = known
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let (what, those) = match self {
            Self::Group(name) => (format!("there is no group {name:?}"), "the groups are"),
            Self::Policy(name) => (format!("there is no policy {name:?}"), "the policies are"),
            Self::Machine(name) => (
                format!("the machine {name:?} has no keys of its own"),
                "machines that have some are",
            ),
        };
        let error = LabError::new(Exit::NotFound, what);
        match (self, known.is_empty()) {
            (_, false) => error.hint(format!("{those}: {}", known.join(", "))),
            (Self::Group(_), true) => error
                .hint("import a configuration first: lab update-config import update-config.nix"),
            (Self::Policy(_), true) => error.hint(
                "import a configuration that has it: lab update-config import update-config.nix",
            ),
            (Self::Machine(name), true) => error.hint(format!(
                "lab update-config set --machine={name} --key=KEY --value=VALUE"
            )),
        }
    }
}

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

/// Sets `key` (dots go deeper) there, or else in the settings.
pub fn set(
    document: &mut Value,
    place: Option<Place<'_>>,
    key: &str,
    value: Value,
) -> Result<(), LabError> {
    let (parents, last) = split(key)?;
    let mut keys = keys_of(document, place)?;
    for parent in parents {
        let child = child(keys, parent);
        keys = child
            .as_object_mut()
            .ok_or_else(|| LabError::usage(format!("{parent:?} is not a set of keys")).at(key))?;
    }
    keys.insert(last.to_owned(), value);
    Ok(())
}

/// Removes `key` there, or else of the settings. A machine that is left without keys is not named any more.
pub fn unset(document: &mut Value, place: Option<Place<'_>>, key: &str) -> Result<(), LabError> {
    let (parents, last) = split(key)?;
    let missing = || LabError::new(Exit::NotFound, format!("the key {key:?} is not set"));
    let mut keys = keys_of(document, place)?;
    for parent in parents {
        let child = keys.get_mut(parent).and_then(Value::as_object_mut);
        keys = child.ok_or_else(missing)?;
    }
    keys.remove(last).ok_or_else(missing)?;
    if let Some(place @ Place::Machine(name)) = place
        && let Some(machines) = document
            .get_mut(place.section())
            .and_then(Value::as_object_mut)
    {
        machines.retain(|machine, keys| machine != name || keys != &json!({}));
    }
    Ok(())
}

/// The part of the document that is there.
pub fn part<'a>(document: &'a Value, place: Place<'_>) -> Result<&'a Value, LabError> {
    let section = document.get(place.section()).and_then(Value::as_object);
    let found = section.and_then(|section| section.get(place.name()));
    found.ok_or_else(|| place.missing(section))
}

fn keys_of<'a>(
    document: &'a mut Value,
    place: Option<Place<'_>>,
) -> Result<&'a mut Map<String, Value>, LabError> {
    let odd = || LabError::usage("the configuration in force is not a set of keys");
    let whole = document.as_object_mut().ok_or_else(odd)?;
    let Some(place) = place else {
        return child(whole, SETTINGS).as_object_mut().ok_or_else(odd);
    };
    let keys = match place {
        // The coordinator knows which machines there are, and refuses others.
        Place::Machine(name) => {
            let machines = child(whole, place.section()).as_object_mut();
            child(machines.ok_or_else(odd)?, name)
        }
        Place::Group(name) | Place::Policy(name) => {
            let section = whole
                .get_mut(place.section())
                .and_then(Value::as_object_mut);
            let section = section.ok_or_else(|| place.missing(None))?;
            if !section.contains_key(name) {
                return Err(place.missing(Some(section)));
            }
            child(section, name)
        }
    };
    keys.as_object_mut().ok_or_else(odd)
}

/// What is under that key; a set of keys where there was nothing.
fn child<'a>(keys: &'a mut Map<String, Value>, key: &str) -> &'a mut Value {
    keys.entry(key).or_insert_with(|| Value::Object(Map::new()))
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
            Some(Place::Group("dev")),
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
        unset(&mut edited, Some(Place::Group("dev")), "maintenanceWindow").expect("unset");
        unset(&mut edited, None, "source.flake").expect("unset");
        assert_eq!(
            edited["updateGroups"]["dev"],
            json!({ "machines": ["dev-01"] })
        );
        let again = unset(&mut edited, Some(Place::Group("dev")), "maintenanceWindow");
        assert_eq!(again.map_err(|error| error.exit), Err(Exit::NotFound));
    }

    #[test]
    fn keys_of_machines_come_and_go_with_the_first_and_the_last() {
        let mut edited = document();
        let db = Some(Place::Machine("db-01"));
        set(&mut edited, db, "retries", json!(2)).expect("set");
        set(&mut edited, db, "alarms.notUpdated", json!("60h")).expect("set");
        let own = json!({ "retries": 2, "alarms": { "notUpdated": "60h" } });
        assert_eq!(edited["updateMachines"], json!({ "db-01": own }));
        unset(&mut edited, db, "alarms").expect("unset");
        assert_eq!(
            edited["updateMachines"],
            json!({ "db-01": { "retries": 2 } })
        );
        unset(&mut edited, db, "retries").expect("unset");
        assert_eq!(edited["updateMachines"], json!({}));
        let error = part(&edited, Place::Machine("db-01")).expect_err("nothing");
        assert!(error.what.contains("no keys of its own"), "{error}");
        let again = unset(&mut edited, db, "retries");
        assert_eq!(again.map_err(|error| error.exit), Err(Exit::NotFound));
    }

    #[test]
    fn policies_are_edited_where_there_are_some() {
        let mut edited = document();
        edited["updatePolicies"] = json!({ "lax": { "maxFailures": "50%" } });
        let lax = Some(Place::Policy("lax"));
        set(&mut edited, lax, "canary", json!(0)).expect("set");
        unset(&mut edited, lax, "maxFailures").expect("unset");
        assert_eq!(
            part(&edited, Place::Policy("lax")),
            Ok(&json!({ "canary": 0 }))
        );
        unset(&mut edited, lax, "canary").expect("unset");
        // A group may name it; that it is there is not said by its keys.
        assert_eq!(edited["updatePolicies"], json!({ "lax": {} }));
        let other = Some(Place::Policy("strict"));
        let error = set(&mut edited, other, "canary", json!(1)).expect_err("a slip of the pen");
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(error.hint.as_deref(), Some("the policies are: lax"));
    }

    #[test]
    fn what_cannot_be_edited_says_why() {
        let error = |group, key| set(&mut document(), group, key, json!(1)).expect_err("refused");
        assert_eq!(
            error(Some(Place::Group("prod")), "x").hint.as_deref(),
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
