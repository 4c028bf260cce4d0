//! What the handle asks the supervisor: one JSON line each way, one request per connection.

use common::id::MachineName;
use serde::{Deserialize, Serialize};

/// A wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// How all machines are.
    Status,
    /// Start a machine that is off.
    PowerOn(MachineName),
    /// End every process of a machine at once. Its files stay as they are: the page cache belongs to
    /// the host, so writes that were not yet synced are *not* lost.
    PowerCut(MachineName),
    /// Connect the machine to the network, or take it off.
    Link {
        /// The machine.
        machine: MachineName,
        /// Connected from now on.
        up: bool,
    },
    /// Stop all processes of the machine where they are, or let them go on.
    Freeze {
        /// The machine.
        machine: MachineName,
        /// Stopped from now on.
        frozen: bool,
    },
    /// End the fleet.
    Shutdown,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    /// Done.
    Done,
    /// The machines, `control` first.
    Status(Vec<MachineStatus>),
    /// Not done, and why.
    Refused(String),
}

/// Whether a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Its systemd runs, or is being started.
    On,
    /// Powered off by itself or by a power cut.
    Off,
    /// Ended in a way that is neither a power-off nor a reboot: it could not boot, or crashed.
    Crashed,
}

/// How one machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: MachineName,
    /// Its IPv4 address.
    pub address: String,
    /// Whether it runs.
    pub power: Power,
    /// Its PID 1, in the supervisor's PID namespace.
    pub leader: Option<u32>,
    /// How often it was started, reboots included.
    pub boots: u64,
    /// Whether it is connected to the network.
    pub link_up: bool,
    /// Whether its processes are stopped.
    pub frozen: bool,
}
