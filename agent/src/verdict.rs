//! Who has the last word on an attempt: the agent or the dead-man program. The first to leave its
//! mark has it, for ever; the file system decides between them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use common::LeaseId;

use crate::{host::HostError, state_file::sync_directory_of};

const PREFIX: &str = "verdict-";

/// Who may judge an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The agent, in the ordinary way.
    Agent,
    /// The dead-man program: it changes the machine from here on.
    DeadMan,
}

impl Judge {
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

    /// Leaves a mark, unless there is one. Returns whose mark it is, durably.
    pub fn claim(&self, lease: LeaseId, judge: Judge) -> Result<Judge, HostError> {
        self.try_claim(lease, judge)
            .map_err(|error| HostError::io(format!("leave the mark of lease {lease}"), error))
    }

    fn try_claim(&self, lease: LeaseId, judge: Judge) -> io::Result<Judge> {
        let mark = self.file(lease);
        // Written aside and then linked to its name, which fails when the name is taken: a mark is
        // there as a whole or not at all.
        let aside = self
            .directory
            .join(format!("{PREFIX}{lease}.{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(judge.word().as_bytes())?;
        file.sync_all()?;
        let linked = fs::hard_link(&aside, &mark);
        fs::remove_file(&aside)?;
        sync_directory_of(&mark)?;
        match linked {
            Ok(()) => Ok(judge),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self
                .judge(lease)
                .ok_or_else(|| io::Error::other("the mark is there and cannot be read")),
            Err(error) => Err(error),
        }
    }

    /// Whose mark there is.
    pub fn judge(&self, lease: LeaseId) -> Option<Judge> {
        let text = fs::read_to_string(self.file(lease)).ok()?;
        [Judge::Agent, Judge::DeadMan]
            .into_iter()
            .find(|judge| judge.word() == text)
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
                .and_then(|name| name.strip_prefix(PREFIX))
                .and_then(|number| number.parse::<u64>().ok())
                .is_some_and(|number| number < lease.0);
            if old && fs::remove_file(entry.path()).is_err() {
                tracing::debug!(?name, "an old mark cannot be removed");
            }
        }
    }

    fn file(&self, lease: LeaseId) -> PathBuf {
        self.directory.join(format!("{PREFIX}{lease}"))
    }
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
    fn old_marks_go_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let verdicts = Verdicts::new(dir.path());
        for lease in [1, 2, 10] {
            let judge = verdicts.claim(LeaseId(lease), Judge::Agent).expect("left");
            assert_eq!(judge, Judge::Agent);
        }
        fs::write(dir.path().join("verdict-of-history"), "").expect("written");
        verdicts.forget_before(LeaseId(10));
        assert_eq!(verdicts.judge(LeaseId(1)), None);
        assert_eq!(verdicts.judge(LeaseId(10)), Some(Judge::Agent));
        assert!(dir.path().join("verdict-of-history").exists());
    }
}
