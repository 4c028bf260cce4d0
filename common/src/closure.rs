//! What a machine runs, or is to run.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Where Nix keeps everything.
pub const STORE: &str = "/nix/store/";

/// Length of the hash part of a store path (Nix manual, "Store path").
const HASH_LEN: usize = 32;

/// Characters of Nix's base 32: digits and lower-case letters without `e`, `o`, `t`, `u`.
const HASH_ALPHABET: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// Longest name part, in bytes (Nix manual, "Store path").
const STORE_NAME_MAX: usize = 211;

/// A top-level path of the Nix store: `/nix/store/<hash>-<name>`, nothing below it. Copies share
/// their text: a report carries dozens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(Arc<str>);

/// Why a text is not a store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// Not below [`STORE`].
    #[error("{0:?} does not begin with {STORE}")]
    NotInStore(String),
    /// The hash is not 32 characters of Nix's alphabet followed by `-`.
    #[error("{0:?} has no 32-character hash and '-' after {STORE}")]
    Hash(String),
    /// The name is empty, too long, or has a character that Nix does not allow.
    #[error("{0:?} has a name that the Nix store does not allow")]
    Name(String),
}

impl StorePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the hash: what a person calls it.
    pub fn name(&self) -> &str {
        &self.0[STORE.len() + HASH_LEN + 1..]
    }

    fn check(text: &str) -> Result<(), StorePathError> {
        let shown = || text.chars().take(200).collect::<String>();
        let base = text
            .strip_prefix(STORE)
            .ok_or_else(|| StorePathError::NotInStore(shown()))?;
        let hash_ok = base.len() > HASH_LEN
            && base
                .bytes()
                .take(HASH_LEN)
                .all(|b| HASH_ALPHABET.as_bytes().contains(&b))
            && base.as_bytes()[HASH_LEN] == b'-';
        if !hash_ok {
            return Err(StorePathError::Hash(shown()));
        }
        let name = &base[HASH_LEN + 1..];
        let name_ok = !name.is_empty()
            && name.len() <= STORE_NAME_MAX
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b));
        if name_ok {
            Ok(())
        } else {
            Err(StorePathError::Name(shown()))
        }
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for StorePath {
    type Error = StorePathError;

    fn try_from(text: String) -> Result<Self, StorePathError> {
        Self::check(&text)?;
        Ok(Self(text.into()))
    }
}

impl From<StorePath> for String {
    fn from(path: StorePath) -> Self {
        path.0.as_ref().to_owned()
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a machine is to run, decided once per rollout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A system closure, substituted with its signatures checked. The default.
    Closure(StorePath),
    /// A locked flake, built on the machine.
    Flake {
        /// Flake reference with its revision, e.g. `git+https://example.org/fleet?rev=…`.
        reference: String,
        /// `nixosConfigurations.<attribute>`.
        attribute: String,
    },
    /// A channel, built on the machine.
    Channel {
        /// URL of the channel.
        url: String,
    },
}

impl Target {
    /// The closure this target comes to, where that is known before it is staged.
    pub fn closure(&self) -> Option<&StorePath> {
        match self {
            Self::Closure(path) => Some(path),
            Self::Flake { .. } | Self::Channel { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closure(path) => write!(f, "{path}"),
            Self::Flake {
                reference,
                attribute,
            } => write!(f, "{reference}#{attribute}"),
            Self::Channel { url } => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-web-01-26.05";

    #[test]
    fn a_store_path_is_read() {
        let path: StorePath = GOOD.parse().expect("a good path");
        assert_eq!(path.name(), "nixos-system-web-01-26.05");
        assert_eq!(path.to_string(), GOOD);
    }

    #[test]
    fn what_is_no_store_path_is_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "/nix/store/",
            "/nix/store/short-x",
            "/nix/store/0e5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-e-is-not-in-the-alphabet",
            "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-",
            "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-a/bin/sh",
            "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-a b",
            "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-a\nb",
            "/nix/store/../0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-a",
        ] {
            assert!(bad.parse::<StorePath>().is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_parses_is_what_was_written(text in ".{0,300}") {
            for text in [format!("{STORE}{text}"), text] {
                if let Ok(path) = text.parse::<StorePath>() {
                    proptest::prop_assert_eq!(path.as_str(), text);
                }
            }
        }
    }
}
