//! People and programs that a reboot would disturb: waited for, but not for ever.

use std::time::Duration;

use super::{Executor, LOOK_AGAIN};
use crate::host::Host;

impl<H: Host> Executor<H> {
    /// Returns when nobody is logged in and no program asks for time, or when that has been waited
    /// for this long. What cannot be found out is waited for too.
    pub(super) async fn await_leave_to_reboot(&self, wait: Duration) {
        let begin = self.clock.uptime();
        let mut told = String::new();
        loop {
            let blockers = match self.host.reboot_blockers().await {
                Ok(blockers) => blockers,
                Err(error) => {
                    let error = common::error_chain::Chain(&error);
                    vec![format!("whom it would disturb is not known: {error}")]
                }
            };
            if blockers.is_empty() {
                return;
            }
            let blocked_by = blockers.join("; ");
            if self.clock.uptime().saturating_sub(begin) >= wait {
                tracing::warn!("the reboot waits no longer: {blocked_by}");
                return;
            }
            if told != blocked_by {
                tracing::info!("the reboot waits: {blocked_by}");
                told = blocked_by;
            }
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }
}
