//! The switch there and back: what is run, in which order, and what its end means.

use std::time::Duration;

use agent_core::{ActivationEnd, Answer, Done, Failure, Job, MayBegin, Mode, Previous};
use common::StorePath;

use super::Executor;
use crate::{
    host::{End, Family, Host, HostError, Ran, Resources, RunAs, Unit},
    links::{CURRENT, INHIBITOR, PROFILE},
};

impl<H: Host> Executor<H> {
    pub(super) async fn activate(
        &self,
        job: &Job,
        path: &StorePath,
        mode: Mode,
        over: Option<&Previous>,
    ) -> Result<Answer, HostError> {
        if let Some(over) = over {
            self.check_runs(CURRENT, &[&over.running, path])?;
            let named = over.profile.as_ref().unwrap_or(&over.boot_default);
            self.check_runs(PROFILE, &[named, path])?;
        }
        let tag = job.step.to_string();
        let limits = (job.within, self.config.limits.switch_tasks_max);
        // The profile first: boot loader installers read the generations from it.
        let set = self.host.set_profile(&tag, path, job.may_begin).await;
        set.map_err(|error| match error {
            // Somebody holds the profile's lock: not the target's switch, which then hangs.
            HostError::TimedOut(doing) => HostError::Program {
                doing,
                said: "it did not end in time".to_owned(),
            },
            other @ (HostError::Bus { .. }
            | HostError::Io { .. }
            | HostError::Daemon(_)
            | HostError::Program { .. }
            | HostError::Missing(_)
            | HostError::NotReady(_)
            | HostError::Elsewhere(_)
            | HostError::Lost(_)
            | HostError::NotAllowed(_)
            | HostError::NotBegun { .. }) => other,
        })?;
        let begin = |tag: &str, mode| Unit {
            may_begin: job.may_begin,
            ..switch(
                &self.host,
                Family::Activate,
                tag,
                path,
                action(mode),
                limits,
            )
        };
        let mut ran = self.host.run(&begin(&tag, mode)).await?;
        let inhibited = || {
            let reasons = self.host.links().reboot_reasons(path);
            mode == Mode::Switch && reasons.iter().any(|reason| reason.starts_with(INHIBITOR))
        };
        // Status 1 says only "refused"; that an inhibitor did it is read from the systems.
        let refused = matches!(ran.end, End::Exited(1)) && inhibited();
        if refused {
            // It was refused before the boot loader was installed: the next boot would still start
            // the old system.
            let boot = begin(&format!("boot-{tag}"), Mode::Boot);
            ran = self.host.run(&boot).await?;
        }
        let end = match activation_end(&ran.end) {
            Ok(ActivationEnd::Done | ActivationEnd::Degraded) if refused => {
                Ok(ActivationEnd::RebootNeeded)
            }
            end => end,
        };
        self.heard.set(false);
        let facts = self.measure().await?;
        Ok(Answer {
            result: end.map(|end| Done::Activated { end, facts }),
            output: ran.output,
        })
    }
}

impl<H: Host> Executor<H> {
    /// Whether this link leads to one of these, and not to what somebody else has put there.
    pub(super) fn check_runs(&self, link: &str, ours: &[&StorePath]) -> Result<(), HostError> {
        match self.host.links().resolve(link) {
            Some(other) if !ours.contains(&&other) => Err(HostError::Elsewhere(other)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Goes back, each unit within a time and a number of tasks: profile and boot default to the
/// recorded ones, and with [`Mode::Switch`] the running system too. Safe to repeat. What is at work
/// for the attempt has been stopped: it might hold the lock of `switch-to-configuration`.
pub async fn restore<H: Host>(
    host: &H,
    previous: &Previous,
    mode: Mode,
    tag: &str,
    limits: (Duration, u64),
) -> Result<Ran, HostError> {
    let ran = install_previous(host, previous, mode, tag, limits).await?;
    // Only now: until here the boot loader may be the only one who starts what was there before. Not
    // being able to is no reason to go back once more: what it would start is the right system.
    if went_through(&ran.end)
        && let Err(error) = host.boot_always(tag).await
    {
        let error = common::error_chain::Chain(&error);
        tracing::warn!("the boot loader keeps the default of an attempt: {error}");
    }
    Ok(ran)
}

async fn install_previous<H: Host>(
    host: &H,
    previous: &Previous,
    mode: Mode,
    tag: &str,
    limits: (Duration, u64),
) -> Result<Ran, HostError> {
    host.set_profile(tag, &previous.boot_default, MayBegin::Always)
        .await?;
    let same = previous.running == previous.boot_default;
    if mode == Mode::Switch && same {
        let unit = switch(
            host,
            Family::Restore,
            tag,
            &previous.running,
            "switch",
            limits,
        );
        return host.run(&unit).await;
    }
    let boot_tag = format!("boot-{tag}");
    let unit = switch(
        host,
        Family::Restore,
        &boot_tag,
        &previous.boot_default,
        "boot",
        limits,
    );
    let ran = host.run(&unit).await?;
    if mode == Mode::Boot || !ran.end.succeeded() {
        return Ok(ran);
    }
    // A system was staged for the next boot before the attempt began: it stays the boot default.
    let unit = switch(
        host,
        Family::Restore,
        tag,
        &previous.running,
        "test",
        limits,
    );
    host.run(&unit).await
}

/// Whether a switch went through, with or without complaints.
pub fn went_through(end: &End) -> bool {
    matches!(
        activation_end(end),
        Ok(ActivationEnd::Done | ActivationEnd::Degraded)
    )
}

/// What an exit status of `switch-to-configuration` means (both implementations; the numbers of
/// its own early failures are any small ones).
pub(super) fn activation_end(end: &End) -> Result<ActivationEnd, Failure> {
    match end {
        End::Exited(0) => Ok(ActivationEnd::Done),
        End::Exited(2 | 4) => Ok(ActivationEnd::Degraded),
        End::Exited(11) => Ok(ActivationEnd::Busy),
        End::Exited(100) => Ok(ActivationEnd::RebootNeeded),
        End::Exited(_) | End::Signal(_) => Ok(ActivationEnd::Failed {
            status: end.to_string(),
        }),
        // The program of the system was never run.
        End::NotStarted(_) => Err(Failure::Failed(end.to_string())),
        End::TimedOut => Err(Failure::TimedOut),
    }
}

fn action(mode: Mode) -> &'static str {
    match mode {
        Mode::Switch => "switch",
        Mode::Boot => "boot",
    }
}

fn switch<H: Host>(
    host: &H,
    family: Family,
    tag: &str,
    system: &StorePath,
    action: &str,
    (within, tasks_max): (Duration, u64),
) -> Unit {
    let program = host.switcher(system);
    Unit {
        family,
        tag: tag.to_owned(),
        description: format!("lab-updater: {action} to {system}"),
        command: vec![program.to_string_lossy().into_owned(), action.to_owned()],
        environment: Vec::new(),
        within,
        resources: Resources::tasks(tasks_max),
        run_as: RunAs::Root,
        may_begin: MayBegin::Always,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_status_means_something() {
        let end = |status| activation_end(&End::Exited(status));
        assert_eq!(end(0), Ok(ActivationEnd::Done));
        assert_eq!(end(2), Ok(ActivationEnd::Degraded));
        assert_eq!(end(4), Ok(ActivationEnd::Degraded));
        assert_eq!(end(11), Ok(ActivationEnd::Busy));
        assert_eq!(end(100), Ok(ActivationEnd::RebootNeeded));
        for status in [1, 3, 5, 13, 127, 143, 255] {
            assert!(
                matches!(end(status), Ok(ActivationEnd::Failed { .. })),
                "{status}"
            );
        }
        let never_run = activation_end(&End::NotStarted("resources".to_owned()));
        assert!(
            matches!(never_run, Err(Failure::Failed(_))),
            "{never_run:?}"
        );
        let killed = activation_end(&End::Signal(9));
        assert_eq!(
            killed,
            Ok(ActivationEnd::Failed {
                status: "killed by signal 9".to_owned()
            })
        );
        assert_eq!(activation_end(&End::TimedOut), Err(Failure::TimedOut));
        assert!(went_through(&End::Exited(4)) && !went_through(&End::Exited(1)));
    }
}
