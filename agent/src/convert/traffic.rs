//! Orders about traffic, and what came of them, between the wire's words and the core's.

use common::{Epoch, Gets, TrafficCall, TrafficDone, TrafficOrder};
use lab_proto::agent as wire;

use super::{duration, senseless};
use crate::link::LinkError;

/// What came of the last order.
pub(super) fn traffic_done(done: &TrafficDone) -> wire::TrafficDone {
    let order = done.order.as_ref().map(|order| {
        let gets = match order.gets {
            Gets::Traffic => wire::TrafficGets::Traffic,
            Gets::Nothing => wire::TrafficGets::Nothing,
        };
        wire::TrafficOrder {
            epoch: order.epoch.0,
            group: order.group.to_string(),
            number: order.number,
            attempt: order.attempt,
            gets: gets.into(),
        }
    });
    wire::TrafficDone {
        order,
        failure: done.failure.clone().unwrap_or_default(),
    }
}

/// An order. `None`: something is to become of the machine that this agent does not know.
pub(super) fn traffic_call(asked: wire::MoveTraffic) -> Result<Option<TrafficCall>, LinkError> {
    let order = asked
        .order
        .ok_or_else(|| senseless("an order about traffic that orders nothing"))?;
    let gets = match order.gets() {
        wire::TrafficGets::Traffic => Gets::Traffic,
        wire::TrafficGets::Nothing => Gets::Nothing,
        wire::TrafficGets::Unspecified => return Ok(None),
    };
    let group = order.group.parse();
    let side = asked.side.parse();
    Ok(Some(TrafficCall {
        order: TrafficOrder {
            epoch: Epoch(order.epoch),
            group: group.map_err(|error| senseless(&format!("the group: {error}")))?,
            number: order.number,
            attempt: order.attempt,
            gets,
        },
        side: side.map_err(|error| senseless(&format!("the side: {error}")))?,
        drain: duration(asked.drain_ms),
        within: duration(asked.timeout_ms),
    }))
}
