//! The fleet's network: one bridge in a namespace of its own, one network namespace per machine, a
//! veth pair between them. Made inside the supervisor's mount namespace, gone with it.

use std::{net::Ipv4Addr, process::Command};

use super::{FleetError, command};

/// The namespace that holds the bridge.
const BRIDGE: &str = "fleet-bridge";

/// A machine's card, as it sees it.
pub(super) const CARD: &str = "eth0";

/// The address of machine number `index` (0 is `control`).
pub(super) fn address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, index + 1)
}

/// Makes the bridge.
pub(super) fn create_bridge() -> Result<(), FleetError> {
    ip(&["netns", "add", BRIDGE])?;
    ip(&["-n", BRIDGE, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", BRIDGE, "link", "set", "br0", "up"])
}

/// Makes the namespace of one machine and connects it.
pub(super) fn connect(machine: &str, index: u8) -> Result<(), FleetError> {
    let port = port(index);
    let address = format!("{}/24", address(index));
    ip(&["netns", "add", machine])?;
    ip(&[
        "-n", BRIDGE, "link", "add", &port, "type", "veth", "peer", "name", CARD, "netns", machine,
    ])?;
    ip(&["-n", BRIDGE, "link", "set", &port, "master", "br0", "up"])?;
    ip(&["-n", machine, "addr", "add", &address, "dev", CARD])?;
    ip(&["-n", machine, "link", "set", CARD, "up"])?;
    ip(&["-n", machine, "link", "set", "lo", "up"])
}

/// Takes the machine's end of the cable up again, as a boot does.
pub(super) fn reset_card(machine: &str) -> Result<(), FleetError> {
    ip(&["-n", machine, "link", "set", CARD, "up"])
}

/// Plugs the machine's cable into the bridge, or pulls it.
pub(super) fn set_link(index: u8, up: bool) -> Result<(), FleetError> {
    let state = if up { "up" } else { "down" };
    ip(&["-n", BRIDGE, "link", "set", &port(index), state])
}

fn port(index: u8) -> String {
    format!("port{index}")
}

fn ip(args: &[&str]) -> Result<(), FleetError> {
    command::run(Command::new("ip").args(args)).map(drop)
}
