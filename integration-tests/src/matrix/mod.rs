//! Every step of an attempt × every fault, on real machines: each case ends on the target or on the
//! recorded path, with one verdict, its hooks paired and its slot held until then.
//!
//! | module | what |
//! |---|---|
//! | `case` | which cases there are |
//! | `points` | where a machine is held in mid-step |
//! | `fault` | what is done to it then |
//! | `lane` | one machine that goes through one case after the other |
//! | `ask` | what coordinator and machine say |
//! | `judge` | what must be true in the end |
//! | `table` | the page of the handbook |

mod ask;
mod case;
mod fault;
mod judge;
mod lane;
mod points;
mod run;
mod table;

pub use case::{Case, sample, whole};
pub use fault::Lengths;
pub use lane::Row;
pub use run::{MatrixError, Options, run};
pub use table::page;
