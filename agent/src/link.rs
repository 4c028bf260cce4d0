//! The edge to the coordinator, in the core's words. [`crate::coordinator_client`] stands behind it
//! in the product, a script in tests.

use std::time::Duration;

use agent_core::{Directive, Renewal, Signal, state::Unreported};
use common::{AttemptStatus, Epoch, LeaseId, MachineReport};

/// Why a call came to nothing. The core only passes the text on: it tries again.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no connection, or no identity to make one with.
    #[error("{0}")]
    Unconnected(String),
    /// The coordinator answered with an error.
    #[error("the coordinator says {code}: {message}")]
    Refused {
        /// Status code in words.
        code: String,
        /// Its message, tamed.
        message: String,
    },
    /// The coordinator's answer is not understood.
    #[error("the coordinator's answer makes no sense: {0}")]
    Senseless(String),
}

/// One coordinator.
#[allow(
    async_fn_in_trait,
    reason = "the agent runs on one thread, so no future needs to be Send"
)]
pub trait Link {
    /// Says what is true of the machine and asks what to do.
    async fn poll(
        &self,
        hold: Duration,
        report: &MachineReport,
    ) -> Result<(Epoch, Directive), LinkError>;

    /// Keeps a lease alive.
    async fn renew(
        &self,
        lease: LeaseId,
        epoch: Epoch,
        status: &AttemptStatus,
        silence: Duration,
    ) -> Result<(Epoch, Renewal), LinkError>;

    /// Hands in a result.
    async fn report(&self, result: &Unreported, report: &MachineReport)
    -> Result<Epoch, LinkError>;

    /// Listens to what the coordinator pushes, until the connection ends.
    async fn listen(&self, heard: impl Fn(Epoch, Signal)) -> Result<(), LinkError>;
}
