//! Who has the last word on an attempt: the agent or the dead-man program. The first to leave its
//! mark has it, for ever; the file system decides between them.
//!
//! A full disk must not stand in the way back, so whatever a mark is made of lies ready before the
//! machine is disturbed ([`Verdicts::prepare`]): leaving one is then only a new name for a file that
//! is there, which takes no space.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use common::{BootId, LeaseId};

use crate::{host::HostError, state_file::sync_directory_of};

/// Marks of who judges, and what they are made of.
const VERDICT: &str = "verdict-";

/// Marks of the dead-man program's reboot.
const BOOTED_BACK: &str = "booted-back-";

/// Who may judge an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The agent, in the ordinary way.
    Agent,
    /// The dead-man program: it changes the machine from here on.
    DeadMan,
}

impl Judge {
    const ALL: [Self; 2] = [Self::Agent, Self::DeadMan];

    fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::DeadMan => "dead-man",
        }
    }
}

/// The marks, one file for each lease.
#[derive(Clone, Debug)]
pub struct Verdicts {
    directory: PathBuf,
}

impl Verdicts {
    /// The marks in this directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Lays ready what the marks of this lease are made of, durably.
    pub fn prepare(&self, lease: LeaseId) -> Result<(), HostError> {
        let all = Judge::ALL
            .iter()
            .try_for_each(|judge| self.ready(lease, *judge).map(drop));
        all.map_err(|error| {
            let doing = format!("lay the marks of lease {lease} ready");
            HostError::io(doing, error)
        })
    }

    /// Leaves a mark, unless there is one. Returns whose mark it is, durably.
    pub fn claim(&self, lease: LeaseId, judge: Judge) -> Result<Judge, HostError> {
        self.try_claim(lease, judge)
            .map_err(|error| HostError::io(format!("leave the mark of lease {lease}"), error))
    }

    fn try_claim(&self, lease: LeaseId, judge: Judge) -> io::Result<Judge> {
        let mark = self.file(lease);
        // Linking fails when the name is taken: a mark is there as a whole or not at all.
        let linked = fs::hard_link(self.ready(lease, judge)?, &mark);
        sync_directory_of(&mark)?;
        match linked {
            Ok(()) => Ok(judge),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self
                .judge(lease)
                .ok_or_else(|| io::Error::other("the mark is there and cannot be read")),
            Err(error) => Err(error),
        }
    }

    /// The file that a mark becomes another name of; written where it does not lie ready.
    fn ready(&self, lease: LeaseId, judge: Judge) -> io::Result<PathBuf> {
        let path = self
            .directory
            .join(format!("{VERDICT}{lease}.{}", judge.word()));
        if fs::read(&path).is_ok_and(|text| text == judge.word().as_bytes()) {
            return Ok(path);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(judge.word().as_bytes())?;
        file.sync_all()?;
        sync_directory_of(&path)?;
        Ok(path)
    }

    /// Whose mark there is.
    pub fn judge(&self, lease: LeaseId) -> Option<Judge> {
        let text = fs::read_to_string(self.file(lease)).ok()?;
        Judge::ALL.into_iter().find(|judge| judge.word() == text)
    }

    /// Whether the dead-man program may reboot the machine, from this boot. Its reboot is marked
    /// before it is asked for; once the machine has been booted, it is not booted again: a way back
    /// that does not lead back would be a loop.
    pub fn may_boot_back(&self, lease: LeaseId, boot: &BootId) -> Result<bool, HostError> {
        self.try_boot_back(lease, boot)
            .map_err(|error| HostError::io(format!("mark the reboot of lease {lease}"), error))
    }

    fn try_boot_back(&self, lease: LeaseId, boot: &BootId) -> io::Result<bool> {
        let prefix = format!("{BOOTED_BACK}{lease}.");
        for entry in fs::read_dir(&self.directory)? {
            if let Some(marked) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix))
            {
                return Ok(marked == boot.as_str());
            }
        }
        let mark = self.directory.join(format!("{prefix}{boot}"));
        fs::hard_link(self.ready(lease, Judge::DeadMan)?, &mark)?;
        sync_directory_of(&mark)?;
        Ok(true)
    }

    /// Removes the marks of leases before this one. What cannot be removed stays, harmlessly.
    pub fn forget_before(&self, lease: LeaseId) {
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let old = name
                .to_str()
                .and_then(lease_of)
                .is_some_and(|number| number < lease.0);
            if old && fs::remove_file(entry.path()).is_err() {
                tracing::debug!(?name, "an old mark cannot be removed");
            }
        }
    }

    fn file(&self, lease: LeaseId) -> PathBuf {
        self.directory.join(format!("{VERDICT}{lease}"))
    }
}

/// The lease that a file of ours belongs to.
fn lease_of(name: &str) -> Option<u64> {
    let rest = [VERDICT, BOOTED_BACK]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let number = rest.split_once('.').map_or(rest, |(number, _)| number);
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mark_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let verdicts = Verdicts::new(dir.path());
        let lease = LeaseId(7);
        assert_eq!(verdicts.judge(lease), None);
        assert_eq!(
            verdicts.claim(lease, Judge::DeadMan).expect("left"),
            Judge::DeadMan
        );
        assert_eq!(
            verdicts.claim(lease, Judge::Agent).expect("read"),
            Judge::DeadMan
        );
        assert_eq!(verdicts.judge(lease), Some(Judge::DeadMan));
        assert_eq!(
            verdicts.claim(LeaseId(8), Judge::Agent).expect("left"),
            Judge::Agent
        );
        assert_eq!(
            verdicts.claim(LeaseId(8), Judge::Agent).expect("read"),
            Judge::Agent
        );
    }

    #[test]
    fn a_mark_that_lies_ready_takes_no_space() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let verdicts = Verdicts::new(dir.path());
        let lease = LeaseId(7);
        verdicts.prepare(lease).expect("laid ready");
        let number = |name: &str| fs::metadata(dir.path().join(name)).expect("there").ino();
        let ready = number("verdict-7.dead-man");
        verdicts.prepare(lease).expect("again");
        assert_eq!(number("verdict-7.dead-man"), ready, "not written again");
        assert_eq!(verdicts.judge(lease), None, "nobody has claimed it");
        assert_eq!(
            verdicts.claim(lease, Judge::DeadMan).expect("left"),
            Judge::DeadMan
        );
        assert_eq!(number("verdict-7"), ready, "another name of the same file");
        assert!(verdicts.may_boot_back(lease, &boot("a")).expect("marked"));
        assert_eq!(number("booted-back-7.a"), ready);
    }

    #[test]
    fn one_boot_back_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let verdicts = Verdicts::new(dir.path());
        let lease = LeaseId(7);
        let may = |lease, name| verdicts.may_boot_back(lease, &boot(name)).expect("read");
        assert!(may(lease, "a"));
        assert!(may(lease, "a"), "it did not happen: asked for again");
        assert!(!may(lease, "b"), "it did");
        assert!(may(LeaseId(8), "b"), "another lease's");
    }

    fn boot(name: &str) -> BootId {
        name.parse().expect("a boot id")
    }

    #[test]
    fn old_marks_go_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let verdicts = Verdicts::new(dir.path());
        for lease in [1, 2, 10] {
            verdicts.prepare(LeaseId(lease)).expect("laid ready");
            let judge = verdicts.claim(LeaseId(lease), Judge::Agent).expect("left");
            assert_eq!(judge, Judge::Agent);
            assert!(
                verdicts
                    .may_boot_back(LeaseId(lease), &boot("a"))
                    .expect("marked")
            );
        }
        fs::write(dir.path().join("verdict-of-history"), "").expect("written");
        verdicts.forget_before(LeaseId(10));
        assert_eq!(verdicts.judge(LeaseId(1)), None);
        assert_eq!(verdicts.judge(LeaseId(10)), Some(Judge::Agent));
        assert!(dir.path().join("verdict-of-history").exists());
        let left = fs::read_dir(dir.path()).expect("there").count();
        assert_eq!(left, 5, "four of lease 10, and the other one");
    }
}
