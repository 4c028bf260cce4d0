//! Where a machine is held in mid-step: by the scripts that a step runs, which wait as long as a file
//! is there; or, where a step runs none, by stopping the agent in the moment in which its journal says
//! so. Both are done and seen from outside, whatever has become of the machine's own systemd.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use common::{StorePath, id::MachineName};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::case::{At, Case, Fault};
use crate::fleet::{AGENT_UNIT, Fleet, FleetError, WITNESS};

/// The agent's journal.
const JOURNAL: &str = "/var/lib/lab-updater/agent.json";

/// The scripts of a machine.
const SCRIPTS: &str = "/etc/lab-toy";

/// Longest until a step is come to.
const STEP_MAX: Duration = Duration::from_secs(150);

/// Between two looks where the agent is to be stopped in mid-step.
const BLINK: Duration = Duration::from_millis(1);

/// `point NAME`: says that it was reached, waits while it is held, fails when asked to (a check as
/// often as asked, everything else once), and makes the next point what it is to be.
const POINT: &str = "\
#!/bin/sh
at=/srv/witness
if [ -e \"$at/hold/$1\" ]; then
    : >\"$at/reached/$1\"
    while [ -e \"$at/hold/$1\" ]; do sleep 0.1; done
fi
if [ -e \"$at/fail/$1\" ]; then
    [ \"$1\" = check ] || rm -f \"$at/fail/$1\"
    exit 1
fi
for kind in hold fail; do
    for next in \"$at/then/$1/$kind\"/*; do
        [ ! -e \"$next\" ] || mv \"$next\" \"$at/$kind/\"
    done
done
exit 0
";

/// The point that a service of the machine comes to when it is stopped.
const STOP: &str = "stop";

/// A service that can be made to take its time when the machine goes down.
pub(super) const SLOW_UNIT: &str = "\
[Service]
ExecStart=/bin/sleep infinity
ExecStop=/etc/lab-toy/point stop
TimeoutStopSec=20

[Install]
WantedBy=multi-user.target
";

/// The rollback hook makes the machine good again, as far as it is the checks that complain.
const MENDS: &str = "rm -f /srv/witness/hold/check /srv/witness/fail/check\n";

/// The points of one machine.
pub(super) struct Points<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) machine: &'a MachineName,
}

/// What a machine is held by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grip {
    /// A script of this name.
    Script(String),
    /// The agent, stopped.
    Agent,
}

/// The name of the point that a system's own script comes to.
fn script_of(script: &str, system: &StorePath) -> String {
    let name = system.as_str().trim_start_matches("/nix/store/");
    format!("{script}-{name}")
}

/// What holds the machine in the case's step.
pub(super) fn grip(case: &Case, before: &StorePath, target: &StorePath) -> Grip {
    let boots = case.situation.way.boots();
    let of = |path: &StorePath| {
        // Where the machine boots, the boot default is all that is changed beforehand.
        let script = if boots { "boot-loader" } else { "activate" };
        Grip::Script(script_of(script, path))
    };
    let script = |name: &str| Grip::Script(name.to_owned());
    match case.situation.at {
        At::Staging | At::Snapshot => script("backup"),
        At::PreHook => script("pre"),
        At::Activating => of(target),
        At::PostHook => script("post"),
        At::Judging | At::JudgingRollback => script("check"),
        At::RollingBack => of(before),
        At::RollbackHook => script("rollback"),
        At::Arming
        | At::Announcing
        | At::Rebooting
        | At::Rearming
        | At::RebootingBack
        | At::Closing
        | At::Reporting => Grip::Agent,
    }
}

impl Points<'_> {
    /// Writes the machine's scripts.
    pub(super) fn install(&self) -> Result<(), FleetError> {
        let write = |name: &str, text: &str| {
            let path = format!("{SCRIPTS}/{name}");
            self.fleet.write_file(self.machine, &path, text)?;
            self.fleet.run(self.machine, &["chmod", "+x", &path])
        };
        write("point", POINT)?;
        for hook in ["pre", "post", "rollback"] {
            let more = if hook == "rollback" { MENDS } else { "" };
            let told = format!("echo {hook} >>{WITNESS}/log\n{more}");
            write(
                hook,
                &format!("#!/bin/sh\n{told}exec {SCRIPTS}/point {hook}\n"),
            )?;
        }
        for plain in ["backup", "check"] {
            write(plain, &format!("#!/bin/sh\nexec {SCRIPTS}/point {plain}\n"))?;
        }
        for system in ["activate", "boot-loader"] {
            let point = format!("exec {SCRIPTS}/point \"{system}-${{1#/nix/store/}}\"\n");
            write(system, &format!("#!/bin/sh\n{point}"))?;
        }
        self.reset()
    }

    /// Nothing held, nothing to fail, nothing told.
    pub(super) fn reset(&self) -> Result<(), FleetError> {
        for dir in ["hold", "fail", "reached", "then"] {
            let dir = self.path(dir);
            // It may never have been there.
            fs::remove_dir_all(&dir).ok();
            create(&dir)?;
        }
        self.fleet
            .write_file(self.machine, &format!("{WITNESS}/log"), "")?;
        self.set_clock(0)
    }

    /// Before the attempt begins: the script that the fault is about is held, or will fail.
    pub(super) fn prepare(
        &self,
        case: &Case,
        grip: &Grip,
        before: &StorePath,
    ) -> Result<(), FleetError> {
        let at = case.situation.at;
        let kind = if case.fault == Fault::Error {
            "fail"
        } else {
            "hold"
        };
        let (place, name) = match grip {
            // A check is run at many times: it is this one that is meant.
            Grip::Script(name) if at == At::Judging => (format!("then/post/{kind}"), name.clone()),
            Grip::Script(name) if at == At::JudgingRollback => {
                (format!("then/rollback/{kind}"), name.clone())
            }
            Grip::Script(name) => (kind.to_owned(), name.clone()),
            // What hangs then is the machine's way down, the second one where it goes back.
            Grip::Agent if case.fault == Fault::Hang && at == At::Rebooting => {
                ("hold".to_owned(), STOP.to_owned())
            }
            Grip::Agent if case.fault == Fault::Hang && at == At::RebootingBack => {
                let last = script_of("boot-loader", before);
                (format!("then/{last}/hold"), STOP.to_owned())
            }
            Grip::Agent => return Ok(()),
        };
        let dir = self.path(&place);
        create(&dir)?;
        let file = dir.join(name);
        fs::write(&file, "").map_err(FleetError::file("write", file))
    }

    /// Lets the script go on.
    pub(super) fn release(&self) -> Result<(), FleetError> {
        let dir = self.path("hold");
        fs::remove_dir_all(&dir).map_err(FleetError::file("remove", &dir))?;
        create(&dir)
    }

    /// Waits until the machine is in this step and held there; false when it went on without
    /// having been, which happens where the agent is stopped a moment too late.
    pub(super) fn await_step(&self, at: At, grip: &Grip) -> Result<bool, FleetError> {
        let since = Instant::now();
        loop {
            match grip {
                Grip::Script(name) => {
                    if self.path("reached").join(name).exists() && self.is_in(at) {
                        return Ok(true);
                    }
                    thread::sleep(BLINK * 20);
                }
                Grip::Agent => {
                    if self.is_in(at) {
                        self.fleet.signal(self.machine, AGENT_UNIT, Signal::SIGSTOP);
                        // What it was writing when it was stopped is there by now.
                        thread::sleep(BLINK * 20);
                        if self.is_in(at) {
                            return Ok(true);
                        }
                        self.fleet.signal(self.machine, AGENT_UNIT, Signal::SIGCONT);
                        return Ok(false);
                    }
                    if self.is_over(at) {
                        return Ok(false);
                    }
                    thread::sleep(BLINK);
                }
            }
            if since.elapsed() > STEP_MAX {
                return Err(FleetError::Deadline {
                    what: format!("the step {} of {}", at.word(), self.machine),
                    limit: STEP_MAX,
                });
            }
        }
    }

    /// What the hooks wrote down.
    pub(super) fn told(&self) -> Result<Vec<String>, FleetError> {
        let log = self
            .fleet
            .read_file(self.machine, &format!("{WITNESS}/log"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }

    /// Sets the agent's clock so many days off, where it runs with one that can be.
    pub(super) fn set_clock(&self, days: i32) -> Result<(), FleetError> {
        let text = format!("{days:+}d\n");
        self.fleet
            .write_file(self.machine, &format!("{WITNESS}/clock"), &text)
    }

    /// The agent's journal; none while it cannot be read.
    pub(super) fn journal(&self) -> Option<Value> {
        let text = self.fleet.read_file(self.machine, JOURNAL).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether the agent has nothing to do and nothing to tell.
    pub(super) fn is_idle(&self) -> bool {
        let open =
            |journal: &Value| !journal["attempt"].is_null() || !journal["unreported"].is_null();
        self.journal().is_some_and(|journal| !open(&journal))
    }

    fn is_in(&self, at: At) -> bool {
        let Some(journal) = self.journal() else {
            return false;
        };
        let without_attempt = |what: &str| journal["attempt"].is_null() && !journal[what].is_null();
        if at == At::Staging {
            without_attempt("staging")
        } else if at == At::Reporting {
            without_attempt("unreported")
        } else {
            step(&journal) == Some(at.word())
        }
    }

    /// Whether the attempt has gone past the step: its result is there, or was handed in.
    fn is_over(&self, at: At) -> bool {
        let Some(journal) = self.journal() else {
            return false;
        };
        let ended = journal["attempt"].is_null() && journal["last_lease"] == journal["lease"];
        ended && at != At::Staging && journal["last_lease"] != 0 && self.has_begun()
    }

    /// Whether this case's attempt has begun at all.
    fn has_begun(&self) -> bool {
        self.told().is_ok_and(|told| !told.is_empty())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.fleet.path(self.machine, &format!("{WITNESS}/{name}"))
    }
}

/// The attempt's step by its name in the journal: a word, or a word with something in it.
fn step(journal: &Value) -> Option<&str> {
    let step = &journal["attempt"]["step"];
    let key = step.as_object().and_then(|object| object.keys().next());
    step.as_str().or_else(|| key.map(String::as_str))
}

fn create(dir: &std::path::Path) -> Result<(), FleetError> {
    fs::create_dir_all(dir).map_err(FleetError::file("create", dir))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_a_word_or_has_something_in_it() {
        let journal = |step: Value| json!({ "attempt": { "step": step } });
        assert_eq!(step(&journal(json!("pre-hook"))), Some("pre-hook"));
        let closing = json!({ "closing": { "outcome": {} } });
        assert_eq!(step(&journal(closing)), Some("closing"));
        assert_eq!(step(&json!({ "attempt": null })), None);
    }
}
