//! What can be asked of the demo, in the words of its command line.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use common::MachineName;

/// Fastest fleet time. Above it a lease of fifteen minutes is shorter than three seconds, and a
/// busy host is taken for a silent machine.
pub const SPEED_MAX: f64 = 300.0;

/// How the demo is to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Another fleet: its configuration as JSON, or as .nix where Nix is installed.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What goes wrong, on which machine; may be given more than once. `none`: nothing does.
    /// Without it, the second machine of the first aggressive group fails its health check.
    #[arg(long, value_name = "MACHINE=KIND", long_help = FAIL_HELP)]
    pub fail: Vec<Fail>,
    /// Who answers when a group waits for approval.
    #[arg(long, value_enum, default_value_t)]
    pub approve: Approve,
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Begin no rollout: the fleet is up, its targets are named, and `lab` does the rest.
    #[arg(long, requires = "keep")]
    pub no_rollout: bool,
    /// Write what came of it as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How many times as fast as real time the fleet lives, 1 to 300. Without it, fast enough for
    /// the whole rollout to end in under a minute.
    #[arg(long, value_parser = speed)]
    pub speed: Option<f64>,
}

const FAIL_HELP: &str = "\
What goes wrong, on which machine; may be given more than once. `none`: nothing does.
Without it, the second machine of the first aggressive group fails its health check.

  health   the new system switches, but its health check fails
  switch   the new system's boot loader cannot be installed
  hook     the post-update hook fails
  crash    the agent is killed in the middle of the switch, and started again
  hang     the switch hangs until its deadline
  silent   the agent is killed in the middle of the switch, and never comes back";

/// Who answers when a group waits for approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Approve {
    /// The demo says yes after a moment, and says so.
    #[default]
    Auto,
    /// Nobody: the rollout waits, and the demo ends there.
    Never,
}

/// What goes wrong on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The new system's health check fails.
    Health,
    /// The new system's boot loader cannot be installed.
    Switch,
    /// The post-update hook fails.
    Hook,
    /// The agent is killed in the middle of the switch and started again.
    Crash,
    /// The switch never ends.
    Hang,
    /// The agent is killed in the middle of the switch and not started again.
    Silent,
}

impl Kind {
    /// Every kind, in the order of the help.
    pub const ALL: [Self; 6] = [
        Self::Health,
        Self::Switch,
        Self::Hook,
        Self::Crash,
        Self::Hang,
        Self::Silent,
    ];

    /// Its word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Switch => "switch",
            Self::Hook => "hook",
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::Silent => "silent",
        }
    }

    /// Whether the machine does not get to its target because of it.
    pub fn keeps_back(self) -> bool {
        match self {
            Self::Health | Self::Switch | Self::Hook | Self::Hang | Self::Silent => true,
            Self::Crash => false,
        }
    }

    /// Whether the agent is killed by it.
    pub fn kills_agent(self) -> bool {
        match self {
            Self::Crash | Self::Silent => true,
            Self::Health | Self::Switch | Self::Hook | Self::Hang => false,
        }
    }

    /// What is wrong with the new system, in the words of the toy systems' scripts.
    pub(super) fn failure_of_system(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Switch => "bootloader",
            Self::Hang => "hang",
            // Wide enough a moment for the agent to be killed in it.
            Self::Crash | Self::Silent => "slow",
            Self::Hook => "none",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One `--fail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fail {
    /// Nothing fails.
    Nothing,
    /// This, on that machine.
    Machine(MachineName, Kind),
}

/// Why a text is no `--fail`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailError {
    /// Neither `none` nor `MACHINE=KIND`.
    #[error("{0:?} is neither `none` nor MACHINE=KIND, such as dev-02=health")]
    Shape(String),
    /// Not a machine's name.
    #[error("{0}")]
    Machine(#[from] common::id::NameError),
    /// No such kind.
    #[error("{0:?} is no kind of failure (health, switch, hook, crash, hang, silent)")]
    Kind(String),
}

impl FromStr for Fail {
    type Err = FailError;

    fn from_str(text: &str) -> Result<Self, FailError> {
        if text == "none" {
            return Ok(Self::Nothing);
        }
        let (machine, kind) = text
            .split_once('=')
            .ok_or_else(|| FailError::Shape(text.to_owned()))?;
        let known = Kind::ALL.into_iter().find(|known| known.word() == kind);
        let kind = known.ok_or_else(|| FailError::Kind(kind.to_owned()))?;
        Ok(Self::Machine(machine.parse()?, kind))
    }
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|speed| (1.0..=SPEED_MAX).contains(speed))
        .ok_or_else(|| format!("a number from 1 to {SPEED_MAX} is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_read_from_words() {
        assert_eq!("none".parse(), Ok(Fail::Nothing));
        let machine: MachineName = "dev-02".parse().expect("a name");
        for kind in Kind::ALL {
            let text = format!("dev-02={kind}");
            assert_eq!(text.parse(), Ok(Fail::Machine(machine.clone(), kind)));
        }
        assert!(matches!("dev-02".parse::<Fail>(), Err(FailError::Shape(_))));
        assert!(matches!("a=b".parse::<Fail>(), Err(FailError::Kind(_))));
        assert!(matches!(
            "../x=health".parse::<Fail>(),
            Err(FailError::Machine(_))
        ));
    }

    #[test]
    fn speeds_out_of_range_are_refused() {
        assert_eq!(speed("240"), Ok(240.0));
        for bad in ["0", "0.5", "301", "NaN", "inf", "fast"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }
}
