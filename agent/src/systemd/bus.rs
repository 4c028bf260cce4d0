//! The way to systemd: over the system bus, or where that is broken, straight to PID 1.
//!
//! A target may break D-Bus, and the way back must not need what the target broke. PID 1 listens on
//! a socket of its own for root's `systemctl`, and takes the same calls there.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    time::Duration,
};

use zbus::{Connection, connection::Builder, fdo};

use super::pid1::Pid1;
use crate::host::HostError;

/// Longest that one D-Bus call may take: PID 1 may be busy with a daemon-reload for some seconds.
pub(super) const CALL: Duration = Duration::from_secs(25);

/// Where PID 1 listens without a bus.
const PRIVATE: &str = "/run/systemd/private";

/// A way to systemd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// The system bus.
    #[default]
    Bus,
    /// PID 1's own socket.
    Private,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Bus => Self::Private,
            Self::Private => Self::Bus,
        }
    }
}

/// The connection to systemd, made again when it is lost.
#[derive(Debug)]
pub(super) struct Bus {
    connection: RefCell<Option<Connection>>,
    /// The way to be tried first for the next connection.
    first: Cell<Way>,
    /// The way of the last one.
    last: Cell<Way>,
    /// Another system bus than the usual one.
    bus: Option<String>,
    private: PathBuf,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            connection: RefCell::default(),
            first: Cell::default(),
            last: Cell::default(),
            bus: None,
            private: PRIVATE.into(),
        }
    }
}

impl Bus {
    /// A connection, by whichever way there is.
    pub(super) async fn connection(&self) -> zbus::Result<Connection> {
        if let Some(connection) = self.connection.borrow().clone() {
            return Ok(connection);
        }
        let way = self.first.get();
        let (way, connection) = match self.connect(way).await {
            Ok(connection) => (way, connection),
            Err(error) => match self.connect(way.other()).await {
                Ok(connection) => (way.other(), connection),
                Err(_) => return Err(error),
            },
        };
        self.first.set(way);
        if self.last.replace(way) != way {
            tracing::warn!("systemd is reached by another way from now on: {way:?}");
        }
        *self.connection.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }

    /// A connection to the system bus itself: not everybody on it is PID 1.
    pub(super) async fn system(&self) -> zbus::Result<Connection> {
        self.connect(Way::Bus).await
    }

    async fn connect(&self, way: Way) -> zbus::Result<Connection> {
        let connecting = async {
            let builder = match (way, &self.bus) {
                (Way::Bus, None) => Builder::system(),
                (Way::Bus, Some(address)) => Builder::address(address.as_str()),
                (Way::Private, _) => {
                    let pid1 = Pid1::connect(&self.private).await;
                    let pid1 = pid1.map_err(|error| zbus::Error::InputOutput(error.into()))?;
                    Builder::socket(pid1).p2p()
                }
            };
            builder.method_timeout(CALL).build().await
        };
        tokio::time::timeout(CALL, connecting)
            .await
            .map_err(|_| zbus::Error::Failure("no answer to a connection".to_owned()))?
    }

    /// Reads something; once more, by the other way, when the first one turns out to be broken.
    pub(super) async fn read<T>(
        &self,
        doing: &str,
        read: impl AsyncFn() -> zbus::Result<T>,
    ) -> Result<T, HostError> {
        match read().await {
            Err(error) if is_broken(&error) => {
                self.failed(doing, error);
                read().await.map_err(|error| self.failed(doing, error))
            }
            done => done.map_err(|error| self.failed(doing, error)),
        }
    }

    /// Keeps the error's cause, and drops a connection that is of no more use.
    pub(super) fn failed(&self, doing: impl Into<String>, cause: zbus::Error) -> HostError {
        if is_broken(&cause) {
            *self.connection.borrow_mut() = None;
            self.first.set(self.last.get().other());
        }
        HostError::Bus {
            doing: doing.into(),
            cause: Box::new(cause),
        }
    }
}

/// Whether the error says that the way is broken, rather than that systemd said no.
fn is_broken(error: &zbus::Error) -> bool {
    // `FDO` has the errors with names that every bus knows, `MethodError` all others.
    if let zbus::Error::FDO(error) = error {
        matches!(
            **error,
            fdo::Error::AccessDenied(_)
                | fdo::Error::Disconnected(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::NoReply(_)
                | fdo::Error::NoServer(_)
                | fdo::Error::ServiceUnknown(_)
                | fdo::Error::SpawnFailed(_)
                | fdo::Error::TimedOut(_)
                | fdo::Error::Timeout(_)
        )
    } else {
        !matches!(error, zbus::Error::MethodError(..))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::net::UnixListener;
    use zbus::{Guid, MessageStream};

    use super::*;
    use crate::systemd::Systemd;

    /// A PID 1 that listens on a socket of its own and knows of no unit.
    async fn serve(listener: UnixListener) {
        let (stream, _) = listener.accept().await.expect("a caller");
        let stream = stream.into_std().expect("a stream");
        let connection = Builder::unix_stream(stream)
            .server(Guid::generate())
            .p2p()
            .build()
            .await
            .expect("a connection");
        let mut calls = MessageStream::from(&connection);
        while let Some(Ok(call)) = calls.next().await {
            let no = "org.freedesktop.systemd1.NoSuchUnit";
            let replied = connection.reply_error(&call.header(), no, &"no").await;
            replied.expect("replied");
        }
    }

    #[tokio::test]
    async fn without_a_bus_pid_1_is_asked_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("private");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let serving = tokio::spawn(serve(listener));
        let at = |name: &str| format!("unix:path={}/{name}", dir.path().display());
        let systemd = Systemd::with(Bus {
            bus: Some(at("no-bus")),
            private: dir.path().join("private"),
            ..Bus::default()
        });
        let state = systemd.active_state("a.service").await.expect("an answer");
        assert_eq!(state, "inactive");
        serving.abort();

        let neither = Systemd::with(Bus {
            bus: Some(at("no-bus")),
            private: dir.path().join("nothing"),
            ..Bus::default()
        });
        let error = neither.active_state("a.service").await;
        error.expect_err("nobody is there");
    }

    #[test]
    fn a_no_of_systemd_is_no_broken_way() {
        let error = |error| zbus::Error::FDO(Box::new(error));
        assert!(is_broken(&error(fdo::Error::ServiceUnknown(String::new()))));
        assert!(is_broken(&error(fdo::Error::NoReply(String::new()))));
        assert!(!is_broken(&error(fdo::Error::UnknownObject(String::new()))));
        assert!(!is_broken(&error(fdo::Error::InvalidArgs(String::new()))));
        assert!(is_broken(&zbus::Error::Failure("no answer".to_owned())));
    }
}
