//! The demo's programs as processes of their own: this very binary under hidden names, so that
//! nothing has to be installed. Their output goes to files; they end with the demo, however it
//! ends.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use common::MachineName;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::error::DemoError;

/// How long a program may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(2);

/// How long a machine is down when it reboots, in real time: long enough to be seen.
const REBOOT: Duration = Duration::from_millis(300);

/// How long a program that ended by itself stays down, as systemd's `RestartSec` would have it.
const RESTART: Duration = Duration::from_millis(200);

/// A program that ends this often within a minute is not started again.
const RESTARTS_MAX: u32 = 20;

/// Lines of a log that an error shows.
const LOG_LINES: usize = 8;

/// Asks the kernel to end this process with the demo that started it. To be called first in every
/// program that the demo starts.
pub fn end_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before the line above: nobody is left to be waited for.
    if nix::unistd::getppid() == Pid::from_raw(1) && std::env::var_os(PARENT).is_some() {
        return Err(io::Error::other("the demo has ended"));
    }
    Ok(())
}

/// Set for the demo's programs, so that they know that they have a parent.
const PARENT: &str = "LAB_DEMO_PARENT";

/// How the demo's programs are started.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    exe: PathBuf,
    logs: PathBuf,
}

impl Programs {
    /// This binary; logs go to that directory.
    pub(super) fn new(logs: &Path) -> Result<Self, DemoError> {
        fs::create_dir_all(logs).map_err(DemoError::file("make", logs))?;
        let exe = std::env::current_exe().map_err(DemoError::file("find", "this program"))?;
        Ok(Self {
            exe,
            logs: logs.to_owned(),
        })
    }

    /// Starts `program --config FILE`; `name` names its log.
    fn start(&self, program: &str, name: &str, config: &Path) -> Result<Child, DemoError> {
        let log = self.log(name);
        let open = || File::options().create(true).append(true).open(&log);
        let out = open().map_err(DemoError::file("open", &log))?;
        let err = open().map_err(DemoError::file("open", &log))?;
        Command::new(&self.exe)
            .arg(program)
            .arg("--config")
            .arg(config)
            .env(PARENT, std::process::id().to_string())
            // Not the journal of whoever started the demo, and nobody to notify.
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .env("NO_COLOR", "1")
            // The demo's closures are not worth a sync of the whole file system each.
            .env("NIXOS_NO_SYNC", "1")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // Ctrl-C is for the demo, which ends its programs in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| DemoError::Start {
                what: name.to_owned(),
                source,
            })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The end of what a program wrote.
    fn log_tail(&self, name: &str) -> String {
        let text = fs::read(self.log(name)).unwrap_or_default();
        let text = common::text::tame(&String::from_utf8_lossy(&text), 64 * 1024);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        lines[from..].join("\n")
    }
}

/// The coordinator, running.
#[derive(Debug)]
pub(super) struct Coordinator {
    child: Child,
    programs: Programs,
}

impl Coordinator {
    const NAME: &'static str = "coordinator";

    /// Starts it.
    pub(super) fn start(programs: &Programs, config: &Path) -> Result<Self, DemoError> {
        Ok(Self {
            child: programs.start(Self::NAME, Self::NAME, config)?,
            programs: programs.clone(),
        })
    }

    /// An error when it has ended.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(DemoError::Ended {
                what: Self::NAME.to_owned(),
                status: status.to_string(),
                log: self.programs.log_tail(Self::NAME),
            }),
            Err(source) => Err(DemoError::Start {
                what: Self::NAME.to_owned(),
                source,
            }),
        }
    }

    /// Ends it.
    pub(super) async fn end(mut self) {
        end(&mut self.child).await;
    }
}

/// What the keeper of an agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Keep,
    /// Kill it and start it again.
    Crash,
    /// Kill it and leave it so.
    Silence,
    /// Ask it to end, and leave it so.
    End,
}

/// An agent and what systemd is to it: started again when it ends and when its machine reboots.
#[derive(Debug)]
pub(super) struct Agent {
    orders: watch::Sender<Order>,
    failure: watch::Receiver<Option<Arc<DemoError>>>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Agent {
    /// Starts the agent of a machine and keeps it running.
    pub(super) fn keep(programs: &Programs, machine: &MachineName, config: &Path) -> Self {
        let (orders, order) = watch::channel(Order::Keep);
        let (report, failure) = watch::channel(None);
        let keeper = Keeper {
            programs: programs.clone(),
            name: format!("agent-{machine}"),
            config: config.to_owned(),
            order,
            report,
        };
        Self {
            orders,
            failure,
            keeper: tokio::spawn(keeper.run()),
        }
    }

    /// Why it is not kept running any more, where it should be.
    pub(super) fn failure(&self) -> Option<Arc<DemoError>> {
        self.failure.borrow().clone()
    }

    /// Kills it in the middle of whatever it does; it is started again.
    pub(super) fn crash(&self) {
        self.orders.send_replace(Order::Crash);
    }

    /// Kills it for good.
    pub(super) fn silence(&self) {
        self.orders.send_replace(Order::Silence);
    }

    /// Ends it.
    pub(super) async fn end(self) {
        self.orders.send_replace(Order::End);
        // The keeper bounds its own wait; a panic in it has been reported already.
        self.keeper.await.ok();
    }
}

struct Keeper {
    programs: Programs,
    name: String,
    config: PathBuf,
    order: watch::Receiver<Order>,
    report: watch::Sender<Option<Arc<DemoError>>>,
}

impl Keeper {
    async fn run(mut self) {
        if let Err(error) = self.keep().await {
            self.report.send_replace(Some(Arc::new(error)));
        }
    }

    async fn keep(&mut self) -> Result<(), DemoError> {
        let (mut restarts, mut began) = (0_u32, Instant::now());
        loop {
            let mut child = self.programs.start("agent", &self.name, &self.config)?;
            let pause = match self.until_end(&mut child).await {
                Some(status)
                    if status.code() == Some(i32::from(agent::directory::EXIT_REBOOTED)) =>
                {
                    REBOOT
                }
                Some(status) => {
                    if began.elapsed() > Duration::from_secs(60) {
                        (restarts, began) = (0, Instant::now());
                    }
                    restarts += 1;
                    if restarts > RESTARTS_MAX {
                        return Err(DemoError::Ended {
                            what: self.name.clone(),
                            status: format!("{restarts} times in a minute, at last with {status}"),
                            log: self.programs.log_tail(&self.name),
                        });
                    }
                    RESTART
                }
                None => return Ok(()),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = told_to_end(&mut self.order) => return Ok(()),
            }
        }
    }

    /// Waits for the agent's end; `None` when it is not to be started again.
    async fn until_end(&mut self, child: &mut Child) -> Option<ExitStatus> {
        loop {
            tokio::select! {
                status = child.wait() => return status.ok(),
                changed = self.order.changed() => {
                    let order = if changed.is_ok() {
                        *self.order.borrow_and_update()
                    } else {
                        Order::End
                    };
                    match order {
                        Order::Keep => {}
                        Order::Crash => {
                            child.start_kill().ok();
                        }
                        Order::Silence => {
                            child.start_kill().ok();
                            child.wait().await.ok();
                            return None;
                        }
                        Order::End => {
                            end(child).await;
                            return None;
                        }
                    }
                }
            }
        }
    }
}

async fn told_to_end(order: &mut watch::Receiver<Order>) {
    let ends = |order: &Order| matches!(order, Order::End | Order::Silence);
    // An error means that the demo has dropped the handle: that is the end too.
    order.wait_for(ends).await.map(drop).ok();
}

/// Asks a process to end, and makes it when it does not.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended by itself: that is what is wanted.
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        if timeout(END_WITHIN, child.wait()).await.is_ok() {
            return;
        }
    }
    child.kill().await.ok();
}
