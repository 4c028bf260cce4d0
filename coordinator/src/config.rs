//! The coordinator's own settings: a TOML file, read as a whole or refused as a whole.
//!
//! What the file says is `Raw`; only the checked [`Config`] is used. The NixOS module writes the
//! file, so an unknown key is a mistake there and is refused.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use common::MachineName;
use platform::clock::Clock;
use serde::Deserialize;

use crate::{
    ca::Lives,
    connections::Caps,
    limits::{Rate, Rates},
};

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// The machine that it runs on, as the fleet configuration names it. `None` when the host's name
    /// is not given and cannot be one.
    pub machine: Option<MachineName>,
    /// Where agents and operators are served, with client certificates.
    pub listen: SocketAddr,
    /// Where enrolment is served, and nothing else, without client certificates.
    pub enrol_listen: SocketAddr,
    /// How long certificates live.
    pub lives: Lives,
    /// How often one identity may ask.
    pub rates: Rates,
    /// How many agents and operators may be connected.
    pub caps: Caps,
    /// The fleet's clock.
    pub clock: Clock,
}

/// Machines that may be connected, and how many of them from one address, when nothing is said: a
/// large fleet behind one address has room, and with everything else that a coordinator opens it
/// stays below `LimitNOFILE` of the NixOS module.
const MACHINES: u32 = 32_768;
const PER_ADDRESS: u32 = 16_384;

/// Shortest life of a certificate: what a renewal and a slow clock need.
const LIFE_MIN: Duration = Duration::from_secs(30);

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state_dir: PathBuf,
    machine: Option<String>,
    #[serde(default = "default_listen")]
    listen: String,
    #[serde(default = "default_enrol_listen")]
    enrol_listen: String,
    #[serde(default)]
    certificates: RawLives,
    #[serde(default)]
    limits: RawRates,
    #[serde(default)]
    connections: RawConnections,
    #[serde(default)]
    clock: RawClock,
}

/// Durations: whole seconds, or text such as `"168h"`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLives {
    machine: Option<serde_json::Value>,
    operator: Option<serde_json::Value>,
    coordinator: Option<serde_json::Value>,
}

/// Requests of one machine, one operator, one address that enrols.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRates {
    #[serde(default)]
    machine: RawRate,
    #[serde(default)]
    operator: RawRate,
    #[serde(default)]
    enrolment: RawRate,
}

/// Of machines; operators have places of their own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConnections {
    machines: Option<u32>,
    per_address: Option<u32>,
}

/// What is not said is as usual; no requests a second means no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    per_second: Option<u32>,
    burst: Option<u32>,
}

/// Only tests and the demo have this section.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClock {
    #[serde(default = "real_speed")]
    speed: f64,
    start: Option<String>,
    real_start: Option<String>,
}

impl Default for RawClock {
    fn default() -> Self {
        Self {
            speed: real_speed(),
            start: None,
            real_start: None,
        }
    }
}

fn default_listen() -> String {
    "[::]:7443".to_owned()
}

fn default_enrol_listen() -> String {
    "[::]:7444".to_owned()
}

fn real_speed() -> f64 {
    1.0
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or has keys that do not belong there.
    #[error("{path} cannot be used", path = path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Values that cannot be used, all of them.
    #[error("{path} cannot be used: {faults}", path = path.display(), faults = Lines(.faults))]
    Values {
        /// The file.
        path: PathBuf,
        /// Key and what is wrong with its value.
        faults: Vec<String>,
    },
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|source| ConfigError::Shape {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        raw.check().map_err(|faults| ConfigError::Values {
            path: path.to_owned(),
            faults,
        })
    }
}

impl Raw {
    fn check(self) -> Result<Config, Vec<String>> {
        let mut faults = Vec::new();
        let machine = match &self.machine {
            Some(name) => name
                .parse()
                .map_err(|error| faults.push(format!("machine: {name:?}: {error}")))
                .ok(),
            None => host_name(),
        };
        let listen = address("listen", &self.listen, &mut faults);
        let enrol_listen = address("enrol_listen", &self.enrol_listen, &mut faults);
        if let (Some(listen), Some(enrol)) = (listen, enrol_listen)
            && listen == enrol
            && listen.port() != 0
        {
            faults.push(format!("enrol_listen: {enrol} is what listen has already"));
        }
        if !self.state_dir.is_absolute() {
            let shown = self.state_dir.display();
            faults.push(format!("state_dir: {shown} is not an absolute path"));
        }
        let RawClock {
            speed,
            start,
            real_start,
        } = self.clock;
        let clock = Clock::from_settings(speed, start.as_deref(), real_start.as_deref())
            .map_err(|error| faults.push(format!("clock: {error}")))
            .unwrap_or_default();
        let usual = Lives::default();
        let certificates = self.certificates;
        let mut life = |key, written, usual| life(key, written, usual, &mut faults);
        let lives = Lives {
            machine: life("certificates.machine", certificates.machine, usual.machine),
            operator: life(
                "certificates.operator",
                certificates.operator,
                usual.operator,
            ),
            coordinator: life(
                "certificates.coordinator",
                certificates.coordinator,
                usual.coordinator,
            ),
        };
        let usual = Rates::default();
        let limits = self.limits;
        let mut rate = |key, written, usual| rate(key, written, usual, &mut faults);
        let rates = Rates {
            machine: rate("limits.machine", limits.machine, usual.machine),
            operator: rate("limits.operator", limits.operator, usual.operator),
            enrolment: rate("limits.enrolment", limits.enrolment, usual.enrolment),
        };
        let mut places = |key: &str, written: Option<u32>, usual| {
            let places = written.unwrap_or(usual);
            if places == 0 {
                faults.push(format!(
                    "connections.{key}: at least 1, or no machine gets in"
                ));
            }
            places as usize
        };
        let caps = Caps::members(
            places("machines", self.connections.machines, MACHINES),
            places("per_address", self.connections.per_address, PER_ADDRESS),
        );
        let (Some(listen), Some(enrol_listen), true) = (listen, enrol_listen, faults.is_empty())
        else {
            return Err(faults);
        };
        Ok(Config {
            state_dir: self.state_dir,
            machine,
            listen,
            enrol_listen,
            lives,
            rates,
            caps,
            // Maintenance windows follow the wall clock.
            clock: clock.unwrap_or_else(Clock::system),
        })
    }
}

/// The host's own name, if machines may be called that.
fn host_name() -> Option<MachineName> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    name.parse().ok()
}

fn life(
    key: &str,
    written: Option<serde_json::Value>,
    usual: Duration,
    faults: &mut Vec<String>,
) -> Duration {
    let Some(written) = written else {
        return usual;
    };
    match coordinator_core::config::duration(&written) {
        Ok(life) if life >= LIFE_MIN => return life,
        Ok(_) => faults.push(format!("{key}: {written} is shorter than 30 s")),
        Err(fault) => faults.push(format!("{key}: {fault}")),
    }
    usual
}

fn rate(
    key: &str,
    written: RawRate,
    usual: Option<Rate>,
    faults: &mut Vec<String>,
) -> Option<Rate> {
    let per_second = match written.per_second {
        Some(per_second) => NonZeroU32::new(per_second),
        None => usual.map(|usual| usual.per_second),
    };
    let burst = match written.burst {
        Some(burst) => NonZeroU32::new(burst),
        None => usual.map(|usual| usual.burst),
    };
    if burst.is_none() {
        faults.push(format!(
            "{key}.burst: at least 1; per_second = 0 lifts the limit"
        ));
    }
    let (per_second, burst) = (per_second?, burst?);
    Some(Rate { per_second, burst })
}

fn address(key: &str, text: &str, faults: &mut Vec<String>) -> Option<SocketAddr> {
    text.parse()
        .map_err(|_| {
            faults.push(format!(
                "{key}: {text:?} is not an address and port such as [::]:7443"
            ));
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("c.toml"), text)
            .map_err(|error| common::error_chain::Chain(&error).to_string())
    }

    #[test]
    fn only_the_state_directory_must_be_said() {
        let config = parse("state_dir = \"/var/lib/lab-coordinator\"").expect("valid");
        assert_eq!(config.listen.port(), 7443);
        assert_eq!(config.enrol_listen.port(), 7444);
    }

    /// The file that the handbook shows.
    const EXAMPLE: &str = include_str!("../../docs/examples/coordinator.toml");

    #[test]
    fn the_example_has_every_key_and_shows_the_defaults() {
        let example = parse(EXAMPLE).expect("without a fault");
        let small = parse("state_dir = \"/var/lib/lab-coordinator\"").expect("valid");
        assert_eq!(format!("{:?}", example.lives), format!("{:?}", small.lives));
        assert_eq!(format!("{:?}", example.rates), format!("{:?}", small.rates));
        assert_eq!(example.caps, small.caps);
        let places =
            |config: &Config| (config.state_dir.clone(), config.listen, config.enrol_listen);
        assert_eq!(places(&example), places(&small));
        for table in [
            "",
            "[certificates]",
            "[limits]",
            "[limits.machine]",
            "[connections]",
            "[clock]",
        ] {
            // What is not known is answered with what is.
            let error = parse(&format!("{table}\nno_such_key = 1")).expect_err("unknown");
            let (_, listed) = error.split_once("expected ").expect("a list of keys");
            for key in listed.split('`').skip(1).step_by(2) {
                let said = EXAMPLE
                    .lines()
                    .any(|line| line.contains(&format!("{key} =")) || line == format!("[{key}]"));
                assert!(said, "{table} {key} is not in the example");
            }
        }
    }

    #[test]
    fn every_fault_is_listed() {
        let text = "state_dir = 'here'\nlisten = 'everywhere'\n[clock]\nspeed = -1.0\n\
                    [certificates]\nmachine = 5\noperator = 'long'";
        let error = parse(text).expect_err("five faults");
        for part in [
            "state_dir",
            "everywhere",
            "clock: speed is -1",
            "certificates.machine: 5 is shorter",
            "certificates.operator: \"long\" is not a duration",
        ] {
            assert!(error.contains(part), "{part} not in {error}");
        }
        let same = "state_dir = '/x'\nlisten = '[::]:1'\nenrol_listen = '[::]:1'";
        assert!(parse(same).is_err());
    }

    #[test]
    fn certificates_live_as_long_as_is_said() {
        let text = "state_dir = '/x'\ncertificates.machine = '36h'\ncertificates.coordinator = 60";
        let config = parse(text).expect("valid");
        assert_eq!(config.lives.machine, Duration::from_secs(36 * 3600));
        assert_eq!(config.lives.coordinator, Duration::from_secs(60));
        assert_eq!(config.lives.operator, Lives::default().operator);
    }

    #[test]
    fn limits_are_as_usual_changed_or_lifted() {
        let text = "state_dir = '/x'\nlimits.machine.per_second = 3\n\
                    limits.operator.per_second = 0\nlimits.enrolment.burst = 7";
        let rates = parse(text).expect("valid").rates;
        let usual = Rates::default();
        let machine = usual.machine.expect("limited");
        let enrolment = usual.enrolment.expect("limited");
        let seven = NonZeroU32::new(7).expect("not zero");
        let three = NonZeroU32::new(3).expect("not zero");
        let expected = Rates {
            machine: Some(Rate {
                per_second: three,
                ..machine
            }),
            operator: None,
            enrolment: Some(Rate {
                burst: seven,
                ..enrolment
            }),
        };
        assert_eq!(rates, expected);
        let text = "state_dir = '/x'\nlimits.machine.burst = 0";
        assert!(
            parse(text)
                .expect_err("never")
                .contains("limits.machine.burst")
        );
        assert!(parse("state_dir = '/x'\nlimits.agent.burst = 1").is_err());
    }

    #[test]
    fn places_for_machines_are_as_usual_or_as_said_and_never_none() {
        let usual = parse("state_dir = '/x'").expect("valid").caps;
        let text = "state_dir = '/x'\nconnections.per_address = 7";
        let caps = parse(text).expect("valid").caps;
        assert_eq!(caps, Caps::members(usual.machines.total, 7));
        let text = "state_dir = '/x'\nconnections.machines = 0";
        let error = parse(text).expect_err("nobody");
        assert!(error.contains("connections.machines"), "{error}");
        // Whatever comes on top of them, the module's LimitNOFILE is enough for all of it.
        const MODULE: &str = include_str!("../../nixos-modules/coordinator.nix");
        let limit = MODULE.split_once("LimitNOFILE = ").expect("a limit").1;
        let limit = limit.split(';').next().expect("a number");
        assert_eq!(usual.within(limit.parse().expect("a number")), usual);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let error = parse("state_dir = '/x'\nlisten_on = '[::]:1'").expect_err("unknown");
        assert!(
            error.contains("listen_on") && error.contains("line 2"),
            "{error}"
        );
        assert!(parse("").expect_err("missing").contains("state_dir"));
        assert!(parse("state_dir = 5").is_err());
    }
}
