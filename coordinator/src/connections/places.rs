//! How many may be connected, and who goes when there is no room.
//!
//! A connection begins without a name: until the TLS handshake has shown a certificate it has one of
//! a few places for that, for a moment. Then it moves to the places of its own kind, so that no
//! number of machines, and nobody without a certificate, can keep an operator out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coordinator_core::identity::Registry;
use platform::identity::Subject;
use tokio::{sync::oneshot, time::Instant};

use super::caps::{Cap, Caps, Kind};
use crate::{driver::Handle, limits::network};

/// A handshake that takes longer than this gives way when there is no room for another: honest ones
/// take milliseconds.
const SLOW_HANDSHAKE: Duration = Duration::from_secs(2);

/// Those who are turned away are counted, and said this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The open connections of one listener.
pub struct Connections {
    caps: Caps,
    open: Mutex<Open>,
    next: AtomicU64,
}

#[derive(Default)]
struct Open {
    by_id: BTreeMap<u64, Held>,
    per_kind: HashMap<Kind, usize>,
    per_address: HashMap<(Kind, IpAddr), usize>,
    /// Those without a name yet, the oldest first.
    nameless: BTreeSet<u64>,
    /// Those with one certificate, the oldest first.
    per_certificate: HashMap<String, VecDeque<u64>>,
    turned_away: u64,
    said: Option<Instant>,
}

/// What is known of an open connection.
struct Held {
    kind: Kind,
    network: IpAddr,
    since: Instant,
    /// Serial number of its certificate.
    serial: Option<String>,
    /// Ends the connection when it is dropped.
    _end: oneshot::Sender<()>,
}

/// One connection's place; given back when dropped.
pub(super) struct Place {
    connections: Arc<Connections>,
    id: u64,
}

impl Connections {
    /// With so many places.
    pub fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self {
            caps,
            open: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing below panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open().by_id.len()
    }

    /// A place for a connection from this address, and what ends it.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Option<(Place, oneshot::Receiver<()>)> {
        let network = network(address);
        let mut open = self.open();
        let cap = self.caps.nameless;
        if open.count(Kind::Nameless) >= cap.total {
            open.end_a_slow_handshake(now);
        }
        if !open.has_room(Kind::Nameless, network, cap) {
            open.turn_away(address, now);
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, ended) = oneshot::channel();
        let held = Held {
            kind: Kind::Nameless,
            network,
            since: now,
            serial: None,
            _end: sender,
        };
        open.nameless.insert(id);
        open.note(id, held);
        let connections = self.clone();
        Some((Place { connections, id }, ended))
    }

    /// Ends every connection whose certificate is not good any more, whenever that changes.
    pub async fn end_revoked(self: Arc<Self>, handle: Handle) {
        let mut ends = handle.ended_certificates();
        while ends.changed().await.is_ok() {
            let registry = handle.registry();
            let mut open = self.open();
            let bad = open
                .per_certificate
                .keys()
                .filter(|serial| !is_good(&registry, serial));
            for serial in bad.cloned().collect::<Vec<_>>() {
                tracing::info!(
                    serial,
                    "closing connections: their certificate was revoked, or ended long ago"
                );
                for id in open
                    .per_certificate
                    .get(&serial)
                    .cloned()
                    .unwrap_or_default()
                {
                    open.end(id);
                }
            }
        }
    }
}

fn is_good(registry: &Registry, serial: &str) -> bool {
    let certificate = registry.certificates.get(serial);
    certificate.is_some_and(|certificate| !certificate.revoked)
}

impl Open {
    fn count(&self, kind: Kind) -> usize {
        self.per_kind.get(&kind).copied().unwrap_or(0)
    }

    fn has_room(&self, kind: Kind, network: IpAddr, cap: Cap) -> bool {
        let here = self.per_address.get(&(kind, network)).copied();
        self.count(kind) < cap.total && here.unwrap_or(0) < cap.per_address
    }

    /// Says it now and then: one line for each would be a way to fill the log.
    fn turn_away(&mut self, address: IpAddr, now: Instant) {
        self.turned_away += 1;
        if self
            .said
            .is_some_and(|said| now.duration_since(said) < SAY_EVERY)
        {
            return;
        }
        self.said = Some(now);
        tracing::warn!(
            %address,
            count = self.turned_away,
            "connections are turned away: too many are open"
        );
        self.turned_away = 0;
    }

    /// Ends the oldest handshake, if it is slow.
    fn end_a_slow_handshake(&mut self, now: Instant) {
        let Some(oldest) = self.nameless.first().copied() else {
            return;
        };
        let slow = self
            .by_id
            .get(&oldest)
            .is_some_and(|held| now.duration_since(held.since) >= SLOW_HANDSHAKE);
        if slow {
            self.end(oldest);
        }
    }

    fn note(&mut self, id: u64, held: Held) {
        *self.per_kind.entry(held.kind).or_default() += 1;
        let here = (held.kind, held.network);
        *self.per_address.entry(here).or_default() += 1;
        if let Some(serial) = &held.serial {
            let with_it = self.per_certificate.entry(serial.clone());
            with_it.or_default().push_back(id);
        }
        self.by_id.insert(id, held);
    }

    /// Takes it out of every count, if it is in them. When what comes of it is dropped, the
    /// connection ends.
    fn end(&mut self, id: u64) -> Option<Held> {
        let held = self.by_id.remove(&id)?;
        self.nameless.remove(&id);
        if let Some(count) = self.per_kind.get_mut(&held.kind) {
            *count -= 1;
        }
        let here = (held.kind, held.network);
        if let Some(count) = self.per_address.get_mut(&here) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&here);
            }
        }
        if let Some(serial) = &held.serial
            && let Some(with_it) = self.per_certificate.get_mut(serial)
        {
            with_it.retain(|other| *other != id);
            if with_it.is_empty() {
                self.per_certificate.remove(serial);
            }
        }
        Some(held)
    }
}

impl Place {
    /// Moves to the places of its kind, now that it is known who it is. The connection ends when
    /// this certificate is revoked. `false`: there is no room.
    pub(super) fn name(&self, identity: Option<&(Subject, String)>) -> bool {
        let kind = match identity {
            // The coordinator's own certificate opens nothing; its first request is told so.
            Some((Subject::Machine(_) | Subject::Coordinator, _)) => Kind::Machine,
            Some((Subject::Operator(_), _)) => Kind::Operator,
            None => Kind::Stranger,
        };
        let cap = self.connections.caps.of(kind);
        let mut open = self.connections.open();
        let Some(mut held) = open.end(self.id) else {
            // It was slow, and gave way.
            return false;
        };
        held.kind = kind;
        held.serial = identity.map(|(_, serial)| serial.clone());
        let same = held.serial.as_ref();
        let same = same.and_then(|serial| open.per_certificate.get(serial));
        let oldest = same
            .filter(|ids| ids.len() >= cap.per_certificate)
            .and_then(|ids| ids.front().copied());
        if let Some(oldest) = oldest {
            // Whoever connects again has lost the one before, or has a key that somebody else uses
            // too: the newest is the one that works.
            open.end(oldest);
        }
        let fits = open.has_room(kind, held.network, cap);
        if !fits {
            open.turn_away(held.network, Instant::now());
            return false;
        }
        open.note(self.id, held);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().end(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.7";

    fn cap(total: usize, per_address: usize, per_certificate: usize) -> Cap {
        Cap {
            total,
            per_address,
            per_certificate,
        }
    }

    fn connections() -> Arc<Connections> {
        Connections::new(Caps {
            nameless: cap(3, 3, 0),
            machines: cap(5, 4, 2),
            operators: cap(2, 2, 2),
            strangers: Cap::NONE,
        })
    }

    type Entered = (Place, oneshot::Receiver<()>);

    fn enter(connections: &Arc<Connections>, address: &str) -> Option<Entered> {
        enter_at(connections, address, Instant::now())
    }

    fn enter_at(connections: &Arc<Connections>, address: &str, now: Instant) -> Option<Entered> {
        connections.enter(address.parse().expect("an address"), now)
    }

    /// Enters and shows a certificate.
    fn machine(connections: &Arc<Connections>, address: &str, serial: &str) -> Option<Entered> {
        let entered = enter(connections, address)?;
        let subject = Subject::Machine("web-01".parse().expect("a name"));
        let named = entered.0.name(Some(&(subject, serial.to_owned())));
        named.then_some(entered)
    }

    fn operator(connections: &Arc<Connections>, serial: &str) -> Option<Entered> {
        let entered = enter(connections, HERE)?;
        let subject = Subject::Operator("ada".parse().expect("a name"));
        let named = entered.0.name(Some(&(subject, serial.to_owned())));
        named.then_some(entered)
    }

    fn has_ended(entered: &mut Entered) -> bool {
        entered.1.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn a_slow_handshake_gives_way_and_a_quick_one_does_not() {
        let all = connections();
        let began = Instant::now();
        let mut held: Vec<Entered> = (0..3)
            .map(|_| enter_at(&all, HERE, began).expect("a place"))
            .collect();
        assert!(enter_at(&all, HERE, began).is_none());
        let later = began + SLOW_HANDSHAKE;
        let newest = enter_at(&all, "192.0.2.8", later).expect("the oldest gave way");
        assert!(has_ended(&mut held[0]) && !has_ended(&mut held[1]));
        assert!(!held[0].0.name(None), "too late");
        assert_eq!(all.count(), 3);
        drop((held, newest));
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn of_one_certificate_the_newest_win() {
        let all = connections();
        let mut held: Vec<Entered> = (0..3)
            .map(|_| machine(&all, HERE, "51").expect("a place"))
            .collect();
        assert!(has_ended(&mut held[0]));
        assert!(!has_ended(&mut held[1]) && !has_ended(&mut held[2]));
        assert_eq!(all.count(), 2);
    }

    #[test]
    fn addresses_and_kinds_have_an_end_of_their_own() {
        let all = connections();
        let net = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"];
        let mut held: Vec<Entered> = (0..4)
            .map(|n| machine(&all, net[n], &format!("5{n}")).expect("a place"))
            .collect();
        // One network of 64 bits is one address.
        assert!(machine(&all, "2001:db8::5", "54").is_none());
        held.push(machine(&all, HERE, "55").expect("the last place"));
        assert!(machine(&all, HERE, "56").is_none());
        // However many machines there are, operators get in.
        let operators = [operator(&all, "4e"), operator(&all, "4f")];
        assert!(operators.iter().all(Option::is_some));
        assert!(operator(&all, "50").is_none());
        drop(held);
        assert_eq!(all.count(), 2);
    }
}
