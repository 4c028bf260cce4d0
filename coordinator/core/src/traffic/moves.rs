//! Moves: who is to make which now, what their answers come to, what is attempted again, and what is given up.

use std::borrow::Cow;

use common::{
    GroupName, RolloutId, SideName, Timestamp,
    text::{DETAIL_MAX, tame_line},
};

use super::{ATTEMPTS, Adapter, Answered, BlueGreen, Move, TrafficStep, Wanted, rule::Care};
use crate::{
    change::Change,
    config::FleetConfig,
    decide::Draft,
    fleet::Fleet,
    request::Reply,
    rollout::{PauseReason, RolloutState},
};

impl Fleet {
    /// Moves that the coordinator is to make now; the others its machines make.
    pub fn wanted_moves(&self) -> Vec<Wanted> {
        let traffic = self.facts().traffic.iter();
        let wanted = traffic.filter_map(|(group, traffic)| {
            let moving = traffic.moving.as_ref();
            let moving = moving.filter(|moving| moving.failed.is_none())?;
            let Adapter::Haproxy(haproxy) = &moving.sides.adapter else {
                return None;
            };
            Some(Wanted {
                group: group.clone(),
                number: moving.number,
                attempt: moving.attempt,
                to: moving.to.clone(),
                sides: moving.sides.clone(),
                haproxy: haproxy.clone(),
            })
        });
        wanted.collect()
    }

    /// Where traffic is to stay that the coordinator itself moves: of groups of which a rollout is not finished,
    /// and that counts on it. What moves it may forget that by itself, as HAProxy does when it is reloaded.
    pub fn kept_traffic(&self) -> Vec<Wanted> {
        let traffic = self.facts().traffic.iter();
        let settled = traffic.filter(|(_, traffic)| traffic.settled && traffic.moving.is_none());
        let kept = settled.filter_map(|(group, traffic)| {
            let sides = self.sides_of(group)?;
            let to = traffic.on.as_ref().filter(|on| sides.side(on).is_some())?;
            let Adapter::Haproxy(haproxy) = &sides.adapter else {
                return None;
            };
            let mut unfinished = self.index().unfinished.iter();
            let counts_on_it = unfinished.any(|number| {
                let part = self.facts().rollouts[number].group(group);
                // It was said in the rollout's own time.
                *number < traffic.said_for && part.is_some_and(|part| part.finished_at.is_none())
            });
            counts_on_it.then(|| Wanted {
                group: group.clone(),
                number: traffic.moves,
                attempt: 0,
                to: to.clone(),
                sides: Box::new(sides.clone()),
                haproxy: haproxy.clone(),
            })
        });
        kept.collect()
    }

    /// When the clock alone changes something about a move.
    pub(crate) fn traffic_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let traffic = self.facts().traffic.values();
        let moving = traffic.filter_map(|traffic| traffic.moving.as_ref());
        moving.map(|moving| self.due(moving, now)).min()
    }

    /// When something is to be done about a move by the clock alone.
    pub(super) fn due(&self, moving: &Move, now: Timestamp) -> Timestamp {
        moving.due(self.hearsay().since.min(now), now)
    }

    /// Counts answers that did not come, attempts again what failed, and gives up what failed too often.
    pub(crate) fn look_at_traffic(&mut self, now: Timestamp, draft: &mut Draft) {
        let due = |moving: &&Move| self.due(moving, now) <= now;
        let traffic = self.facts().traffic.iter();
        let due: Vec<GroupName> = traffic
            .filter(|(_, traffic)| traffic.moving.as_ref().filter(due).is_some())
            .map(|(group, _)| group.clone())
            .collect();
        for group in due {
            let moving = self.traffic_of(&group).and_then(|t| t.moving.as_ref());
            if moving.is_some_and(|moving| moving.failed.is_none()) {
                let error = self.silent(&group);
                self.move_ended(&group, Err(error), now, draft);
            } else {
                self.traffic_step(&group, TrafficStep::Again { at: now }, draft);
                self.look_at_hooks(&group, now, draft);
            }
        }
    }

    /// Takes the answer to a move. One that nobody waits for any more says nothing.
    pub(crate) fn traffic_answered(
        &mut self,
        now: Timestamp,
        answered: Answered,
        draft: &mut Draft,
    ) -> Reply {
        let Answered {
            group,
            number,
            attempt,
            result,
        } = answered;
        let moving = self.traffic_of(&group).and_then(|t| t.moving.as_ref());
        let waits = moving.is_some_and(|moving| {
            (moving.number, moving.attempt) == (number, attempt) && moving.failed.is_none()
        });
        if waits {
            self.move_ended(&group, result, now, draft);
        }
        Reply::Done(String::new())
    }

    /// The present attempt has ended; with what is to be known about it, or why it failed.
    pub(super) fn move_ended(
        &mut self,
        group: &GroupName,
        result: Result<String, String>,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let step = match result {
            Ok(detail) => TrafficStep::Moved {
                detail: tame_line(&detail, DETAIL_MAX),
                at: now,
            },
            Err(error) => TrafficStep::Failed {
                error: tame_line(&error, DETAIL_MAX),
                at: now,
            },
        };
        self.traffic_step(group, step, draft);
        self.give_up(group, now, draft);
    }

    /// Gives a move up that has failed as often as it may; the rollout that wants it pauses.
    fn give_up(&mut self, group: &GroupName, now: Timestamp, draft: &mut Draft) {
        let moving = self.traffic_of(group).and_then(|t| t.moving.as_ref());
        let Some(Move {
            to,
            rollout,
            attempt: ATTEMPTS..,
            failed: Some((_, error)),
            ..
        }) = moving
        else {
            return;
        };
        let reason = PauseReason::TrafficStuck {
            group: group.clone(),
            side: to.clone(),
            error: error.clone(),
        };
        let rollout = rollout.clone();
        self.traffic_step(group, TrafficStep::GivenUp { at: now }, draft);
        let active = |id: &RolloutId| {
            let rollout = self.rollout(id);
            rollout.is_some_and(|rollout| rollout.state == RolloutState::Active)
        };
        if let Some(id) = rollout.filter(active) {
            self.pause_rollout(&id, reason, draft);
        }
    }

    pub(super) fn traffic_step(&mut self, group: &GroupName, step: TrafficStep, draft: &mut Draft) {
        let group = group.clone();
        self.commit(draft, Change::Traffic { group, step });
    }

    /// Begins a move.
    pub(super) fn begin_move(
        &mut self,
        group: &GroupName,
        to: &SideName,
        frozen: &BlueGreen,
        (rollout, by): (Option<RolloutId>, String),
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let step = TrafficStep::Begun {
            to: to.clone(),
            sides: Box::new(self.sides_for(group, to, frozen).into_owned()),
            rollout,
            by,
            at: now,
        };
        self.traffic_step(group, step, draft);
        self.look_at_hooks(group, now, draft);
    }

    /// The sides with which the traffic would be moved: those of the configuration in force, if it still
    /// has this one, and else those of before without the machines that have left the fleet. A side may have
    /// nobody then.
    pub(super) fn sides_for<'a>(
        &'a self,
        group: &GroupName,
        to: &SideName,
        frozen: &BlueGreen,
    ) -> Cow<'a, BlueGreen> {
        let present = self.sides_of(group);
        match present.filter(|sides| sides.side(to).is_some()) {
            Some(present) => Cow::Borrowed(present),
            None => Cow::Owned(self.without_leavers(frozen)),
        }
    }

    fn without_leavers(&self, sides: &BlueGreen) -> BlueGreen {
        let mut left = sides.clone();
        for side in &mut left.sides {
            side.machines
                .retain(|machine| self.group_of(machine).is_some());
        }
        left
    }

    /// Groups with two sides that are others in this configuration.
    pub(crate) fn sides_changed_by(&self, config: &FleetConfig) -> Vec<GroupName> {
        let groups = config.groups.iter();
        let changed = groups.filter(|(name, group)| {
            let after = group.policy.blue_green.as_deref();
            match (self.sides_of(name), after) {
                (Some(before), Some(after)) => !before.is_like(after),
                (None, None) => false,
                (Some(_), None) | (None, Some(_)) => true,
            }
        });
        changed.map(|(name, _)| name.clone()).collect()
    }

    /// Begins moves anew whose group's sides are others now, or gives them up where somebody of the new
    /// side is away.
    pub(crate) fn move_with_other_sides(
        &mut self,
        groups: &[GroupName],
        now: Timestamp,
        draft: &mut Draft,
    ) {
        for group in groups {
            let moving = self.traffic_of(group).and_then(|t| t.moving.clone());
            let Some(moving) = moving else {
                continue;
            };
            let present = self.sides_of(group).cloned();
            let sides = present.unwrap_or_else(|| self.without_leavers(&moving.sides));
            let side = sides.side(&moving.to);
            let nobody = side.is_some_and(|side| side.machines.is_empty());
            let side = side.filter(|_| !nobody);
            let is_free = |side| self.not_ready(side, None, Care::Away, now).is_empty();
            let is_spoilt = |side| self.is_spoilt(&moving, group, side);
            if side.is_some_and(|side| is_free(side) && !is_spoilt(side)) {
                let by = (moving.rollout, moving.by);
                self.begin_move(group, &moving.to, &sides, by, now, draft);
                continue;
            }
            if moving.failed.is_none() {
                let error = match nobody {
                    true => nobody_left(&moving.to),
                    false => "the sides of the group have been changed".to_owned(),
                };
                self.traffic_step(group, TrafficStep::Failed { error, at: now }, draft);
            }
            self.traffic_step(group, TrafficStep::GivenUp { at: now }, draft);
        }
    }

    /// The sides of a group by the configuration in force.
    pub fn sides_of(&self, group: &GroupName) -> Option<&BlueGreen> {
        let config = self.facts().config.as_ref()?;
        config.groups.get(group)?.policy.blue_green.as_deref()
    }
}

/// Nobody is to leave the traffic to nobody.
pub(super) fn nobody_left(side: &SideName) -> String {
    format!("no machine of side {side} is in the configuration any more")
}
