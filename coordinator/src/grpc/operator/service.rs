//! What every answer to an operator needs: the driver, the archive, the CA and the clock.

use std::{sync::Arc, time::Duration};

use coordinator_core::{
    Reply, Request as Question,
    identity::Actor,
    request::OperatorRequest,
    view::{Query, View},
};
use lab_proto::operator as wire;
use platform::clock::Clock;
use tonic::{Response, Status};

use crate::{
    driver::{Handle, Seen},
    grpc::convert,
    issue::Issuance,
    store::{Archive, StoreError},
};

/// Entries of history, audit log and configurations that one answer has at most, and has when
/// nothing is said.
const ENTRIES_MAX: u32 = 10_000;
const ENTRIES: u32 = 500;

/// Answers operators.
pub struct OperatorService {
    pub(super) handle: Handle,
    archive: Arc<dyn Archive>,
    pub(super) issuance: Issuance,
    pub(super) clock: Clock,
}

impl OperatorService {
    /// Asks this driver, reads this archive, signs with this CA.
    pub fn new(
        handle: Handle,
        archive: Arc<dyn Archive>,
        issuance: Issuance,
        clock: Clock,
    ) -> Self {
        Self {
            handle,
            archive,
            issuance,
            clock,
        }
    }

    pub(super) async fn ask(
        &self,
        actor: Actor,
        request: OperatorRequest,
    ) -> Result<Reply, Status> {
        let question = Question::Operator { actor, request };
        let answer = self.handle.ask(question).await.map_err(convert::stopped)?;
        Ok(answer.reply)
    }

    /// Asks for something that is answered with a sentence.
    pub(super) async fn done(
        &self,
        actor: Actor,
        request: OperatorRequest,
    ) -> Result<Response<wire::Done>, Status> {
        let reply = self.ask(actor, request).await?;
        let Reply::Done(text) = reply else {
            return Err(convert::other(&reply));
        };
        Ok(Response::new(wire::Done { text }))
    }

    pub(super) async fn view(&self, query: Query) -> Result<Seen, Status> {
        self.handle.view(query).await.map_err(convert::stopped)
    }

    pub(super) async fn revision(&self) -> Result<u64, Status> {
        let view = self.view(Query::Config).await?.view;
        let View::Config(revision, _) = view else {
            return Err(convert::other_view(&view));
        };
        Ok(revision)
    }

    /// Reads the archive without keeping others from being served.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Archive) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let archive = self.archive.clone();
        let done = tokio::task::spawn_blocking(move || read(&*archive)).await;
        let done = done.map_err(|_| Status::internal("reading the store broke off"))?;
        done.map_err(|error| convert::unreadable(&error))
    }

    /// The beginning of the last so many days; 0: of all time.
    pub(super) fn since(&self, days: u32) -> common::Timestamp {
        match days {
            0 => common::Timestamp(i64::MIN),
            days => self.clock.now() - Duration::from_secs(u64::from(days) * 24 * 3600),
        }
    }
}

/// How many entries an answer has.
pub(super) fn limit(asked: u32) -> usize {
    let limit = if asked == 0 {
        ENTRIES
    } else {
        asked.min(ENTRIES_MAX)
    };
    limit as usize
}
