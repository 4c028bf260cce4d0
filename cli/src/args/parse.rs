//! Values that the command line spells in a way of its own.

use std::{fmt, str::FromStr, time::Duration};

use common::{MachineName, StorePath};

/// Longest span: ten years. Longer ones are a slip of the finger.
const SPAN_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A length of time: whole seconds, or `30m`, `1h30m`, as in the fleet configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// Whole seconds.
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.seconds())
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("{text:?} is not a length of time (seconds, or 30m, 1h30m, 7d)");
        let mut rest = text;
        let mut whole = Duration::ZERO;
        let mut smallest = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            let (number, tail) = rest.split_at(digits.unwrap_or(rest.len()));
            let number: u64 = number.parse().map_err(|_| help())?;
            let mut tail = tail.chars();
            let unit = match tail.next() {
                // A bare number is a span of its own, never part of one.
                None if smallest == u64::MAX => 1,
                Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3600,
                Some('d') => 86_400,
                None | Some(_) => return Err(help()),
            };
            if unit >= smallest {
                return Err(help());
            }
            smallest = unit;
            whole = number
                .checked_mul(unit)
                .and_then(|seconds| whole.checked_add(Duration::from_secs(seconds)))
                .filter(|whole| *whole <= SPAN_MAX)
                .ok_or_else(|| format!("{text:?} is longer than ten years"))?;
            rest = tail.as_str();
        }
        if whole.is_zero() {
            return Err(help());
        }
        Ok(Self(whole))
    }
}

/// `machine=/nix/store/…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineClosure {
    /// The machine.
    pub machine: MachineName,
    /// What it is to run.
    pub closure: StorePath,
}

impl FromStr for MachineClosure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (machine, closure) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not MACHINE=/nix/store/…"))?;
        Ok(Self {
            machine: machine.parse().map_err(|e| format!("{machine:?}: {e}"))?,
            closure: closure
                .parse()
                .map_err(|e: common::closure::StorePathError| e.to_string())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_in_the_fleet_configuration() {
        for (text, seconds) in [
            ("300", 300),
            ("30m", 1800),
            ("1h30m", 5400),
            ("7d", 604_800),
        ] {
            assert_eq!(text.parse::<Span>().expect(text).seconds(), seconds);
        }
        for bad in [
            "",
            "0",
            "-5m",
            "5x",
            "m",
            "30m1h",
            "1h1h",
            "1h5",
            "1.5h",
            "1e309s",
            "4000d",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_closure_names_its_machine() {
        let path = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-web-01-26.05";
        let read: MachineClosure = format!("web-01={path}").parse().expect("read");
        assert_eq!(read.machine.as_str(), "web-01");
        assert_eq!(read.closure.as_str(), path);
        for bad in [path, "web-01", "Web=/nix/store/x", "web-01=/etc"] {
            assert!(bad.parse::<MachineClosure>().is_err(), "{bad:?}");
        }
    }
}
