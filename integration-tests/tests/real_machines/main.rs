//! Tests on real machines: systemd, D-Bus and Nix in containers, one fleet for the whole test program.
//! Where the host cannot run them they say so and pass; with `LAB_REQUIRE_FLEET=1` they fail.

#![expect(
    clippy::print_stderr,
    reason = "a test program tells of skipping and progress there"
)]

mod attempts;
mod bed;
mod caller_table;
mod cleanups;
mod conditions;
mod daemons;
mod document;
mod identities;
mod kills;
mod machines;
mod rollouts;
mod room;
mod soft_reboots;
mod stage;
mod switches;
mod systems;
mod targets;
mod traffic;
mod verdicts;
mod webhooks;
