//! Gates: the section `analysis`, and the key `gates` of groups that names some of it.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use common::GroupName;
use serde_json::Value;

use super::section::{Faults, Section, duration, fault, nearest};
use crate::analysis::{COUNT_MAX, GATES_MAX, Gate, Number, Probe, Test, Worse};

/// Fewest values on each side of a comparison that the times given must have room for.
const VALUES_MIN: u32 = 10;

/// Most values on each side: a comparison takes the square of it.
const VALUES_MAX: u32 = 500;

/// No gate is measured more often, and none in less, whatever is configured.
const SECOND: Duration = Duration::from_secs(1);

/// Longest that one measurement may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

const KINDS: [&str; 6] = ["http", "tcp", "dns", "certificate", "promql", "healthCheck"];
const PORT: &str = "write host and port, such as \"db-01.example.org:5432\"";
const URL: &str = "write all of it, https:// included";
const WITHIN: &str = "write a time such as \"500ms\" or \"2s\"";
const NUMBER: &str = "write a number without quotes";

/// Every analysis by name; `None` of one that is not understood.
pub(super) type Analyses = BTreeMap<String, Option<Gate>>;

/// Reads them.
pub(super) fn read(value: &Value, prometheus: Option<&str>, faults: &mut Faults) -> Analyses {
    let mut analyses = Analyses::new();
    let Some(section) = Section::new(value, "analysis", faults) else {
        return analyses;
    };
    for (name, value) in section.entries() {
        let path = section.path_of(name);
        if let Err(error) = name.parse::<GroupName>() {
            fault(faults, &path, error.to_string(), "give it another name");
        }
        analyses.insert(name.clone(), gate(name, value, &path, prometheus, faults));
    }
    analyses
}

/// The gates that a group or a policy names.
pub(super) fn named(s: &mut Section<'_>, known: &Analyses, faults: &mut Faults) -> Vec<Gate> {
    let path = s.path_of("gates");
    let names = s.names::<String>("gates", faults).unwrap_or_default();
    if names.len() > GATES_MAX {
        let message = format!("{} gates are more than {GATES_MAX}", names.len());
        fault(faults, &path, message, "keep the ones that matter most");
    }
    let mut gates: Vec<Gate> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if names[..index].contains(name) {
            fault(faults, &path, format!("{name} is named twice"), "remove it");
            continue;
        }
        match known.get(name) {
            Some(gate) => gates.extend(gate.clone()),
            None => {
                let hint = match nearest(name, known.keys().map(String::as_str), "there are") {
                    hint if hint.is_empty() => format!("describe it as analysis.{name}"),
                    hint => hint,
                };
                fault(faults, &path, format!("there is no analysis {name}"), hint);
            }
        }
    }
    gates
}

/// An address of HTTP.
pub(super) fn url(s: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Option<String> {
    s.parsed(key, URL, faults, |value| {
        let url = value.as_str().unwrap_or_default();
        let rest = url.strip_prefix("https://");
        match rest.or_else(|| url.strip_prefix("http://")) {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(url.to_owned()),
            Some(_) | None => Err(format!("{value} is not an http or https address")),
        }
    })
}

fn gate(
    name: &str,
    value: &Value,
    path: &str,
    prometheus: Option<&str>,
    faults: &mut Faults,
) -> Option<Gate> {
    let mut s = Section::new(value, path, faults)?;
    let given: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| s.get(kind).is_some())
        .collect();
    let probe = match given[..] {
        ["http"] => http(&mut s, faults),
        ["tcp"] => endpoint(&mut s, "tcp", faults).map(|address| Probe::Tcp { address }),
        ["dns"] => dns(&mut s, faults),
        ["certificate"] => certificate(&mut s, faults),
        ["promql"] => promql(&mut s, prometheus, faults),
        ["healthCheck"] => {
            filled(&mut s, "healthCheck", faults).map(|check| Probe::HealthCheck { check })
        }
        _ => {
            let message = format!("names {} things to be measured, and not one", given.len());
            let hint = format!("give exactly one of {}", KINDS.join(", "));
            fault(faults, path, message, hint);
            // What else may be written depends on it.
            return None;
        }
    };
    let window = match &probe {
        Some(Probe::Promql {
            test: Test::NotWorse { window, .. },
            ..
        }) => Some(*window),
        Some(_) | None => None,
    };
    let timeout = s.duration_from("timeout", SECOND, faults);
    let timeout = timeout.unwrap_or(Duration::from_secs(10));
    if timeout > TIMEOUT_MAX {
        let message = format!("{} s is too long for one measurement", timeout.as_secs());
        let hint = format!("write at most {} s", TIMEOUT_MAX.as_secs());
        fault(faults, &s.path_of("timeout"), message, hint);
    }
    let initial_delay = s.duration("initialDelay", faults);
    let initial_delay = initial_delay.unwrap_or(window.unwrap_or_default());
    if let Some(window) = window.filter(|window| initial_delay < *window) {
        let message = "the first comparison would have less time after the wave than before it";
        let hint = format!("write at least {} s, or leave it out", window.as_secs());
        fault(faults, &s.path_of("initialDelay"), message, hint);
    }
    let interval = s.duration_from("interval", SECOND, faults);
    let passes = if window.is_some() { 1 } else { 3 };
    let gate = probe.map(|probe| Gate {
        name: name.to_owned(),
        initial_delay,
        interval: interval.unwrap_or(Duration::from_secs(30)).max(SECOND),
        timeout: timeout.clamp(SECOND, TIMEOUT_MAX),
        passes: count(&mut s, "passes", 1, faults).unwrap_or(passes),
        failure_limit: count(&mut s, "failureLimit", 0, faults).unwrap_or(0),
        inconclusive_limit: count(&mut s, "inconclusiveLimit", 0, faults).unwrap_or(3),
        error_limit: count(&mut s, "errorLimit", 0, faults).unwrap_or(3),
        probe,
    });
    if gate.is_some() {
        s.finish(faults);
    }
    gate
}

fn http(s: &mut Section<'_>, faults: &mut Faults) -> Option<Probe> {
    let hint = "write a status such as 200, without quotes";
    let status = s.parsed("status", hint, faults, |value| {
        let status = value.as_u64().and_then(|status| u16::try_from(status).ok());
        status
            .filter(|status| (100..600).contains(status))
            .ok_or_else(|| format!("{value} is not a status of HTTP"))
    });
    let within = s.parsed("within", WITHIN, faults, duration);
    if within.is_some_and(|within| within.is_zero()) {
        fault(
            faults,
            &s.path_of("within"),
            "no answer takes no time",
            WITHIN,
        );
    }
    Some(Probe::Http {
        status: status.unwrap_or(200),
        contains: filled(s, "contains", faults),
        within,
        url: url(s, "http", faults)?,
    })
}

fn dns(s: &mut Section<'_>, faults: &mut Faults) -> Option<Probe> {
    let hint = "write an address such as \"192.0.2.1\"";
    let answer = s.parsed("answer", hint, faults, |value| {
        let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        address.ok_or_else(|| format!("{value} is not an IP address"))
    });
    let hint = "write a name such as \"www.example.org\"";
    let name = s.parsed("dns", hint, faults, |value| {
        let name = value.as_str().filter(|name| is_host(name));
        let name = name.ok_or_else(|| format!("{value} is not a name of a host"))?;
        Ok(name.to_owned())
    })?;
    Some(Probe::Dns { name, answer })
}

fn certificate(s: &mut Section<'_>, faults: &mut Faults) -> Option<Probe> {
    let days_left = count(s, "daysLeft", 1, faults);
    Some(Probe::Certificate {
        days_left: days_left.unwrap_or(14),
        address: endpoint(s, "certificate", faults)?,
    })
}

fn promql(s: &mut Section<'_>, prometheus: Option<&str>, faults: &mut Faults) -> Option<Probe> {
    let query = filled(s, "promql", faults);
    let own = url(s, "prometheus", faults);
    let prometheus = own.or_else(|| prometheus.map(str::to_owned));
    if prometheus.is_none() && s.get("prometheus").is_none() {
        let hint = "write its address here or as updateSettings.prometheus";
        fault(faults, &s.path_of("prometheus"), "is missing", hint);
    }
    let (at_least, at_most) = (number(s, "atLeast", faults), number(s, "atMost", faults));
    let bounded = ["atLeast", "atMost"].map(|key| s.get(key).is_some());
    let compares = s.get("compare").is_some();
    if bounded.contains(&true) == compares {
        let message = "nothing says what its answer must be, or two things do";
        let hint = "give atLeast, atMost or both, or else compare";
        fault(faults, &s.path.clone(), message, hint);
    }
    if let (Some(low), Some(high)) = (at_least, at_most)
        && low.get() > high.get()
    {
        let message = format!("nothing is at least {low} and at most {high}");
        fault(faults, &s.path_of("atLeast"), message, "exchange them");
    }
    let test = if compares {
        comparison(s, faults)
    } else {
        Some(Test::Within { at_least, at_most })
    };
    Some(Probe::Promql {
        prometheus: prometheus?,
        query: query?,
        test: test?,
    })
}

fn comparison(s: &mut Section<'_>, faults: &mut Faults) -> Option<Test> {
    let hint = "write \"not-higher\" or \"not-lower\"";
    let worse = s.parsed("compare", hint, faults, |value| match value.as_str() {
        Some("not-higher") => Ok(Worse::Higher),
        Some("not-lower") => Ok(Worse::Lower),
        Some(_) | None => Err(format!("{value} is no comparison")),
    });
    let step = s.duration_from("step", SECOND, faults);
    let step = step.unwrap_or(Duration::from_secs(15)).max(SECOND);
    let window = s.duration("window", faults);
    let window = window.unwrap_or(Duration::from_secs(600));
    if window < step * VALUES_MIN {
        let message = format!(
            "there is no room for {VALUES_MIN} values in {} s",
            window.as_secs()
        );
        let hint = format!(
            "write at least {} s, or a smaller step",
            (step * VALUES_MIN).as_secs()
        );
        fault(faults, &s.path_of("window"), message, hint);
    }
    if window > step * VALUES_MAX {
        let message = format!("more than {VALUES_MAX} values are not compared");
        let hint = format!(
            "write at most {} s, or a larger step",
            (step * VALUES_MAX).as_secs()
        );
        fault(faults, &s.path_of("window"), message, hint);
    }
    let significance = number(s, "significance", faults);
    let chance = significance.map_or(0.05, Number::get);
    if chance <= 0.0 || chance >= 1.0 {
        let message = format!("{chance} is not a chance between 0 and 1");
        fault(
            faults,
            &s.path_of("significance"),
            message,
            "write 0.05, or 0.01 for fewer alarms",
        );
    }
    Some(Test::NotWorse {
        worse: worse?,
        window: window.min(step * VALUES_MAX),
        step,
        significance: Number::new(chance)?,
    })
}

/// A text that says something.
fn filled(s: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Option<String> {
    let hint = "write it, or leave the key out";
    s.parsed(key, hint, faults, |value| match value.as_str() {
        Some(text) if text.trim().is_empty() => Err("says nothing".to_owned()),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{value} must be a string")),
    })
}

/// Host and port.
pub(super) fn endpoint(
    s: &mut Section<'_>,
    key: &'static str,
    faults: &mut Faults,
) -> Option<String> {
    s.parsed(key, PORT, faults, |value| {
        let bad = || format!("{value} is not a host and a port");
        let text = value.as_str().ok_or_else(bad)?;
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let good = match bracketed {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        match port {
            Some(_) if good => Ok(text.to_owned()),
            Some(_) | None => Err(bad()),
        }
    })
}

/// Whether this may be a host: an address of IPv4, or a name as RFC 1123 has them.
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(word)
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

/// How many measurements.
fn count(s: &mut Section<'_>, key: &'static str, min: u32, faults: &mut Faults) -> Option<u32> {
    let hint = format!("write a whole number from {min} to {COUNT_MAX}, without quotes");
    s.parsed(key, &hint, faults, |value| {
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        count
            .filter(|count| (min..=COUNT_MAX).contains(count))
            .ok_or_else(|| format!("{value} is no such number"))
    })
}

fn number(s: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Option<Number> {
    s.parsed(key, NUMBER, faults, |value| {
        let number = value.as_f64().and_then(Number::new);
        number.ok_or_else(|| format!("{value} is not a number"))
    })
}
