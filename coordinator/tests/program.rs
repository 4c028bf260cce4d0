//! The program as systemd sees it: what it is told on the socket that it names in `NOTIFY_SOCKET`.

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A coordinator in a process of its own; killed when dropped.
struct Program(Child);

impl Program {
    fn start(directory: &TempDir, watchdog: Duration) -> Self {
        let config = directory.path().join("coordinator.toml");
        let text = format!(
            "state_dir = {:?}\nlisten = '127.0.0.1:0'\nenrol_listen = '127.0.0.1:0'\n",
            directory.path().join("state")
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab-coordinator"));
        command
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", directory.path().join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
            .stderr(Stdio::null());
        Self(command.spawn().expect("started"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What systemd is told next: variables, one a line.
fn told(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a word in time");
    let text = String::from_utf8_lossy(&buffer[..length]);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn systemd_hears_when_it_is_ready_that_it_lives_and_how_things_stand() {
    let directory = TempDir::new().expect("a directory");
    let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
    let patience = Some(Duration::from_secs(60));
    socket.set_read_timeout(patience).expect("set");
    let watchdog = Duration::from_millis(1500);
    let program = Program::start(&directory, watchdog);

    let ready = told(&socket);
    assert!(ready.contains(&"READY=1".to_owned()), "{ready:?}");
    let serving = |line: &String| line.starts_with("STATUS=serving on 127.0.0.1:");
    assert!(ready.iter().any(serving), "{ready:?}");
    // Three times as often as it must, so that one that comes late does no harm.
    let began = Instant::now();
    for _ in 0..6 {
        let alive = told(&socket);
        let expected = ["WATCHDOG=1", "STATUS=0 rollouts at work, 0 machines away"];
        assert_eq!(alive, expected);
    }
    assert!(began.elapsed() >= watchdog, "{:?}", began.elapsed());
    assert!(began.elapsed() < 6 * watchdog, "{:?}", began.elapsed());

    let pid = nix::unistd::Pid::from_raw(program.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("told to end");
    let last = std::iter::repeat_with(|| told(&socket));
    let mut last = last.skip_while(|told| told.contains(&"WATCHDOG=1".to_owned()));
    assert_eq!(last.next().expect("a word"), ["STOPPING=1"]);
}
