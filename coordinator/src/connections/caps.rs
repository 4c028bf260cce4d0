//! How many places there are, of which kind.

/// Descriptors that are not connections: the store, listeners, the log, and some to spare.
const OWN_DESCRIPTORS: usize = 128;

/// Places of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Altogether.
    pub total: usize,
    /// From one address; of IPv6 from one network of 64 bits.
    pub per_address: usize,
    /// With one certificate. The oldest ends when there is one more.
    pub per_certificate: usize,
}

/// How many connections there may be at one door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Before it is known who it is.
    pub nameless: Cap,
    /// Machines.
    pub machines: Cap,
    /// Operators: kept for them, whatever the machines do.
    pub operators: Cap,
    /// Those who have no certificate, where none is asked for.
    pub strangers: Cap,
}

impl Cap {
    pub(super) const NONE: Self = Self {
        total: 0,
        per_address: 0,
        per_certificate: 0,
    };

    fn at_most(self, total: usize) -> Self {
        Self {
            total: self.total.min(total),
            per_address: self.per_address.min(total),
            ..self
        }
    }
}

impl Caps {
    /// For agents and operators: so many machines, and so many of them from one address.
    pub const fn members(machines: usize, per_address: usize) -> Self {
        Self {
            nameless: Cap {
                total: 4096,
                per_address: 2048,
                per_certificate: 0,
            },
            machines: Cap {
                total: machines,
                per_address,
                per_certificate: 4,
            },
            // A whole team with a dashboard each, and scripts.
            operators: Cap {
                total: 512,
                per_address: 512,
                per_certificate: 32,
            },
            strangers: Cap::NONE,
        }
    }

    /// For those who enrol: short ones.
    pub const STRANGERS: Self = Self {
        nameless: Cap {
            total: 256,
            per_address: 64,
            per_certificate: 0,
        },
        machines: Cap::NONE,
        operators: Cap::NONE,
        strangers: Cap {
            total: 256,
            per_address: 64,
            per_certificate: 0,
        },
    };

    /// The same for a process that may open so many files: descriptors must not run out before the
    /// places do, or operators would be kept out after all.
    #[must_use]
    pub fn within(self, descriptors: usize) -> Self {
        let left = descriptors.saturating_sub(OWN_DESCRIPTORS);
        // They are so for seconds only, and a machine has a place among its own kind afterwards.
        let nameless = self.nameless.at_most(left / 15);
        let operators = self.operators.at_most(left / 8);
        let strangers = self.strangers.at_most(left / 8);
        let others = nameless.total + operators.total + strangers.total;
        Self {
            nameless,
            machines: self.machines.at_most(left - others),
            operators,
            strangers,
        }
    }

    pub(super) fn of(&self, kind: Kind) -> Cap {
        match kind {
            Kind::Nameless => self.nameless,
            Kind::Machine => self.machines,
            Kind::Operator => self.operators,
            Kind::Stranger => self.strangers,
        }
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Nobody knows yet.
    Nameless,
    /// A machine's.
    Machine,
    /// An operator's.
    Operator,
    /// Somebody's who has no certificate.
    Stranger,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_together_are_fewer_than_the_descriptors() {
        let usual = Caps::members(32_768, 16_384);
        for descriptors in [0, 200, 1024, 4096, 40_000, 65_536, usize::MAX] {
            let caps = usual.within(descriptors);
            let kinds = [caps.nameless, caps.machines, caps.operators, caps.strangers];
            let all: usize = kinds.iter().map(|cap| cap.total).sum();
            assert!(all <= descriptors, "{caps:?}");
            if descriptors >= 1024 {
                assert!(caps.operators.total >= 100, "{caps:?}");
            }
        }
        assert_eq!(usual.within(65_536), usual);
    }
}
