//! The second tier of the simulator: the real coordinator and the real agents over simulated TCP,
//! in one thread and under one clock, with tonic, HTTP/2 and mutual TLS as they are in the product.
//!
//! The coordinator is its driver, its doors and its services over a store in memory; each machine
//! has the agent's driver, executor, client and dead-man program, on a simulated host. `faults`
//! breaks links and kills processes and machines; `check` looks at the world's truth, which no
//! program is asked for. Every seed must do exactly the same when it is run again.

mod agent;
mod check;
mod coordinator;
mod faults;
mod host;
mod machine;
mod people;
mod run;
mod setup;
mod world;

pub use run::{Outcome, RunError, run};
pub use setup::Identities;
