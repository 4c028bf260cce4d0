//! What can go wrong with HAProxy's runtime API.

use std::{io, time::Duration};

use common::time::span;
use coordinator_core::traffic::At;

use super::COMMAND;

/// Why traffic could not be moved, or where it is not be found out.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    /// Nobody answers at its address.
    #[error("HAProxy cannot be reached at {at}")]
    Unreachable {
        /// Where.
        at: At,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It did not answer a command in time.
    #[error("HAProxy did not answer {command:?} within {within}", within = span(COMMAND))]
    Silent {
        /// What it was asked.
        command: String,
    },
    /// It refused a command.
    #[error("HAProxy answered {command:?} with: {answer}")]
    Refused {
        /// What it was asked.
        command: String,
        /// What it said; tamed.
        answer: String,
    },
    /// Its answer is not of the form that its guide describes.
    #[error("HAProxy's answer to {command:?} is not understood: {what}")]
    NotUnderstood {
        /// What it was asked.
        command: String,
        /// What is odd about it.
        what: String,
    },
    /// There is no such server.
    #[error("HAProxy's backend {backend} has no server {server}")]
    NoServer {
        /// In which backend.
        backend: String,
        /// Which.
        server: String,
    },
    /// There is no server at all.
    #[error("HAProxy's backend {backend} has no servers")]
    Empty {
        /// Which backend.
        backend: String,
    },
    /// Somebody put a server aside, and it is not for this to take it back.
    #[error(
        "server {backend}/{server} is in maintenance: `set server {backend}/{server} state drain`, or \
         take `disabled` from its line"
    )]
    Maintenance {
        /// In which backend.
        backend: String,
        /// Which.
        server: String,
    },
    /// HAProxy does not look whether a server is there.
    #[error("server {backend}/{server} has no health check: add `check` to its line")]
    NoCheck {
        /// In which backend.
        backend: String,
        /// Which.
        server: String,
    },
    /// Clients that are kept to servers go on asking them while they drain, and nobody can say when they
    /// have left. Nothing was changed.
    #[error(
        "HAProxy's backend {backend} keeps clients to their servers, also while these drain ({by}): take that \
         out of HAProxy's configuration and reload HAProxy; nothing was changed"
    )]
    KeepsClients {
        /// Which backend.
        backend: String,
        /// What keeps them; tamed.
        by: String,
    },
    /// The level of the socket is too low to see whether clients are kept. Nothing was changed.
    #[error(
        "HAProxy does not show whether backend {backend} keeps clients to their servers: give its \
         `stats socket` `level admin`"
    )]
    Hidden {
        /// Which backend.
        backend: String,
    },
    /// Somebody else said something else meanwhile.
    #[error("server {backend}/{server} was set to something else meanwhile")]
    Overruled {
        /// In which backend.
        backend: String,
        /// Which.
        server: String,
    },
    /// Servers of the new side did not come up. From the old side nothing was taken.
    #[error("HAProxy does not have them up after {within}: {servers}", within = span(*after))]
    NotUp {
        /// Which.
        servers: String,
        /// How long they were waited for.
        after: Duration,
    },
}
