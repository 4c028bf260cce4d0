//! One machine's life as a pure state machine.
//!
//! It decides every step of an attempt: what to do next, when to give up, when to go back, what to
//! tell the coordinator. It never does any of it: there is no file, clock, socket or process here,
//! and time and chance come in as arguments. The agent's driver owns it: it hands in what happened
//! ([`Input`]), saves the durable state, and carries out the [`Effect`]s.

mod agent;
mod attempt;
#[cfg(feature = "seeded-bugs")]
pub mod bug;
mod calls;
pub mod cause;
mod directive;
pub mod effect;
pub mod facts;
mod health;
pub mod input;
pub mod invariants;
pub mod limits;
pub mod moment;
mod reading;
mod restart;
mod staging;
pub mod state;
mod way_back;
mod work;

pub use agent::Agent;
#[cfg(feature = "seeded-bugs")]
pub use bug::Bug;
pub use cause::Cause;
pub use effect::{CallId, Effect, HookContext, Job, Note, Output, Work};
pub use facts::{Facts, Found, UnitState};
pub use input::{
    ActivationEnd, Answer, Directive, Done, Failure, Hook, HookEnd, Input, Judgement, Proceed,
    Renewal, Signal, StandDown,
};
pub use limits::Limits;
pub use moment::Moment;
pub use state::{Baseline, Durable, Mode, Previous, Step, StepId};
