//! Cut after cut: start the work, cut the power, look.
//!
//! Several cuts fall on one store, one after the other, so that recovery itself, snapshots and a
//! grown file are cut as well; then a new drive begins. Every other drive has a volatile cache.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use platform::clock::Clock;
use serde_json::{Value, json};

use super::{
    check::{Found, Remembered},
    drive::{Cache, Drive, DriveError},
    promise::{Promise, Promises},
};
use crate::sim::Rng;

/// Size of a drive in bytes: the file systems, their journals, and a store that grows for a while.
const DRIVE: u64 = 512 * 1024 * 1024;

/// Cuts on one store.
const SERIES: u64 = 8;

/// Cuts that fall into the first moments of the process, in percent: into opening and recovery.
const EARLY: u64 = 15;

/// When the power goes, after the process has begun: early, and otherwise; in microseconds.
const EARLY_WITHIN: u64 = 60_000;
const LATE_WITHIN: u64 = 700_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many cuts.
    pub cuts: u64,
    /// Decides when they fall.
    pub seed: u64,
    /// Askers at one time.
    pub askers: u32,
    /// Whether the store forgets the sync after sled's flush, a known mistake.
    pub without_sync: bool,
    /// Where drives with a fault are kept.
    pub keep: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The drive.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// A process or file.
    #[error("cannot {what}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process at work ended before its power was cut.
    #[error("the work ended by itself ({0})")]
    Ended(String),
}

impl CutError {
    fn process(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Process { what, source }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Power cuts.
    pub cuts: u64,
    /// Of these, on drives with a volatile cache.
    pub volatile: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Of those acknowledged before the cut, how many are gone.
    pub lost: u64,
    /// Cuts that lost any.
    pub cuts_with_loss: u64,
    /// Writes acknowledged after the power had gone: none may be.
    pub lost_late: u64,
    /// Stores that did not open, and why.
    pub unopenable: Vec<String>,
    /// Contradictions in what was read back.
    pub wrong: Vec<String>,
}

impl Totals {
    /// Whether nothing was lost and everything opened.
    pub fn is_good(&self) -> bool {
        let lost = self.lost + self.lost_late;
        lost == 0 && self.unopenable.is_empty() && self.wrong.is_empty()
    }

    /// As JSON.
    pub fn json(&self, wall: Duration) -> Value {
        json!({
            "cuts": self.cuts,
            "volatile": self.volatile,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "cuts_with_loss": self.cuts_with_loss,
            "acknowledged_after_the_cut": self.lost_late,
            "unopenable": self.unopenable,
            "wrong": self.wrong,
            "wall_seconds": wall.as_secs_f64(),
        })
    }

    /// In one line.
    pub fn line(&self, wall: Duration) -> String {
        format!(
            "power cuts: {} ({} with a volatile cache), {} writes acknowledged, {} lost in {} cuts, \
             {} stores that do not open, {} contradictions, {:.0} s",
            self.cuts,
            self.volatile,
            self.acknowledged,
            self.lost + self.lost_late,
            self.cuts_with_loss,
            self.unopenable.len(),
            self.wrong.len(),
            wall.as_secs_f64(),
        )
    }
}

/// Runs it. The process at work is this program with the words of `work` before its own. Calls
/// `progress` after every cut. Must be called before any thread is started.
///
/// # Errors
/// Without root, or when something other than the store fails.
pub fn run(
    options: &Options,
    work: &[&str],
    mut progress: impl FnMut(&Totals),
) -> Result<Totals, CutError> {
    Drive::keep_mounts_private()?;
    let place = tempfile::tempdir().map_err(CutError::process("make a directory"))?;
    let mut rng = Rng::new(options.seed);
    let mut totals = Totals::default();
    let mut series = 0;
    while totals.cuts < options.cuts {
        let cache = if series % 2 == 0 {
            Cache::Volatile
        } else {
            Cache::None
        };
        series += 1;
        let drive = Drive::new(place.path(), DRIVE, cache)?;
        let mut bed = Bed {
            options,
            work,
            drive,
            promises: Promises::default(),
        };
        for run in 1..=SERIES {
            let sound = bed.cut(run, &mut rng, &mut totals)?;
            totals.volatile += u64::from(cache == Cache::Volatile);
            progress(&totals);
            if !sound || totals.cuts == options.cuts {
                break;
            }
        }
    }
    Ok(totals)
}

/// One store on its drive.
struct Bed<'a> {
    options: &'a Options,
    work: &'a [&'a str],
    drive: Drive,
    promises: Promises,
}

impl Bed<'_> {
    /// Works, cuts, and looks. Whether the store is sound, so that another cut makes sense.
    fn cut(&mut self, run: u64, rng: &mut Rng, totals: &mut Totals) -> Result<bool, CutError> {
        let within = if rng.below(100) < EARLY {
            EARLY_WITHIN
        } else {
            LATE_WITHIN
        };
        let after = Duration::from_micros(rng.below(within));
        let mut working = Working::start(self.work, self.options, &self.drive, run)?;
        thread::sleep(after);
        if let Some(status) = working.ended()? {
            return Err(CutError::Ended(status));
        }
        let before = working.heard();
        self.drive.cut()?;
        let all = working.end()?;
        totals.cuts += 1;
        totals.acknowledged += all.len() as u64;

        let mut early = self.promises.clone();
        all[..before]
            .iter()
            .for_each(|promise| early.hear(*promise));
        all.iter().for_each(|promise| self.promises.hear(*promise));
        self.drive.restore()?;
        let store = self.drive.path().join("store");
        if early.is_empty() && !store.exists() {
            // Cut before the store was made, or its directory was durable: it will be new.
            return Ok(true);
        }
        let read = Remembered::read(&store, self.options.askers, Clock::system().now());
        let remembered = match read {
            Ok(remembered) => remembered,
            Err(error) => {
                let text = common::error_chain::Chain(&error).to_string();
                totals
                    .unopenable
                    .push(format!("cut {}: {text}", totals.cuts));
                self.keep(totals.cuts)?;
                return Ok(false);
            }
        };
        let lost = remembered.lost(&early);
        let Found { lost: all, wrong } = remembered.against(&self.promises);
        totals.lost += lost;
        totals.lost_late += all - lost;
        totals.cuts_with_loss += u64::from(all > 0);
        let sound = all == 0 && wrong.is_empty();
        if !sound {
            self.keep(totals.cuts)?;
        }
        let numbered = wrong
            .into_iter()
            .map(|text| format!("cut {}: {text}", totals.cuts));
        totals.wrong.extend(numbered);
        remembered.holds(&mut self.promises);
        Ok(sound)
    }

    /// Keeps a drive with a fault, as its file systems and sled have recovered it.
    fn keep(&mut self, cut: u64) -> Result<(), CutError> {
        if let Some(directory) = &self.options.keep {
            self.drive.save(&directory.join(format!("cut-{cut}.img")))?;
        }
        Ok(())
    }
}

/// The process at work.
struct Working {
    child: Child,
    heard: Arc<Mutex<Vec<Promise>>>,
    reader: thread::JoinHandle<()>,
}

impl Working {
    fn start(work: &[&str], options: &Options, drive: &Drive, run: u64) -> Result<Self, CutError> {
        let exe = std::env::current_exe().map_err(CutError::process("find this program"))?;
        let mut command = Command::new(exe);
        command
            .args(work)
            .arg("--store")
            .arg(drive.path().join("store"))
            .args(["--askers", &options.askers.to_string()])
            .args(["--run", &run.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if options.without_sync {
            command.arg("--without-sync");
        }
        let mut child = command
            .spawn()
            .map_err(CutError::process("start the work"))?;
        let heard: Arc<Mutex<Vec<Promise>>> = Arc::default();
        let said = child.stdout.take();
        let into = heard.clone();
        let reader = thread::spawn(move || said.map_or((), |said| hear(said, &into)));
        Ok(Self {
            child,
            heard,
            reader,
        })
    }

    /// How it ended, if it did, with what it said about it. Heard only then: once its power is cut
    /// it complains about its drive, as it should.
    fn ended(&mut self) -> Result<Option<String>, CutError> {
        let ended = self.child.try_wait();
        let ended = ended.map_err(CutError::process("look after the work"))?;
        let Some(status) = ended else {
            return Ok(None);
        };
        let mut said = String::new();
        if let Some(complaint) = &mut self.child.stderr {
            complaint
                .read_to_string(&mut said)
                .map_err(CutError::process("read why the work ended"))?;
        }
        Ok(Some(format!("{status}: {}", said.trim())))
    }

    /// How many promises were heard so far.
    fn heard(&self) -> usize {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Ends it, and returns everything it said.
    fn end(mut self) -> Result<Vec<Promise>, CutError> {
        // It may have ended by itself, because nothing can be made durable any more.
        self.child.kill().ok();
        self.child
            .wait()
            .map_err(CutError::process("end the work"))?;
        // A reader that broke off has said so; what it heard until then counts.
        self.reader.join().ok();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut heard))
    }
}

/// Takes every whole line as a promise.
fn hear(said: ChildStdout, into: &Mutex<Vec<Promise>>) {
    let mut said = BufReader::new(said);
    let mut line = String::new();
    while said.read_line(&mut line).is_ok_and(|read| read > 0) {
        let promise = line.strip_suffix('\n').and_then(|line| line.parse().ok());
        if let Some(promise) = promise {
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(promise);
        }
        line.clear();
    }
}
