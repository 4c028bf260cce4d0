//! HAProxy's runtime API: which servers of a backend get traffic.
//!
//! One command a connection, over a Unix socket or TCP; every answer is bounded in time and size. The
//! formats are those of HAProxy's management guide: `show servers state` (version 1) and `show stat`.

mod error;
mod persistence;

use std::{collections::BTreeMap, io, time::Duration};

use common::text::{DETAIL_MAX, tame_line};
use coordinator_core::traffic::At;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout},
};

pub use error::HaproxyError;

/// How long one command may take. HAProxy answers from memory.
const COMMAND: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes: some thousands of servers.
const ANSWER_MAX: u64 = 1024 * 1024;

/// From one look at the servers to the next.
const LOOK: Duration = Duration::from_millis(200);

/// Bits of `srv_admin_state` that stand for maintenance, whatever it came from.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;

/// Bits of `srv_admin_state` that stand for draining.
const DRAINING: u32 = 0x08 | 0x10;

/// `srv_op_state` of a server that runs.
const RUNNING: u32 = 2;

/// The bit of `srv_check_state` that says that there is a health check.
const CHECK_CONFIGURED: u32 = 0x02;

/// `srv_check_result` of a check that passed, and of one that passed with a reservation.
const CHECK_PASSED: [u32; 2] = [3, 4];

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until HAProxy has the new side up.
    pub up: Duration,
    /// Until the old side has no sessions any more.
    pub drain: Duration,
}

/// What a move came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Servers that still had sessions when the time for draining was over, and how many.
    pub left: Vec<(String, u64)>,
}

/// One server, as `show servers state` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// HAProxy's number of its backend: a frontend may have the backend's name, and then that is found by it.
    backend: u32,
    op_state: u32,
    admin_state: u32,
    check_result: u32,
    check_state: u32,
}

impl Server {
    /// Whether it is to get traffic: neither draining nor in maintenance.
    pub fn is_in(&self) -> bool {
        self.admin_state == 0
    }

    /// Whether it gets traffic, and HAProxy's own check says that it is there.
    pub fn serves(&self) -> bool {
        self.is_in() && self.op_state == RUNNING && CHECK_PASSED.contains(&self.check_result)
    }

    fn is_in_maintenance(&self) -> bool {
        self.admin_state & MAINTENANCE != 0
    }

    fn is_draining(&self) -> bool {
        self.admin_state & DRAINING != 0
    }
}

/// One backend of one HAProxy.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    /// Where the runtime API listens.
    pub at: &'a At,
    /// The backend's name.
    pub name: &'a str,
}

impl Backend<'_> {
    /// Puts the traffic on these servers and takes it from those, in that order: nothing is taken away
    /// before HAProxy itself has every server of the new side up. Says where the traffic is to be, so that
    /// doing it again does no harm.
    ///
    /// # Errors
    /// When HAProxy cannot be asked, when the backend keeps clients to their servers, when a server is not
    /// there, is put aside or has no health check, or when the new side does not come up in time; it is then
    /// left as it was before.
    pub async fn place(
        &self,
        into: &[&str],
        out_of: &[&str],
        limits: Limits,
    ) -> Result<Placed, HaproxyError> {
        let servers = self.servers().await?;
        // Also where nothing is to be changed: the old side may be about to be updated.
        self.keeps_no_clients(&servers).await?;
        let mut opened = Vec::new();
        for server in into {
            let state = self.find(&servers, server)?;
            if state.is_in_maintenance() {
                return Err(HaproxyError::Maintenance {
                    backend: self.name.to_owned(),
                    server: (*server).to_owned(),
                });
            }
            if state.check_state & CHECK_CONFIGURED == 0 {
                return Err(HaproxyError::NoCheck {
                    backend: self.name.to_owned(),
                    server: (*server).to_owned(),
                });
            }
            if !state.is_in() {
                opened.push(*server);
            }
        }
        let mut all_out = true;
        for server in out_of {
            all_out &= !self.find(&servers, server)?.is_in();
        }
        if opened.is_empty() && all_out {
            // It is there already, and a server that is down takes nothing from anybody.
            return self.until_empty(out_of, limits.drain).await;
        }
        for server in &opened {
            self.set(server, "ready").await?;
        }
        if let Err(error) = self.until_up(into, limits.up).await {
            for server in opened {
                // What kept them from coming up may keep this from being heard; the first error counts.
                drop(self.set(server, "drain").await);
            }
            return Err(error);
        }
        for server in out_of {
            let state = self.find(&servers, server)?;
            if !state.is_draining() && !state.is_in_maintenance() {
                self.set(server, "drain").await?;
            }
        }
        let placed = self.until_empty(out_of, limits.drain).await?;
        self.verify(into, out_of).await?;
        Ok(placed)
    }

    /// A server that is in and is to be out, or the other way round, if there is one.
    ///
    /// # Errors
    /// When HAProxy cannot be asked, or one of the servers is not there.
    pub async fn strayed(
        &self,
        into: &[&str],
        out_of: &[&str],
    ) -> Result<Option<String>, HaproxyError> {
        let servers = self.servers().await?;
        for (wanted, servers_of_it) in [(true, into), (false, out_of)] {
            for server in servers_of_it {
                if self.find(&servers, server)?.is_in() != wanted {
                    return Ok(Some((*server).to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// Whether it is as it was to be: somebody else may have had another wish meanwhile.
    async fn verify(&self, into: &[&str], out_of: &[&str]) -> Result<(), HaproxyError> {
        match self.strayed(into, out_of).await? {
            None => Ok(()),
            Some(server) => Err(HaproxyError::Overruled {
                backend: self.name.to_owned(),
                server,
            }),
        }
    }

    /// Every server of the backend, by name.
    ///
    /// # Errors
    /// When HAProxy cannot be asked, or answers in another form.
    pub async fn servers(&self) -> Result<BTreeMap<String, Server>, HaproxyError> {
        let command = format!("show servers state {}", self.name);
        let answer = self.ask(&command).await?;
        let Some((_, table)) = answer.split_once("# ").filter(|(v, _)| v.trim() == "1") else {
            return Err(refused(command, &answer));
        };
        let rows = rows(table, char::is_whitespace, &command)?;
        let servers = rows.into_iter().map(|row| {
            let number = |column: &str| -> Result<u32, HaproxyError> {
                let found = row.get(column).and_then(|value| value.parse().ok());
                found.ok_or_else(|| odd(&command, format!("no number for {column}")))
            };
            let name = row.get("srv_name").copied();
            let server = Server {
                backend: number("be_id")?,
                op_state: number("srv_op_state")?,
                admin_state: number("srv_admin_state")?,
                check_result: number("srv_check_result")?,
                check_state: number("srv_check_state")?,
            };
            let name = name.ok_or_else(|| odd(&command, "no srv_name".to_owned()))?;
            Ok((name.to_owned(), server))
        });
        servers.collect()
    }

    /// Sessions and waiting requests of each server of the backend, by name.
    async fn sessions(&self) -> Result<BTreeMap<String, u64>, HaproxyError> {
        const SERVERS: u8 = 4;
        let number = self.number(&self.servers().await?)?;
        let command = format!("show stat {number} {SERVERS} -1");
        let answer = self.ask(&command).await?;
        let Some(table) = answer.strip_prefix("# ") else {
            return Err(refused(command, &answer));
        };
        let rows = rows(table, |c| c == ',', &command)?;
        let servers = rows.into_iter().map(|row| {
            let number = |column: &str| -> Result<u64, HaproxyError> {
                let found = row.get(column).and_then(|value| value.parse().ok());
                found.ok_or_else(|| odd(&command, format!("no number for {column}")))
            };
            let name = row.get("svname").copied().unwrap_or_default().to_owned();
            Ok((name, number("scur")? + number("qcur")?))
        });
        servers.collect()
    }

    async fn until_up(&self, servers: &[&str], limit: Duration) -> Result<(), HaproxyError> {
        let end = Instant::now() + limit;
        loop {
            let found = self.servers().await?;
            let mut down = Vec::new();
            for server in servers {
                if !self.find(&found, server)?.serves() {
                    down.push(format!("{}/{server}", self.name));
                }
            }
            if down.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                let servers = tame_line(&down.join(", "), DETAIL_MAX);
                return Err(HaproxyError::NotUp {
                    servers,
                    after: limit,
                });
            }
            sleep(LOOK).await;
        }
    }

    async fn until_empty(&self, servers: &[&str], limit: Duration) -> Result<Placed, HaproxyError> {
        let end = Instant::now() + limit;
        loop {
            let sessions = self.sessions().await?;
            let left = servers.iter().filter_map(|server| {
                let count = sessions.get(*server).copied().unwrap_or(0);
                (count > 0).then(|| ((*server).to_owned(), count))
            });
            let left: Vec<(String, u64)> = left.collect();
            if left.is_empty() || Instant::now() >= end {
                return Ok(Placed { left });
            }
            sleep(LOOK).await;
        }
    }

    /// HAProxy's number of the backend, by its servers.
    fn number(&self, servers: &BTreeMap<String, Server>) -> Result<u32, HaproxyError> {
        let number = servers.values().next().map(|server| server.backend);
        number.ok_or_else(|| HaproxyError::Empty {
            backend: self.name.to_owned(),
        })
    }

    fn find(
        &self,
        servers: &BTreeMap<String, Server>,
        server: &str,
    ) -> Result<Server, HaproxyError> {
        let found = servers.get(server).copied();
        found.ok_or_else(|| HaproxyError::NoServer {
            backend: self.name.to_owned(),
            server: server.to_owned(),
        })
    }

    async fn set(&self, server: &str, state: &str) -> Result<(), HaproxyError> {
        let command = format!("set server {}/{server} state {state}", self.name);
        let answer = self.ask(&command).await?;
        if answer.trim().is_empty() {
            Ok(())
        } else {
            Err(refused(command, &answer))
        }
    }

    async fn ask(&self, command: &str) -> Result<String, HaproxyError> {
        let unreachable = |source| HaproxyError::Unreachable {
            at: self.at.clone(),
            source,
        };
        let exchange = async {
            match self.at {
                At::Socket(path) => exchange(UnixStream::connect(path).await?, command).await,
                At::Address(address) => {
                    exchange(TcpStream::connect(address.as_str()).await?, command).await
                }
            }
        };
        let answered = timeout(COMMAND, exchange).await;
        let silent = |_| HaproxyError::Silent {
            command: command.to_owned(),
        };
        answered.map_err(silent)?.map_err(unreachable)
    }
}

/// Asks one thing. HAProxy hangs up after its answer.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    command: &str,
) -> io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The lines of a table by the names in its first line.
fn rows<'a>(
    table: &'a str,
    between: fn(char) -> bool,
    command: &str,
) -> Result<Vec<BTreeMap<&'a str, &'a str>>, HaproxyError> {
    let mut lines = table.lines().filter(|line| !line.trim().is_empty());
    let names = lines.next().map(|line| line.split(between));
    let names: Vec<&str> = names.into_iter().flatten().collect();
    let rows: Vec<BTreeMap<&str, &str>> = lines
        .map(|line| names.iter().copied().zip(line.split(between)).collect())
        .collect();
    if rows.is_empty() {
        return Err(odd(command, "it names no server".to_owned()));
    }
    Ok(rows)
}

fn refused(command: String, answer: &str) -> HaproxyError {
    let answer = tame_line(answer.trim(), DETAIL_MAX);
    HaproxyError::Refused { command, answer }
}

fn odd(command: &str, what: String) -> HaproxyError {
    HaproxyError::NotUnderstood {
        command: command.to_owned(),
        what,
    }
}
