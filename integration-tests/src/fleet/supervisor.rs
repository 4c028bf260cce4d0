//! The process that owns a fleet: PID 1 of its own PID namespace, in its own mount namespace. Makes the
//! network and the overlays, runs the machines, answers requests. When it ends, all of it is gone.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use common::id::MachineName;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sha2::{Digest, Sha256};

use super::{
    CONTROL, FleetError, WITNESS,
    machine::Machine,
    memory, network,
    protocol::{Reply, Request},
    run_dir::{RunDir, remove_cgroup},
};

/// Where cgroup v2 is inside the supervisor's mount namespace.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

/// The boot directory of a machine with a small disk: a link or two.
const SMALL_BOOT: &str = "mode=755,size=64k,nr_inodes=16";

/// What such a machine can write even so.
const SMALL_WITNESS: &str = "mode=755,size=4m";

/// What the supervisor reads when the fleet is to outlive the process that started it.
pub(super) const STAY: &str = "stay";

/// What the machines of a fleet are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means<'a> {
    /// The root file system that they share.
    pub image: &'a Path,
    /// Bytes that each but `control` may write; as many as there are unless it is given.
    pub disk: Option<u64>,
    /// Where their own files are kept; in memory unless it is given.
    pub files: Option<&'a Path>,
    /// Memory of each but `control`, in bytes; not limited unless it is given.
    pub memory: Option<u64>,
}

/// Runs a fleet until it is told to end. Called by the `fleet` program inside new PID and mount
/// namespaces; nobody else should.
///
/// It ends when it is told to, and when standard input ends (whoever started the fleet is gone) before
/// it has said that the fleet is to stay.
///
/// # Errors
/// When the namespaces, the network or a machine cannot be set up.
pub(super) fn supervise(
    name: &str,
    machines: &[MachineName],
    means: Means<'_>,
) -> Result<(), FleetError> {
    let run = RunDir::named(name);
    let cgroups = Path::new(CGROUPS).join(run.cgroup());
    private_mounts(&run, means.files)?;
    allow_watches();
    let memory = match means.memory {
        Some(bytes) => Some((memory::prepare(&run)?, bytes)),
        None => None,
    };
    network::create_bridge()?;
    let mut fleet = Vec::new();
    for (index, name) in (0_u8..).zip(machines) {
        network::connect(name.as_str(), index)?;
        let disk = means.disk.filter(|_| name.as_str() != CONTROL);
        mount_root(&run, means.image, name.as_str(), disk)?;
        write_identity(&run, machines, name)?;
        let limited = memory.as_ref().filter(|_| name.as_str() != CONTROL);
        let limited = limited.map(|(cgroup, bytes)| (cgroup.join(name.as_str()), *bytes));
        let machine = Machine::new(&run, &cgroups, name.clone(), index, limited);
        fleet.push(Arc::new(machine));
    }
    let (end, ended) = mpsc::channel();
    for machine in &fleet {
        let (machine, end) = (Arc::clone(machine), end.clone());
        thread::spawn(move || {
            if let Err(error) = machine.run() {
                end.send(Err(error)).ok();
            }
        });
    }
    let starter = end.clone();
    thread::spawn(move || {
        let mut said = String::new();
        std::io::stdin().read_to_string(&mut said).ok();
        if said != STAY {
            starter.send(Ok(())).ok();
        }
    });
    let listener =
        UnixListener::bind(run.socket()).map_err(FleetError::file("listen on", run.socket()))?;
    let answering = fleet.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (fleet, end) = (answering.clone(), end.clone());
            thread::spawn(move || answer(&connection, &fleet, &end));
        }
    });
    let outcome = ended.recv().unwrap_or(Ok(()));
    thread::scope(|scope| {
        for machine in &fleet {
            // One that does not end in time ends with this process, a moment later.
            scope.spawn(|| machine.end().ok());
        }
    });
    remove_cgroup(&cgroups);
    if let Some((cgroup, _)) = &memory {
        remove_cgroup(cgroup);
        umount2(&run.memory_hierarchy(), MntFlags::MNT_DETACH).ok();
    }
    // The overlays and the memory below them; then the directory is empty but for plain files.
    for at in mounts_below(&run.file_systems()).into_iter().rev() {
        umount2(&at, MntFlags::MNT_DETACH)
            .map_err(|errno| FleetError::file("unmount", &at)(errno.into()))?;
    }
    run.remove()?;
    outcome
}

/// Serves one connection: one request, one reply.
fn answer(
    mut connection: &UnixStream,
    fleet: &[Arc<Machine>],
    end: &mpsc::Sender<Result<(), FleetError>>,
) {
    let mut line = String::new();
    if BufReader::new(connection).read_line(&mut line).is_err() {
        return;
    }
    let (reply, last) = match serde_json::from_str(&line) {
        Ok(Request::Shutdown) => (Reply::Done, true),
        Ok(request) => (reply_to(request, fleet), false),
        Err(error) => (Reply::Refused(error.to_string()), false),
    };
    if let Ok(text) = serde_json::to_string(&reply) {
        // Whoever asked and went away does not need the answer.
        writeln!(connection, "{text}").ok();
    }
    if last {
        end.send(Ok(())).ok();
    }
}

fn reply_to(request: Request, fleet: &[Arc<Machine>]) -> Reply {
    let with = |name: MachineName, act: &dyn Fn(&Machine) -> Result<(), FleetError>| {
        let Some(machine) = fleet.iter().find(|machine| *machine.name() == name) else {
            return Reply::Refused(FleetError::Unknown(name).to_string());
        };
        match act(machine) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(common::error_chain::Chain(&error).to_string()),
        }
    };
    match request {
        Request::Status => Reply::Status(fleet.iter().map(|machine| machine.status()).collect()),
        Request::PowerOn(name) => with(name, &|machine| {
            machine.power_on();
            Ok(())
        }),
        Request::PowerCut(name) => with(name, &Machine::power_cut),
        Request::Link { machine, up } => with(machine, &|machine| machine.set_link(up)),
        Request::Freeze { machine, frozen } => with(machine, &|machine| machine.set_frozen(frozen)),
        Request::Shutdown => Reply::Done,
    }
}

/// Lets root watch as many files as machines of root do together: a systemd takes about ten instances of
/// inotify, and the usual limit is 128 for all of them. Never lowers it.
fn allow_watches() {
    const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
    const ENOUGH: u32 = 4096;
    let now = fs::read_to_string(LIMIT).unwrap_or_default();
    if now.trim().parse().is_ok_and(|now: u32| now < ENOUGH)
        && let Err(error) = fs::write(LIMIT, ENOUGH.to_string())
    {
        // Few machines do with what there is.
        let now = now.trim();
        writeln!(io::stderr(), "{LIMIT} stays at {now}: {error}").ok();
    }
}

/// Makes the mounts that machines need and the host does not have: cgroup v2 alone in its place, /run/systemd and /run/netns on
/// tmpfs, and memory, or this directory, for the machines' own files.
fn private_mounts(run: &RunDir, files: Option<&Path>) -> Result<(), FleetError> {
    let none = None::<&str>;
    let failed = |at: &Path| {
        let at = at.to_owned();
        |errno: nix::errno::Errno| FleetError::file("mount", at)(errno.into())
    };
    let root = Path::new("/");
    mount(
        none,
        root,
        none,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        none,
    )
    .map_err(failed(root))?;
    // Hosts differ in what they mount here (v1, v2, both): all of it goes, innermost first.
    let cgroups = Path::new(CGROUPS);
    for inner in mounts_below(cgroups).into_iter().rev() {
        umount2(&inner, MntFlags::MNT_DETACH).map_err(failed(&inner))?;
    }
    mount(
        Some("cgroup2"),
        cgroups,
        Some("cgroup2"),
        MsFlags::empty(),
        none,
    )
    .map_err(failed(cgroups))?;
    let mut memory = vec![PathBuf::from("/run/systemd"), PathBuf::from("/run/netns")];
    match files {
        Some(files) => {
            let at = run.file_systems();
            mount(Some(files), &at, none, MsFlags::MS_BIND, none).map_err(failed(&at))?;
        }
        None => memory.push(run.file_systems()),
    }
    for at in &memory {
        fs::create_dir_all(at).map_err(FleetError::file("create", at))?;
        mount_memory(at, "mode=755")?;
    }
    Ok(())
}

/// Mounts a file system in memory.
fn mount_memory(at: &Path, options: &str) -> Result<(), FleetError> {
    let memory = Some("tmpfs");
    mount(memory, at, memory, MsFlags::empty(), Some(options))
        .map_err(|errno| FleetError::file("mount", at)(errno.into()))
}

/// Mount points at or below `top`, in the order in which they were made.
fn mounts_below(top: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|at| at.starts_with(top))
        .collect()
}

/// The machine's root: image, common layer and its own files, one over the other. With a small disk
/// its own files have that many bytes, and its boot directory next to none.
fn mount_root(
    run: &RunDir,
    image: &Path,
    machine: &str,
    disk: Option<u64>,
) -> Result<(), FleetError> {
    let base = run.file_systems().join(machine);
    if let Some(bytes) = disk {
        fs::create_dir_all(&base).map_err(FleetError::file("create", &base))?;
        mount_memory(&base, &format!("mode=755,size={bytes}"))?;
    }
    let (upper, work, root) = (base.join("own"), base.join("work"), run.root_of(machine));
    for dir in [&upper, &work, &root] {
        fs::create_dir_all(dir).map_err(FleetError::file("create", dir))?;
    }
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        run.layer().display(),
        image.display(),
        upper.display(),
        work.display()
    );
    let none = MsFlags::empty();
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        none,
        Some(options.as_str()),
    )
    .map_err(|errno| FleetError::file("mount", &root)(errno.into()))?;
    let small = [
        ("boot", SMALL_BOOT),
        (WITNESS.trim_start_matches('/'), SMALL_WITNESS),
    ];
    for (at, options) in small.iter().filter(|_| disk.is_some()) {
        let at = root.join(at);
        fs::create_dir_all(&at).map_err(FleetError::file("create", &at))?;
        mount_memory(&at, options)?;
    }
    Ok(())
}

/// Names and numbers of the machine, before its first boot.
fn write_identity(
    run: &RunDir,
    machines: &[MachineName],
    machine: &MachineName,
) -> Result<(), FleetError> {
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (index, name) in (0_u8..).zip(machines) {
        hosts += &format!("{} {name}\n", network::address(index));
    }
    let id = Sha256::digest(format!("{}/{machine}", run.name()));
    let id: String = id[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let etc = run.root_of(machine.as_str()).join("etc");
    let files = [
        ("hostname", format!("{machine}\n")),
        ("hosts", hosts),
        ("machine-id", format!("{id}\n")),
    ];
    for (name, text) in files {
        let path = etc.join(name);
        fs::write(&path, text).map_err(FleetError::file("write", path))?;
    }
    Ok(())
}
