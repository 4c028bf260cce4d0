//! Names and numbers of things, as types that parse and refuse.
//!
//! A name becomes part of file names, unit names and certificates, so all of them share one
//! alphabet: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or digit. A name is
//! read once and then handed around a lot, so its copies share their text.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest name of anything, in bytes (the limit of a DNS label).
pub const NAME_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`NAME_MAX`].
    #[error("the name has {0} bytes, at most {NAME_MAX} are allowed")]
    TooLong(usize),
    /// A character outside the alphabet, or a first character that is not a letter or digit.
    #[error(
        "{0:?} is not allowed in a name at this place \
         (letters a-z, digits, '-', '_', '.'; the first a letter or digit)"
    )]
    Character(char),
}

fn check_name(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if text.len() > NAME_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    if !first.is_ascii_lowercase() && !first.is_ascii_digit() {
        return Err(NameError::Character(first));
    }
    let odd = |c: &char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !"-_.".contains(*c);
    match text.chars().find(odd) {
        Some(odd) => Err(NameError::Character(odd)),
        None => Ok(()),
    }
}

/// The first eight bytes as a number. Names are in the order of their beginnings, and have no zeros.
fn beginning_of(text: &str) -> u64 {
    let mut bytes = [0; 8];
    bytes
        .iter_mut()
        .zip(text.bytes())
        .for_each(|(to, byte)| *to = byte);
    u64::from_be_bytes(bytes)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            // Compared first: most names are told apart without a look at their text.
            beginning: u64,
            text: Arc<str>,
        }

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.text
            }

            /// A name that was checked.
            fn of(text: &str) -> Self {
                Self {
                    beginning: beginning_of(text),
                    text: text.into(),
                }
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self::of(text))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check_name(&text)?;
                Ok(Self::of(&text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.text.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.text).finish()
            }
        }
    };
}

name! {
    /// A machine: its host name.
    MachineName
}
name! {
    /// A group of machines under one policy.
    GroupName
}
name! {
    /// Something that is done again and again at times of its own.
    ScheduleName
}
name! {
    /// One of the two sides of a group that is updated one side after the other.
    SideName
}
name! {
    /// A person or program that operates the fleet.
    OperatorName
}
name! {
    /// One rollout. Made by the coordinator, rising in time.
    RolloutId
}
name! {
    /// One boot of one machine: `/proc/sys/kernel/random/boot_id`.
    BootId
}

impl BootId {
    /// The kernel's boot: soft-reboots since, which agents count after a dot, leave it as it is.
    pub fn of_kernel(&self) -> &str {
        let name = self.as_str();
        name.split_once('.').map_or(name, |(kernel, _)| kernel)
    }
}

/// A lease. Strictly increasing for the life of the fleet; an agent keeps the highest it has seen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// The last that anybody is believed to have seen, in microseconds as [`Epoch::LAST`](crate::Epoch::LAST) is in
    /// milliseconds.
    pub const LAST: Self = Self(1_000 * crate::Epoch::LAST.0);

    /// The lease after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hosts_have_are_names() {
        for name in ["web-01", "db.example.org", "0day", "a", "r_2"] {
            assert_eq!(name.parse::<MachineName>().expect(name).as_str(), name);
        }
    }

    #[test]
    fn names_are_in_the_order_of_their_text() {
        let names = [
            "web",
            "web-1",
            "web-0001a",
            "web-0001b",
            "web-0001",
            "a",
            "9",
            "r_2",
        ];
        for (a, b) in names.iter().flat_map(|a| names.map(|b| (*a, b))) {
            let parsed = |text: &str| text.parse::<MachineName>().expect(text);
            assert_eq!(parsed(a).cmp(&parsed(b)), a.cmp(b), "{a} and {b}");
        }
        let shown = format!("{:?}", "web".parse::<MachineName>());
        assert_eq!(shown, "Ok(MachineName(\"web\"))");
    }

    #[test]
    fn names_that_could_harm_are_refused() {
        for (name, error) in [
            ("", NameError::Empty),
            ("../../etc", NameError::Character('.')),
            ("-rf", NameError::Character('-')),
            ("web 1", NameError::Character(' ')),
            ("Web", NameError::Character('W')),
            ("web\n", NameError::Character('\n')),
            ("wéb", NameError::Character('é')),
            (&"a".repeat(300), NameError::TooLong(300)),
        ] {
            assert_eq!(name.parse::<MachineName>(), Err(error), "{name:?}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_again_when_read() {
        assert!(serde_json::from_str::<MachineName>("\"../x\"").is_err());
    }
}
