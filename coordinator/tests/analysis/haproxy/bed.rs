//! A HAProxy of its own, four small backends that come and go, and clients that ask all the time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coordinator_core::traffic::At;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::closed;

/// How long a backend takes for an answer: long enough that moves always find some under way.
const THINKS: Duration = Duration::from_millis(40);

/// The same of the path `/slow`.
const THINKS_SLOWLY: Duration = Duration::from_secs(2);

/// What is written in HAProxy's configuration.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    /// The level of the socket.
    pub(crate) level: &'a str,
    /// Lines of the backend.
    pub(crate) backend: &'a str,
    /// At the end of each server's line; `NAME` stands for its name.
    pub(crate) server: &'a str,
    /// Sections of their own.
    pub(crate) sections: &'a str,
}

impl Default for Words<'_> {
    fn default() -> Self {
        Self {
            level: "admin",
            backend: "",
            server: "check",
            sections: "",
        }
    }
}

/// A HAProxy and its backends.
pub(crate) struct Bed {
    /// Where its runtime API listens.
    pub(crate) at: At,
    /// Where it takes requests.
    pub(crate) front: SocketAddr,
    process: Child,
    addresses: BTreeMap<&'static str, SocketAddr>,
    serving: BTreeMap<&'static str, JoinSet<()>>,
    directory: TempDir,
}

impl Bed {
    /// Two sides of two servers each, all of them up; with these words at the end of their lines.
    pub(crate) async fn start(server: &str) -> Self {
        let words = Words {
            server,
            ..Words::default()
        };
        Self::with(words).await
    }

    /// The same, with more words.
    pub(crate) async fn with(words: Words<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("admin.sock");
        let front = closed().await;
        let mut addresses = BTreeMap::new();
        let mut lines = String::new();
        for server in ["blue-1", "blue-2", "green-1", "green-2"] {
            let address = closed().await;
            addresses.insert(server, address);
            let end = words.server.replace("NAME", server);
            lines.push_str(&format!("  server {server} {address} {end}\n"));
        }
        let Words {
            level,
            backend,
            sections,
            ..
        } = words;
        let config = format!(
            "global\n  stats socket {socket} level {level}\n  nbthread 2\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n\
             frontend web\n  bind {front}\n  default_backend web\n\
             backend web\n  option httpchk GET /health\n  default-server inter 100ms rise 2 fall 2\n\
             {backend}\n{lines}{sections}\n",
            socket = socket.display(),
        );
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, config).expect("a configuration");
        let mut bed = Self {
            at: At::Socket(socket.display().to_string()),
            front,
            process: haproxy(directory.path()),
            addresses,
            serving: BTreeMap::new(),
            directory,
        };
        for server in ["blue-1", "blue-2", "green-1", "green-2"] {
            bed.serve(server);
        }
        bed.answers().await;
        bed
    }

    async fn answers(&self) {
        let answers = async {
            while get(self.front, "/").await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(10), answers)
            .await
            .expect("HAProxy answers");
    }

    /// A backend is there, and says its name.
    pub(crate) fn serve(&mut self, server: &'static str) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(self.addresses[server]).expect("its port");
        let listener = socket.listen(64).expect("its port");
        let mut tasks = JoinSet::new();
        tasks.spawn(backend(listener, server));
        self.serving.insert(server, tasks);
    }

    /// A backend is gone, with every connection to it.
    pub(crate) fn stop(&mut self, server: &str) {
        self.serving.remove(server).expect("it serves");
    }

    /// Somebody else says something to HAProxy.
    pub(crate) async fn say(&self, command: &str) {
        let At::Socket(path) = &self.at else {
            panic!("a socket");
        };
        let mut stream = UnixStream::connect(path).await.expect("HAProxy");
        let line = format!("{command}\n");
        stream.write_all(line.as_bytes()).await.expect("said");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("heard");
        assert_eq!(answer.trim(), "", "{command}");
    }

    /// HAProxy begins anew from its file, as with a reload: what it was told is forgotten.
    pub(crate) async fn begin_anew(&mut self) {
        self.end();
        self.process = haproxy(self.directory.path());
        self.answers().await;
    }

    /// HAProxy is gone.
    pub(crate) fn end(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
}

fn haproxy(directory: &Path) -> Child {
    Command::new("haproxy")
        .arg("-f")
        .arg(directory.join("haproxy.cfg"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("haproxy, of the package of that name")
}

impl Drop for Bed {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Takes connections and answers on each until it is closed; all of them end with it.
async fn backend(listener: TcpListener, name: &'static str) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut stream = BufReader::new(stream);
            loop {
                let Ok(path) = request(&mut stream).await else {
                    return;
                };
                match path.as_str() {
                    "/health" => {}
                    "/slow" => sleep(THINKS_SLOWLY).await,
                    _ => sleep(THINKS).await,
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                    name.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The path of the next request.
async fn request(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let head = head(stream).await?;
    let path = head.split_whitespace().nth(1);
    Ok(path.unwrap_or_default().to_owned())
}

async fn head(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// Asks once, on a connection of its own.
pub(crate) async fn get(front: SocketAddr, path: &str) -> Result<String, String> {
    let stream = TcpStream::connect(front).await;
    let mut stream = BufReader::new(stream.map_err(|error| error.to_string())?);
    ask(&mut stream, path).await
}

/// Asks once on this connection; anything but 200 is a failure.
async fn ask(stream: &mut BufReader<TcpStream>, path: &str) -> Result<String, String> {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n");
    let answer = async {
        stream.write_all(asked.as_bytes()).await?;
        let head = head(stream).await?;
        let lower = head.to_lowercase();
        let length = lower
            .split_once("content-length:")
            .and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        std::io::Result::Ok((head, String::from_utf8_lossy(&body).into_owned()))
    };
    let (head, body) = answer.await.map_err(|error| error.to_string())?;
    if head.starts_with("HTTP/1.1 200") {
        Ok(body)
    } else {
        Err(head.lines().next().unwrap_or_default().to_owned())
    }
}

/// Clients that ask without a pause: some on a connection that they keep, some on a new one each time.
pub(crate) struct Load {
    seen: Arc<Mutex<Seen>>,
    stopping: watch::Sender<bool>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    asked: usize,
    failed: Vec<String>,
    /// Sides that answered since somebody began to look.
    sides: BTreeMap<String, usize>,
}

impl Load {
    pub(crate) fn start(front: SocketAddr) -> Self {
        const CLIENTS: usize = 4;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stopping, _) = watch::channel(false);
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            for keeps in [true, false] {
                let (seen, stops) = (seen.clone(), stopping.subscribe());
                clients.spawn(client(front, keeps, seen, stops));
            }
        }
        Self {
            seen,
            stopping,
            clients,
        }
    }

    /// The side that answers every request from now on, for a while; panics when both do.
    pub(crate) async fn answers_from_now(&self) -> String {
        // Whoever asked before has its answer by then.
        sleep(THINKS * 4).await;
        self.look(|seen| seen.sides.clear());
        sleep(Duration::from_millis(400)).await;
        let sides = self.look(|seen| seen.sides.clone());
        let names: Vec<&String> = sides.keys().collect();
        let [only] = names[..] else {
            panic!("more than one side answers, or none: {sides:?}");
        };
        only.clone()
    }

    /// How many requests there were, and what went wrong with those that failed.
    pub(crate) async fn stop(self) -> (usize, Vec<String>) {
        self.stopping.send_replace(true);
        let seen = self.seen.clone();
        self.clients.join_all().await;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.asked, std::mem::take(&mut seen.failed))
    }

    fn look<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn client(
    front: SocketAddr,
    keeps: bool,
    seen: Arc<Mutex<Seen>>,
    stops: watch::Receiver<bool>,
) {
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !*stops.borrow() {
        let answer = match kept.take() {
            Some(mut stream) => {
                let answer = ask(&mut stream, "/").await;
                kept = Some(stream);
                answer
            }
            None => match TcpStream::connect(front).await {
                Ok(stream) => {
                    let mut stream = BufReader::new(stream);
                    let answer = ask(&mut stream, "/").await;
                    kept = keeps.then_some(stream);
                    answer
                }
                Err(error) => Err(error.to_string()),
            },
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.asked += 1;
        match answer {
            Ok(body) => {
                let side = body.split('-').next().unwrap_or_default().to_owned();
                *seen.sides.entry(side).or_default() += 1;
            }
            Err(error) => {
                kept = None;
                seen.failed.push(error);
            }
        }
    }
}
