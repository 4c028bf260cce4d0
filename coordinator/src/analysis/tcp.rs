//! Whether a port takes connections.

use tokio::net::TcpStream;

use super::{Found, address};

/// Connects, and hangs up.
pub(super) async fn connect(address: &str) -> Found {
    let Some(to) = address::split(address) else {
        return Found::error(format!("{address} is not host:port"));
    };
    match TcpStream::connect(to).await {
        Ok(_) => Found::pass(format!("{address} takes connections")),
        Err(error) => Found::fail(format!("{address}: {error}")),
    }
}
