//! One machine's life as a pure state machine.
//!
//! It decides every step of an attempt: what to do next, when to give up, when to go back, what to
//! tell the coordinator. It never does any of it: there is no file, clock, socket or process here,
//! and time and chance come in as arguments. The agent's driver owns it: it hands in what happened
//! ([`Input`]), saves the durable state, and carries out the [`Effect`]s.
//!
//! # An attempt
//!
//! ```text
//! (staging) → snapshot → arming → pre-hook → activating ─────────────────────→ post-hook → judging → confirmed
//!                 │         │         │           │ └→ announcing → rebooting → arming ↗        │
//!                 │         │         │           │                     │          │            │
//!                 ▼         ▼         ▼           ▼                     ▼          ▼            ▼
//!              refused or abandoned      rolling-back (→ rebooting) → rollback-hook → judging-rollback
//!              (rollback hook, disarm)                                   → rolled back, abandoned or stuck
//! ```
//!
//! # What was decided
//!
//! * The point of no return is the beginning of a live switch, or where the way is a reboot, the
//!   first time it is asked for. Setting the boot default alone disturbs nobody and is undone
//!   without a trace. Every disruptive step, a reboot asked for again included, needs a lease that
//!   holds on this boot's clock; going back needs none.
//! * Hooks run at most once in an attempt. A pre-update hook that *says no* has changed nothing: no
//!   rollback hook. One that hung, or whose result was lost, may have done half of its work: its
//!   rollback hook runs, and the outcome is *refused*. A lost post-update hook counts as failed; a
//!   lost rollback hook is reported and changes nothing.
//! * A target at fault (activation, boot, post-update hook, judgement, dead-man timer) is remembered
//!   as bad; a stop, a lost lease or a busy machine blames nobody. An update to a bad target is
//!   refused unless it comes with `force`, whichever rollout asks; a rollback or a reboot names what
//!   it wants and is never refused for that.
//! * A lease is accepted once. The result of the one before must have been acknowledged.
//! * A power cut that boots the machine into the target in the middle of the way counts as the
//!   reboot that was to come: it is judged. It gives no leave to reboot back where the policy does
//!   not allow reboots: an unhealthy target then ends as *stuck*.
//! * After one way back that is unhealthy, or that does not end in the recorded system *and* the
//!   recorded boot default, the machine stays up and waits for a person.
//! * A stop speaks to leases of older epochs only, so that one repeated late, after the stop was
//!   lifted, harms nothing that was granted since.

mod agent;
mod attempt;
#[cfg(feature = "seeded-bugs")]
pub mod bug;
mod calls;
pub mod cause;
pub mod cleanup;
pub mod comparison;
mod directive;
pub mod effect;
pub mod facts;
mod foreign;
mod health;
pub mod input;
pub mod invariants;
pub mod limits;
pub mod moment;
mod note;
mod reading;
mod restart;
mod staging;
pub mod state;
mod traffic;
mod way_back;
mod work;

pub use agent::Agent;
#[cfg(feature = "seeded-bugs")]
pub use bug::Bug;
pub use cause::Cause;
pub use comparison::{Comparison, FailedUnit};
pub use effect::{Before, CallId, Effect, HookContext, Job, MayBegin, Note, Output, Trial, Work};
pub use facts::{Facts, Found, NextBoot, Reach, UnitState};
pub use input::{
    ActivationEnd, Answer, Directive, Done, Failure, Hook, HookEnd, Input, Judgement, Proceed,
    Renewal, Signal, StandDown,
};
pub use limits::Limits;
pub use moment::Moment;
pub use state::{Baseline, Durable, Mode, Previous, RebootKind, Step, StepId};
