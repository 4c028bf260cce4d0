//! The real driver and core on a machine in a directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's report"
)]

mod attempts;
mod before;
mod dead_man;
mod jobs;
mod network;
mod traffic;
mod world;
