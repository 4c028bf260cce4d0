//! What every answer to an operator needs: the driver, the archive, the CA and the clock.

use std::{sync::Arc, time::Duration};

use coordinator_core::{
    FleetConfig, Reply, Request as Question,
    history::Entry,
    identity::Actor,
    request::{OperatorRequest, Selection, Wish},
    view::{Query, View},
};
use lab_proto::operator as wire;
use platform::clock::Clock;
use tokio::sync::Semaphore;
use tonic::{Response, Status};

use crate::{
    driver::{Handle, Seen},
    grpc::{
        auth,
        convert::{
            self,
            operator::{self as from, BadDocument},
        },
    },
    issue::Issuance,
    store::{Archive, HistoryQuery, Page, StoreError},
};

/// Entries of history, audit log and configurations that one answer has at most, and has when
/// nothing is said.
const ENTRIES_MAX: u32 = 10_000;
const ENTRIES: u32 = 500;

/// Readers of the past at one time: reading is work, and the driver shares the disk and the processor
/// with them.
const READERS: usize = 2;

/// Answers operators.
pub struct OperatorService {
    pub(super) handle: Handle,
    archive: Arc<dyn Archive>,
    readers: Arc<Semaphore>,
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
            readers: Arc::new(Semaphore::new(READERS)),
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

    /// Begins a rollout, unless its plan does not hold any more.
    pub(super) async fn begin(
        &self,
        actor: Actor,
        (wish, if_plan): (Wish, Option<String>),
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let question = OperatorRequest::Execute { wish, if_plan };
        let reply = self.ask(actor, question).await?;
        let Reply::Executed { rollout, plan } = reply else {
            return Err(convert::other(&reply));
        };
        Ok(Response::new(wire::ExecuteReply {
            rollout: rollout.map_or_else(String::new, |id| id.to_string()),
            plan: Some(convert::plan::plan(&plan, None, self.clock.now())),
        }))
    }

    /// Asks something about a document, which is read and checked first; its faults, or what came of it.
    pub(super) async fn configured(
        &self,
        request: tonic::Request<wire::SetConfigRequest>,
        question: impl FnOnce(FleetConfig, &wire::SetConfigRequest) -> OperatorRequest,
    ) -> Result<Response<wire::CheckConfigReply>, Status> {
        let actor = auth::operator(&request)?;
        let message = request.into_inner();
        let config = match from::document(&message.document) {
            Ok(config) => config,
            Err(BadDocument::Faults(faults)) => {
                let revision = self.revision().await?;
                return Ok(Response::new(from::checked(revision, faults)));
            }
            Err(BadDocument::NotJson(why)) => return Err(not_json(&why)),
        };
        let reply = self.ask(actor, question(config, &message)).await?;
        let Reply::Config {
            revision,
            as_before,
            warnings,
        } = reply
        else {
            return Err(convert::other(&reply));
        };
        let said = convert::in_force::in_force(revision, as_before, warnings);
        Ok(Response::new(said))
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

    /// Looks through the history as far as it takes. Others get their turn between two looks, and
    /// when the caller is gone or out of time, so is the search.
    pub(super) async fn history(&self, mut query: HistoryQuery) -> Result<Vec<Entry>, Status> {
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let asked = query.clone();
            let page = self.read(move |archive| archive.history(&asked, from));
            let Page { entries, next } = page.await?;
            query.limit -= entries.len().min(query.limit);
            found.extend(entries);
            if next.is_none() || query.limit == 0 {
                return Ok(found);
            }
            from = next;
        }
    }

    /// Refuses names that neither the configuration nor the history has.
    pub(super) async fn known(&self, selection: &Selection) -> Result<(), Status> {
        let groups = selection.groups.iter().map(|group| Selection {
            groups: vec![group.clone()],
            ..Selection::default()
        });
        let machines = selection.machines.iter().map(|machine| Selection {
            machines: vec![machine.clone()],
            ..Selection::default()
        });
        for one in groups.chain(machines) {
            let in_force = Query::Health {
                request: 0,
                selection: one.clone(),
            };
            let View::Refused(why) = self.view(in_force).await?.view else {
                continue;
            };
            let Selection { groups, machines } = one;
            let ever = HistoryQuery {
                since: self.since(0),
                limit: 1,
                groups,
                machines,
            };
            if self.history(ever).await?.is_empty() {
                return Err(convert::refusal(&why));
            }
        }
        Ok(())
    }

    /// Reads the archive without keeping others from being served.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Archive) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let archive = self.archive.clone();
        let turn = self.readers.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Status::internal("the store is closed to readers"))?;
        let read = move |archive: &dyn Archive| {
            // Kept to the end of the work, which does not end with its caller.
            let _turn = turn;
            read(archive)
        };
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

fn not_json(why: &str) -> Status {
    Status::invalid_argument(format!("the document is not JSON: {why}"))
}
