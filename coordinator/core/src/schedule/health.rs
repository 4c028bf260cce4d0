//! Runs that ask machines for their health: who is asked, and what is told of it.

use std::time::Duration;

use common::{HealthState, MachineName, ScheduleName, Timestamp};

use super::{
    ScheduleRun,
    due::{TO_HEAR, UnderWay},
};
use crate::{
    decide::Draft,
    fleet::{CheckWanted, Fleet},
};

impl Fleet {
    pub(super) fn ask_for_health(
        &mut self,
        run: &ScheduleRun,
        now: Timestamp,
        draft: &mut Draft,
    ) -> UnderWay {
        let machines = self.machines_of(&run.groups);
        let request = self.next_check();
        let mut longest = Duration::ZERO;
        for machine in &machines {
            let timeout = self.health_timeout(machine);
            longest = longest.max(timeout);
            let wanted = CheckWanted { request, timeout };
            self.hearsay.checks.insert(machine.clone(), wanted);
        }
        draft.wake.extend(machines.iter().cloned());
        UnderWay {
            request,
            machines,
            ..UnderWay::new(run.number, now + longest + TO_HEAR)
        }
    }

    /// How the machines are, once all of them have answered or had their time.
    pub(super) fn checked(
        &mut self,
        name: &ScheduleName,
        run: &ScheduleRun,
        now: Timestamp,
        draft: &mut Draft,
    ) -> Option<(bool, String)> {
        let asked = self.under_way(name, run, now, draft);
        let answered = |machine: &MachineName| {
            let known = self.facts().machines.get(machine);
            known.is_some_and(|known| known.heard.health_request >= asked.request)
        };
        if now < asked.until && !asked.machines.iter().all(answered) {
            return None;
        }
        let of = |wanted: &dyn Fn(&MachineName) -> bool| {
            let names = asked.machines.iter().filter(|machine| wanted(machine));
            names
                .map(MachineName::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let healthy = |machine: &MachineName| {
            let known = self.facts().machines.get(machine);
            known.is_some_and(|known| known.health() == HealthState::Healthy)
        };
        let silent = of(&|machine| !answered(machine));
        let ill = of(&|machine| answered(machine) && !healthy(machine));
        let mut found = Vec::new();
        if !ill.is_empty() {
            found.push(format!("not healthy: {ill}"));
        }
        if !silent.is_empty() {
            found.push(format!("silent: {silent}"));
        }
        if found.is_empty() {
            let count = asked.machines.len();
            return Some((true, format!("{count} machines, all healthy")));
        }
        Some((false, found.join("; ")))
    }
}
