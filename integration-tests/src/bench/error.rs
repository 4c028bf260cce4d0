//! Why something could not be measured.

/// Why it could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fleet that was made is not a valid one.
    #[error("the fleet to measure is not valid")]
    Fleet(#[from] coordinator_core::config::Faults),
    /// A name or path that was made is none.
    #[error("cannot make {0}")]
    Name(String),
    /// The coordinator did not answer as expected.
    #[error("unexpected answer while {doing}: {answer}")]
    Answer {
        /// What was being done.
        doing: &'static str,
        /// The answer.
        answer: String,
    },
    /// The coordinator's process does not serve, or ended.
    #[error("the coordinator that was to be measured does not work")]
    Coordinator,
    /// It did not start.
    #[error(transparent)]
    Server(#[from] coordinator::ServerError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] coordinator::store::StoreError),
    /// Certificates.
    #[error(transparent)]
    Ca(#[from] coordinator::ca::CaError),
    /// Identities.
    #[error(transparent)]
    Identity(#[from] platform::identity::IdentityError),
    /// A machine could not connect.
    #[error(transparent)]
    Connect(#[from] platform::channel::ConnectError),
    /// A request failed.
    #[error("a request failed: {}", .0.message())]
    Status(#[from] tonic::Status),
    /// A task broke off: a bug of the benchmark.
    #[error("a part of the load broke off")]
    Task(#[from] tokio::task::JoinError),
    /// Something that the processes told each other.
    #[error("what the processes say to each other cannot be read")]
    Json(#[from] serde_json::Error),
    /// A real machine.
    #[error(transparent)]
    Machine(#[from] crate::fleet::FleetError),
    /// A file, pipe or process.
    #[error("cannot set up the measurement")]
    Io(#[from] std::io::Error),
}
