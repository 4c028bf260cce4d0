//! The simulator: both real cores in one thread, under a virtual clock, in a world where everything
//! goes wrong that can.
//!
//! `World` is the truth: machines, disks, network and the coordinator's driver. One
//! function makes one concrete, recorded `event` happen, without any chance; `chance` decides
//! what happens next. Every event is followed by the checks of `check`: the coordinator's own
//! invariants, and the world's truth, which no program is asked for.

mod agents;
mod bugs;
mod chance;
mod check;
mod disk;
mod driver;
mod event;
mod events;
mod machine;
mod operator;
mod oracle;
mod other_words;
mod people;
mod post;
pub(crate) mod rng;
mod run;
pub mod scenario;
mod setup;
mod sides;
mod times;
mod traffic;
mod traffic_hooks;
mod trouble;
mod waves;
mod world;

pub use bugs::{DriverBug, SeededBug};
pub(crate) use rng::Rng;
pub use run::{Outcome, Recording, record, replay, run};
pub use world::Violation;
