//! The log of a test program, with its fields.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

/// One line: its fields by name, `message` and `level` among them.
pub(crate) type Line = BTreeMap<&'static str, String>;

/// Keeps every line from warnings to information.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    /// Keeps those of the whole process, from here on. Once in a test program.
    pub(crate) fn keep() -> Self {
        let lines = Self::default();
        tracing::subscriber::set_global_default(lines.clone()).expect("the only one");
        lines
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that have this value in this field.
    pub(crate) fn with(&self, field: &str, value: &str) -> Vec<Line> {
        let lines = self.lines();
        let found = lines
            .iter()
            .filter(|line| line.get(field).is_some_and(|said| said == value));
        found.cloned().collect()
    }
}

struct Fields(Line);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        let level = event.metadata().level().to_string();
        fields.0.insert("level", level);
        self.lines().push(fields.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
