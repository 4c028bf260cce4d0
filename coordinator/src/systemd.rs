//! What systemd is told: ready, how things stand, alive. Without systemd nobody listens, and
//! nothing depends on it.

use std::time::Duration;

use coordinator_core::view::{Query, StatusView, View};
use sd_notify::NotifyState;

use crate::driver::Handle;

/// Serving from here on.
pub fn ready(address: &str) {
    tell(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serving on {address}")),
    ]);
}

/// Ending.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that we are alive as long as the driver answers, and how things stand. Never returns while
/// it does.
pub async fn watchdog(handle: Handle) {
    const PAUSE: Duration = Duration::from_secs(30);
    let pause = sd_notify::watchdog_enabled().map_or(PAUSE, |limit| limit / 3);
    loop {
        tokio::time::sleep(pause.min(PAUSE)).await;
        let query = Query::Status {
            selection: Default::default(),
            all: false,
        };
        let Ok(seen) = handle.view(query).await else {
            return;
        };
        let View::Status(status) = seen.view else {
            // A selection of everything is never refused.
            continue;
        };
        let status = line(&status);
        tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
    }
}

fn line(status: &StatusView) -> String {
    if status.stop.is_some() {
        return "an emergency stop holds".to_owned();
    }
    let open = status
        .rollouts
        .iter()
        .filter(|view| !view.rollout.is_final());
    let (open, away) = (open.count(), status.away);
    format!("{open} rollouts at work, {away} machines away")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd was not told: {error}");
    }
}
