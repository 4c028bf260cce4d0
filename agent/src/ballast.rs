//! Bytes kept aside in the state directory for the day when its disk is full: what an attempt has
//! to write down on its way back then still fits.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Size of the ballast, in bytes: more than the agent's state can take while it is replaced.
const BALLAST: u32 = 1024 * 1024;

/// The file with these bytes.
#[derive(Clone, Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// The ballast in this directory.
    pub fn within(directory: &Path) -> Self {
        Self {
            path: directory.join("ballast"),
        }
    }

    /// Makes the file, unless it is there as a whole.
    pub fn keep(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == u64::from(BALLAST)) {
            return Ok(());
        }
        // No two parts alike: a file system that compresses has to keep them all the same.
        let bytes: Vec<u8> = (0..BALLAST)
            .map(|place| place.wrapping_mul(0x9e37_79b1).rotate_left(place % 29) as u8)
            .collect();
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            });
        if made.is_err() {
            // A part of it would only take what is left.
            self.release();
        }
        made
    }

    /// Gives the bytes back. Whether there were any.
    pub fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Does something that takes space; once more on the ballast when there is none.
    pub fn spare<T, E>(
        &self,
        mut act: impl FnMut() -> Result<T, E>,
        is_full: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        match act() {
            Err(error) if is_full(&error) && self.release() => {
                tracing::warn!("the disk with the agent's state is full: it gives up its ballast");
                act()
            }
            done => done,
        }
    }
}

/// Whether an error says that there is no space left.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_whole_and_given_up_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let ballast = Ballast::within(dir.path());
        let size = || fs::metadata(dir.path().join("ballast")).map(|file| file.len());
        ballast.keep().expect("made");
        assert_eq!(size().expect("there"), u64::from(BALLAST));
        fs::write(dir.path().join("ballast"), "cut short").expect("written");
        ballast.keep().expect("made anew");
        assert_eq!(size().expect("there"), u64::from(BALLAST));
        assert!(ballast.release());
        assert!(!ballast.release());
    }

    #[test]
    fn a_full_disk_is_written_to_once_more_on_the_ballast() {
        let dir = tempfile::tempdir().expect("a directory");
        let ballast = Ballast::within(dir.path());
        let mut tries = 0;
        let mut write = || {
            tries += 1;
            if dir.path().join("ballast").exists() {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            } else {
                Ok(tries)
            }
        };
        assert_eq!(ballast.spare(&mut write, is_full).expect("room"), 1);
        ballast.keep().expect("made");
        assert_eq!(ballast.spare(&mut write, is_full).expect("room made"), 3);
        let other = || Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied));
        ballast.keep().expect("made");
        ballast.spare(other, is_full).expect_err("no such thing");
        assert!(ballast.release(), "kept for what it is for");
    }
}
