//! A small static HTTP/1.1 server: GET and HEAD of plain files below one directory. It serves the
//! binary cache of a fleet and the health file of a toy system; nothing else should use it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    thread,
    time::Duration,
};

/// How long a client may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Longest request head, in bytes.
const HEAD_MAX: u64 = 16 * 1024;

/// Serves the files below `root` until the process ends.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(listen: SocketAddr, root: PathBuf) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        let root = root.clone();
        thread::spawn(move || answer(&connection, &root));
    }
    Ok(())
}

/// Answers one request. A client that goes away is no error of ours.
fn answer(mut connection: &TcpStream, root: &Path) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENCE_MAX))?;
    connection.set_write_timeout(Some(SILENCE_MAX))?;
    let mut head = BufReader::new(connection.take(HEAD_MAX));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_whitespace();
    let (method, target) = (words.next(), words.next());
    let with_body = match method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return status(connection, "405 Method Not Allowed"),
    };
    let found = target
        .and_then(|target| below(root, target))
        .and_then(|path| File::open(path).ok())
        .and_then(|file| {
            file.metadata()
                .ok()
                .filter(|m| m.is_file())
                .map(|m| (file, m))
        });
    let Some((mut file, metadata)) = found else {
        return status(connection, "404 Not Found");
    };
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        metadata.len()
    )?;
    if with_body {
        io::copy(&mut file, &mut connection)?;
    }
    connection.flush()
}

fn status(mut connection: &TcpStream, status: &str) -> io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// The file that a request target names, if it stays below `root`.
fn below(root: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split('?').next()?.strip_prefix('/')?;
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| root.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_below_the_root() {
        let root = Path::new("/srv");
        assert_eq!(below(root, "/a/b?c"), Some(PathBuf::from("/srv/a/b")));
        for target in ["/../etc/passwd", "//etc/passwd", "relative", "/a/../../b"] {
            assert_eq!(below(root, target), None, "{target}");
        }
    }
}
