//! A unit's program as our own child, where nobody but PID 1 can be asked for anything better: in
//! the dead-man program. It has a process group of its own, so that nothing of it is left to hold
//! the lock of a switch when its time is up.

use std::{os::unix::process::ExitStatusExt as _, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Command;

use crate::host::{End, HostError, Ran, Unit};

/// Runs it to its end. Its output goes where ours goes: to the journal.
pub(crate) async fn run(unit: &Unit, environment: &[(String, String)]) -> Result<Ran, HostError> {
    let doing = || unit.description.clone();
    let (program, arguments) = unit
        .command
        .split_first()
        .ok_or_else(|| HostError::Missing("an empty command".to_owned()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().cloned())
        .envs(unit.environment.iter().cloned())
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| HostError::io(doing(), error))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let end = match tokio::time::timeout(unit.within, child.wait()).await {
        Ok(status) => end_of(status.map_err(|error| HostError::io(doing(), error))?),
        Err(_) => End::TimedOut,
    };
    // What it left behind when it was killed or crashed would hold the lock as well.
    if let (Some(group), false) = (group, matches!(end, End::Exited(_))) {
        match killpg(Pid::from_raw(group), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => tracing::warn!("what {} left is not killed: {error}", doing()),
        }
    }
    Ok(Ran {
        end,
        output: String::new(),
    })
}

fn end_of(status: std::process::ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, Some(signal)) => End::Signal(signal),
        (None, None) => End::NotStarted(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use agent_core::MayBegin;

    use super::*;
    use crate::host::{Family, Resources, RunAs};

    fn shell(text: &str, within: Duration) -> Unit {
        Unit {
            family: Family::Restore,
            tag: "1".to_owned(),
            description: "a shell".to_owned(),
            command: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
            environment: Vec::new(),
            within,
            resources: Resources::default(),
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        }
    }

    #[tokio::test]
    async fn its_end_is_its_own() {
        for (text, end) in [
            ("exit 0", End::Exited(0)),
            ("exit 11", End::Exited(11)),
            ("kill -9 $$", End::Signal(9)),
        ] {
            let ran = run(&shell(text, Duration::from_secs(20)), &[]).await;
            assert_eq!(ran.expect("run").end, end, "{text}");
        }
    }

    #[tokio::test]
    async fn nothing_of_it_outlives_its_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let text = format!(
            "sleep 600 & echo $! >{0}.new; mv {0}.new {0}; wait",
            file.display()
        );
        let ran = run(&shell(&text, Duration::from_millis(800)), &[]).await;
        assert_eq!(ran.expect("run").end, End::TimedOut);
        let pid = fs::read_to_string(&file).expect("begun");
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        for _ in 0..500 {
            // Gone, or waiting for whoever inherited it to look.
            if fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild {pid} lives on");
    }
}
