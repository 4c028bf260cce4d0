//! The handle of a fleet: starts the supervisor, asks it, enters the machines.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::id::MachineName;

use super::{
    FleetError, MachineStatus,
    command::{self, Finished},
    host, image,
    protocol::{Reply, Request},
    provision,
    run_dir::{self, ProcessStamp, RunDir, RunRecord},
    supervisor,
};

/// The machine that the coordinator and the cache are on. It is not one of those that are updated.
pub const CONTROL: &str = "control";

/// How long a command in a machine may take.
const EXEC_MAX: Duration = Duration::from_secs(120);

/// How long the supervisor may take to answer.
const START_MAX: Duration = Duration::from_secs(20);

/// Between two looks.
pub(super) const GLANCE: Duration = Duration::from_millis(25);

/// What fleet is wanted.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Its name: fleets of different names run side by side.
    pub name: String,
    /// The machines, without `control`.
    pub machines: Vec<MachineName>,
    /// The program that has the [parts](super::Part) of a fleet as subcommands.
    pub program: PathBuf,
    /// End the fleet when this process ends, in whatever way.
    pub ends_with_us: bool,
    /// Bytes that each machine, `control` excepted, may write; its `/boot` then holds next to
    /// nothing, and [`WITNESS`] is a file system of its own that stays writable.
    pub disk: Option<u64>,
    /// Where the machines' own files are kept; in memory when there is no such directory. It is the
    /// caller's, and is left as the machines leave it.
    pub files: Option<PathBuf>,
    /// Memory of each machine but `control`, in bytes, without swap; as much as the host has when it
    /// is not limited.
    pub memory: Option<u64>,
}

/// Where a machine with a small disk can still be told things, and say them.
pub const WITNESS: &str = "/srv/witness";

/// A fleet that is up.
#[derive(Debug)]
pub struct Fleet {
    pub(super) run: RunDir,
    pub(super) record: RunRecord,
    control: MachineName,
    machines: Vec<MachineName>,
    /// Closed when this process ends; the supervisor then ends too, unless it was told to stay.
    lifeline: Option<ChildStdin>,
}

impl Fleet {
    /// Starts a fleet and waits until every machine is up and runs its first system.
    ///
    /// # Errors
    /// When the host cannot, a fleet of this name is up, or a machine does not boot.
    pub fn up(options: &FleetOptions, progress: &dyn Fn(&str)) -> Result<Self, FleetError> {
        Self::up_of(image::ensure, options, progress)
    }

    /// The same of machines that have a kernel and a boot loader, in [`super::BOOT_FILES`].
    ///
    /// # Errors
    /// As [`Fleet::up`].
    pub fn up_bootable(
        options: &FleetOptions,
        progress: &dyn Fn(&str),
    ) -> Result<Self, FleetError> {
        Self::up_of(image::ensure_bootable, options, progress)
    }

    fn up_of(
        image: impl FnOnce(&dyn Fn(&str)) -> Result<PathBuf, FleetError>,
        options: &FleetOptions,
        progress: &dyn Fn(&str),
    ) -> Result<Self, FleetError> {
        if let Some(missing) = host::missing() {
            return Err(FleetError::Host(missing));
        }
        run_dir::clean_up()?;
        let run = RunDir::named(&options.name);
        if run.alive().is_some() {
            return Err(FleetError::AlreadyUp(options.name.clone()));
        }
        let image = image(progress)?;
        run.remove()?;
        run.create()?;
        provision::write_layer(&run, &options.program)?;
        progress("starting the machines");
        let mut guard = start_supervisor(&run, &image, options)?;
        let record = match await_supervisor(&run, &mut guard) {
            Ok(record) => record,
            Err(error) => {
                // Its parent, `unshare`, takes everything with it.
                guard.kill().ok();
                return Err(error);
            }
        };
        run.save(record)?;
        let mut fleet = Self {
            run,
            record,
            control: CONTROL.parse()?,
            machines: options.machines.clone(),
            lifeline: guard.stdin.take(),
        };
        if let Err(error) = fleet.boot_and_provision(progress) {
            fleet.down()?;
            return Err(error);
        }
        if !options.ends_with_us
            && let Some(mut lifeline) = fleet.lifeline.take()
        {
            let stay = lifeline.write_all(supervisor::STAY.as_bytes());
            stay.map_err(FleetError::file("write to", fleet.run.path()))?;
        }
        Ok(fleet)
    }

    fn boot_and_provision(&self, progress: &dyn Fn(&str)) -> Result<(), FleetError> {
        self.await_up(&self.control())?;
        for machine in &self.machines {
            self.await_up(machine)?;
        }
        progress("giving the machines their first system");
        self.provision()
    }

    /// The handle of a fleet that is up already.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn open(name: &str) -> Result<Self, FleetError> {
        let run = RunDir::named(name);
        let record = run
            .alive()
            .ok_or_else(|| FleetError::NotUp(name.to_owned()))?;
        let mut fleet = Self {
            run,
            record,
            control: CONTROL.parse()?,
            machines: Vec::new(),
            lifeline: None,
        };
        let names = fleet.status()?.into_iter().map(|status| status.name);
        fleet.machines = names.filter(|name| name.as_str() != CONTROL).collect();
        Ok(fleet)
    }

    /// The machines, without `control`.
    pub fn machines(&self) -> &[MachineName] {
        &self.machines
    }

    /// The machine `control`.
    pub fn control(&self) -> MachineName {
        self.control.clone()
    }

    /// How all machines are, `control` first.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn status(&self) -> Result<Vec<MachineStatus>, FleetError> {
        match ask(&self.run, &Request::Status)? {
            Reply::Status(machines) => Ok(machines),
            Reply::Refused(reason) => Err(FleetError::Refused(reason)),
            Reply::Done => Err(FleetError::Refused("no status was given".to_owned())),
        }
    }

    /// How one machine is.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn status_of(&self, machine: &MachineName) -> Result<MachineStatus, FleetError> {
        let mut all = self.status()?.into_iter();
        all.find(|status| status.name == *machine)
            .ok_or_else(|| FleetError::Unknown(machine.clone()))
    }

    /// A command that runs `words` as root inside the machine, for as long as they take.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn command(&self, machine: &MachineName, words: &[&str]) -> Result<Command, FleetError> {
        let mut command = self.entering(machine, "--all")?;
        command
            .args(["env", "-i", "HOME=/root", "LANG=C.UTF-8"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(words);
        Ok(command)
    }

    /// A command that enters these namespaces of the machine (an option of nsenter(1)) and runs the
    /// words that it is still to be given.
    pub(super) fn entering(
        &self,
        machine: &MachineName,
        namespaces: &str,
    ) -> Result<Command, FleetError> {
        let leader = self.status_of(machine)?.leader;
        let leader = leader.ok_or_else(|| FleetError::Off(machine.clone()))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.record.supervisor.pid))
            .args(["--mount", "--pid", "--", "nsenter"])
            .arg(format!("--target={leader}"))
            .args([namespaces, "--"]);
        Ok(command)
    }

    fn bounded_command(
        &self,
        machine: &MachineName,
        words: &[&str],
    ) -> Result<Command, FleetError> {
        let limit = EXEC_MAX.as_secs().to_string();
        let mut all = vec!["timeout", "--kill-after=5", &limit];
        all.extend(words);
        self.command(machine, &all)
    }

    /// Runs `words` inside the machine to their end, for two minutes at most (exit status 124); any
    /// exit status is an answer.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn exec(&self, machine: &MachineName, words: &[&str]) -> Result<Finished, FleetError> {
        command::finish(&mut self.bounded_command(machine, words)?)
    }

    /// Runs `words` inside the machine; they must succeed. Returns what they printed.
    ///
    /// # Errors
    /// When the machine is off, or the command ends with another status than 0.
    pub fn run(&self, machine: &MachineName, words: &[&str]) -> Result<String, FleetError> {
        command::run(&mut self.bounded_command(machine, words)?)
    }

    /// Where a file of the machine is seen from this process; the machine may be off. Not for what
    /// the machine mounts itself: /run, /tmp, /proc.
    pub fn path(&self, machine: &MachineName, path: &str) -> PathBuf {
        self.supervisors(&self.run.root_of(machine.as_str()))
            .join(path.trim_start_matches('/'))
    }

    /// Where a path of the supervisor's mount namespace is seen from this process.
    pub(super) fn supervisors(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.record.supervisor.pid)).join(inside)
    }

    /// Writes a file of the machine, with its directories.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(
        &self,
        machine: &MachineName,
        path: &str,
        text: &str,
    ) -> Result<(), FleetError> {
        let path = self.path(machine, path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(FleetError::file("create", dir))?;
        }
        fs::write(&path, text).map_err(FleetError::file("write", path))
    }

    /// Reads a file of the machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_file(&self, machine: &MachineName, path: &str) -> Result<String, FleetError> {
        let path = self.path(machine, path);
        fs::read_to_string(&path).map_err(FleetError::file("read", path))
    }

    /// Ends the fleet and removes everything that it made.
    ///
    /// # Errors
    /// When the run directory cannot be removed.
    pub fn down(&self) -> Result<(), FleetError> {
        let asked = self.ask_done(&Request::Shutdown);
        let since = Instant::now();
        while self.record.supervisor.alive() || self.record.guard.alive() {
            let patience = if asked.is_ok() {
                START_MAX
            } else {
                Duration::ZERO
            };
            if since.elapsed() > patience {
                // The end of PID 1 is the end of everything in its namespaces.
                self.record.guard.kill();
            }
            if since.elapsed() > patience + START_MAX {
                return Err(FleetError::Deadline {
                    what: "the end of the supervisor".to_owned(),
                    limit: patience + START_MAX,
                });
            }
            thread::sleep(GLANCE);
        }
        self.run.remove()
    }

    /// The process that owns the fleet, in the host's PID namespace.
    pub(super) fn supervisor(&self) -> u32 {
        self.record.supervisor.pid
    }

    pub(super) fn ask_done(&self, request: &Request) -> Result<(), FleetError> {
        match ask(&self.run, request)? {
            Reply::Refused(reason) => Err(FleetError::Refused(reason)),
            Reply::Done | Reply::Status(_) => Ok(()),
        }
    }
}

fn start_supervisor(
    run: &RunDir,
    image: &Path,
    options: &FleetOptions,
) -> Result<Child, FleetError> {
    let log_path = run.log("supervisor");
    let log = File::create(&log_path).map_err(FleetError::file("create", &log_path))?;
    let errors = log
        .try_clone()
        .map_err(FleetError::file("open", &log_path))?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(&options.program)
        .args(["supervise", "--run", &options.name, "--image"])
        .arg(image)
        .args(["--machine", CONTROL]);
    if let Some(files) = &options.files {
        command.arg("--files").arg(files);
    }
    if let Some(bytes) = options.memory {
        command.args(["--memory", &bytes.to_string()]);
    }
    for machine in &options.machines {
        command.args(["--machine", machine.as_str()]);
    }
    if let Some(bytes) = options.disk {
        command.arg(format!("--disk={bytes}"));
    }
    command
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        // Not of the terminal's group: an interrupt there is not for the fleet.
        .process_group(0)
        .spawn()
        .map_err(|source| FleetError::Start {
            program: "unshare".to_owned(),
            source,
        })
}

fn await_supervisor(run: &RunDir, guard: &mut Child) -> Result<RunRecord, FleetError> {
    let since = Instant::now();
    while ask(run, &Request::Status).is_err() {
        let ended = guard
            .try_wait()
            .map_err(FleetError::file("wait for", run.path()))?;
        if ended.is_some() || since.elapsed() > START_MAX {
            let log = fs::read_to_string(run.log("supervisor")).unwrap_or_default();
            return Err(FleetError::Refused(format!(
                "the supervisor does not start: {log}"
            )));
        }
        thread::sleep(GLANCE);
    }
    let pid = guard.id();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&children).map_err(FleetError::file("read", children))?;
    let supervisor = children.trim().parse().ok().and_then(ProcessStamp::of);
    ProcessStamp::of(pid)
        .zip(supervisor)
        .map(|(guard, supervisor)| RunRecord { guard, supervisor })
        .ok_or_else(|| FleetError::NotUp(run.name().to_owned()))
}

fn ask(run: &RunDir, request: &Request) -> Result<Reply, FleetError> {
    let socket = run.socket();
    let mut connection =
        UnixStream::connect(&socket).map_err(FleetError::file("connect to", &socket))?;
    let mut line = serde_json::to_string(request).map_err(FleetError::Answer)?;
    line.push('\n');
    connection
        .write_all(line.as_bytes())
        .map_err(FleetError::file("write to", &socket))?;
    let mut answer = String::new();
    BufReader::new(connection)
        .read_line(&mut answer)
        .map_err(FleetError::file("read from", &socket))?;
    serde_json::from_str(&answer).map_err(FleetError::Answer)
}
