//! What Nix would have to fetch, asked of its daemon over its own protocol, which has a version: the
//! programs say it to people only. Asking also has the daemon look at the caches anew, so that what
//! was not there a moment ago is found.
//!
//! Source: `src/libstore/daemon.cc` and `worker-protocol.hh` of Nix. We speak version 1.32 (Nix 2.4),
//! which every later daemon speaks too.

use std::{io, time::Duration};

use common::StorePath;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Where the daemon listens.
pub const SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// How long an answer may take: the daemon asks every cache.
const WITHIN: Duration = Duration::from_secs(60);

/// Longest text and longest list that is read: far beyond what a daemon says.
const LENGTH_MAX: u64 = 1 << 20;

const HELLO: u64 = 0x6e69_7863;
const HELLO_BACK: u64 = 0x6478_696f;
const VERSION: u64 = (1 << 8) | 32;

const SET_OPTIONS: u64 = 19;
const QUERY_MISSING: u64 = 40;

const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const NEXT: u64 = 0x6f6c_6d67;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// What is missing of some paths and everything they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Bytes to be downloaded.
    pub download_bytes: u64,
    /// Bytes that it will take in the store.
    pub store_bytes: u64,
}

/// Why the daemon did not say.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The connection.
    #[error("cannot ask the Nix daemon")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("the Nix daemon did not answer in time")]
    TimedOut,
    /// It is older than Nix 2.4, or another program.
    #[error("the Nix daemon speaks version {}.{} of its protocol, and 1.32 is needed", .0 >> 8, .0 & 0xff)]
    Version(u64),
    /// It said something that is not in the protocol.
    #[error("the Nix daemon said something unknown: {0:#x}")]
    Unknown(u64),
    /// It refused.
    #[error("the Nix daemon says: {0}")]
    Said(String),
}

/// Asks what is missing of these paths, with these settings.
///
/// # Errors
/// When the daemon does not say so in time.
pub async fn missing<S>(
    stream: S,
    paths: &[StorePath],
    settings: &[(&str, &str)],
) -> Result<Missing, DaemonError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ask = async {
        let mut daemon = Daemon::greet(stream).await?;
        daemon.set_options(settings).await?;
        daemon.query_missing(paths).await
    };
    tokio::time::timeout(WITHIN, ask)
        .await
        .map_err(|_| DaemonError::TimedOut)?
}

/// A connection after the greeting.
struct Daemon<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Daemon<S> {
    async fn greet(stream: S) -> Result<Self, DaemonError> {
        let mut daemon = Self { stream };
        let mut hello = Words::default();
        hello.number(HELLO);
        daemon.send(hello).await?;
        match daemon.number().await? {
            HELLO_BACK => {}
            other => return Err(DaemonError::Unknown(other)),
        }
        let version = daemon.number().await?;
        if version >> 8 != 1 || version < VERSION {
            return Err(DaemonError::Version(version));
        }
        let mut more = Words::default();
        // Our version, no processor of our own, no space kept.
        more.number(VERSION).number(0).number(0);
        daemon.send(more).await?;
        daemon.until_done().await?;
        Ok(daemon)
    }

    async fn set_options(&mut self, settings: &[(&str, &str)]) -> Result<(), DaemonError> {
        let mut words = Words::default();
        words.number(SET_OPTIONS);
        let (keep_failed, keep_going, fallback, errors_only) = (0, 0, 0, 0);
        let (jobs, silence) = (1, 0);
        for number in [
            keep_failed,
            keep_going,
            fallback,
            errors_only,
            jobs,
            silence,
        ] {
            words.number(number);
        }
        let (build_hook, verbose_build, log_type, trace, cores, substitutes) = (1, 0, 0, 0, 0, 1);
        for number in [
            build_hook,
            verbose_build,
            log_type,
            trace,
            cores,
            substitutes,
        ] {
            words.number(number);
        }
        words.number(settings.len() as u64);
        for (name, value) in settings {
            words.text(name).text(value);
        }
        self.send(words).await?;
        self.until_done().await
    }

    async fn query_missing(&mut self, paths: &[StorePath]) -> Result<Missing, DaemonError> {
        let mut words = Words::default();
        words.number(QUERY_MISSING).number(paths.len() as u64);
        for path in paths {
            words.text(path.as_str());
        }
        self.send(words).await?;
        self.until_done().await?;
        // To be built, to be substituted, and unknown; only the sums matter here.
        for _ in 0..3 {
            for _ in 0..self.length().await? {
                self.text().await?;
            }
        }
        Ok(Missing {
            download_bytes: self.number().await?,
            store_bytes: self.number().await?,
        })
    }

    async fn send(&mut self, words: Words) -> Result<(), DaemonError> {
        self.stream.write_all(&words.0).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads what the daemon tells on the way, up to the end of it.
    async fn until_done(&mut self) -> Result<(), DaemonError> {
        loop {
            match self.number().await? {
                LAST => return Ok(()),
                ERROR => return Err(self.error().await?),
                NEXT => {
                    self.text().await?;
                }
                START_ACTIVITY => {
                    for _ in 0..3 {
                        self.number().await?;
                    }
                    self.text().await?;
                    self.fields().await?;
                    self.number().await?;
                }
                STOP_ACTIVITY => {
                    self.number().await?;
                }
                RESULT => {
                    for _ in 0..2 {
                        self.number().await?;
                    }
                    self.fields().await?;
                }
                other => return Err(DaemonError::Unknown(other)),
            }
        }
    }

    async fn fields(&mut self) -> Result<(), DaemonError> {
        for _ in 0..self.length().await? {
            match self.number().await? {
                0 => {
                    self.number().await?;
                }
                1 => {
                    self.text().await?;
                }
                other => return Err(DaemonError::Unknown(other)),
            }
        }
        Ok(())
    }

    /// Type, level, name, message; positions and traces after it are of no use to us.
    async fn error(&mut self) -> Result<DaemonError, DaemonError> {
        self.text().await?;
        self.number().await?;
        self.text().await?;
        Ok(DaemonError::Said(common::text::tame_line(
            &self.text().await?,
            400,
        )))
    }

    async fn number(&mut self) -> Result<u64, DaemonError> {
        Ok(self.stream.read_u64_le().await?)
    }

    /// A length that is not absurd.
    async fn length(&mut self) -> Result<u64, DaemonError> {
        match self.number().await? {
            length if length <= LENGTH_MAX => Ok(length),
            other => Err(DaemonError::Unknown(other)),
        }
    }

    async fn text(&mut self) -> Result<String, DaemonError> {
        let length = self.length().await?;
        let padded = usize::try_from(length.next_multiple_of(8)).unwrap_or_default();
        let mut bytes = vec![0; padded];
        self.stream.read_exact(&mut bytes).await?;
        bytes.truncate(usize::try_from(length).unwrap_or_default());
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A message in the making: numbers of eight bytes, texts with their length and padded to eight.
#[derive(Default)]
struct Words(Vec<u8>);

impl Words {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }
}

#[cfg(test)]
mod tests;
