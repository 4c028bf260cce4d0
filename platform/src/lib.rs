//! What the daemons and `lab` share at their edges: identity files, mTLS channels, the clock, logs,
//! documents, a message that both say, where targets come from.

pub mod changes;
pub mod channel;
pub mod clock;
pub mod enrol;
pub mod identity;
pub mod json;
pub mod sources;
pub mod telemetry;
mod tls;
