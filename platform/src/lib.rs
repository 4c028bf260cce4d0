//! What the daemons and `lab` share at their edges: identity files, mTLS channels, the clock, logs.

pub mod clock;
pub mod telemetry;
