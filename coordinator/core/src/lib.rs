//! The coordinator's heart: plans rollouts, decides who may go, and says why not.
//!
//! It never does I/O and knows neither a clock nor chance: time and identifiers come in as
//! arguments. The driver in the `coordinator` crate is the only one who calls it, and lets nothing
//! leave the process before the changes of a decision are durable.
//!
//! [`Fleet::handle`] turns `(now, request)` into [`Decision`]: facts, a reply, and who is to be
//! woken. [`Fleet::apply`] is the only way state changes, for requests and for recovery alike.

pub mod advance;
pub mod alarm;
pub mod analysis;
mod approval;
pub mod bad_target;
#[cfg(feature = "seeded-bugs")]
pub mod bug;
pub mod calendar;
pub mod change;
pub mod config;
mod coordinators;
mod deadline;
mod decide;
pub mod fleet;
mod gate;
pub mod history;
pub mod identity;
pub mod invariants;
pub mod lease;
pub mod machine;
pub mod opening;
pub mod outlook;
mod patience;
mod permission;
pub mod plan;
pub mod policy;
pub mod quarantine;
pub mod request;
mod restore;
pub mod retry;
pub mod returns;
pub mod rollout;
pub mod schedule;
pub mod terms;
mod timetable;
pub mod traffic;
mod transition;
mod undo;
pub mod view;
pub mod wait;
mod waited_for;
pub mod wake;
pub mod window;

pub use change::Change;
pub use config::{Fault, FleetConfig};
pub use fleet::Fleet;
pub use request::{Decision, Reply, Request};
pub use wait::WaitReason;
