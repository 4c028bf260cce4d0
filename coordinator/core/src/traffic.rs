//! Traffic of groups with two sides (`blueGreen`): where it is, what moves it, and who may go because of it.

use std::{collections::BTreeMap, fmt, time::Duration};

use common::{MachineName, SideName};
use serde::{Deserialize, Serialize};

/// Two sides, of which one holds the traffic while the other is updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueGreen {
    /// The sides, in the order of their names; the first counts as the one with the traffic until
    /// somebody says otherwise.
    pub sides: [Side; 2],
    /// What moves it.
    pub adapter: Adapter,
    /// How long connections of the side that is left are waited for.
    pub drain: Duration,
    /// How long the traffic runs on the side that is updated before the other one is.
    pub watch: Duration,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Its name.
    pub name: SideName,
    /// Its machines; never empty.
    pub machines: Vec<MachineName>,
}

/// What moves the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Adapter {
    /// HAProxy's runtime API.
    Haproxy {
        /// Where it listens.
        at: At,
        /// The backend in it.
        backend: String,
        /// The servers in that, by machine, where they do not have the machine's name.
        servers: BTreeMap<MachineName, String>,
    },
}

/// Where a runtime API listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// A Unix socket on the coordinator's host, by its path.
    Socket(String),
    /// Host and port.
    Address(String),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Socket(at) | Self::Address(at)) = self;
        f.write_str(at)
    }
}
