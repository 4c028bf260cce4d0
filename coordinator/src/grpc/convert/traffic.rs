//! Traffic of groups with two sides as messages.

use common::{MachineName, SideName, Timestamp};
use coordinator_core::{
    request::OperatorRequest,
    traffic::{ATTEMPTS, Move, TrafficView},
};
use lab_proto::operator as wire;

use super::{Malformed, name, operator::text, optional, time};

/// Move it.
pub(in crate::grpc) fn moved(
    message: &wire::MoveTrafficRequest,
) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::MoveTraffic {
        group: name("group", &message.group)?,
        to: optional::<SideName>("to", &message.to)?,
        reason: text(&message.reason),
    })
}

/// Where all of it is.
pub fn list(views: Vec<TrafficView>, now: Timestamp) -> wire::TrafficList {
    wire::TrafficList {
        groups: views.into_iter().map(group).collect(),
        time: time(now),
    }
}

fn group(view: TrafficView) -> wire::GroupTraffic {
    let TrafficView {
        group,
        sides,
        live,
        traffic,
        asked,
    } = view;
    let said = traffic.on.is_some();
    let at = |at| if said { time(at) } else { String::new() };
    let sides = sides.into_iter().map(|(name, machines)| wire::TrafficSide {
        live: name == live,
        name: name.into(),
        machines: machines.into_iter().map(String::from).collect(),
    });
    wire::GroupTraffic {
        group: group.into(),
        sides: sides.collect(),
        settled: traffic.settled,
        since: at(traffic.since),
        by: traffic.by,
        said_at: at(traffic.said_at),
        before: traffic.before.map(String::from).unwrap_or_default(),
        moving: traffic.moving.map(|under_way| moving(under_way, asked)),
        given_up: traffic.given_up.unwrap_or_default(),
    }
}

fn moving(moving: Move, asked: Vec<MachineName>) -> wire::TrafficMove {
    wire::TrafficMove {
        to: moving.to.into(),
        by: moving.by,
        rollout: moving.rollout.map(String::from).unwrap_or_default(),
        attempt: moving.attempt,
        attempts: ATTEMPTS,
        at: time(moving.at),
        error: moving.failed.map(|(_, error)| error).unwrap_or_default(),
        number: moving.number,
        asked: asked.into_iter().map(String::from).collect(),
    }
}
