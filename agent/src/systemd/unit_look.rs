//! What became of a unit, read from its properties.

use crate::host::End;

/// `CLD_EXITED` of `waitid(2)`; the other codes are deaths by signal.
const CLD_EXITED: i32 = 1;

/// What the properties of a unit say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLook {
    /// `ActiveState`.
    pub active: String,
    /// `SubState`.
    pub sub: String,
    /// `Result` of a service.
    pub result: String,
    /// `ExecMainCode`: how the process ended, 0 while it has not.
    pub code: i32,
    /// `ExecMainStatus`: exit status or signal.
    pub status: i32,
}

impl UnitLook {
    /// How the unit ended; `None` while it is at work.
    pub fn end(&self) -> Option<End> {
        let over = matches!(
            (self.active.as_str(), self.sub.as_str()),
            ("active", "exited") | ("failed" | "inactive", _)
        );
        // A unit whose start is still queued looks like one that is over; its deadline bounds the wait.
        let queued = self.active == "inactive" && self.result == "success" && self.code == 0;
        if !over || queued {
            return None;
        }
        Some(match self.result.as_str() {
            "timeout" | "watchdog" => End::TimedOut,
            "success" | "exit-code" | "signal" | "core-dump" | "oom-kill" if self.code != 0 => {
                // 200 and above come from systemd itself: the program was never executed
                // (systemd.exec(5), "Process Exit Codes").
                match (self.code, self.status) {
                    (CLD_EXITED, 200..=243) => {
                        End::NotStarted(format!("systemd's own status {}", self.status))
                    }
                    (CLD_EXITED, status) => End::Exited(status),
                    (_, signal) => End::Signal(signal),
                }
            }
            other => End::NotStarted(other.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::systemd::{END_WITHIN, LOOK_MAX};

    fn look(active: &str, sub: &str, result: &str, code: i32, status: i32) -> Option<End> {
        UnitLook {
            active: active.to_owned(),
            sub: sub.to_owned(),
            result: result.to_owned(),
            code,
            status,
        }
        .end()
    }

    #[test]
    fn a_unit_at_work_has_no_end() {
        assert_eq!(look("active", "running", "success", 0, 0), None);
        assert_eq!(look("activating", "start", "success", 0, 0), None);
        assert_eq!(look("deactivating", "stop-sigterm", "timeout", 0, 0), None);
    }

    #[test]
    fn a_start_that_is_still_queued_is_no_end() {
        assert_eq!(look("inactive", "dead", "success", 0, 0), None);
        assert_eq!(
            look("inactive", "dead", "success", 1, 0),
            Some(End::Exited(0))
        );
    }

    #[test]
    fn ends_are_read_from_properties() {
        assert_eq!(
            look("active", "exited", "success", 1, 0),
            Some(End::Exited(0))
        );
        assert_eq!(
            look("failed", "failed", "exit-code", 1, 4),
            Some(End::Exited(4))
        );
        assert_eq!(
            look("failed", "failed", "exit-code", 1, 100),
            Some(End::Exited(100))
        );
        assert_eq!(
            look("failed", "failed", "signal", 2, 9),
            Some(End::Signal(9))
        );
        assert_eq!(
            look("failed", "failed", "core-dump", 3, 11),
            Some(End::Signal(11))
        );
        assert_eq!(
            look("failed", "failed", "timeout", 2, 15),
            Some(End::TimedOut)
        );
        assert_eq!(
            look("failed", "failed", "oom-kill", 2, 9),
            Some(End::Signal(9))
        );
    }

    #[test]
    fn a_unit_has_ended_before_the_agent_gives_up_on_it() {
        let slack = 2 * LOOK_MAX + Duration::from_secs(5);
        assert!(agent_core::Limits::default().grace >= END_WITHIN + slack);
    }

    #[test]
    fn what_never_ran_is_no_exit_status() {
        let end = look("failed", "failed", "exit-code", 1, 203);
        assert!(matches!(end, Some(End::NotStarted(_))), "{end:?}");
        let end = look("failed", "failed", "resources", 0, 0);
        assert!(matches!(end, Some(End::NotStarted(_))), "{end:?}");
    }
}
