//! Power cuts of the coordinator's store: is everything that was acknowledged still there?
//!
//! A coordinator's real driver with its real store works in a process of its own, on a file system
//! of its own, with many askers at once who say on a pipe what they were told. At a random instant
//! the power goes. The file system is mounted again from what the drive kept, the store is opened,
//! and what is in it is compared with what was acknowledged.
//!
//! | room | owns |
//! |---|---|
//! | `drive` | a drive in memory whose power can go, with and without a cache of its own |
//! | `work` | the process at work: driver, store, askers |
//! | `promise` | what was acknowledged |
//! | `check` | what is in the store afterwards, against the promises |
//! | `run` | cut after cut, and the totals |

mod check;
mod drive;
mod promise;
mod run;
mod work;

pub use drive::{Cache, Drive, DriveError};
pub use run::{CutError, Options, Totals, run};
pub use work::{Work, WorkError, work};
