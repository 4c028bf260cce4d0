//! Telling people: into the journal, and to the webhooks of the fleet configuration.
//!
//! Runs beside everything else and can harm nothing: a telling that cannot be delivered is tried a
//! few times and dropped with a warning.

use std::{collections::BTreeMap, time::Duration};

use common::{
    error_chain::Chain,
    text::{REASON_MAX, tame_line},
};
use coordinator_core::{FleetConfig, history::Entry};
use reqwest::{Client, redirect::Policy};
use serde::Serialize;
use tokio::sync::mpsc;

/// Tellings that may wait to be delivered.
pub const QUEUE: usize = 256;

/// How long one delivery may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Pauses between attempts at one delivery.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Something to tell, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    level: Level,
    body: Body,
    /// Name and address.
    webhooks: BTreeMap<String, String>,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

/// What a webhook is sent, as JSON. Fields are only ever added. `text` and `content` say the same:
/// chat services read one or the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Body {
    level: Level,
    kind: String,
    text: String,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Entry>,
}

impl Body {
    fn new(level: Level, kind: &str, text: String, event: Option<Entry>) -> Self {
        Self {
            level,
            kind: kind.to_owned(),
            content: text.clone(),
            text,
            event,
        }
    }
}

impl Telling {
    /// What people are told of an event, when it is worth it.
    pub fn of(entry: &Entry, config: Option<&FleetConfig>) -> Option<Self> {
        let level = match entry.kind.as_str() {
            "rollout-failed" | "rollout-paused" | "lost" | "stop" | "schedule-failed"
            | "traffic-given-up" => Level::Error,
            "emergency-update" | "overdue" | "approval-asked" | "promotion-asked"
            | "return-asked" | "rollout-aborted" | "restored" | "window-missed"
            | "schedule-skipped" | "schedule-missed" | "schedule-left-out" | "quarantined"
            | "target-quarantined" | "not-updated" | "not-applied" | "traffic-failed" => {
                Level::Warning
            }
            "rollout-finished" | "resume" | "released" | "target-released" | "traffic-moved" => {
                Level::Info
            }
            _ => return None,
        };
        let named = [
            entry.rollout.as_ref().map(|id| format!("rollout {id}")),
            entry.group.as_ref().map(|name| format!("group {name}")),
            entry.machine.as_ref().map(|name| format!("machine {name}")),
            (!entry.by.is_empty()).then(|| format!("by {}", entry.by)),
        ];
        let named: Vec<String> = named.into_iter().flatten().collect();
        let mut text = entry.kind.replace('-', " ");
        if !named.is_empty() {
            text = format!("{text}: {}", named.join(", "));
        }
        if !entry.text.is_empty() {
            text = format!("{text}: {}", entry.text);
        }
        let text = tame_line(&text, REASON_MAX);
        Some(Self {
            level,
            body: Body::new(level, &entry.kind, text, Some(entry.clone())),
            webhooks: webhooks(config, |_| true),
        })
    }

    /// What an operator tells people through these channels.
    pub fn notice(
        level: &str,
        message: &str,
        channels: &[String],
        config: Option<&FleetConfig>,
    ) -> Self {
        let level = match level {
            "debug" => Level::Debug,
            "warning" => Level::Warning,
            "error" => Level::Error,
            _ => Level::Info,
        };
        let text = tame_line(message, REASON_MAX);
        Self {
            level,
            body: Body::new(level, "notice", text, None),
            webhooks: webhooks(config, |name| {
                channels.iter().any(|channel| channel == name)
            }),
        }
    }
}

/// The webhooks of the configuration whose names are wanted.
fn webhooks(
    config: Option<&FleetConfig>,
    wanted: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let known = config.into_iter().flat_map(|config| &config.webhooks);
    known
        .filter(|(name, _)| wanted(name))
        .map(|(name, address)| (name.clone(), address.clone()))
        .collect()
}

/// Delivers until the driver is gone.
pub async fn run(mut tellings: mpsc::Receiver<Telling>) {
    let client = match client() {
        Ok(client) => Some(client),
        Err(error) => {
            tracing::warn!("webhooks cannot be called: {}", Chain(&error));
            None
        }
    };
    while let Some(telling) = tellings.recv().await {
        log(&telling);
        let Some(client) = &client else { continue };
        for (name, address) in telling.webhooks {
            let (client, body) = (client.clone(), telling.body.clone());
            tokio::spawn(async move { deliver(&client, &name, &address, &body).await });
        }
    }
}

fn client() -> Result<Client, reqwest::Error> {
    // reqwest takes the process's provider; that one is set already is as good.
    let provider = rustls::crypto::ring::default_provider();
    drop(provider.install_default());
    Client::builder()
        .timeout(DEADLINE)
        // An address that answers with another one is not followed: it could lead inside.
        .redirect(Policy::none())
        .user_agent(concat!("lab-coordinator/", env!("CARGO_PKG_VERSION")))
        .build()
}

fn log(telling: &Telling) {
    let (kind, text) = (&telling.body.kind, &telling.body.text);
    match telling.level {
        Level::Debug => tracing::debug!(notification = kind, "{text}"),
        Level::Info => tracing::info!(notification = kind, "{text}"),
        Level::Warning => tracing::warn!(notification = kind, "{text}"),
        Level::Error => tracing::error!(notification = kind, "{text}"),
    }
}

async fn deliver(client: &Client, name: &str, address: &str, body: &Body) {
    let mut pauses = PAUSES.iter();
    loop {
        let answer = client.post(address).json(body).send().await;
        // The address may hold a secret: errors never show it.
        let trouble = match answer.and_then(reqwest::Response::error_for_status) {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => format!("it answered {}", answer.status()),
            Err(error) => Chain(&error.without_url()).to_string(),
        };
        let Some(pause) = pauses.next() else {
            tracing::warn!("notification channel {name} did not take a message: {trouble}");
            return;
        };
        tokio::time::sleep(*pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str) -> Entry {
        Entry {
            kind: kind.to_owned(),
            rollout: "r7".parse().ok(),
            machine: "web-01".parse().ok(),
            text: "no\u{1b}[2J word".to_owned(),
            ..Entry::default()
        }
    }

    #[test]
    fn events_that_need_somebody_are_told() {
        let told = Telling::of(&entry("overdue"), None).expect("worth it");
        assert_eq!(told.level, Level::Warning);
        assert_eq!(
            told.body.text,
            "overdue: rollout r7, machine web-01: no [2J word"
        );
        for warns in [
            "return-asked",
            "emergency-update",
            "quarantined",
            "target-quarantined",
            "not-updated",
        ] {
            let told = Telling::of(&entry(warns), None).expect("worth it");
            assert_eq!(told.level, Level::Warning, "{warns}");
        }
        let released = Telling::of(&entry("released"), None).expect("worth it");
        assert_eq!(released.level, Level::Info);
        for everyday in ["attempt", "rollout-created", "config"] {
            assert_eq!(Telling::of(&entry(everyday), None), None, "{everyday}");
        }
    }

    #[test]
    fn a_notice_goes_where_it_was_sent() {
        let document = serde_json::json!({
            "updateGroups": { "dev": { "machines": ["dev-01"] } },
            "updateSettings": {
                "notificationChannels": ["email", "discord"],
                "channels": { "discord": { "webhook": "https://example.org/hook" } }
            }
        });
        let config = FleetConfig::parse(&document).expect("valid");
        let to = |channel: &str| {
            Telling::notice("warning", "hello", &[channel.to_owned()], Some(&config))
        };
        assert_eq!(to("discord").webhooks.len(), 1);
        assert!(to("email").webhooks.is_empty());
    }
}
