//! The gates of a wave: what is to be measured now, what the answers come to, and whether the wave may
//! close.
//!
//! Whoever measures is told once what is wanted ([`Measurement`]); what was asked for is hearsay, so that
//! a restart asks anew, and an answer that does not come in time is an error like any other.

use std::time::Duration;

use common::{
    Action, Timestamp,
    text::{DETAIL_MAX, tame_line},
};

use super::{Analysis, Finding, Gate, Measurement, Tally};
use crate::{
    change::Change,
    decide::Draft,
    fleet::{Fleet, rollout_id},
    policy::Policy,
    request::Reply,
    rollout::{PauseReason, Place, RolloutGroup, Wave, WaveState},
    wait::WaitReason,
};

/// How long an answer may be under way beyond what the measurement itself may take.
pub(super) const SLACK: Duration = Duration::from_secs(20);

/// Of which wave, by number of the rollout and indices of group and wave, and which gate.
pub(crate) type Key = (u64, usize, usize, usize);

/// A measurement that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Number of the measurement; none of one that machines answer.
    pub(super) id: Option<u64>,
    /// Number of the question for their health that machines were asked; 0 of others.
    pub(super) request: u64,
    /// Since when everybody was back: what is measured anew is not answered by what was asked before.
    pub(super) since: Timestamp,
    /// From here on it counts as lost.
    pub(super) until: Timestamp,
}

/// The gates that hold waves under this policy. On the way back nothing is held up by a gate: it may
/// fail for nothing but what is being left.
pub(crate) fn gates_of(action: Action, policy: &Policy) -> &[Gate] {
    match action {
        Action::Rollback => &[],
        Action::Update | Action::Reboot => &policy.gates,
    }
}

/// Whether the gates have let this wave of the group close.
fn has_passed(group: &RolloutGroup, wave: &Wave) -> bool {
    let found = wave.analysis.as_ref();
    found.is_some_and(|found| found.passed(&group.policy.gates))
}

/// For how long the traffic of the group's present wave is watched, where it moves to that.
fn watch_of(group: &RolloutGroup) -> Option<Duration> {
    let sides = group.policy.blue_green.as_ref()?;
    (group.current + 1 < group.waves.len()).then_some(sides.watch)
}

/// Whether the group's present wave soaks under traffic that has moved to it: its gates are measured for as
/// long as that lasts, however often they have passed.
fn is_watched(group: &RolloutGroup, now: Timestamp) -> bool {
    group.policy.blue_green.is_some() && group.soaks_until(now).is_some()
}

/// Whether the gate is still to be measured: until it has passed, and while moved traffic is watched however
/// often it has; never again once a person has accepted it.
fn is_left(gate: &Gate, tally: &Tally, watched: bool) -> bool {
    !tally.accepted && (watched || !tally.passed(gate))
}

impl Fleet {
    /// The group and its present wave, if that is one that gates hold: somebody of it has been updated,
    /// and nobody has accepted what they found.
    fn judged(&self, number: u64, group: usize) -> Option<(&RolloutGroup, &Wave)> {
        let rollout = self.facts().rollouts.get(&number)?;
        let g = rollout.groups.get(group)?;
        let wave = g.waves.get(g.current)?;
        let shown = self.index().waves.get(&(number, group, g.current))?.updated > 0;
        let goes_on = match wave.state {
            WaveState::Open(_) | WaveState::Soaking(_) => true,
            WaveState::Waiting | WaveState::Closed => false,
        };
        let accepted = wave.analysis.as_ref().is_some_and(|found| found.accepted);
        let gated = !gates_of(rollout.action, &g.policy).is_empty();
        (gated && shown && goes_on && !accepted && g.finished_at.is_none()).then_some((g, wave))
    }

    /// The gates that hold the group's present wave, what they have come to, and since when everybody
    /// of it is back, while everybody is.
    pub(super) fn measured(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Option<(&RolloutGroup, &Analysis, Timestamp)> {
        let (g, wave) = self.judged(number, group)?;
        let analysis = wave.analysis.as_ref()?;
        let since = analysis.since?;
        let count = self.index().waves.get(&(number, group, g.current))?;
        let away = |place: &usize| self.is_offline(&wave.places[*place].machine, now);
        let back = match wave.state {
            WaveState::Open(_) => count.pending.iter().all(away),
            // What the gates say of a side says nothing while its traffic is elsewhere.
            WaveState::Soaking(_) => self.traffic_has_followed(number, group) != Some(false),
            WaveState::Waiting | WaveState::Closed => true,
        };
        let left = !analysis.passed(&g.policy.gates) || is_watched(g, now);
        (back && count.live == 0 && left).then_some((g, analysis, since))
    }

    /// Whether gates are to be measured although everybody has ended their part: not any more once
    /// other rollouts have taken over all whom it is about.
    pub(crate) fn has_gates_left(&self, number: u64) -> bool {
        let groups = self.facts().rollouts.get(&number);
        let groups = groups.map_or(0, |rollout| rollout.groups.len());
        let here = |place: &Place| {
            let at = self.index().place_of.get(&place.machine);
            at.is_some_and(|at| at.rollout == number)
        };
        (0..groups).any(|group| {
            let judged = self.judged(number, group);
            judged.is_some_and(|(g, wave)| !has_passed(g, wave) && wave.places.iter().any(here))
        })
    }

    /// Everybody of the group's present wave is back: asks for what is due. True when the gates let
    /// the wave close; when one has found too much of something, the rollout is paused.
    pub(crate) fn gates_passed(
        &mut self,
        number: u64,
        group: usize,
        now: Timestamp,
        draft: &mut Draft,
    ) -> bool {
        if !self.analysis_begins(number, group, now, draft) {
            return false;
        }
        self.measure(number, group, now, draft);
        let Some((g, analysis, _)) = self.measured(number, group, now) else {
            let judged = self.judged(number, group);
            return judged.is_none_or(|(g, wave)| has_passed(g, wave));
        };
        let each = g.policy.gates.iter().zip(&analysis.tallies);
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever else it found, a gate that has passed has passed.
        if self.has(crate::bug::Bug::GateLimitsIgnored) {
            return each
                .into_iter()
                .all(|(gate, tally)| tally.accepted || tally.passed >= gate.passes);
        }
        let failed = each.into_iter().find_map(|(gate, tally)| {
            let (finding, count, allowed) = tally.too_many(gate)?;
            let last = tally.last.as_ref();
            Some(PauseReason::AnalysisFailed {
                group: g.name.clone(),
                gate: gate.name.clone(),
                finding,
                count,
                allowed,
                detail: last.map_or_else(String::new, |last| last.detail.clone()),
            })
        });
        if let Some(reason) = failed {
            self.pause_rollout(&rollout_id(number), reason, draft);
        }
        false
    }

    /// Notes that everybody is back, once. False while somebody is out after all.
    fn analysis_begins(
        &mut self,
        number: u64,
        group: usize,
        now: Timestamp,
        draft: &mut Draft,
    ) -> bool {
        let Some((g, wave)) = self.judged(number, group) else {
            return true;
        };
        let count = self.index().waves.get(&(number, group, g.current));
        if count.is_some_and(|count| count.live > 0) {
            return false;
        }
        let opened = match (&wave.analysis, wave.state) {
            (Some(found), _) if found.since.is_some() => return true,
            (Some(found), _) => found.opened,
            (None, WaveState::Open(at)) => at,
            (None, WaveState::Waiting | WaveState::Soaking(_) | WaveState::Closed) => now,
        };
        let begins = Change::AnalysisBegan {
            rollout: rollout_id(number),
            group: g.name.clone(),
            wave: g.current,
            opened,
            at: now,
        };
        self.commit(draft, begins);
        true
    }

    /// Asks for every measurement that is due, and counts those that got lost.
    fn measure(&mut self, number: u64, group: usize, now: Timestamp, draft: &mut Draft) {
        let Some((g, analysis, since)) = self.measured(number, group, now) else {
            return;
        };
        let (wave, name, opened) = (g.current, g.name.clone(), analysis.opened);
        let each = g.policy.gates.iter().zip(&analysis.tallies).enumerate();
        let (watched, watch) = (is_watched(g, now), watch_of(g));
        let wanted: Vec<(usize, Gate)> = each
            .filter(|(_, (gate, tally))| is_left(gate, tally, watched))
            .filter(|(_, (gate, tally))| tally.due(gate, since, watched) <= now)
            .map(|(index, (gate, _))| (index, gate.clone()))
            .collect();
        for (index, gate) in wanted {
            let key = (number, group, wave, index);
            if self.is_put_off(number, group, &gate) {
                self.hearsay.measuring.remove(&key);
                continue;
            }
            match self.asked(key, since) {
                Some(asked) if gate.check().is_some() => {
                    self.hear_checks(key, &gate, asked, now, draft);
                }
                None if gate.check().is_some() => {
                    self.ask_machines(key, &gate, since, now, draft);
                }
                Some(asked) if now < asked.until => {}
                Some(_) => {
                    self.hearsay.measuring.remove(&key);
                    let detail = "nobody answered in time".to_owned();
                    self.found(key, self.of_silence(), detail, now, draft);
                }
                None => {
                    let id = self.begins_measurement(key, &gate, since, now);
                    let one_look = gate.of_one_look(watch);
                    #[cfg(feature = "seeded-bugs")]
                    // BUG (seeded): nothing is shared among looks.
                    let one_look = match self.has(crate::bug::Bug::EveryLookCounts) {
                        true => gate,
                        false => one_look,
                    };
                    draft.measure.push(Measurement {
                        id,
                        rollout: rollout_id(number),
                        group: name.clone(),
                        gate: one_look,
                        opened,
                        since,
                        at: now,
                    });
                }
            }
        }
    }

    /// What was asked for and still counts: of now, and not of before everything was begun anew.
    pub(super) fn asked(&self, key: Key, since: Timestamp) -> Option<Asked> {
        let asked = self.hearsay.measuring.get(&key);
        asked.filter(|asked| asked.since == since).copied()
    }

    /// Remembers that a measurement is asked for; its number.
    fn begins_measurement(
        &mut self,
        key: Key,
        gate: &Gate,
        since: Timestamp,
        now: Timestamp,
    ) -> u64 {
        self.hearsay.last_measurement += 1;
        let id = self.hearsay.last_measurement;
        let asked = Asked {
            id: Some(id),
            request: 0,
            since,
            until: now + gate.timeout + SLACK,
        };
        self.hearsay.measuring.insert(key, asked);
        id
    }

    /// What a measurement that got lost counts as.
    #[cfg_attr(
        not(feature = "seeded-bugs"),
        allow(clippy::unused_self, reason = "a known bug needs it")
    )]
    pub(super) fn of_silence(&self) -> Finding {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): nobody said anything against it.
        if self.has(crate::bug::Bug::SilentGatePasses) {
            return Finding::Pass;
        }
        Finding::Error
    }

    /// Takes the answer to a measurement. One that nobody waits for any more says nothing.
    pub(crate) fn answered(
        &mut self,
        now: Timestamp,
        id: u64,
        finding: Finding,
        detail: &str,
        draft: &mut Draft,
    ) -> Reply {
        let mut asked = self.hearsay.measuring.iter();
        let asked = asked.find(|(_, asked)| asked.id == Some(id));
        if let Some((&key, &asked)) = asked {
            self.hearsay.measuring.remove(&key);
            let (number, group, wave, _) = key;
            let here = self.measured(number, group, now);
            if here.is_some_and(|(g, _, since)| g.current == wave && asked.since == since) {
                self.found(key, finding, tame_line(detail, DETAIL_MAX), now, draft);
            }
        }
        Reply::Done(String::new())
    }

    pub(super) fn found(
        &mut self,
        (number, group, wave, gate): Key,
        finding: Finding,
        detail: String,
        at: Timestamp,
        draft: &mut Draft,
    ) {
        let group = self.facts().rollouts[&number].groups[group].name.clone();
        let change = Change::Measured {
            rollout: rollout_id(number),
            group,
            wave,
            gate,
            finding,
            detail,
            at,
        };
        self.commit(draft, change);
    }

    /// When something about the gates of the group's present wave is to be done next.
    pub(crate) fn gates_due(&self, number: u64, group: usize, now: Timestamp) -> Option<Timestamp> {
        let (g, analysis, since) = self.measured(number, group, now)?;
        let each = g.policy.gates.iter().zip(&analysis.tallies).enumerate();
        let watched = is_watched(g, now);
        each.filter(|(_, (gate, tally))| is_left(gate, tally, watched))
            .filter(|(_, (gate, _))| !self.is_put_off(number, group, gate))
            .map(|(index, (gate, tally))| {
                let asked = self.asked((number, group, g.current, index), since);
                asked.map_or_else(|| tally.due(gate, since, watched), |asked| asked.until)
            })
            .min()
    }

    /// That the group waits for a gate, and how far that one is, if so.
    pub(crate) fn analysing(
        &self,
        number: u64,
        group: usize,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let Some((g, analysis, _)) = self.measured(number, group, now) else {
            return Ok(());
        };
        let mut each = g.policy.gates.iter().zip(&analysis.tallies);
        let Some((gate, tally)) = each.find(|(gate, tally)| !tally.passed(gate)) else {
            return Ok(());
        };
        Err(WaitReason::Analysing {
            gate: gate.name.clone(),
            passed: tally.passed,
            needed: gate.passes,
            failed: tally.failed,
            inconclusive: tally.inconclusive,
            errors: tally.errors,
            until: self.gates_due(number, group, now),
            zone: g.policy.timezone.clone(),
        })
    }

    /// What was asked for about this rollout is not wanted any more.
    pub(crate) fn forget_measurements(&mut self, number: u64) {
        self.hearsay.measuring.retain(|(of, ..), _| *of != number);
    }
}
