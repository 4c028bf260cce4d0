//! What agents do to their machines, and what they say of it.

use agent_core::{Durable, Hook, Mode, Previous, Step, Work, state::Unreported};
use common::{Generation, LeaseId, OutcomeKind};

use super::super::{event::MachineIndex, machine::Disruption, world::World};

impl World {
    /// A result is always the same, however often it is sent.
    pub(crate) fn check_verdict(&mut self, machine: MachineIndex, result: &Unreported) {
        if result.lease == LeaseId::default() {
            return;
        }
        let truth = &mut self.machines[machine].truth;
        let first = truth
            .verdicts
            .entry(result.lease)
            .or_insert_with(|| result.outcome.clone());
        if *first != result.outcome {
            let text = format!("lease {} ends in two ways", result.lease);
            self.violate(text);
        }
    }

    /// A piece of work is begun on a machine.
    pub(crate) fn check_work(&mut self, machine: MachineIndex, work: &Work) {
        let m = &self.machines[machine];
        let Some(attempt) = &m.disk.attempt else {
            return;
        };
        let lease = attempt.lease;
        let there = attempt.step == Step::Rebooting;
        let (changes, disturbs) = match work {
            Work::RunHook { hook, .. } => {
                self.check_hook(machine, lease, *hook);
                (*hook == Hook::Pre, *hook == Hook::Pre)
            }
            Work::Activate { mode, .. } => (true, *mode == Mode::Switch),
            Work::Reboot { .. } => (there, there),
            Work::Restore { previous, .. } => {
                self.check_way_back(machine, lease, previous);
                (false, false)
            }
            Work::Stage { .. }
            | Work::Snapshot { .. }
            | Work::ArmDeadMan { .. }
            | Work::DisarmDeadMan { .. }
            | Work::Judge { .. }
            | Work::CheckHealth { .. } => (false, false),
            Work::CleanUp { .. } => {
                let text = format!("{} is cleaned up during an attempt", m.name);
                return self.violate(text);
            }
            Work::MoveTraffic { .. } => {
                let text = format!("the traffic of {} is moved during an attempt", m.name);
                return self.violate(text);
            }
        };
        if changes {
            self.note_before(machine, lease);
        }
        if disturbs {
            self.check_disturbance(machine, lease);
        }
    }

    /// A cleanup has ended: what the machine runs, boots and came from is there still, and it did not
    /// come beside an attempt.
    pub(crate) fn check_cleanup(&mut self, machine: MachineIndex, before: &[Generation]) {
        let m = &self.machines[machine];
        let name = &m.name;
        let mut wrong = Vec::new();
        if m.disk.attempt.is_some() {
            wrong.push(format!("{name} is cleaned up during an attempt"));
        }
        if m.generations.len() < before.len().min(2) {
            wrong.push(format!("{name} has too few generations left"));
        }
        let from = m.truth.before.iter();
        let from = from.flat_map(|(_, previous)| [&previous.running, &previous.boot_default]);
        for path in from.chain([&m.running, &m.booted, &m.profile]) {
            let leads_there = |generation: &Generation| generation.path == *path;
            if before.iter().any(leads_there) && !m.generations.iter().any(leads_there) {
                wrong.push(format!("a cleanup of {name} has taken {path}"));
            }
        }
        for wrong in wrong {
            self.violate(wrong);
        }
    }

    /// An attempt that knows where it begins is about to change something, unless it is cut short.
    pub(crate) fn note_begin(&mut self, machine: MachineIndex) {
        let attempt = self.machines[machine].disk.attempt.as_ref();
        let knows = attempt.filter(|attempt| attempt.previous.is_some());
        if let Some(lease) = knows.map(|attempt| attempt.lease) {
            self.note_before(machine, lease);
        }
    }

    fn note_before(&mut self, machine: MachineIndex, lease: LeaseId) {
        let m = &mut self.machines[machine];
        if m.truth.before.as_ref().is_none_or(|(l, _)| *l != lease) {
            let previous = Previous {
                running: m.running.clone(),
                boot_default: m.profile.clone(),
                profile: None,
            };
            m.truth.before = Some((lease, previous));
        }
    }

    fn check_hook(&mut self, machine: MachineIndex, lease: LeaseId, hook: Hook) {
        let truth = &mut self.machines[machine].truth;
        let count = truth.hooks.entry((lease, hook)).or_default();
        *count += 1;
        let twice = *count > 1;
        let pre = truth.hooks.get(&(lease, Hook::Pre)).copied().unwrap_or(0);
        let alone = hook != Hook::Pre && pre == 0 && truth.cut != Some(lease);
        if twice {
            self.violate(format!("lease {lease}: the {hook:?} hook runs twice"));
        }
        if alone {
            self.violate(format!("lease {lease}: the {hook:?} hook runs alone"));
        }
    }

    pub(crate) fn check_way_back(
        &mut self,
        machine: MachineIndex,
        lease: LeaseId,
        previous: &Previous,
    ) {
        let before = &self.machines[machine].truth.before;
        if before.as_ref() != Some(&(lease, previous.clone())) {
            let name = self.machines[machine].name.clone();
            self.violate(format!("{name} goes back to where it did not come from"));
        }
    }

    fn check_disturbance(&mut self, machine: MachineIndex, lease: LeaseId) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let name = m.name.clone();
        let truth = &mut m.truth;
        let ended = truth.verdicts.contains_key(&lease);
        let newest = lease >= truth.used && !ended;
        truth.used = truth.used.max(lease);
        let heard = truth.heard;
        let Some(told) = self.truth.told.get(&lease) else {
            return self.violate(format!("{name} is disturbed under a lease nobody gave it"));
        };
        let first = truth.disruption.is_none();
        let is_cleaned_up = m.units.values().any(|unit| {
            let is_cleanup = matches!(unit.work, Work::CleanUp { .. });
            is_cleanup && unit.ended.is_none()
        });
        self.truth.slots_moved = true;
        if first {
            truth.forgotten = told.lost;
        }
        truth.disruption.get_or_insert(Disruption {
            lease,
            group: told.group.clone(),
        });
        let mut wrong = Vec::new();
        if told.machine != machine {
            wrong.push("another machine's lease");
        }
        if told.until <= now {
            wrong.push("a lease that ran out");
        }
        if told.epoch < heard {
            wrong.push("a lease older than a stop it has heard of");
        }
        if is_cleaned_up {
            wrong.push("a lease that does not wait for a cleanup");
        }
        if !newest {
            wrong.push("a lease that was used up");
        }
        for wrong in wrong {
            self.violate(format!("{name} is disturbed under {wrong} ({lease})"));
        }
        if first {
            self.check_traffic();
            self.check_limits(machine);
        }
    }

    /// An attempt came to its verdict: is it true?
    pub(crate) fn check_end(&mut self, machine: MachineIndex, before: &Durable) {
        let m = &self.machines[machine];
        let Some(old) = &before.attempt else {
            return;
        };
        let was_closing = matches!(old.step, Step::Closing { .. });
        let outcome = match &m.disk.attempt {
            Some(attempt) => match &attempt.step {
                Step::Closing { outcome } => Some(outcome.kind),
                Step::Staging
                | Step::Snapshot
                | Step::Arming
                | Step::PreHook
                | Step::Activating
                | Step::Announcing
                | Step::Rebooting
                | Step::Rearming
                | Step::PostHook
                | Step::Judging
                | Step::RollingBack
                | Step::RebootingBack
                | Step::RollbackHook
                | Step::JudgingRollback
                | Step::Unknown(_) => None,
            },
            None => m.disk.unreported.as_ref().map(|r| r.outcome.kind),
        };
        let Some(kind) = outcome else {
            return;
        };
        if !was_closing {
            self.check_outcome(machine, old.lease, old.path.as_ref(), kind);
        }
        let m = &mut self.machines[machine];
        if m.disk.attempt.is_none() {
            if kind != OutcomeKind::Stuck {
                m.truth.disruption = None;
            }
            self.recovered(machine);
        }
    }

    fn check_outcome(
        &mut self,
        machine: MachineIndex,
        lease: LeaseId,
        target: Option<&common::StorePath>,
        kind: OutcomeKind,
    ) {
        let m = &self.machines[machine];
        let before = m.truth.before.as_ref().filter(|(l, _)| *l == lease);
        let is_back = before.is_none_or(|(_, previous)| {
            m.running == previous.running && m.profile == previous.boot_default
        });
        let ran = |hook| m.truth.hooks.get(&(lease, hook)).copied().unwrap_or(0) > 0;
        // What a power cut brings up is not the attempt's doing.
        let cut = m.truth.cut == Some(lease);
        let whole = !cut && ran(Hook::Pre);
        let (holds, paired) = match kind {
            OutcomeKind::Confirmed => (Some(&m.running) == target, ran(Hook::Post)),
            OutcomeKind::RolledBack => (is_back, ran(Hook::Rollback)),
            // Nothing was changed by the attempt.
            OutcomeKind::Abandoned | OutcomeKind::Refused => (is_back || cut, true),
            OutcomeKind::RebootRequired => {
                let stays = before.is_none_or(|(_, previous)| m.running == previous.running);
                (stays || cut, true)
            }
            OutcomeKind::Stuck => (true, true),
        };
        let name = m.name.clone();
        if !holds {
            self.violate(format!("{name} says {kind}, and is not (lease {lease})"));
        }
        if whole && !paired {
            self.violate(format!("{name} is {kind} without its hook (lease {lease})"));
        }
    }

    /// A machine that was away and is healthy again is back.
    pub(crate) fn recovered(&mut self, machine: MachineIndex) {
        let m = &mut self.machines[machine];
        if m.truth.disruption.is_some() && m.disk.attempt.is_none() && m.is_healthy() {
            m.truth.disruption = None;
        }
    }
}
