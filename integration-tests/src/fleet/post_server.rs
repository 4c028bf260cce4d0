//! A webhook for tests: takes HTTP POSTs and writes their bodies down, one line each.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Longest request that is read, in bytes.
const REQUEST_MAX: u64 = 64 * 1024;

/// Takes posts until the process ends; each body becomes one line at the end of `into`.
///
/// # Errors
/// When the address cannot be listened on.
pub fn take(listen: SocketAddr, into: &Path) -> io::Result<()> {
    for connection in TcpListener::bind(listen)?.incoming() {
        // A client that goes away is no error of ours.
        connection.and_then(|taken| answer(&taken, into)).ok();
    }
    Ok(())
}

fn answer(mut connection: &TcpStream, into: &Path) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENCE_MAX))?;
    let mut request = BufReader::new(connection.take(REQUEST_MAX));
    let mut length = 0;
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        let header = line.split_once(':');
        if let Some((_, value)) = header.filter(|(name, _)| is_length(name)) {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    request.read_exact(&mut body)?;
    body.push(b'\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(into)?
        .write_all(&body)?;
    connection.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

fn is_length(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_written_down_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("posts");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        for body in ["{\"a\":1}", "{\"b\":2}"] {
            let mut client = TcpStream::connect(address).expect("connected");
            let head = format!(
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}",
                body.len()
            );
            write!(client, "{head}\r\n\r\n{body}").expect("sent");
            let (taken, _) = listener.accept().expect("taken");
            answer(&taken, &file).expect("answered");
            drop(taken);
            let mut said = String::new();
            client.read_to_string(&mut said).expect("an answer");
            assert!(said.starts_with("HTTP/1.1 204"), "{said}");
        }
        let written = std::fs::read_to_string(&file).expect("written");
        assert_eq!(written, "{\"a\":1}\n{\"b\":2}\n");
    }
}
