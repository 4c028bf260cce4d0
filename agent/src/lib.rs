//! The agent: carries out attempts on one machine through systemd and Nix.
//!
//! `agent-core` decides; here are the driver that owns it and the rooms around it. The two edges
//! are [`host::Host`] (the machine) and [`link::Link`] (the coordinator).

pub mod config;
pub mod dead_man;
pub mod directory;
pub mod executor;
pub mod health;
pub mod host;
pub mod links;
pub mod nix;
pub mod roots;
pub mod state_file;
pub mod system;
pub mod systemd;
pub mod verdict;
