//! The agent: carries out attempts on one machine through systemd and Nix.
//!
//! `agent-core` decides; here are the driver that owns it and the rooms around it. The two edges
//! are [`host::Host`] (the machine) and [`link::Link`] (the coordinator).

mod apart;
pub mod ballast;
pub mod boot_loader;
mod child;
pub mod closure_diff;
pub mod config;
mod convert;
pub mod coordinator_client;
pub mod dead_man;
pub mod directory;
pub mod driver;
pub mod executor;
pub mod health;
pub mod host;
mod jitter;
pub mod link;
pub mod links;
mod network;
pub mod nix;
pub mod nix_daemon;
mod returning;
mod roots;
pub mod run;
pub mod self_test;
mod service;
pub mod soft_reboot;
pub mod state_file;
pub mod system;
pub mod systemd;
pub mod targets;
pub mod verdict;
