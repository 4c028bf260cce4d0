//! The key `blueGreen` of groups: two sides, and what moves the traffic between them.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{MachineName, SideName};
use serde_json::Value;

use super::{
    GroupConfig, analysis,
    section::{Faults, Section, fault, nearest},
};
use crate::traffic::{Adapter, At, BlueGreen, Haproxy, Side};

/// How long connections of the side that is left are waited for, where nothing is said.
const DRAIN: Duration = Duration::from_secs(60);

/// Longest that scripts of machines can wait for connections: they are ended after an hour, and have some
/// time besides.
const HOOK_DRAIN_MAX: Duration = Duration::from_secs(58 * 60);

/// How long the traffic is watched on the side that is updated, where nothing is said.
const WATCH: Duration = Duration::from_secs(600);

/// Keys that say in which order machines go: with two sides there is one already.
const OTHER_ORDERS: [&str; 4] = ["canary", "canarySoak", "waves", "soak"];

const SIDES: &str = "write two sides with their machines, such as { blue = [ \"web-01\" ]; green = [ \"web-02\" ]; }";

/// Reads it, if the group has it.
pub(super) fn blue_green(s: &mut Section<'_>, faults: &mut Faults) -> Option<Box<BlueGreen>> {
    let path = s.path_of("blueGreen");
    let value = s.get("blueGreen")?;
    for key in OTHER_ORDERS {
        // Said of this key: the other one may be its policy's.
        if s.peek(key).is_some_and(|value| *value != 0) {
            let message = format!("the sides are the waves, and {key} means nothing beside them");
            fault(
                faults,
                &path,
                message,
                format!("remove {key}, also of its policy"),
            );
        }
    }
    let mut s = Section::new(value, &path, faults)?;
    let sides = sides(&mut s, faults);
    let adapter = traffic(&mut s, faults);
    let drain = s.duration("drain", faults).unwrap_or(DRAIN);
    if adapter == Some(Adapter::Hook) && drain > HOOK_DRAIN_MAX {
        let hint = "write at most 58m: machines end a script after an hour";
        fault(faults, &s.path_of("drain"), "is too long for scripts", hint);
    }
    let watch = s.duration("watch", faults).unwrap_or(WATCH);
    s.finish(faults);
    Some(Box::new(BlueGreen {
        sides: sides?,
        adapter: adapter?,
        drain,
        watch,
    }))
}

fn sides(s: &mut Section<'_>, faults: &mut Faults) -> Option<[Side; 2]> {
    let path = s.path_of("sides");
    let Some(value) = s.get("sides") else {
        fault(faults, &path, "is missing", SIDES);
        return None;
    };
    let section = Section::new(value, &path, faults)?;
    let mut sides = Vec::new();
    for (name, value) in section.entries() {
        let path = section.path_of(name);
        let name = name.parse::<SideName>().map_err(|error| {
            fault(
                faults,
                &path,
                error.to_string(),
                "give the side another name",
            );
        });
        let machines = machines(value, &path, faults);
        if let (Ok(name), Some(machines)) = (name, machines) {
            sides.push(Side { name, machines });
        }
    }
    let count = section.entries().count();
    sides.try_into().ok().or_else(|| {
        if count != 2 {
            fault(faults, &path, format!("{count} sides are not two"), SIDES);
        }
        None
    })
}

fn machines(value: &Value, path: &str, faults: &mut Faults) -> Option<Vec<MachineName>> {
    let names = value.as_array().map(|names| {
        let names = names.iter().map(|name| name.as_str()?.parse().ok());
        names.collect::<Option<Vec<MachineName>>>()
    });
    match names {
        Some(Some(names)) if !names.is_empty() => return Some(names),
        Some(Some(_)) => fault(faults, path, "a side has a machine at least", SIDES),
        Some(None) | None => {
            let message = format!("{value} is no list of machines");
            fault(faults, path, message, SIDES);
        }
    }
    None
}

fn traffic(s: &mut Section<'_>, faults: &mut Faults) -> Option<Adapter> {
    let path = s.path_of("traffic");
    let hint = "write what moves it, such as traffic.haproxy = { socket = \"/run/haproxy/admin.sock\"; backend = \"web\"; }, or traffic.hook = true";
    let Some(value) = s.get("traffic") else {
        fault(faults, &path, "is missing", hint);
        return None;
    };
    let mut s = Section::new(value, &path, faults)?;
    let haproxy = s.get("haproxy");
    let hook = s.bool("hook", faults).unwrap_or(false);
    let adapter = match (haproxy, hook) {
        (Some(value), false) => {
            let haproxy = haproxy_of(value, &s.path_of("haproxy"), faults);
            haproxy.map(Adapter::Haproxy)
        }
        (None, true) => Some(Adapter::Hook),
        (Some(_), true) => {
            fault(
                faults,
                &path,
                "names two things that move it",
                "name one of them",
            );
            None
        }
        (None, false) => {
            fault(faults, &path, "names nothing that moves it", hint);
            None
        }
    };
    s.finish(faults);
    adapter
}

fn haproxy_of(value: &Value, path: &str, faults: &mut Faults) -> Option<Haproxy> {
    let mut s = Section::new(value, path, faults)?;
    let hint = "write the absolute path of the socket, such as \"/run/haproxy/admin.sock\"";
    let socket = s.parsed("socket", hint, faults, |value| match value.as_str() {
        Some(path) if path.starts_with('/') => Ok(At::Socket(path.to_owned())),
        Some(_) | None => Err(format!("{value} is no path of a socket")),
    });
    let address = analysis::endpoint(&mut s, "address", faults).map(At::Address);
    let given = ["socket", "address"].map(|key| s.has(key));
    if given[0] == given[1] {
        let message = "exactly one of socket and address must be given";
        let hint = "write where HAProxy's runtime API listens";
        fault(faults, path, message, hint);
    }
    let path_of_backend = s.path_of("backend");
    if !s.has("backend") {
        let hint = "write the name of the backend in HAProxy's configuration";
        fault(faults, &path_of_backend, "is missing", hint);
    }
    let hint = "write it as in HAProxy's configuration: letters, digits, '-', '_', '.' and ':'";
    let backend = s.parsed("backend", hint, faults, word);
    let mut servers = BTreeMap::new();
    let path_of_servers = s.path_of("servers");
    if let Some(value) = s.get("servers")
        && let Some(section) = Section::new(value, &path_of_servers, faults)
    {
        for (machine, server) in section.entries() {
            let path = section.path_of(machine);
            match (machine.parse::<MachineName>(), word(server)) {
                (Ok(machine), Ok(server)) => drop(servers.insert(machine, server)),
                (Err(error), _) => fault(faults, &path, error.to_string(), "name a machine"),
                (_, Err(message)) => fault(faults, &path, message, hint),
            }
        }
    }
    s.finish(faults);
    Some(Haproxy {
        at: socket.or(address)?,
        backend: backend?,
        servers,
    })
}

/// A name as HAProxy has them; it becomes part of a command.
fn word(value: &Value) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    match value.as_str() {
        Some(text) if !text.is_empty() && text.chars().all(good) => Ok(text.to_owned()),
        Some(_) | None => Err(format!("{value} is no name of HAProxy's")),
    }
}

/// Adds what is wrong between the sides and the rest of the configuration.
pub(super) fn check(
    path: &str,
    group: &GroupConfig,
    coordinators: &[MachineName],
    faults: &mut Faults,
) {
    let Some(sides) = &group.policy.blue_green else {
        return;
    };
    let path = format!("{path}.blueGreen");
    let mut seen = BTreeSet::new();
    for side in &sides.sides {
        let path = format!("{path}.sides.{}", side.name);
        for machine in &side.machines {
            if !group.machines.contains(machine) {
                elsewhere(machine, group, &path, faults);
            } else if !seen.insert(machine) {
                let message = format!("{machine} is named twice");
                fault(faults, &path, message, "a machine is on exactly one side");
            }
        }
    }
    for machine in group.machines.iter().filter(|m| !seen.contains(m)) {
        let message = format!("{machine} is on no side");
        fault(
            faults,
            &format!("{path}.sides"),
            message,
            "name it on one of them",
        );
    }
    for machine in group.machines.iter().filter(|m| coordinators.contains(m)) {
        let message = format!("{machine} runs a coordinator, which goes last of all");
        let hint = "give it a group of its own";
        fault(faults, &format!("{path}.sides"), message, hint);
    }
    let Adapter::Haproxy(haproxy) = &sides.adapter else {
        return;
    };
    let path = format!("{path}.traffic.haproxy.servers");
    for machine in haproxy
        .servers
        .keys()
        .filter(|m| !group.machines.contains(m))
    {
        elsewhere(machine, group, &path, faults);
    }
    let mut named = BTreeSet::new();
    let servers = group.machines.iter().map(|m| haproxy.server(m));
    for server in servers.filter(|server| !named.insert(*server)) {
        let message = format!("{server} is the server of two machines");
        fault(
            faults,
            &path,
            message,
            "give each machine a server of its own",
        );
    }
}

/// Adds that this machine is none of the group's.
fn elsewhere(machine: &MachineName, group: &GroupConfig, path: &str, faults: &mut Faults) {
    let names = group.machines.iter().map(MachineName::as_str);
    let hint = nearest(machine.as_str(), names, "machines");
    let message = format!("{machine} is not in the group");
    fault(faults, path, message, hint);
}
