//! The agent: carries out attempts on one machine through systemd and Nix.

pub mod config;
pub mod health;
