//! Figures of a benchmark: named numbers with units, as lines or as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// One benchmark's result.
#[derive(Debug)]
pub struct Figures {
    name: &'static str,
    values: Vec<(String, f64, &'static str)>,
}

impl Figures {
    /// Nothing measured yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            values: Vec::new(),
        }
    }

    /// Adds a number.
    pub fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.values.push((what.into(), value, unit));
    }

    /// Adds a count.
    #[allow(clippy::cast_precision_loss, reason = "counts are small")]
    pub fn add_count(&mut self, what: impl Into<String>, count: impl TryInto<u64>) {
        let count = count.try_into().unwrap_or(u64::MAX);
        self.add(what, count as f64, "");
    }

    /// Adds a duration, in microseconds.
    pub fn add_duration(&mut self, what: impl Into<String>, took: Duration) {
        self.add(what, took.as_secs_f64() * 1e6, "us");
    }

    /// Adds mean, median, 99th percentile and maximum of these durations, in microseconds.
    pub fn add_spread(&mut self, what: &str, mut samples: Vec<Duration>) {
        samples.sort();
        let Some(last) = samples.last() else { return };
        let micros = |duration: &Duration| duration.as_secs_f64() * 1e6;
        let at = |share: f64| {
            // A share of a length is within it.
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            #[allow(clippy::cast_sign_loss)]
            let index = ((samples.len() - 1) as f64 * share).round() as usize;
            micros(&samples[index])
        };
        let total: Duration = samples.iter().sum();
        #[allow(clippy::cast_precision_loss, reason = "counts of samples are small")]
        let mean = micros(&total) / samples.len() as f64;
        self.add(format!("{what}, mean"), mean, "us");
        self.add(format!("{what}, median"), at(0.5), "us");
        self.add(format!("{what}, 99 %"), at(0.99), "us");
        self.add(format!("{what}, most"), micros(last), "us");
    }

    /// As JSON: `{"name", "figures": {"what [unit]": value}}`.
    pub fn json(&self) -> Value {
        let values = self.values.iter().map(|(what, value, unit)| {
            (
                format!("{what} [{unit}]"),
                json!((value * 1000.0).round() / 1000.0),
            )
        });
        json!({ "name": self.name, "figures": values.collect::<Map<String, Value>>() })
    }

    /// As aligned lines.
    pub fn text(&self) -> String {
        let width = self
            .values
            .iter()
            .map(|(what, _, _)| what.chars().count())
            .max();
        let mut text = format!("{}\n", self.name);
        for (what, value, unit) in &self.values {
            let width = width.unwrap_or(0);
            text.push_str(&format!("  {what:<width$}  {value:>12.2} {unit}\n"));
        }
        text
    }
}
