//! How often what is compared with before is looked at in one wave, and what that makes of its significance:
//! each look may take chance for a change, so all of them together share what one may.

use std::time::Duration;

use super::{Finding, Gate, Number, Probe, Test};

impl Gate {
    /// How long the times are that it compares, if it compares any.
    fn window(&self) -> Option<Duration> {
        match &self.probe {
            Probe::Promql {
                test: Test::NotWorse { window, .. },
                ..
            } => Some(*window),
            Probe::Promql { .. }
            | Probe::Http { .. }
            | Probe::Tcp { .. }
            | Probe::Dns { .. }
            | Probe::Certificate { .. }
            | Probe::HealthCheck { .. } => None,
        }
    }

    /// From a measurement that found this to the next, while traffic is watched: values are compared once.
    pub(super) fn every(&self, found: Finding) -> Duration {
        let window = match found {
            Finding::Pass | Finding::Fail => self.window(),
            // Nothing was compared.
            Finding::Inconclusive | Finding::Error => None,
        };
        window.map_or(self.interval, |window| window.max(self.interval))
    }

    /// How often it is looked at in a wave if all goes well: until it has passed, and where traffic moves to the
    /// wave once more after that, and for as long as it is watched.
    pub fn looks(&self, watch: Option<Duration>) -> u32 {
        let watched = watch.map_or(0, |watch| {
            let left = watch.saturating_sub(self.initial_delay).as_millis();
            let looks = left.div_ceil(self.every(Finding::Pass).as_millis().max(1));
            u32::try_from(looks).unwrap_or(u32::MAX).max(self.passes)
        });
        self.passes.saturating_add(watched)
    }

    /// The same for one of these looks: its share of the significance, by Bonferroni. That is sound whether
    /// or not the looks share values, as all of them share those of before.
    pub(super) fn of_one_look(&self, watch: Option<Duration>) -> Self {
        let looks = self.looks(watch);
        let mut gate = self.clone();
        if let Probe::Promql {
            test: Test::NotWorse { significance, .. },
            ..
        } = &mut gate.probe
            && let Some(share) = Number::new(significance.get() / f64::from(looks))
        {
            *significance = share;
        }
        gate
    }
}
