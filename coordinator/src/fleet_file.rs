//! A fleet configuration as a file, judged without a coordinator that runs: so that the build of a
//! system fails, rather than its import later.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use coordinator_core::config::{Fault, Faults, FleetConfig};

/// Why a file is no fleet configuration.
#[derive(Debug, thiserror::Error)]
pub enum FleetFileError {
    /// It cannot be read.
    #[error("failed to read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not JSON.
    #[error("{path} is not JSON", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where, and what.
        #[source]
        source: serde_json::Error,
    },
    /// It has faults, all of them listed.
    #[error("{path} cannot be used:{faults}", path = path.display(), faults = Lines(.faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// Each with its key path.
        faults: Vec<Fault>,
    },
}

struct Lines<'a>(&'a [Fault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Says what is wrong with a fleet configuration in JSON.
pub fn check(path: &Path) -> Result<(), FleetFileError> {
    let text = fs::read_to_string(path).map_err(|source| FleetFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let document = platform::json::document(&text).map_err(|source| FleetFileError::Json {
        path: path.to_owned(),
        source,
    })?;
    FleetConfig::parse(&document)
        .map(|_| ())
        .map_err(|Faults(faults)| FleetFileError::Faults {
            path: path.to_owned(),
            faults,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        fs::write(file.path(), text).map_err(|error| error.to_string())?;
        check(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_fleet_passes() {
        let fleet = r#"{ "updateGroups": { "dev": { "machines": [ "dev-01" ] } } }"#;
        assert_eq!(checked(fleet), Ok(()));
    }

    #[test]
    fn every_fault_is_listed_with_its_key_path() {
        let said = checked(
            r#"{ "updateGroups": { "dev": { "machines": [ "dev-01" ], "dependencies": [ "nowhere" ],
                 "maintenanceWindow": "25:00-26:00" } } }"#,
        );
        let said = said.expect_err("two faults");
        for path in [
            "updateGroups.dev.dependencies",
            "updateGroups.dev.maintenanceWindow",
        ] {
            assert!(said.contains(path), "{said}");
        }
        let said = checked("{").expect_err("no JSON");
        assert!(said.contains("not JSON"), "{said}");
    }
}
