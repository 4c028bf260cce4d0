//! Where targets come from: the command line, a file, or the fleet configuration's
//! `updateSettings.source`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::{MachineName, StorePath};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::{parse::MachineClosure, update},
    error::LabError,
};

/// One store path for each machine.
pub type Closures = BTreeMap<MachineName, StorePath>;

/// A source of targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Store paths that somebody else made.
    Closures(Closures),
    /// A flake with the machines' systems.
    Flake(Flake),
    /// A channel from which machines build.
    Channel(String),
}

/// A flake, and what is to be done with what it builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flake {
    /// As Nix reads it.
    pub reference: String,
    /// Secret key that signs the closures.
    pub sign_key: Option<PathBuf>,
    /// Binary cache that gets them.
    pub push_to: Option<String>,
    /// Pin the locked flake instead of closures; every machine builds for itself.
    pub build_on_machine: bool,
}

/// `updateSettings.source`, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    targets: Option<PathBuf>,
    flake: Option<String>,
    sign_key: Option<PathBuf>,
    push_to: Option<String>,
    #[serde(default)]
    build_on_machine: bool,
    channel: Option<String>,
}

/// What the command line names, if it names anything.
pub fn named(source: &update::Source) -> Result<Option<Source>, LabError> {
    let named = if let Some(file) = &source.targets {
        Source::Closures(read_file(file)?)
    } else if let Some(reference) = &source.flake {
        Source::Flake(Flake {
            reference: reference.clone(),
            sign_key: source.sign_key.clone(),
            push_to: source.push_to.clone(),
            build_on_machine: source.build_on_machine,
        })
    } else if let Some(url) = &source.channel {
        Source::Channel(url.clone())
    } else if source.closure.is_empty() {
        return Ok(None);
    } else {
        Source::Closures(listed(&source.closure)?)
    };
    Ok(Some(named))
}

/// What the fleet configuration names.
pub fn configured(document: &Value) -> Result<Source, LabError> {
    let place = "updateSettings.source";
    let Some(source) = document.pointer("/updateSettings/source") else {
        return Err(LabError::usage("nothing says what the machines are to run").hint(
            "name a source: --flake=REF, --targets=FILE, --closure=MACHINE=PATH or --channel=URL; \
             or set one for all: lab update-config set --key=source --value='{\"flake\": \"REF\"}'",
        ));
    };
    let hint = r#"one of {"targets": FILE}, {"flake": REF, …}, {"channel": URL}"#;
    let odd = |what: String| LabError::usage(what).at(place).hint(hint);
    let written: Written =
        serde_json::from_value(source.clone()).map_err(|error| odd(error.to_string()))?;
    let of_flake =
        written.sign_key.is_some() || written.push_to.is_some() || written.build_on_machine;
    match (written.targets, written.flake, written.channel) {
        (Some(file), None, None) if !of_flake => read_file(&file)
            .map(Source::Closures)
            .map_err(|error| error.at(place)),
        (None, Some(reference), None) => Ok(Source::Flake(Flake {
            reference,
            sign_key: written.sign_key,
            push_to: written.push_to,
            build_on_machine: written.build_on_machine,
        })),
        (None, None, Some(url)) if !of_flake => Ok(Source::Channel(url)),
        (..) => Err(odd("it does not name exactly one source".to_owned())),
    }
}

fn listed(closures: &[MachineClosure]) -> Result<Closures, LabError> {
    let mut listed = Closures::new();
    for MachineClosure { machine, closure } in closures {
        let before = listed.insert(machine.clone(), closure.clone());
        if before.is_some_and(|before| before != *closure) {
            return Err(LabError::usage(format!("two closures for {machine}")).at("--closure"));
        }
    }
    Ok(listed)
}

/// Reads `{"machine": "/nix/store/…"}`; tells every fault at once.
fn read_file(file: &Path) -> Result<Closures, LabError> {
    let hint = r#"it holds {"MACHINE": "/nix/store/…-nixos-system-…", …}"#;
    let fault = |what: String| LabError::usage(what).at(file.display()).hint(hint);
    let text =
        fs::read_to_string(file).map_err(|error| fault(format!("failed to read: {error}")))?;
    let entries: BTreeMap<String, Value> = serde_json::from_str(&text)
        .map_err(|error| fault(format!("not a set of targets: {error}")))?;
    let mut closures = Closures::new();
    let mut faults = Vec::new();
    for (name, path) in entries {
        let machine = name
            .parse::<MachineName>()
            .map_err(|error| error.to_string());
        let path = path.as_str().ok_or_else(|| "not a text".to_owned());
        let closure = path.and_then(|path| path.parse::<StorePath>().map_err(|e| e.to_string()));
        match (machine, closure) {
            (Ok(machine), Ok(closure)) => {
                closures.insert(machine, closure);
            }
            (Err(error), _) | (_, Err(error)) => faults.push(format!("{name:?}: {error}")),
        }
    }
    if faults.is_empty() && closures.is_empty() {
        return Err(fault("there is no target in it".to_owned()));
    }
    if faults.is_empty() {
        return Ok(closures);
    }
    let error = fault(format!("{} of its targets cannot be used", faults.len()));
    Err(faults.into_iter().fold(error, LabError::at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use serde_json::json;

    const PATH: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-web-01-26.05";

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), content).expect("written");
        file
    }

    #[test]
    fn a_targets_file_is_read_whole_or_not_at_all() {
        let good = file(&json!({ "web-01": PATH, "web-02": PATH }).to_string());
        assert_eq!(read_file(good.path()).expect("read").len(), 2);
        let bad = file(&json!({ "web-01": PATH, "Web": PATH, "x": "/etc", "y": 5 }).to_string());
        let error = read_file(bad.path()).expect_err("three faults");
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.places.len(), 4, "{error}");
        for content in ["", "[]", "{}", "{\"web-01\":", "\"x\""] {
            assert!(read_file(file(content).path()).is_err(), "{content:?}");
        }
        assert!(read_file(Path::new("/none.json")).is_err());
        assert!(read_file(Path::new("/")).is_err());
    }

    #[test]
    fn the_configuration_names_exactly_one_source() {
        let source = |value: Value| configured(&json!({ "updateSettings": { "source": value } }));
        let targets = file(&json!({ "web-01": PATH }).to_string());
        assert!(matches!(
            source(json!({ "targets": targets.path() })),
            Ok(Source::Closures(closures)) if closures.len() == 1
        ));
        assert_eq!(
            source(json!({ "flake": ".", "signKey": "/k", "pushTo": "file:///c" })),
            Ok(Source::Flake(Flake {
                reference: ".".into(),
                sign_key: Some("/k".into()),
                push_to: Some("file:///c".into()),
                build_on_machine: false,
            }))
        );
        assert_eq!(
            source(json!({ "channel": "https://x" })),
            Ok(Source::Channel("https://x".into()))
        );
        for bad in [
            json!({}),
            json!("flake"),
            json!({ "flake": ".", "channel": "x" }),
            json!({ "channel": "x", "pushTo": "y" }),
            json!({ "flak": "." }),
            json!({ "targets": "/none.json" }),
        ] {
            let error = source(bad.clone()).expect_err("refused");
            assert_eq!(error.exit, Exit::Usage, "{bad}");
            assert!(
                error
                    .places
                    .iter()
                    .any(|place| place == "updateSettings.source"),
                "{bad}"
            );
        }
        let none = configured(&json!({})).expect_err("no source");
        assert!(none.exit == Exit::Usage && none.hint.is_some());
    }
}
