//! Gates that the machines of a wave answer themselves: each measurement asks all of them for a check of
//! their own, and only answers to that question count. What a machine said before says how it was then.

use std::time::Duration;

use common::{MachineName, Timestamp};

use super::{
    Finding, Gate, Probe,
    wave::{Asked, Key, SLACK},
};
use crate::{
    decide::Draft,
    fleet::{CheckWanted, Fleet},
    rollout::{Place, PlaceState},
};

/// Machines named in a detail.
const SHOWN: usize = 3;

/// What the machines of a wave say about one check of theirs.
#[derive(Debug, Default)]
struct Said<'a> {
    passed: usize,
    failed: Vec<&'a str>,
    /// They do not know the check, or are offline.
    silent: Vec<&'a str>,
    /// They are there and have not answered.
    missing: Vec<&'a str>,
}

impl Gate {
    /// The check that machines are to be asked for, of a gate that they answer themselves.
    pub(super) fn check(&self) -> Option<&str> {
        match &self.probe {
            Probe::HealthCheck { check } => Some(check),
            Probe::Http { .. }
            | Probe::Tcp { .. }
            | Probe::Dns { .. }
            | Probe::Certificate { .. }
            | Probe::Promql { .. } => None,
        }
    }
}

impl Fleet {
    /// Whether the gate has to wait: machines that an emergency stop holds are asked for nothing.
    pub(super) fn is_put_off(&self, number: u64, group: usize, gate: &Gate) -> bool {
        let name = &self.facts().rollouts[&number].groups[group].name;
        let stop = self.facts().stop.as_ref();
        gate.check().is_some() && stop.is_some_and(|stop| stop.covers(name))
    }

    /// Asks every machine that was updated in this wave for a check of its own; what was asked for. Without
    /// anybody who could answer, the measurement ends at once.
    pub(super) fn ask_machines(
        &mut self,
        key: Key,
        gate: &Gate,
        since: Timestamp,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let there = self.updated_of(key).into_iter();
        let there: Vec<MachineName> = there
            .filter(|machine| !self.is_offline(machine, now))
            .cloned()
            .collect();
        let request = self.next_check();
        let mut longest = Duration::ZERO;
        for machine in &there {
            // Checks that are cut short would make the machine ill.
            let timeout = self.health_timeout(machine).max(gate.timeout);
            longest = longest.max(timeout);
            let wanted = CheckWanted { request, timeout };
            self.hearsay.checks.insert(machine.clone(), wanted);
        }
        draft.wake.extend(there);
        let asked = Asked {
            id: None,
            request,
            since,
            until: now + longest + SLACK,
        };
        self.hearsay.measuring.insert(key, asked);
        self.hear_checks(key, gate, asked, now, draft);
    }

    /// Ends a measurement when every machine has answered that is there, or the time for it is over.
    pub(super) fn hear_checks(
        &mut self,
        key: Key,
        gate: &Gate,
        asked: Asked,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let Some(check) = gate.check() else {
            return;
        };
        let said = self.said(key, check, asked.request, now);
        if !said.missing.is_empty() && now < asked.until {
            return;
        }
        let (finding, detail) = said.finding(check, self.of_silence());
        self.hearsay.measuring.remove(&key);
        self.found(key, finding, detail, now, draft);
    }

    /// A machine has answered a question for its health: perhaps the last that a gate waited for.
    pub(crate) fn gates_hear(&mut self, machine: &MachineName, now: Timestamp, draft: &mut Draft) {
        let Some(number) = self.index().place_of.get(machine).map(|at| at.rollout) else {
            return;
        };
        let keys = self.hearsay.measuring.keys();
        let keys: Vec<Key> = keys.filter(|(of, ..)| *of == number).copied().collect();
        for key in keys {
            if let Some((gate, asked)) = self.still_counts(key, now) {
                self.hear_checks(key, &gate, asked, now, draft);
            }
        }
    }

    /// The gate and what was asked for, of a measurement that still counts.
    fn still_counts(&self, key: Key, now: Timestamp) -> Option<(Gate, Asked)> {
        let (number, group, wave, gate) = key;
        let (g, _, since) = self.measured(number, group, now)?;
        let asked = self.asked(key, since)?;
        let gate = g.policy.gates.get(gate)?.clone();
        (g.current == wave && !self.is_put_off(number, group, &gate)).then_some((gate, asked))
    }

    /// Who was updated in this wave.
    fn updated_of(&self, (number, group, wave, _): Key) -> Vec<&MachineName> {
        let places = &self.facts().rollouts[&number].groups[group].waves[wave].places;
        let updated = places
            .iter()
            .filter(|place| place.state == PlaceState::Updated);
        updated.map(|Place { machine, .. }| machine).collect()
    }

    /// What they say about this check of theirs, in answer to this question.
    fn said(&self, key: Key, check: &str, request: u64, now: Timestamp) -> Said<'_> {
        let mut said = Said::default();
        for machine in self.updated_of(key) {
            let name = machine.as_str();
            let known = self.facts().machines.get(machine);
            #[cfg(feature = "seeded-bugs")]
            // BUG (seeded): whatever it said last is an answer.
            let request = match self.has(crate::bug::Bug::OldAnswersCount) {
                true => 0,
                false => request,
            };
            let answered = known.filter(|known| known.heard.health_request >= request);
            let report = answered.and_then(|known| known.report.as_ref());
            let mut checks = report.into_iter().flat_map(|report| &report.health.checks);
            match checks.find(|said| said.name == check) {
                _ if self.is_offline(machine, now) => said.silent.push(name),
                _ if answered.is_none() => said.missing.push(name),
                Some(found) if found.passed => said.passed += 1,
                Some(_) => said.failed.push(name),
                None => said.silent.push(name),
            }
        }
        said
    }
}

impl Said<'_> {
    /// What it comes to, when nobody else is waited for.
    fn finding(&self, check: &str, of_silence: Finding) -> (Finding, String) {
        if !self.failed.is_empty() {
            let text = format!("{check} fails on {}", named(&self.failed));
            (Finding::Fail, text)
        } else if !self.missing.is_empty() {
            let text = format!("{} did not answer in time", named(&self.missing));
            (of_silence, text)
        } else if !self.silent.is_empty() {
            let text = format!("nothing is heard of {check} on {}", named(&self.silent));
            (Finding::Inconclusive, text)
        } else {
            let text = format!("{check} passes on {} machines", self.passed);
            (Finding::Pass, text)
        }
    }
}

/// The first of them, and how many more there are.
fn named(machines: &[&str]) -> String {
    match machines.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", machines[..SHOWN].join(", ")),
        Some(_) | None => machines.join(", "),
    }
}
