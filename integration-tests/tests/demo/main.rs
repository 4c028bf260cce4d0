//! The demo, run as people run it: with each kind of failure, and with the document's script.

mod failures;
mod kept;
mod world;
