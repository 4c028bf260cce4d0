//! The rules of one machine, on a machine that does as it is told.

mod attempt;
mod boot_loader;
mod boots;
#[cfg(feature = "seeded-bugs")]
mod bugs;
mod cleanup;
mod dead_man;
mod elsewhere;
mod fencing;
mod random;
mod reports;
mod restart;
mod script;
mod soft_reboot;
mod staging;
mod targets;
mod traffic;
mod versions;
mod world;
