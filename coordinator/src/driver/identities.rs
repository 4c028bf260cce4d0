//! Tokens and certificates as everybody outside the driver sees them: a registry of their own,
//! which follows the facts once they are durable. Nothing is copied as a whole for a change.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use coordinator_core::{Change, identity::Registry};
use tokio::sync::watch;

/// What readers have of it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Identities {
    registry: Arc<RwLock<Registry>>,
    ends: watch::Receiver<u64>,
}

impl Identities {
    /// As they are now. Not to be held for long: the driver waits meanwhile.
    pub(super) fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        // Whoever panics while reading leaves it whole; so does the one writer.
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.clone()
    }
}

/// The driver's end of it.
pub(super) struct Publisher {
    registry: Arc<RwLock<Registry>>,
    ends: watch::Sender<u64>,
}

impl Publisher {
    pub(super) fn new(registry: Registry) -> Self {
        let registry = Arc::new(RwLock::new(registry));
        let ends = watch::Sender::new(0);
        Self { registry, ends }
    }

    pub(super) fn reader(&self) -> Identities {
        Identities {
            registry: self.registry.clone(),
            ends: self.ends.subscribe(),
        }
    }

    /// Follows durable facts.
    pub(super) fn follow(&self, changes: &[Change]) {
        let mut of_identities = changes
            .iter()
            .filter(|change| change.is_identity())
            .peekable();
        if of_identities.peek().is_none() {
            return;
        }
        let mut ended = false;
        let mut registry: RwLockWriteGuard<'_, Registry> = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for change in of_identities {
            registry.apply(change);
            ended |= matches!(
                change,
                Change::CertificateRevoked { .. } | Change::IdentitiesForgotten { .. }
            );
        }
        drop(registry);
        if ended {
            self.ends.send_modify(|ends| *ends += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::Timestamp;
    use coordinator_core::identity::{Certificate, Holder};

    use super::*;

    fn issued(serial: &str) -> Change {
        Change::CertificateIssued {
            serial: serial.to_owned(),
            certificate: Certificate {
                holder: Holder::Machine("web-01".parse().expect("a name")),
                issued_at: Timestamp(0),
                expires_at: Timestamp(5),
                revoked: false,
            },
            token: None,
        }
    }

    #[test]
    fn readers_see_every_fact_and_hear_when_a_certificate_is_not_good_any_more() {
        let publisher = Publisher::new(Registry::default());
        let reader = publisher.reader();
        let ends = reader.ends();
        publisher.follow(&[issued("51"), issued("52")]);
        assert_eq!(reader.registry().certificates.len(), 2);
        assert!(!ends.has_changed().expect("open"));
        let serial = "51".to_owned();
        publisher.follow(&[Change::CertificateRevoked { serial }]);
        assert!(reader.registry().certificates["51"].revoked);
        assert_eq!(*ends.borrow(), 1);
        publisher.follow(&[Change::IdentitiesForgotten {
            tokens: Vec::new(),
            certificates: vec!["51".to_owned()],
        }]);
        assert_eq!(reader.registry().certificates.len(), 1);
        assert_eq!(*ends.borrow(), 2);
    }
}
