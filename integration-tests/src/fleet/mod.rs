//! A fleet of real machines on one host, for tests: real systemd as PID 1, real D-Bus and logind,
//! real Nix with a signed binary cache, each machine in namespaces and a cgroup of its own.
//!
//! A fleet is one *supervisor* process, PID 1 of its own PID and mount namespaces. Machines, mounts and
//! network namespaces live inside these, so they end with the supervisor however it ends; only a run
//! directory and empty cgroups can outlive it, and the next run removes both. [`Fleet`] is the handle:
//! it asks the supervisor over a socket and enters machines by `nsenter`. It needs root and the
//! packages of [`host::PACKAGES`].
//!
//! | room | owns |
//! |---|---|
//! | [`host`] | what the host must offer |
//! | `image` | the root file system that all machines share, built once and cached |
//! | `apt_sources` | where its packages come from |
//! | `run_dir` | the files of a run, and the clean-up after a killed one |
//! | `supervisor`, `machine`, `network`, `protocol` | the process that owns the machines |
//! | `handle` | [`Fleet`]: up, status, exec, files, down |
//! | `trouble` | reboot, power cut, partition, break, heal |
//! | `system` | closures of NixOS shape, built by Nix and published to the cache |
//! | `memory` | how much memory machines may use, and have used |
//! | `provision` | names, the signed cache, the first system of each machine |
//! | `inside` | processes, disks and connections of the machines, taken hold of from outside |
//! | `programs`, `install` | our own programs, and the daemons on the machines |
//! | `part` | the subcommands that a program needs which starts a fleet |
//! | [`file_server`] | a small static HTTP server, for the cache and for health checks |
//! | [`post_server`] | a webhook that writes down what it is sent |

mod apt_sources;
mod command;
mod error;
pub mod file_server;
mod handle;
pub mod host;
mod image;
mod inside;
mod install;
mod machine;
mod memory;
mod network;
mod part;
pub mod post_server;
mod programs;
mod protocol;
mod provision;
mod run_dir;
mod supervisor;
mod system;
mod trouble;

pub use command::Finished;
pub(crate) use command::run as run_program;
pub use error::FleetError;
pub use handle::{CONTROL, Fleet, FleetOptions, WITNESS};
pub use image::BOOT_FILES;
pub use inside::PID_1;
pub use install::{AGENT_UNIT, COORDINATOR_UNIT};
pub use memory::MemoryUse;
pub use part::Part;
pub use programs::{PROGRAMS_VARIABLE, Programs};
pub use protocol::{MachineStatus, Power};
pub use system::{Failure, SystemSpec};
pub use trouble::Damage;
