//! Logs: into journald with structured fields when the journal is on the other end of stderr,
//! readable text otherwise.
//!
//! Events are `tracing`'s. Fields of the event and of the spans around it become journal fields:
//! `ROLLOUT`, `MACHINE`, `LEASE`, `EPOCH` and so on, so that `journalctl LEASE=12` finds an attempt.

use std::{fmt, io::IsTerminal as _};

use log::{Record, kv};
use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    filter::{ParseError, Targets},
    layer::Context,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// The environment variable with the filter: a level, or targets and levels (`info,agent=debug`), in the
/// syntax of [`Targets`]. It knows no regular expressions, which would be in every agent's memory.
pub const FILTER_VARIABLE: &str = "LAB_LOG";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variable holds no filter.
    #[error("{FILTER_VARIABLE} does not hold a log filter")]
    Filter(#[from] ParseError),
    /// stderr is the journal, but its socket does not answer.
    #[error("the journal cannot be reached")]
    Journal(#[source] std::io::Error),
    /// Called twice.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the whole process. `default_filter` holds where the environment says nothing.
pub fn init(program_name: &str, default_filter: &str) -> Result<(), TelemetryError> {
    let filter: Targets = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.trim().is_empty() => text.trim().parse()?,
        Ok(_) | Err(_) => default_filter.parse()?,
    };
    let registry = tracing_subscriber::registry().with(filter);
    if connected_to_journal() {
        let journal = JournalLog::empty()
            .map_err(TelemetryError::Journal)?
            .with_syslog_identifier(program_name.to_owned());
        registry.with(JournalLayer { journal }).try_init()?;
    } else {
        let stderr = std::io::stderr;
        let text = tracing_subscriber::fmt::layer()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false);
        registry.with(text).try_init()?;
    }
    Ok(())
}

/// Hands events to the journal's `log` sink, as key-values.
struct JournalLayer<J> {
    journal: J,
}

impl<J, S> Layer<S> for JournalLayer<J>
where
    J: log::Log + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.add_missing(of_span);
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        own.add_missing(&fields);
        let metadata = event.metadata();
        self.journal.log(
            &Record::builder()
                .level(log_level(*metadata.level()))
                .target(metadata.target())
                .module_path(metadata.module_path())
                .file(metadata.file())
                .line(metadata.line())
                .key_values(&own)
                .args(format_args!("{}", own.message))
                .build(),
        );
    }
}

fn log_level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

/// The message of an event and its other fields, in order; a name occurs once.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(&'static str, String)>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else if let Some((_, old)) = self.pairs.iter_mut().find(|(k, _)| *k == field.name()) {
            *old = value;
        } else {
            self.pairs.push((field.name(), value));
        }
    }

    /// Takes over what is not here yet: the innermost span is asked first and so wins.
    fn add_missing(&mut self, outer: &Self) {
        for (name, value) in &outer.pairs {
            if !self.pairs.iter().any(|(known, _)| known == name) {
                self.pairs.push((name, value.clone()));
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl kv::Source for Fields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn kv::VisitSource<'kvs>) -> Result<(), kv::Error> {
        for (name, value) in &self.pairs {
            visitor.visit_pair(kv::Key::from(*name), kv::Value::from(value.as_str()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Name and value of every field, the message and the level among them.
    type Entry = Vec<(String, String)>;

    /// Takes what is sent to the journal.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Entry>>>);

    impl log::Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            let mut entry = vec![
                ("MESSAGE".to_owned(), record.args().to_string()),
                ("PRIORITY".to_owned(), record.level().to_string()),
            ];
            let mut collect = Collect(&mut entry);
            record
                .key_values()
                .visit(&mut collect)
                .expect("it takes all");
            self.0.lock().expect("not poisoned").push(entry);
        }

        fn flush(&self) {}
    }

    struct Collect<'a>(&'a mut Entry);

    impl<'kvs> kv::VisitSource<'kvs> for Collect<'_> {
        fn visit_pair(
            &mut self,
            key: kv::Key<'kvs>,
            value: kv::Value<'kvs>,
        ) -> Result<(), kv::Error> {
            self.0.push((key.to_string(), value.to_string()));
            Ok(())
        }
    }

    /// What the journal is sent of these events.
    fn sent(events: impl FnOnce()) -> Vec<Entry> {
        let journal = Kept::default();
        let layer = JournalLayer {
            journal: journal.clone(),
        };
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, events);
        let kept = journal.0.lock().expect("not poisoned");
        kept.clone()
    }

    fn entry<const N: usize>(fields: [(&str, &str); N]) -> Entry {
        let owned = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        owned.to_vec()
    }

    #[test]
    fn a_filter_is_a_level_or_targets_with_levels() {
        for filter in ["info", "debug", "info,agent=debug,h2=off"] {
            assert!(filter.parse::<Targets>().is_ok(), "{filter}");
        }
        assert!("agent=loud".parse::<Targets>().is_err());
    }

    #[test]
    fn the_journal_gets_the_fields_of_an_event_under_their_names() {
        let absent: Option<u64> = None;
        let sent = sent(|| {
            tracing::info!(lease = 7, machine = %"web-01", rollout = "r3", absent, "going");
            tracing::warn!("alone");
        });
        let expected = [
            entry([
                ("MESSAGE", "going"),
                ("PRIORITY", "INFO"),
                ("lease", "7"),
                ("machine", "web-01"),
                ("rollout", "r3"),
            ]),
            entry([("MESSAGE", "alone"), ("PRIORITY", "WARN")]),
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn spans_around_an_event_add_what_it_does_not_say_and_the_inner_one_wins() {
        let sent = sent(|| {
            let outer = tracing::info_span!("outer", lease = 5, epoch = 2, machine = "web-01");
            let _outer = outer.entered();
            let inner = tracing::info_span!("inner", lease = 6, machine = tracing::field::Empty);
            inner.record("machine", "web-02");
            let _inner = inner.entered();
            tracing::error!(lease = 7, "here");
        });
        let expected = entry([
            ("MESSAGE", "here"),
            ("PRIORITY", "ERROR"),
            ("lease", "7"),
            ("machine", "web-02"),
            ("epoch", "2"),
        ]);
        assert_eq!(sent, [expected]);
    }
}
