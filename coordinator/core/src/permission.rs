//! May this machine go now? Every rule in one order, every "no" with its reason.

use common::{Action, MachineName, Timestamp};

use crate::{
    fleet::{Fleet, Location},
    lease::Lease,
    rollout::{Place, PlaceState, Rollout, RolloutGroup, RolloutState, WaveState},
    wait::WaitReason,
    waited_for::wave_number,
};

impl Fleet {
    /// Whether a machine without a lease may go now; where its place is, if so.
    pub fn permission(
        &self,
        machine: &MachineName,
        now: Timestamp,
    ) -> Result<Location, WaitReason> {
        let at = self.turn(machine)?;
        let (rollout, group, place) = self.at(at).ok_or(WaitReason::NoRollout)?;
        self.gate_at(at, now)?;
        if let Err(reason) = self.wave_gate(rollout, group, at, now) {
            return Err(self.held_by_gates(at, reason, now));
        }
        self.side_is_idle(rollout, group, machine)?;
        self.health_of(group)?;
        if self.is_offline(machine, now) {
            let since = self.facts().machines.get(machine).and_then(|m| m.heard.at);
            let zone = self.zone_of(machine);
            return Err(WaitReason::Offline { since, zone });
        }
        self.time_for(machine, at, now)?;
        self.good(machine, rollout.is_to_a_choice(), &place.target)?;
        self.its_try(rollout, group, place, now)?;
        self.cleaned_up(machine, now)?;
        self.fit(rollout, group, at, place)?;
        self.apart(machine, now)?;
        self.quorum(machine, now)?;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what must not wait does not wait for others either.
        if rollout.immediate && self.has(crate::bug::Bug::ImmediateWithoutLimits) {
            return Ok(at);
        }
        self.limits(machine, group)?;
        Ok(at)
    }

    /// The machine's place, when nothing but the rollout's own rules holds it back.
    fn turn(&self, machine: &MachineName) -> Result<Location, WaitReason> {
        let Some(group) = self.group_of(machine) else {
            return Err(WaitReason::UnknownMachine);
        };
        self.stop_over(group)?;
        if let Err(aside) = self.released(machine) {
            // It stages all the same, and whoever waits for that is to hear that it does not.
            let declined = self.not_staged(machine);
            let declined = declined.filter(|why| !matches!(why, WaitReason::BadTarget { .. }));
            return Err(declined.unwrap_or(aside));
        }
        let Some(at) = self.index().place_of.get(machine).copied() else {
            return Err(self.idle(machine));
        };
        let (rollout, _, place) = self.at(at).ok_or(WaitReason::NoRollout)?;
        match &rollout.state {
            RolloutState::Active => {}
            RolloutState::Paused(reason) => {
                return Err(WaitReason::paused(&rollout.id, reason));
            }
            RolloutState::Finished | RolloutState::Failed | RolloutState::Aborted { .. } => {
                return Err(WaitReason::NoRollout);
            }
        }
        match place.state {
            PlaceState::Pending => Ok(at),
            PlaceState::Leased(_)
            | PlaceState::Overdue(_)
            | PlaceState::Updated
            | PlaceState::RolledBack
            | PlaceState::Refused
            | PlaceState::Failed
            | PlaceState::RebootRequired
            | PlaceState::Skipped => {
                let state = place.state.word().to_owned();
                let ended = place.state.is_final();
                let not_staged = ended.then(|| self.not_staged(machine)).flatten();
                let reason = place.reason.clone();
                Err(not_staged.unwrap_or(WaitReason::Final { state, reason }))
            }
        }
    }

    /// Why a machine that is in no unfinished rollout has nothing to do.
    fn idle(&self, machine: &MachineName) -> WaitReason {
        let known = self.facts().machines.get(machine);
        match known.and_then(|known| Some((known, known.pin.as_ref()?))) {
            None => WaitReason::NoTarget,
            Some((known, pin)) if known.runs(&pin.target) => WaitReason::UpToDate,
            Some((_, pin)) => {
                let aside = self.good(machine, true, &pin.target).err();
                let why = aside.or_else(|| self.not_staged(machine));
                why.unwrap_or(WaitReason::NoRollout)
            }
        }
    }

    /// Why a machine does not stage what it was pinned to last.
    fn not_staged(&self, machine: &MachineName) -> Option<WaitReason> {
        let machine = self.facts().machines.get(machine)?;
        let pin = machine.pin.as_ref()?;
        machine.declined(&pin.target, pin.wish())
    }

    /// The part in an unfinished rollout that the machine does not have behind it.
    pub(crate) fn engagement(&self, machine: &MachineName) -> Option<(&Rollout, &Place)> {
        let at = self.index().place_of.get(machine).copied()?;
        let (rollout, _, place) = self.at(at)?;
        (!place.state.is_final()).then_some((rollout, place))
    }

    /// The place, its group and its rollout.
    pub(crate) fn at(&self, at: Location) -> Option<(&Rollout, &RolloutGroup, &Place)> {
        let rollout = self.facts().rollouts.get(&at.rollout)?;
        let group = rollout.groups.get(at.group)?;
        let place = group.waves.get(at.wave)?.places.get(at.place)?;
        Some((rollout, group, place))
    }

    /// The place that a lease was granted for, in whatever rollout.
    pub(crate) fn place_of_lease(&self, lease: &Lease) -> Option<&Place> {
        let holds = |place: &&Place| place.state.lease() == Some(lease.id);
        let here = self.index().place_of.get(&lease.machine);
        let here = here.and_then(|at| Some(self.at(*at)?.2)).filter(holds);
        // Elsewhere only when its rollout has ended meanwhile.
        here.or_else(|| self.rollout(&lease.rollout)?.places().find(holds))
    }

    /// The machine's wave is open, or was left behind by one that closed without it.
    fn wave_gate(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        at: Location,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let wave = at.wave;
        match group.waves[wave].state {
            WaveState::Open(_) | WaveState::Soaking(_) | WaveState::Closed => return Ok(()),
            WaveState::Waiting => {}
        }
        soak_of(group, now)?;
        // Whoever soaks for long enough still waits for the ill to be well.
        if let Some(WaveState::Soaking(_)) = group.waves.get(group.current).map(|wave| wave.state) {
            self.health_of(group)?;
        }
        self.hold_of(rollout, group)?;
        if wave == group.current {
            self.turn_has_come(rollout, group, wave)?;
        }
        Err(self.wave_not_open(at, now))
    }

    /// Nobody has to be asked before the group goes on after the last wave that closed.
    pub(crate) fn hold_of(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
    ) -> Result<(), WaitReason> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): waves follow each other without anybody being asked.
        if self.has(crate::bug::Bug::PauseSkipped) {
            return Ok(());
        }
        match group.held_at() {
            Some(wave) => Err(WaitReason::Held {
                group: group.name.clone(),
                rollout: rollout.id.clone(),
                wave: wave_number(wave),
            }),
            None => Ok(()),
        }
    }

    /// Why a wave does not open, said as exactly as gates and traffic let it be.
    fn held_by_gates(&self, at: Location, reason: WaitReason, now: Timestamp) -> WaitReason {
        if matches!(
            reason,
            WaitReason::WaveNotOpen { .. } | WaitReason::Soaking { .. }
        ) && let Err(traffic) = self.traffic_wait(at.rollout, at.group, now)
        {
            return traffic;
        }
        if !matches!(reason, WaitReason::WaveNotOpen { .. }) {
            return reason;
        }
        let gates = self.analysing(at.rollout, at.group, now);
        gates.err().unwrap_or(reason)
    }

    /// Nobody who was updated in this group is ill.
    pub(crate) fn health_of(&self, group: &RolloutGroup) -> Result<(), WaitReason> {
        let Some(ill) = self.index().ill.get(&group.name) else {
            return Ok(());
        };
        let machines: Vec<MachineName> = group
            .places()
            .filter(|place| place.state == PlaceState::Updated && ill.contains(&place.machine))
            .map(|place| place.machine.clone())
            .collect();
        if machines.is_empty() {
            Ok(())
        } else {
            Err(WaitReason::GroupUnhealthy { machines })
        }
    }

    /// The machine itself is ready: staged, and healthy by its own word.
    fn fit(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        at: Location,
        place: &Place,
    ) -> Result<(), WaitReason> {
        let machine = &place.machine;
        let Some(known) = self.facts().machines.get(machine) else {
            let zone = self.zone_of(machine);
            return Err(WaitReason::Offline { since: None, zone });
        };
        if rollout.action != Action::Reboot && known.staged(&place.target).is_none() {
            return Err(self.still_staging(group, at, place));
        }
        if let Some(failed) = &known.failed {
            return Err(WaitReason::MachineUnhealthy {
                checks: vec![failed.reason.clone()],
            });
        }
        // A machine that is ill may still be taken back: that is what a rollback is for.
        if known.health() == common::HealthState::Unhealthy && rollout.action == Action::Update {
            let checks = known
                .report
                .iter()
                .flat_map(|r| r.health.failed())
                .map(str::to_owned);
            return Err(WaitReason::MachineUnhealthy {
                checks: checks.collect(),
            });
        }
        Ok(())
    }

    /// Nobody is away, ill or silent that it must not be away together with. Whoever is ill itself is
    /// down already: it waits only for those who are away.
    fn apart(&self, machine: &MachineName, now: Timestamp) -> Result<(), WaitReason> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): each machine is looked at alone.
        if self.has(crate::bug::Bug::ApartIgnored) {
            return Ok(());
        }
        let down = |other: &&MachineName| self.is_down_for(machine, other, now);
        let machines: Vec<MachineName> = self.apart_from(machine).filter(down).cloned().collect();
        if machines.is_empty() {
            Ok(())
        } else {
            Err(WaitReason::Apart { machines })
        }
    }

    /// Whether another machine is not there for this one: away, or ill or silent. Whoever is ill itself
    /// is down already, and to it only those who are away are not there.
    pub(crate) fn is_down_for(
        &self,
        machine: &MachineName,
        other: &MachineName,
        now: Timestamp,
    ) -> bool {
        let is_ill = |machine: &MachineName| {
            let ill = self
                .group_of(machine)
                .and_then(|group| self.index().ill.get(group));
            ill.is_some_and(|ill| ill.contains(machine))
        };
        let away = self.index().is_away(self.facts(), other);
        away || (!is_ill(machine) && (is_ill(other) || self.is_offline(other, now)))
    }

    /// Slots are free, in the group and in the fleet. Machines that are ill take one as well, but
    /// not from each other: whoever is ill is down already, so that letting it go adds nobody to
    /// those who are, and a group that is ill as a whole can still be taken back.
    fn limits(&self, machine: &MachineName, group: &RolloutGroup) -> Result<(), WaitReason> {
        let index = self.index();
        let none = std::collections::BTreeSet::new();
        let away = index.away.get(&group.name).unwrap_or(&none);
        let ill = index.ill.get(&group.name).unwrap_or(&none);
        let taken = if ill.contains(machine) {
            away.len()
        } else {
            away.len() + ill.len()
        };
        let allowed = group.policy.max_parallel;
        #[cfg(feature = "seeded-bugs")]
        let allowed = self.limit_of_now(&group.name).unwrap_or(allowed);
        if taken >= to_usize(allowed) {
            let away = if ill.contains(machine) {
                away.iter().cloned().collect()
            } else {
                away.union(ill).cloned().collect()
            };
            return Err(WaitReason::GroupLimit { away, allowed });
        }
        let allowed = self.fleet_limit();
        if index.away_total >= to_usize(allowed) {
            let away = index.away.values().flatten().cloned().collect();
            return Err(WaitReason::FleetLimit { away, allowed });
        }
        Ok(())
    }

    /// The known bug of going by the configuration of now instead of what a rollout began with.
    #[cfg(feature = "seeded-bugs")]
    fn limit_of_now(&self, group: &common::GroupName) -> Option<u32> {
        let config = self.facts().config.as_ref();
        let config = config.filter(|_| self.has(crate::bug::Bug::LimitsOfNow));
        Some(config?.groups.get(group)?.policy.max_parallel)
    }

    /// How many more machines of the group may go now, at most: whether one that is not ill may,
    /// is for [`Fleet::permission`] to say.
    pub(crate) fn free_slots(&self, group: &RolloutGroup) -> usize {
        let index = self.index();
        let away = index.away.get(&group.name);
        let away = away.map_or(0, std::collections::BTreeSet::len);
        let group_free = to_usize(group.policy.max_parallel).saturating_sub(away);
        let fleet_free = to_usize(self.fleet_limit()).saturating_sub(index.away_total);
        group_free.min(fleet_free)
    }

    /// Why the group as a whole does not go on; for the status.
    pub fn group_wait(&self, number: u64, group: usize, now: Timestamp) -> Option<WaitReason> {
        let rollout = self
            .facts()
            .rollouts
            .get(&number)
            .filter(|rollout| !rollout.is_final())?;
        let g = rollout
            .groups
            .get(group)
            .filter(|group| group.finished_at.is_none())?;
        if let RolloutState::Paused(reason) = &rollout.state {
            return Some(WaitReason::paused(&rollout.id, reason));
        }
        self.gate_of(number, group, now)
            .and_then(|()| self.traffic_wait(number, group, now))
            .and_then(|()| soak_of(g, now))
            .and_then(|()| self.health_of(g))
            .and_then(|()| self.analysing(number, group, now))
            .and_then(|()| self.hold_of(rollout, g))
            .and_then(|()| match g.waves.get(g.current) {
                Some(_) => self.turn_has_come(rollout, g, g.current),
                None => Ok(()),
            })
            .err()
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The wave before the next one has been healthy for long enough.
fn soak_of(group: &RolloutGroup, now: Timestamp) -> Result<(), WaitReason> {
    let soaks_until = group.soaks_until(now);
    soaks_until.map_or(Ok(()), |until| {
        let zone = group.policy.timezone.clone();
        Err(WaitReason::Soaking { until, zone })
    })
}
