//! A drive whose power can go at an instant, with an ext4 file system on it.
//!
//! The drive's medium is a file in memory (`memfd`) under a loop device. Cutting the power is
//! *sealing* that file: from that instant on the kernel refuses every write to it, whoever still
//! has pages to write. What was written to the file system but not to the drive is lost, as it is
//! when a machine loses power; ending the process alone would lose nothing, because the kernel
//! would go on writing for it.
//!
//! With [`Cache::Volatile`] the drive is a file on a second file system on such a drive: what it
//! was told to write it keeps in memory until it is told to flush, and a cut loses all of that.
//! This is what a disk with a write cache may do.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
    sys::memfd::{MFdFlags, memfd_create},
};

use crate::fleet::{FleetError, run_program};

/// How long a file system may be in use after its user has gone: sled gives up its files from a
/// thread of its own, a little later.
const LET_GO: Duration = Duration::from_secs(20);

/// What a drive does with what it is told to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Writes it.
    None,
    /// Keeps it in memory until it is told to flush.
    Volatile,
}

/// Why the drive does not work.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Mounting needs root.
    #[error("a file system cannot be mounted: not root")]
    NotRoot,
    /// A program of the system did not do what it should.
    #[error(transparent)]
    Program(#[from] FleetError),
    /// The kernel refused something.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl DriveError {
    fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }
}

/// A drive with a file system, mounted.
#[derive(Debug)]
pub struct Drive {
    medium: File,
    cache: Cache,
    /// Mount points, the outer first.
    mounted: Vec<PathBuf>,
    place: PathBuf,
    size: u64,
}

impl Drive {
    /// Gives this thread, and every process it starts, mounts of its own, so that nothing stays
    /// mounted however this process ends. To be called before any other thread is started.
    ///
    /// # Errors
    /// Without root.
    pub fn keep_mounts_private() -> Result<(), DriveError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(DriveError::NotRoot);
        }
        unshare(CloneFlags::CLONE_NEWNS).map_err(DriveError::system("get mounts of our own"))?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(DriveError::system("keep mounts private"))
    }

    /// A new drive of this many bytes, mounted below `place`.
    ///
    /// # Errors
    /// Without root, or when the system's programs fail.
    pub fn new(place: &Path, size: u64, cache: Cache) -> Result<Self, DriveError> {
        let medium = memory("drive")?;
        medium
            .set_len(size)
            .map_err(DriveError::system("make a drive"))?;
        let mut drive = Self {
            medium,
            cache,
            mounted: Vec::new(),
            place: place.to_owned(),
            size,
        };
        make_file_system(&drive.medium_path())?;
        drive.plug_in(true)?;
        Ok(drive)
    }

    /// Where its file system is mounted.
    pub fn path(&self) -> PathBuf {
        self.place.join(match self.cache {
            Cache::None => "outer",
            Cache::Volatile => "disk",
        })
    }

    /// Cuts the power. Nothing more reaches the medium.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self) -> Result<(), DriveError> {
        let sealed = fcntl(
            &self.medium,
            FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE),
        );
        sealed
            .map_err(DriveError::system("cut the power"))
            .map(drop)
    }

    /// Gives the power back: what the medium held at the cut is mounted again, and the file systems
    /// recover from their journals. Whoever used it must have ended.
    ///
    /// # Errors
    /// When the system's programs fail.
    pub fn restore(&mut self) -> Result<(), DriveError> {
        self.unplug()?;
        // A seal cannot be taken back, so the medium goes on as a copy of itself.
        let mut copy = memory("drive")?;
        let copied = self
            .medium
            .seek(SeekFrom::Start(0))
            .and_then(|_| io::copy(&mut self.medium, &mut copy));
        copied.map_err(DriveError::system("copy the drive"))?;
        self.medium = copy;
        self.plug_in(false)
    }

    /// Writes the medium to a file, to be looked at.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self, file: &Path) -> Result<(), DriveError> {
        let saved = File::create(file).and_then(|mut file| {
            self.medium.seek(SeekFrom::Start(0))?;
            io::copy(&mut self.medium, &mut file)
        });
        saved
            .map_err(DriveError::system("save the drive"))
            .map(drop)
    }

    fn medium_path(&self) -> PathBuf {
        let (process, descriptor) = (std::process::id(), self.medium.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{descriptor}"))
    }

    fn plug_in(&mut self, fresh: bool) -> Result<(), DriveError> {
        let outer = self.place.join("outer");
        self.mount(&self.medium_path(), outer.clone())?;
        if self.cache == Cache::None {
            return Ok(());
        }
        let inner = outer.join("drive");
        if fresh {
            // Written, not only reserved: blocks that were never written take a change of the outer
            // file system's own metadata with every first write.
            let made = File::create(&inner).and_then(|mut file| {
                io::copy(&mut io::Read::take(io::repeat(0), self.size / 2), &mut file)?;
                file.sync_all()
            });
            made.map_err(DriveError::system("make the inner drive"))?;
            make_file_system(&inner)?;
        }
        self.mount(&inner, self.place.join("disk"))
    }

    fn mount(&mut self, device: &Path, at: PathBuf) -> Result<(), DriveError> {
        fs::create_dir_all(&at).map_err(DriveError::system("make a mount point"))?;
        // The loop device ends by itself with its mount; the medium's path must not be resolved.
        let mut command = Command::new("mount");
        command.args(["-c", "-t", "ext4", "-o", "loop"]).arg(device);
        run_program(command.arg(&at))?;
        self.mounted.push(at);
        Ok(())
    }

    fn unplug(&mut self) -> Result<(), DriveError> {
        let end = Instant::now() + LET_GO;
        while let Some(at) = self.mounted.last() {
            match umount(at) {
                Ok(()) => drop(self.mounted.pop()),
                Err(nix::errno::Errno::EBUSY) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(DriveError::system("unmount")(error)),
            }
        }
        Ok(())
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // What stays mounted ends with this process, whose mounts are its own.
        self.unplug().ok();
    }
}

fn memory(name: &str) -> Result<File, DriveError> {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let made: Result<OwnedFd, _> = memfd_create(name, flags);
    made.map(File::from)
        .map_err(DriveError::system("get memory for a drive"))
}

fn make_file_system(device: &Path) -> Result<(), DriveError> {
    let mut command = Command::new("mkfs.ext4");
    // No lazy work of the kernel's beside ours.
    command.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    run_program(command.arg(device))?;
    Ok(())
}
