//! Measures what the project promises to be fast. Ratios and processor time per operation are the
//! figures to trust: the load shares the processors with what it measures, and so do neighbours.
//!
//! | room | owns |
//! |---|---|
//! | `decide`, `makespan` | one measurement each, of the core alone |
//! | `bare` | that core, with a fleet in memory |
//! | `leases`, `agents`, `stop`, `restart` | one measurement each, of a whole coordinator |
//! | `footprint` | an agent, on a real machine |
//! | `coordinator` | that coordinator, a process of its own |
//! | `beginning` | what its store begins with |
//! | `fleet` | its machines and its administrator, who make the load |
//! | `figures` | numbers with names and units |

#![allow(
    clippy::cast_precision_loss,
    reason = "counts and sizes that are measured here are far below 2^52"
)]

pub mod agents;
mod bare;
mod beginning;
mod coordinator;
pub mod decide;
mod error;
pub mod figures;
mod fleet;
pub mod footprint;
pub mod leases;
pub mod makespan;
pub mod restart;
pub mod stop;

pub use coordinator::serve;
pub use error::Error;

/// The closure that stands for a version.
fn closure(version: u64) -> String {
    format!("/nix/store/{}-nixos-system-bench-{version}", "0".repeat(32))
}
