//! The edge between the real agent and a simulated machine.

use std::{path::PathBuf, time::Duration};

use agent::{
    directory,
    host::{
        FailedUnit, Family, Host, HostError, Ran, Reboot, Resources, RunAs, Since, UNIT_PREFIX,
        Unit, check_begin,
    },
    links::{Links, PROFILE},
    systemd::ServiceMake,
};
use agent_core::{MayBegin, Reach, RebootKind, StepId};
use common::{BootId, LeaseId, StorePath, Target};
use platform::clock::Clock;

use super::{
    machine::{Flaw, Power, switcher},
    setup::{At, SECOND, elapsed},
    world::Shared,
};

/// A machine, as its agent and its dead-man program reach it.
pub(crate) struct SimHost {
    world: Shared,
    machine: usize,
    links: Links,
    clock: Clock,
}

impl SimHost {
    pub(crate) fn new(world: Shared, machine: usize) -> Self {
        let (links, clock) = {
            let m = &world.lock().machines[machine];
            (m.links.clone(), m.clock.clock())
        };
        Self {
            world,
            machine,
            links,
            clock,
        }
    }

    async fn until(at: At) {
        // A timer of the runtime has milliseconds: one more, so that it is not early.
        let left = at.saturating_sub(elapsed()) + 1;
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
}

impl Host for SimHost {
    fn links(&self) -> &Links {
        &self.links
    }

    fn boot_id(&self) -> Result<BootId, HostError> {
        Ok(self.world.lock().machines[self.machine].boot_id())
    }

    async fn run(&self, unit: &Unit) -> Result<Ran, HostError> {
        let name = unit.name();
        if self.world.lock().machines[self.machine]
            .look(&name)
            .is_none()
        {
            unit.check_begin(&self.clock)?;
            self.world.lock().begin(self.machine, unit);
        }
        loop {
            let look = {
                let mut world = self.world.lock();
                world.settle(self.machine, elapsed());
                world.machines[self.machine].look(&name)
            };
            match look {
                Some(Ok(end)) => {
                    let output = String::new();
                    return Ok(Ran { end, output });
                }
                Some(Err(at)) => Self::until(at).await,
                None => return Err(HostError::Lost(name)),
            }
        }
    }

    async fn has_unit(&self, step: StepId) -> Result<bool, HostError> {
        let suffix = format!("-{step}.service");
        let world = self.world.lock();
        let mut units = world.machines[self.machine].units.keys();
        Ok(units.any(|name| name.ends_with(&suffix)))
    }

    async fn clear(&self, tag: &str) -> Result<(), HostError> {
        let suffix = format!("-{tag}.service");
        let mut world = self.world.lock();
        let units = &mut world.machines[self.machine].units;
        units.retain(|name, _| !name.ends_with(&suffix));
        Ok(())
    }

    async fn sweep(&self, awaited: &[StepId]) -> Result<(), HostError> {
        let suffixes = awaited.iter().map(|step| format!("-{step}.service"));
        let suffixes: Vec<String> = suffixes.collect();
        let mut world = self.world.lock();
        world.settle(self.machine, elapsed());
        let machine = &mut world.machines[self.machine];
        let swept = |name: &&String| {
            let is_awaited = suffixes
                .iter()
                .any(|suffix| name.ends_with(suffix.as_str()));
            !is_awaited && matches!(machine.look(name), Some(Ok(_)))
        };
        let swept: Vec<String> = machine.units.keys().filter(swept).cloned().collect();
        machine.units.retain(|name, _| !swept.contains(name));
        Ok(())
    }

    async fn stop(&self, families: &[Family]) -> Result<(), HostError> {
        let ours = |name: &str| {
            let of =
                |family: &Family| name.starts_with(&format!("{UNIT_PREFIX}{}-", family.word()));
            families.iter().any(of)
        };
        let mut world = self.world.lock();
        let units = &mut world.machines[self.machine].units;
        units.retain(|name, _| !ours(name));
        Ok(())
    }

    async fn obtain(
        &self,
        step: StepId,
        target: &Target,
        within: Duration,
    ) -> Result<(StorePath, String), HostError> {
        let path = target.closure().cloned();
        let path = path.ok_or_else(|| HostError::Missing("closures only".to_owned()))?;
        let unit = Unit {
            family: Family::Stage,
            tag: step.to_string(),
            description: String::new(),
            command: Vec::new(),
            environment: Vec::new(),
            within,
            resources: Resources::default(),
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        };
        self.run(&unit).await?;
        let mut world = self.world.lock();
        if world.machines[self.machine].flaw(&path) == Some(Flaw::StageFails) {
            return Err(HostError::Missing(format!("{path} has no signature")));
        }
        let kernel = world.kernels.get(&path).copied().unwrap_or(0);
        let put = world.machines[self.machine].put(&path, kernel);
        put.map_err(|error| HostError::io("put a system into the store", error))?;
        world.tell(|w| {
            format!(
                "{} has {} ({step})",
                w.machines[self.machine].name,
                path.name()
            )
        });
        Ok((path, String::new()))
    }

    async fn is_complete(&self, path: &StorePath) -> Result<bool, HostError> {
        Ok(self.links.at(path.as_str()).exists())
    }

    async fn set_profile(
        &self,
        tag: &str,
        path: &StorePath,
        may_begin: MayBegin,
    ) -> Result<(), HostError> {
        if self.links.resolve(PROFILE).as_ref() != Some(path) {
            check_begin(tag, may_begin, &self.clock)?;
        }
        directory::set_profile(&self.links, path)
            .map_err(|error| HostError::io("set the system profile", error))
    }

    fn switcher(&self, system: &StorePath) -> PathBuf {
        switcher(&self.links, system)
    }

    async fn arm(&self, lease: LeaseId, after: Duration) -> Result<(), HostError> {
        self.world.lock().machines[self.machine].arm(lease, elapsed(), after);
        Ok(())
    }

    async fn disarm(&self, lease: LeaseId) -> Result<(), HostError> {
        let mut world = self.world.lock();
        let armed = &mut world.machines[self.machine].dead_man;
        armed.take_if(|(of, _)| *of == lease);
        Ok(())
    }

    async fn await_dead_man(&self, lease: LeaseId, within: Duration) -> Result<(), HostError> {
        let deadline = elapsed() + u64::try_from(within.as_millis()).unwrap_or(u64::MAX / 2);
        let its = format!("-dead-man-{lease}-");
        loop {
            let ends = {
                let mut world = self.world.lock();
                world.settle(self.machine, elapsed());
                let machine = &world.machines[self.machine];
                let mut units = machine.units.keys().filter(|name| name.contains(&its));
                units.find_map(|name| machine.look(name)?.err())
            };
            match ends {
                Some(at) if elapsed() < deadline => Self::until(at.min(deadline)).await,
                Some(_) | None => return Ok(()),
            }
        }
    }

    async fn reboot(&self, _kind: RebootKind) -> Result<Reboot, HostError> {
        let mut world = self.world.lock();
        world.check_reboot(self.machine);
        let at = elapsed() + world.rng.between(SECOND, 20 * SECOND);
        world.machines[self.machine].power = Power::GoingDown(at);
        world.tell(|w| format!("{} goes down", w.machines[self.machine].name));
        Ok(Reboot::UnderWay)
    }

    async fn reaches(&self, _who: Reach) -> bool {
        // The network's faults lie between the machine and the coordinator.
        true
    }

    async fn failed_units(&self) -> Result<Vec<FailedUnit>, HostError> {
        Ok(Vec::new())
    }

    async fn active_state(&self, _unit: &str) -> Result<String, HostError> {
        let well = self.world.lock().machines[self.machine].is_well();
        Ok(if well { "active" } else { "failed" }.to_owned())
    }

    async fn mark_journal(&self) -> Result<(), HostError> {
        Ok(())
    }

    async fn serious_entries(&self, _: u8, _: Since) -> Result<Vec<String>, HostError> {
        Ok(Vec::new())
    }

    async fn service(&self) -> Option<ServiceMake> {
        None
    }
}
