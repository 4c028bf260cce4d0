//! A real boot chain, for what containers cannot show: one machine as a virtual one, from firmware and
//! boot loader on, with our agent in it and our coordinator beside it.
//!
//! The machine is made as one of a [fleet](crate::fleet), of an image that has a kernel and
//! systemd-boot. Then its files become a disk, and QEMU boots that, without hardware acceleration and
//! without anything mounted on the host, on the network of `control`.
//!
//! | room | owns |
//! |---|---|
//! | [`host`] | what the host must offer besides what a fleet needs |
//! | `disk` | the disk: a table, the boot loader's file system, the machine's |
//! | `machine` | QEMU: power on and off, the console, commands in the machine |
//! | `bed` | fleet, coordinator, disk; updates of the machine and what came of them |
//! | `scenarios` | what is to be shown |

mod bed;
mod disk;
mod error;
pub mod host;
mod machine;
mod scenarios;

pub use bed::{Bed, Options};
pub use error::VmError;
pub use scenarios::{Outcome, SCENARIOS, Scenario};
