//! The demo: the main job on any Linux machine, without root and without Nix.
//!
//! A coordinator and one agent for every machine of a fleet, as processes of their own from the
//! same code as the real programs, speaking mTLS gRPC over loopback. Each machine is a directory
//! with real profile links and generations, real hook scripts and a real
//! `switch-to-configuration`; systemd and the reboot are stood in for by the agent's directory
//! executor. Time runs fast, something fails, and an independent witness looks on.
//!
//! | room | owns |
//! |---|---|
//! | `options` | what can be asked for |
//! | `fleet_file` | which fleet is played, and what goes wrong in it |
//! | `schedule` | when the night begins and how fast it passes |
//! | `closures`, `machine` | what lies on disk |
//! | `process`, `stage` | the programs, their start and their end |
//! | `operator` | what is asked of the coordinator |
//! | `play` | the rollout from its beginning to its end |
//! | `witness` | what really happened, by the machines' own hooks and links |
//! | `ending` | how it should end, whether it did, and the report |
//! | `progress`, `summary` | what a person sees |

mod closures;
mod ending;
mod error;
mod fleet_file;
mod machine;
mod operator;
mod options;
mod play;
mod process;
mod progress;
mod schedule;
mod stage;
mod summary;
mod witness;

pub use error::DemoError;
pub use options::{Approve, Fail, FailError, Kind, Options, SPEED_MAX};
pub use play::run;
pub use process::end_with_parent;
