//! logind: the reboot, and whom it would disturb (`org.freedesktop.login1(5)`).

use agent_core::RebootKind;
use zbus::proxy::CacheProperties;
use zbus_systemd::login1::{ManagerProxy, SessionProxy};

use super::Systemd;
use crate::host::HostError;

/// `SD_LOGIND_SOFT_REBOOT` (`org.freedesktop.login1(5)`, `RebootWithFlags`).
const SOFT_REBOOT: u64 = 1 << 2;

impl Systemd {
    /// Asks logind for a reboot.
    pub async fn reboot(&self, kind: RebootKind) -> Result<(), HostError> {
        let reboot = async {
            let connection = self.bus.system().await?;
            let logind = logind(&connection).await?;
            match kind {
                RebootKind::Machine => logind.reboot(false).await,
                RebootKind::UserSpace => logind.reboot_with_flags(SOFT_REBOOT).await,
            }
        };
        reboot.await.map_err(failed("ask logind for a reboot"))
    }

    /// Who or what a reboot would disturb: people who are logged in, and programs that hold a
    /// `block` inhibitor of shutdowns.
    pub async fn reboot_blockers(&self) -> Result<Vec<String>, HostError> {
        let look = async {
            let connection = self.bus.system().await?;
            let manager = logind(&connection).await?;
            let mut blockers: Vec<String> = manager
                .list_inhibitors()
                .await?
                .iter()
                .filter(|(what, _, _, mode, ..)| blocks_shutdown(what, mode))
                .map(|(_, who, why, ..)| line(&format!("{who} asks for time: {why}")))
                .collect();
            for (id, _, user, _, path) in manager.list_sessions().await? {
                let session = SessionProxy::builder(&connection)
                    .path(path)
                    .cache_properties(CacheProperties::No)
                    .build()
                    .await?;
                // One that ends while it is looked at disturbs nobody.
                let (Ok(class), Ok(state)) = (session.class().await, session.state().await) else {
                    continue;
                };
                if is_somebody(&class, &state) {
                    blockers.push(line(&format!("{user} is logged in, session {id}")));
                }
            }
            Ok(blockers)
        };
        look.await.map_err(failed("ask logind who is logged in"))
    }
}

async fn logind(connection: &zbus::Connection) -> zbus::Result<ManagerProxy<'static>> {
    ManagerProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await
}

fn failed(doing: &str) -> impl FnOnce(zbus::Error) -> HostError {
    let doing = doing.to_owned();
    move |error| HostError::Bus {
        doing,
        cause: Box::new(error),
    }
}

fn line(text: &str) -> String {
    common::text::tame_line(text, common::text::DETAIL_MAX)
}

/// Whether an inhibitor asks that the machine is not shut down; `delay` ones are heard by logind.
fn blocks_shutdown(what: &str, mode: &str) -> bool {
    mode == "block" && what.split(':').any(|what| what == "shutdown")
}

/// Whether a session is a person's, and not one that is ending, a greeter's, a job's or systemd's own.
fn is_somebody(class: &str, state: &str) -> bool {
    matches!(class, "user" | "user-early" | "user-light") && state != "closing"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_inhibitors_of_shutdowns_count() {
        for (what, mode, counts) in [
            ("shutdown", "block", true),
            ("sleep:shutdown:idle", "block", true),
            ("shutdown", "delay", false),
            ("sleep", "block", false),
            ("handle-power-key", "block", false),
            ("", "", false),
        ] {
            assert_eq!(blocks_shutdown(what, mode), counts, "{what} {mode}");
        }
    }

    #[test]
    fn only_people_count() {
        for (class, state, counts) in [
            ("user", "active", true),
            ("user", "online", true),
            ("user-light", "online", true),
            ("user", "closing", false),
            ("greeter", "active", false),
            ("background", "online", false),
            ("manager", "online", false),
            ("manager-early", "online", false),
            ("lock-screen", "active", false),
        ] {
            assert_eq!(is_somebody(class, state), counts, "{class} {state}");
        }
    }
}
