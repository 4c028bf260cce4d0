//! The machine's own health checks, and the conditions of an update: run side by side, each with its
//! deadline, none able to hang or to fail the others.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use agent_core::MayBegin;
use common::{CheckResult, Health, text, time};
use futures_util::future::join_all;
use platform::clock::Clock;
use tokio::net::TcpStream;

use crate::{
    apart::QUESTIONS,
    config::{Check, Probe},
    host::{Family, Host, Resources, RunAs, Since, Unit},
};

/// Bytes of an HTTP body that are looked at.
pub const BODY_MAX: usize = 64 * 1024;

/// Most processes and threads of a check that is a command.
const CHECK_TASKS_MAX: u64 = 1024;

/// How far a file server's clock may be ahead of the machine's.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Runs every check once. `family`: what those that are commands count as.
pub async fn run_all<H: Host>(
    host: &H,
    clock: &Clock,
    checks: &[Check],
    (family, tag): (Family, &str),
    since: Since,
) -> Health {
    let all = checks.iter().enumerate().map(|(index, check)| {
        let tag = format!("{index}-{tag}");
        async move { run(host, clock, check, (family, &tag), since).await }
    });
    Health::of(join_all(all).await)
}

async fn run<H: Host>(
    host: &H,
    clock: &Clock,
    check: &Check,
    unit: (Family, &str),
    since: Since,
) -> CheckResult {
    let probe = probe(host, &check.probe, check.timeout, unit, since);
    let found = match clock.timeout(check.timeout, probe).await {
        Ok(found) => found,
        Err(_) => Err(format!("no answer within {:?}", check.timeout)),
    };
    let (passed, detail) = match found {
        Ok(detail) => (true, detail),
        Err(detail) => (false, detail),
    };
    CheckResult {
        name: check.name.clone(),
        passed,
        detail: text::tame_line(&detail, text::DETAIL_MAX),
    }
}

/// What was seen, as good or as bad news.
async fn probe<H: Host>(
    host: &H,
    probe: &Probe,
    within: Duration,
    unit: (Family, &str),
    since: Since,
) -> Result<String, String> {
    match probe {
        Probe::Unit { unit } => {
            let state = host.active_state(unit).await.map_err(said)?;
            if state == "active" {
                Ok(state)
            } else {
                Err(state)
            }
        }
        Probe::Http {
            url,
            status,
            contains,
        } => http(url, *status, contains.as_deref()).await,
        Probe::Tcp { address } => connects(address).await,
        Probe::Command { command } => run_command(host, command, within, unit).await,
        Probe::Disk {
            path,
            free_bytes_min,
        } => {
            let (links, asked) = (host.links().clone(), path.clone());
            let free = QUESTIONS.ask(move || links.free_bytes(asked)).await;
            let free = free.map_err(said)?;
            let free = free.ok_or_else(|| format!("{} cannot be looked at", path.display()))?;
            at_least(free, *free_bytes_min)
        }
        Probe::File { path, age_max } => {
            let asked = path.clone();
            let found = QUESTIONS.ask(move || last_written(&asked)).await;
            let written = found.map_err(said)?.map_err(|error| {
                let path = path.display();
                format!("{path}: {error}")
            })?;
            young_enough(written, SystemTime::now(), *age_max)
        }
        Probe::Memory {
            available_bytes_min,
        } => {
            let text = fs::read_to_string("/proc/meminfo").map_err(said)?;
            let available = memory(&text, "MemAvailable").ok_or("/proc/meminfo does not tell")?;
            at_least(available, *available_bytes_min)
        }
        Probe::Load { per_cpu_max } => {
            let text = fs::read_to_string("/proc/loadavg").map_err(said)?;
            let load = first_load(&text).ok_or("/proc/loadavg does not tell")?;
            let cpus = std::thread::available_parallelism().map_err(said)?;
            load_within(load, cpus.get(), *per_cpu_max)
        }
        Probe::Journal {
            priority,
            entries_max,
        } => {
            let entries = host.serious_entries(*priority, since).await.map_err(said)?;
            few_enough(&entries, *entries_max)
        }
        Probe::Network { addresses } => {
            let all = join_all(addresses.iter().map(|address| connects(address))).await;
            match all.iter().find(|found| found.is_ok()) {
                Some(_) => Ok("reachable".to_owned()),
                None => Err(format!("none of {} answers", addresses.join(", "))),
            }
        }
    }
}

fn said(error: impl std::error::Error + 'static) -> String {
    common::error_chain::Chain(&error).to_string()
}

async fn connects(address: &str) -> Result<String, String> {
    match TcpStream::connect(address).await {
        Ok(_) => Ok("accepts connections".to_owned()),
        Err(error) => Err(format!("{address}: {error}")),
    }
}

async fn http(url: &str, status: Option<u16>, contains: Option<&str>) -> Result<String, String> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("lab-agent/", env!("CARGO_PKG_VERSION")));
    if !url.starts_with("https:") {
        // No certificates needed: a machine without any can still check a plain service.
        builder = builder.tls_backend_preconfigured(no_tls()?);
    }
    let client = builder.build().map_err(said)?;
    let mut response = client.get(url).send().await.map_err(said)?;
    let got = response.status();
    let right = status.map_or_else(|| got.is_success(), |wanted| got.as_u16() == wanted);
    if !right {
        return Err(format!("status {got}"));
    }
    let Some(wanted) = contains else {
        return Ok(format!("status {got}"));
    };
    let mut body: Vec<u8> = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(said)? {
        body.extend_from_slice(&chunk);
        if body.len() >= BODY_MAX {
            break;
        }
    }
    body.truncate(BODY_MAX);
    if String::from_utf8_lossy(&body).contains(wanted) {
        Ok(format!("status {got}"))
    } else {
        Err(format!(
            "status {got}, and the body does not contain {wanted:?}"
        ))
    }
}

fn no_tls() -> Result<rustls::ClientConfig, String> {
    let builder = rustls::ClientConfig::builder_with_provider(platform::identity::provider());
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(said)?;
    let roots = rustls::RootCertStore::empty();
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn run_command<H: Host>(
    host: &H,
    command: &[String],
    within: Duration,
    (family, tag): (Family, &str),
) -> Result<String, String> {
    let unit = command_unit(command, within, family, tag);
    // What an agent before us left under this name is another run's result.
    host.clear(tag).await.map_err(said)?;
    let ran = host.run(&unit).await.map_err(said)?;
    host.clear(tag).await.map_err(said)?;
    let output = ran.output.trim();
    let last = output.lines().last().unwrap_or_default();
    if ran.end.succeeded() {
        Ok(last.to_owned())
    } else {
        Err(format!("{} {last}", ran.end))
    }
}

fn command_unit(command: &[String], within: Duration, family: Family, tag: &str) -> Unit {
    Unit {
        family,
        tag: tag.to_owned(),
        description: format!("lab-updater: {}", family.word()),
        command: command.to_vec(),
        environment: Vec::new(),
        within,
        resources: Resources::tasks(CHECK_TASKS_MAX),
        run_as: RunAs::Root,
        may_begin: MayBegin::Always,
    }
}

fn at_least(found: u64, wanted: u64) -> Result<String, String> {
    let seen = format!("{found} bytes");
    if found >= wanted {
        Ok(seen)
    } else {
        Err(format!("{seen}, at least {wanted} are wanted"))
    }
}

/// When the file was written; of a directory, the newest file in it.
fn last_written(path: &Path) -> io::Result<SystemTime> {
    let meta = fs::metadata(path)?;
    if !meta.is_dir() {
        return meta.modified();
    }
    let mut newest = None;
    for entry in fs::read_dir(path)? {
        // What goes while it is looked at is none of the backups that stay.
        if let Ok(meta) = fs::metadata(entry?.path())
            && meta.is_file()
        {
            newest = newest.max(Some(meta.modified()?));
        }
    }
    newest.ok_or_else(|| io::Error::other("there is no file in it"))
}

/// A date in the future proves nothing: either clock may be wrong.
fn young_enough(written: SystemTime, now: SystemTime, age_max: Duration) -> Result<String, String> {
    let age = match now.duration_since(written) {
        Ok(age) => age,
        Err(ahead) if ahead.duration() <= CLOCKS_DIFFER => Duration::ZERO,
        Err(_) => return Err("it is dated in the future".to_owned()),
    };
    let seen = format!("written {} ago", time::span(age));
    if age <= age_max {
        Ok(seen)
    } else {
        let wanted = time::span(age_max);
        Err(format!("{seen}, at most {wanted} is wanted"))
    }
}

fn few_enough(entries: &[String], max: u32) -> Result<String, String> {
    let few = u32::try_from(entries.len()).is_ok_and(|count| count <= max);
    match entries.last() {
        Some(last) if !few => Err(format!("{} entries, the last: {last}", entries.len())),
        Some(_) | None => Ok(format!("{} entries", entries.len())),
    }
}

/// An amount of `/proc/meminfo`, in bytes.
pub(crate) fn memory(meminfo: &str, name: &str) -> Option<u64> {
    let named = |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
    let line = meminfo.lines().find_map(named)?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn first_load(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok()
}

fn load_within(load: f64, cpus: usize, per_cpu_max: f64) -> Result<String, String> {
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let per_cpu = load / f64::from(cpus);
    if per_cpu <= per_cpu_max {
        Ok(format!("{per_cpu:.2} per processor"))
    } else {
        Err(format!(
            "{per_cpu:.2} per processor, at most {per_cpu_max} is wanted"
        ))
    }
}

#[cfg(test)]
mod tests;
