//! The machine's own limits: how long each thing may take and how often it is tried.

use std::time::Duration;

/// Longest health timeout that a coordinator can ask for.
pub const HEALTH_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Longest that a coordinator can have a traffic script take.
pub const TRAFFIC_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// How late a deadline has to be seen for the agent to have been stopped meanwhile, and not just busy.
pub const STOPPED_FOR: Duration = Duration::from_secs(10);

/// Time limits and counts: the machine's own configuration. The coordinator can widen none of them
/// but the health timeout, up to [`HEALTH_TIMEOUT_MAX`]; how long a traffic script may take it says
/// itself, up to [`TRAFFIC_TIMEOUT_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Version of the agent, for the report.
    pub agent_version: String,
    /// Where jitter begins: differs from machine to machine, so that a fleet does not call in step.
    pub seed: u64,
    /// How long the coordinator may hold a poll.
    pub poll_hold: Duration,
    /// How much longer than asked for a call may take before it counts as failed.
    pub call_timeout: Duration,
    /// First pause after a call that failed; doubles with each further one.
    pub backoff_first: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// Pause between polls while there is something that a new poll would not change: a stop, a
    /// staging under way, a directive that was not followed.
    pub poll_pause: Duration,
    /// Pause between periodic health checks.
    pub health_every: Duration,
    /// How long health checks may take to come good, when the coordinator does not say.
    pub health_timeout: Duration,
    /// Longest that obtaining a target may take.
    pub stage_timeout: Duration,
    /// How often a staging is begun before it counts as refused; at least 1.
    pub stage_tries: u32,
    /// Pause before a staging is tried again.
    pub stage_pause: Duration,
    /// Longest that a cleanup may take.
    pub cleanup_timeout: Duration,
    /// Longest that noting the machine's state, or setting and stopping the timer, may take.
    pub short_step: Duration,
    /// Longest that one hook may take.
    pub hook_timeout: Duration,
    /// Longest that `switch-to-configuration` may take.
    pub switch_timeout: Duration,
    /// How often an activation, or going back, is begun in one attempt; at least 1.
    pub switch_tries: u32,
    /// Pause before trying again when somebody else switches the machine.
    pub busy_pause: Duration,
    /// Longest that people who are logged in, and programs that ask for time, are waited for before
    /// an attempt that reboots the machine.
    pub reboot_wait: Duration,
    /// How long the agent waits to hear that the coordinator knows of the reboot.
    pub announce_timeout: Duration,
    /// Longest from asking for a reboot to the machine being down.
    pub reboot_timeout: Duration,
    /// Longest from asking for a reboot to the agent running again; what the coordinator is told.
    pub boot_timeout: Duration,
    /// How often a reboot is asked for; at least 1.
    pub reboot_tries: u32,
    /// How much later than a unit's own time limit the agent gives up on its answer: longer than it
    /// takes to end a unit that does not want to, because what comes next may not run beside it.
    pub grace: Duration,
    /// Longest that an attempt may take before PID 1 takes the machine back, where that is to be
    /// sooner than all the limits above together.
    pub attempt_timeout: Option<Duration>,
    /// No disruptive step is begun with less than this left of the lease.
    pub lease_margin: Duration,
    /// Whether the machine has a script that moves its traffic.
    pub has_traffic_script: bool,
    /// Most steps of one attempt: a belt to the braces above. More than any real attempt has.
    pub steps_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            agent_version: String::new(),
            seed: 0,
            poll_hold: Duration::from_secs(60),
            call_timeout: Duration::from_secs(15),
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(120),
            poll_pause: Duration::from_secs(15),
            health_every: Duration::from_secs(300),
            health_timeout: Duration::from_secs(300),
            stage_timeout: Duration::from_secs(3600),
            stage_tries: 3,
            stage_pause: Duration::from_secs(30),
            cleanup_timeout: Duration::from_secs(3600),
            short_step: Duration::from_secs(60),
            hook_timeout: Duration::from_secs(300),
            switch_timeout: Duration::from_secs(900),
            switch_tries: 3,
            busy_pause: Duration::from_secs(20),
            reboot_wait: Duration::ZERO,
            announce_timeout: Duration::from_secs(10),
            reboot_timeout: Duration::from_secs(300),
            boot_timeout: Duration::from_secs(900),
            reboot_tries: 3,
            grace: Duration::from_secs(45),
            attempt_timeout: None,
            lease_margin: Duration::from_secs(10),
            has_traffic_script: false,
            steps_max: 64,
        }
    }
}
