//! What systemd is told about this service: ready, at what, alive, stopping. Does nothing where
//! nobody listens.

use std::time::Duration;

use agent_core::Durable;
use sd_notify::NotifyState;

/// The service, as systemd sees it.
#[derive(Debug, Default)]
pub(crate) struct Service {
    status: String,
}

impl Service {
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Within which time systemd wants to be told that the loop turns, if it wants it at all.
    pub(crate) fn watched(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    /// The loop turns.
    pub(crate) fn alive(&self) {
        if self.watched().is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// One line for `systemctl status`, sent when it changes.
    pub(crate) fn status(&mut self, durable: &Durable) {
        let status = line(durable);
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

fn line(durable: &Durable) -> String {
    if let Some(attempt) = &durable.attempt {
        let (lease, rollout) = (attempt.lease, &attempt.rollout);
        return format!(
            "{}, lease {lease} of rollout {rollout}",
            attempt.step.word()
        );
    }
    if let Some(staging) = &durable.staging {
        return format!("staging {}", staging.target);
    }
    if durable.unreported.is_some() {
        return "the last result waits for the coordinator".to_owned();
    }
    match &durable.staged {
        Some(staged) => format!("ready for {}", staged.path.name()),
        None => "waiting for the coordinator".to_owned(),
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_the_agent_is_at() {
        let mut durable = Durable::new();
        assert_eq!(line(&durable), "waiting for the coordinator");
        durable.staging = Some(agent_core::state::Staging {
            target: common::Target::Channel {
                url: "https://x".to_owned(),
            },
            action: common::Action::Update,
            rollout: None,
            wish: 0,
            tries: 1,
            job: agent_core::StepId::default(),
        });
        assert_eq!(line(&durable), "staging https://x");
    }
}
