//! Where targets come from: a file, a flake or a channel, as `updateSettings.source` and schedules
//! name it. `lab` and the coordinator ask here alike.

mod flake;
pub mod nix;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use common::{MachineName, StorePath, Target};
use serde::Deserialize;
use serde_json::Value;

pub use self::flake::Step;

/// Why a source gives no targets: what, where, and what to try next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// What was wrong, in one sentence.
    pub what: String,
    /// Where: a file, a key path, a command.
    pub places: Vec<String>,
    /// The next thing to try.
    pub hint: Option<String>,
    /// Whether Nix answered as no version of it should.
    pub bug: bool,
}

impl SourceError {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            places: Vec::new(),
            hint: None,
            bug: false,
        }
    }

    fn bug(what: impl Into<String>) -> Self {
        Self {
            bug: true,
            ..Self::new(what)
        }
    }

    /// Adds a place.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.places.push(place.to_string());
        self
    }

    /// Sets what to try next.
    #[must_use]
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.places.as_slice() {
            [] => Ok(()),
            places => write!(f, " ({})", places.join("; ")),
        }
    }
}

impl std::error::Error for SourceError {}

/// One target for each machine.
pub type Targets = BTreeMap<MachineName, Target>;

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

/// The targets of these machines. A file gives those of them that it names.
///
/// # Errors
/// A flake that cannot be locked, evaluated, built, signed or copied, or does not have them all.
pub async fn targets(
    source: Source,
    machines: &[MachineName],
    say: &mut (impl FnMut(Step) + Send),
) -> Result<Targets, SourceError> {
    Ok(match source {
        Source::Closures(closures) => {
            let named = closures.into_iter();
            let named = named.filter(|(machine, _)| machines.contains(machine));
            named
                .map(|(machine, path)| (machine, Target::Closure(path)))
                .collect()
        }
        Source::Channel(url) => {
            let target = |machine: &MachineName| {
                let url = url.clone();
                (machine.clone(), Target::Channel { url })
            };
            machines.iter().map(target).collect()
        }
        Source::Flake(flake) => flake::build(&flake, machines, say).await?,
    })
}

/// The source that is written like this. Blocks while it reads a file.
///
/// # Errors
/// It does not name exactly one, or names a file that cannot be used.
pub fn written(source: &Value) -> Result<Source, SourceError> {
    let hint = r#"one of {"targets": FILE}, {"flake": REF, …}, {"channel": URL}"#;
    let odd = |what: String| SourceError::new(what).hint(hint);
    let written: Written =
        serde_json::from_value(source.clone()).map_err(|error| odd(error.to_string()))?;
    let of_flake =
        written.sign_key.is_some() || written.push_to.is_some() || written.build_on_machine;
    match (written.targets, written.flake, written.channel) {
        (Some(file), None, None) if !of_flake => read_file(&file).map(Source::Closures),
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

/// Reads `{"machine": "/nix/store/…"}`; tells every fault at once. Blocks.
///
/// # Errors
/// The file, or any of its entries.
pub fn read_file(file: &Path) -> Result<Closures, SourceError> {
    let hint = r#"it holds {"MACHINE": "/nix/store/…-nixos-system-…", …}"#;
    let fault = |what: String| SourceError::new(what).at(file.display()).hint(hint);
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
    Err(faults.into_iter().fold(error, SourceError::at))
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(!error.bug);
        assert_eq!(error.places.len(), 4, "{error}");
        for content in ["", "[]", "{}", "{\"web-01\":", "\"x\""] {
            assert!(read_file(file(content).path()).is_err(), "{content:?}");
        }
        assert!(read_file(Path::new("/none.json")).is_err());
        assert!(read_file(Path::new("/")).is_err());
    }

    #[test]
    fn the_configuration_names_exactly_one_source() {
        let source = |value: Value| written(&value);
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
            assert!(error.hint.is_some(), "{bad}");
        }
    }
}
