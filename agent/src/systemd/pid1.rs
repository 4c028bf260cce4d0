//! PID 1's own socket, as a transport of zbus.
//!
//! PID 1 signs what it sends there with `org.freedesktop.systemd1` (`sd_bus_set_sender` in systemd's
//! `src/core/dbus.c`). A sender has to be a unique name, which begins with a colon (D-Bus
//! specification, "Message Bus Names"): libdbus and sd-bus let it pass, zbus does not. What is read
//! is therefore given a colon there.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use zbus::{
    connection::socket::{ReadHalf, Socket, Split, WriteHalf},
    export::async_trait::async_trait,
};

/// The part of a header before its fields: byte order at 0, length of the body at 4, length of the
/// fields at 12 (D-Bus specification, "Message Format").
const FIXED: usize = 16;

/// How the field of the sender begins: its code, and the signature `s`.
const SENDER: [u8; 4] = [7, 1, b's', 0];

/// Longest message of D-Bus.
const MESSAGE_MAX: usize = 128 * 1024 * 1024;

/// A connection to PID 1.
#[derive(Debug)]
pub(super) struct Pid1(UnixStream);

impl Pid1 {
    /// Connects to the socket of this path.
    pub(super) async fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self)
    }
}

impl Socket for Pid1 {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.0.into_split();
        let reader = Reader {
            stream: read,
            buffer: Vec::new(),
            ready: 0,
        };
        Split::new(reader, Writer(write))
    }
}

/// What PID 1 says. No file descriptors: none of the calls that the agent makes returns one.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    /// How much of the buffer can be given out.
    ready: usize,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, out: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        while self.ready == 0 {
            self.ready = make_ready(&mut self.buffer)?;
            if self.ready == 0 && self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok((0, Vec::new()));
            }
        }
        let given = self.ready.min(out.len());
        out[..given].copy_from_slice(&self.buffer[..given]);
        self.buffer.drain(..given);
        self.ready -= given;
        Ok((given, Vec::new()))
    }
}

/// What the agent says to PID 1.
#[derive(Debug)]
pub(super) struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, bytes: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(bytes).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

/// How many of the first bytes are one whole line of the handshake, or one whole message; its sender
/// is made a name that zbus takes. Zero: more has to be read.
fn make_ready(bytes: &mut [u8]) -> io::Result<usize> {
    let number: fn([u8; 4]) -> u32 = match bytes.first() {
        None => return Ok(0),
        Some(b'l') => u32::from_le_bytes,
        Some(b'B') => u32::from_be_bytes,
        Some(_) => {
            let line = bytes.iter().position(|byte| *byte == b'\n');
            return Ok(line.map_or(0, |end| end + 1));
        }
    };
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(0);
    };
    let at = |start: usize| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| fixed[start + byte]);
        number([a, b, c, d]) as usize
    };
    let fields_end = FIXED.saturating_add(at(12));
    let length = fields_end.next_multiple_of(8).saturating_add(at(4));
    if length > MESSAGE_MAX {
        let error = format!("a message of {length} bytes from PID 1");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    if bytes.len() < length {
        return Ok(0);
    }
    // Each field begins at a multiple of eight; the name comes after its length, four bytes.
    let mut fields = (FIXED..fields_end).step_by(8);
    if let Some(sender) = fields.find(|field| bytes[*field..].starts_with(&SENDER))
        && let Some(first) = bytes.get_mut(sender + SENDER.len() + 4)
    {
        *first = b':';
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use zbus::Message;

    use super::*;

    /// What PID 1 sends, byte by byte as systemd 252 does it: not what zbus would send.
    fn as_pid_1_would(message: &Message) -> Vec<u8> {
        let mut bytes = message.data().to_vec();
        let name = b":rg.freedesktop.systemd1";
        let at = bytes
            .windows(name.len())
            .position(|window| window == name)
            .expect("a sender");
        bytes[at] = b'o';
        bytes
    }

    fn said(body: &str) -> Message {
        Message::signal("/a", "a.b", "C")
            .sender(":rg.freedesktop.systemd1")
            .build(&body)
            .expect("a message")
    }

    #[test]
    fn lines_and_messages_are_given_out_whole_and_with_a_name_that_is_allowed() {
        let first = said("org.freedesktop.systemd1");
        let second = said("b");
        let mut stream = b"OK 0123\r\nAGREE_UNIX_FD\r\n".to_vec();
        stream.extend(as_pid_1_would(&first));
        stream.extend(as_pid_1_would(&second));
        let mut parts = Vec::new();
        let mut buffer = Vec::new();
        for byte in stream {
            buffer.push(byte);
            let ready = make_ready(&mut buffer).expect("no message is too long");
            parts.extend((ready > 0).then(|| buffer.drain(..ready).collect::<Vec<u8>>()));
        }
        assert!(buffer.is_empty(), "{buffer:?}");
        let [ok, agree, one, two] = &parts[..] else {
            panic!("{parts:?}");
        };
        assert_eq!(ok, b"OK 0123\r\n");
        assert_eq!(agree, b"AGREE_UNIX_FD\r\n");
        assert_eq!(one[..], first.data()[..], "the body stays as it is");
        assert_eq!(two[..], second.data()[..]);
    }

    #[test]
    fn a_length_that_no_message_has_is_an_error() {
        let mut endless = [0xff; FIXED];
        endless[0] = b'l';
        make_ready(&mut endless).expect_err("four gigabytes");
    }
}
