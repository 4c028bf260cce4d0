//! What operators ask about traffic: where it is, and to have it moved.

use common::{GroupName, MachineName, OperatorName, SideName, Timestamp};

use super::{Traffic, TrafficStep, rule::Care};
use crate::{
    decide::Draft,
    fleet::Fleet,
    history::Entry,
    request::{Refusal, Reply},
    rollout::{PauseReason, RolloutState},
};

/// The traffic of one group with two sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficView {
    /// Of which group.
    pub group: GroupName,
    /// Its sides, each with its machines.
    pub sides: Vec<(SideName, Vec<MachineName>)>,
    /// The side that counts as the one with the traffic.
    pub live: SideName,
    /// Where it is, if anything was ever said of it.
    pub traffic: Traffic,
    /// Machines whose scripts the move under way waits for.
    pub asked: Vec<MachineName>,
}

impl Fleet {
    /// The traffic of every group with two sides.
    pub(crate) fn traffic_view(&self) -> Vec<TrafficView> {
        let config = self.facts().config.as_ref();
        let groups = config.into_iter().flat_map(|config| &config.groups);
        let views = groups.filter_map(|(name, group)| {
            let sides = group.policy.blue_green.as_ref()?;
            let each = sides.sides.iter();
            Some(TrafficView {
                group: name.clone(),
                sides: each
                    .map(|side| (side.name.clone(), side.machines.clone()))
                    .collect(),
                live: self.live_side(name, sides).name.clone(),
                traffic: self.traffic_of(name).cloned().unwrap_or_default(),
                asked: self.asked_for_traffic(name),
            })
        });
        views.collect()
    }

    /// An operator wants the traffic of a group on this side, or on the one where it was before.
    pub(crate) fn move_traffic(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        group: &GroupName,
        to: Option<&SideName>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let known = self.facts().config.as_ref();
        if known.is_none_or(|config| !config.groups.contains_key(group)) {
            return Err(Refusal::NotFound {
                what: "group",
                name: group.to_string(),
            });
        }
        let Some(sides) = self.sides_of(group).cloned() else {
            return Err(Refusal::Invalid(format!(
                "group {group} has no sides (updateGroups.{group}.blueGreen)"
            )));
        };
        let traffic = self.traffic_of(group);
        let back = traffic.and_then(|traffic| {
            // What is on its way is what is to be gone back from.
            match (&traffic.moving, &traffic.on) {
                (Some(moving), Some(on)) if moving.to != *on => Some(on.clone()),
                _ => traffic.before.clone(),
            }
        });
        let Some(to) = to.cloned().or(back) else {
            let text = format!("the traffic of group {group} was on no other side before");
            return Err(Refusal::NotNow(text));
        };
        let Some(side) = sides.side(&to) else {
            return Err(Refusal::NotFound {
                what: "side of that group",
                name: to.to_string(),
            });
        };
        let stays = traffic.is_some_and(|traffic| traffic.is_on(&to));
        let care = if stays { Care::AtWork } else { Care::Away };
        let out = self.not_ready(side, None, care, now);
        if !out.is_empty() {
            let names: Vec<&str> = out.iter().map(MachineName::as_str).collect();
            return Err(Refusal::NotNow(format!(
                "machines of side {to} are at work, or failed and are not known to be healthy since: {}; \
                 `lab machines forget` lets go of one that will not come back",
                names.join(", ")
            )));
        }
        let mut text = format!("the traffic of group {group} moves to side {to}");
        let unfinished = self.index().unfinished.iter();
        let paused: Vec<_> = unfinished
            .map(|number| &self.facts().rollouts[number])
            .filter(|rollout| rollout.state == RolloutState::Active)
            .filter(|rollout| {
                let g = rollout.group(group);
                g.is_some_and(|g| g.finished_at.is_none() && g.policy.blue_green.is_some())
            })
            .map(|rollout| rollout.id.clone())
            .collect();
        for id in paused {
            text.push_str(&format!("; rollout {id} is paused"));
            let reason = PauseReason::Operator {
                by: by.to_string(),
                reason: format!("moved the traffic of group {group} to side {to}"),
            };
            self.pause_rollout(&id, reason, draft);
        }
        self.begin_move(group, &to, &sides, (None, by.to_string()), now, draft);
        Ok(Reply::Moves { to, text })
    }

    /// What the history keeps of a step of a group's traffic that is about to be taken.
    pub(crate) fn entry_of_traffic(
        &self,
        group: &GroupName,
        step: &TrafficStep,
        at: Timestamp,
    ) -> Option<Entry> {
        let moving = self.traffic_of(group).and_then(|t| t.moving.as_ref());
        let entry = |kind: &str, text: String| Entry {
            at,
            kind: kind.to_owned(),
            group: Some(group.clone()),
            rollout: moving.and_then(|moving| moving.rollout.clone()),
            by: moving.map_or_else(String::new, |moving| moving.by.clone()),
            text,
            ..Entry::default()
        };
        Some(match step {
            TrafficStep::Begun {
                to, rollout, by, ..
            } => Entry {
                rollout: rollout.clone(),
                by: by.clone(),
                ..entry("traffic-begun", format!("to side {to}"))
            },
            TrafficStep::Moved { detail, .. } => {
                let to = &moving?.to;
                let text = match detail.as_str() {
                    "" => format!("to side {to}"),
                    detail => format!("to side {to}: {detail}"),
                };
                entry("traffic-moved", text)
            }
            TrafficStep::Failed { error, .. } => {
                let moving = moving?;
                let (to, attempt) = (&moving.to, moving.attempt);
                entry(
                    "traffic-failed",
                    format!("to side {to}, attempt {attempt}: {error}"),
                )
            }
            TrafficStep::GivenUp { .. } => {
                let to = &moving?.to;
                entry("traffic-given-up", format!("to side {to}"))
            }
            TrafficStep::Again { .. } => return None,
        })
    }
}
