//! The coordinator's host in the simulated network: the real driver behind the real doors, over
//! simulated streams, with a store in memory that can lose power.

use std::{io, net::IpAddr, sync::Arc};

use ::turmoil::net::{TcpListener, TcpStream};
use coordinator::{
    doors::{self, Rooms},
    driver::Driver,
    issue::Issuance,
    notify,
    store::{Archive, Batch, Loaded, Store, StoreError},
    tls::OwnCertificate,
};
use coordinator_core::{fleet::Facts, invariants};
use futures_util::{Stream, stream};
use tokio::sync::{mpsc, watch};

use super::{
    setup::{Identities, PORT},
    world::Shared,
};
use crate::sim::{DriverBug, SeededBug};

/// How many times sooner than in the product snapshots are taken.
const SHORTER: u64 = 16;

/// One life of the coordinator's process. It ends by itself when the store does not take a batch.
pub(crate) async fn live(world: Shared, identities: Arc<Identities>) -> ::turmoil::Result {
    let (clock, bug) = {
        let world = world.lock();
        let bug = world.bug.and_then(SeededBug::of_coordinator);
        (world.coordinator.clock.clock(), bug)
    };
    let mut store = Disk(world.clone());
    let loaded = store.load()?;
    world.lock().started(&loaded, clock.now());
    let archive = store.archive();
    let (tellings, mut told) = mpsc::channel(notify::QUEUE);
    let (driver, handle) = Driver::new(loaded, Box::new(store), clock.clone(), tellings)?;
    let driver = match bug {
        Some(bug) => driver.with_bug(bug),
        None => driver,
    };
    let driver = tokio::spawn(driver.run());
    // Nobody is to be told anything outside of the simulation.
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    // Never signalled: this coordinator is only ever killed.
    let (_stopping, stops) = watch::channel(false);
    let doors = doors::open(Rooms {
        issuance: Issuance::new(identities.ca.clone(), handle.clone(), clock.clone()),
        certificate: OwnCertificate::new(&identities.ca.coordinator()?)?,
        handle: handle.clone(),
        archive,
        clock,
        rates: coordinator::limits::Rates::default(),
        caps: coordinator::connections::Caps::members(1000, 1000),
        service_port: PORT,
        stopping: stops,
    })?;
    let connections = doors.members.connections.clone();
    tokio::spawn(connections.end_revoked(handle));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    tokio::spawn(doors.members.serve(streams(listener)));
    let ended = driver.await?;
    let mut world = world.lock();
    world.coordinator.up = false;
    world.tell(|_| format!("the coordinator ends: {ended:?}"));
    Ok(())
}

/// Accepted connections and where they come from.
fn streams(listener: TcpListener) -> impl Stream<Item = io::Result<(TcpStream, IpAddr)>> {
    stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await;
        let accepted = accepted.map(|(stream, address)| (stream, address.ip()));
        Some((accepted, listener))
    })
}

impl super::world::World {
    /// The coordinator is up, with what its disk gave back.
    fn started(&mut self, loaded: &Loaded, now: common::Timestamp) {
        self.coordinator.up = true;
        match loaded.clone().replay(now) {
            Ok(fleet) => {
                for wrong in invariants::check(&fleet) {
                    self.violate(wrong.to_string());
                }
                self.check_restart(&fleet);
                self.coordinator.mirror = Some(fleet);
            }
            Err(error) => self.violate(format!("the coordinator cannot start: {error}")),
        }
        self.tell(|_| "the coordinator is up".to_owned());
    }

    fn has(&self, bug: DriverBug) -> bool {
        self.bug == Some(SeededBug::Driver(bug))
    }
}

/// The coordinator's disk. What was appended is durable; the process may die right before that or
/// right after it, when nobody has been told yet.
struct Disk(Shared);

impl Disk {
    fn dies(&self, kind: &'static str) -> Result<(), StoreError> {
        let mut world = self.0.lock();
        let rate = world.setup.coordinator_cut;
        if world.strikes(rate, kind) {
            return Err(StoreError::Content("the power is gone".to_owned()));
        }
        Ok(())
    }
}

impl Store for Disk {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let mut world = self.0.lock();
        world.coordinator.unsynced = None;
        let mut loaded = world.coordinator.disk.load()?;
        if world.has(DriverBug::StaleSnapshot) {
            loaded.records.clear();
        }
        Ok(loaded)
    }

    fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.dies("coordinator-dies-before-write")?;
        let mut world = self.0.lock();
        if world.has(DriverBug::ReplyBeforeDurable) {
            let before = world.coordinator.unsynced.replace(batch.clone());
            if let Some(before) = before {
                world.coordinator.disk.append(&before)?;
            }
        } else {
            world.coordinator.disk.append(batch)?;
        }
        world.acknowledged(&batch.changes);
        drop(world);
        self.dies("coordinator-dies-after-write")
    }

    fn snapshot(&mut self, facts: &Facts) -> Result<(), StoreError> {
        self.0.lock().coordinator.disk.snapshot(facts)
    }

    fn journal_len(&self) -> u64 {
        // A simulated night is short: the driver is to take snapshots in it all the same.
        SHORTER * self.0.lock().coordinator.disk.journal_len()
    }

    fn archive(&self) -> Arc<dyn Archive> {
        self.0.lock().coordinator.disk.archive()
    }
}
