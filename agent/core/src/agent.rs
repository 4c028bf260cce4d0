//! The agent: one machine's life.

use common::MachineReport;

use crate::{
    effect::Output,
    facts::{Facts, Found},
    input::Input,
    limits::Limits,
    moment::Moment,
    state::Durable,
};

/// One machine's life. Made by [`Agent::restore`], begun by [`Agent::start`].
#[derive(Clone, Debug)]
pub struct Agent {
    limits: Limits,
    durable: Durable,
    facts: Option<Facts>,
}

impl Agent {
    /// An agent that goes on from what is on disk. Does nothing until it is started.
    pub fn restore(limits: Limits, durable: Durable) -> Self {
        Self {
            limits,
            durable,
            facts: None,
        }
    }

    /// The same agent with one known bug.
    #[cfg(feature = "seeded-bugs")]
    #[must_use]
    pub fn with_bug(self, _bug: crate::bug::Bug) -> Self {
        self
    }

    /// The first call of a process: from the journal and from what is found on the machine to the
    /// next step. Has an answer for every step and everything that can be found.
    pub fn start(&mut self, _now: Moment, found: Found) -> Output {
        self.facts = Some(found.facts);
        Output::default()
    }

    /// One thing happened. Does first what the clock alone makes due.
    pub fn handle(&mut self, _now: Moment, _input: Input) -> Output {
        Output::default()
    }

    /// When to call [`Agent::handle`] with [`Input::Tick`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<Moment> {
        None
    }

    /// What is to be on disk.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// The machine's own limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is true of the machine, as last measured; `None` before [`Agent::start`].
    pub fn report(&mut self, _now: Moment) -> Option<MachineReport> {
        None
    }
}
