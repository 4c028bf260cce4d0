//! What tests, benchmarks and the demo share: worlds in which lab-updater runs.

pub mod bench;
pub mod fleet;
