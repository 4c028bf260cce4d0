//! The status, once and whenever it changes.

use std::time::Duration;

use coordinator_core::{
    request::Selection,
    view::{Query, View},
};
use lab_proto::operator as wire;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    driver::Handle,
    grpc::convert::{self, status as show},
};

/// Shortest time between two messages of one status stream.
const STATUS_PAUSE: Duration = Duration::from_millis(250);

/// The status as it is now.
pub(super) async fn status_of(
    handle: &Handle,
    selection: &Selection,
    all: bool,
) -> Result<wire::Status, Status> {
    let query = Query::Status {
        selection: selection.clone(),
        all,
    };
    let seen = handle.view(query).await.map_err(convert::stopped)?;
    let View::Status(status) = seen.view else {
        return Err(convert::other_view(&seen.view));
    };
    Ok(show::status(status, seen.now))
}

/// Sends the status whenever it has changed, until nobody listens.
pub(super) async fn send_status(
    handle: Handle,
    selection: Selection,
    all: bool,
    out: mpsc::Sender<Result<wire::Status, Status>>,
) {
    let mut revisions = handle.revisions();
    let mut last = None;
    loop {
        revisions.mark_unchanged();
        let status = status_of(&handle, &selection, all).await;
        let failed = status.is_err();
        // The time alone is no news.
        let news = status.as_ref().map(|status| wire::Status {
            time: String::new(),
            ..status.clone()
        });
        let news = news.ok();
        if failed || news != last {
            last = news;
            if out.send(status).await.is_err() || failed {
                return;
            }
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = out.closed() => return,
        }
        tokio::time::sleep(STATUS_PAUSE).await;
    }
}
