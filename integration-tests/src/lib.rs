//! What tests, benchmarks and the demo share: worlds in which lab-updater runs.

pub mod bench;
pub mod demo;
pub mod fleet;
pub mod matrix;
pub mod powercut;
pub mod sim;
pub mod turmoil;
pub mod vm;
