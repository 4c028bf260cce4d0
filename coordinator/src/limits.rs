//! How often one identity may ask: a bucket of requests that fills at a steady rate, for every
//! machine, every operator, and every address from which somebody without a certificate enrols.
//! And how many refusals an address gets before its connections are ended.
//!
//! The bucket itself is `governor`'s. What is ours is how many there are: no more than
//! `BUCKETS_MAX` of a kind, whoever asks.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use common::{MachineName, OperatorName};
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use crate::grpc::auth::Caller;

/// Most buckets of one kind. When so many are in use, all others share one.
const BUCKETS_MAX: usize = 65_536;

/// Requests a second in the long run, and how many at once after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

/// The limits; `None`: as often as one likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of a machine: all certificates together, so that a new one brings no new bucket.
    pub machine: Option<Rate>,
    /// Of an operator: all certificates together.
    pub operator: Option<Rate>,
    /// Of those without a certificate: each address, of IPv6 each network of 64 bits.
    pub enrolment: Option<Rate>,
}

impl Rate {
    const fn of(per_second: u32, burst: u32) -> Option<Self> {
        match (NonZeroU32::new(per_second), NonZeroU32::new(burst)) {
            (Some(per_second), Some(burst)) => Some(Self { per_second, burst }),
            (Some(_) | None, _) => None,
        }
    }

    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

impl Default for Rates {
    /// Many times what the programs ask for by themselves: an agent some calls a minute, `lab` a
    /// few a second while it waits.
    fn default() -> Self {
        Self {
            machine: Rate::of(20, 100),
            operator: Rate::of(50, 200),
            enrolment: Rate::of(5, 100),
        }
    }
}

/// Counts requests against the limits.
pub struct Limits {
    machines: Buckets<MachineName>,
    operators: Buckets<OperatorName>,
    strangers: Buckets<IpAddr>,
    refused: Buckets<IpAddr>,
}

/// Refusals of one address within a minute that are worth a word and a connection.
const REFUSED_A_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

impl Limits {
    /// With these rates and full buckets.
    pub fn new(rates: Rates) -> Self {
        let ticks = Ticks(Instant::now());
        let quota = |rate: Option<Rate>| rate.map(Rate::quota);
        Self {
            machines: Buckets::new(quota(rates.machine), BUCKETS_MAX, ticks),
            operators: Buckets::new(quota(rates.operator), BUCKETS_MAX, ticks),
            strangers: Buckets::new(quota(rates.enrolment), BUCKETS_MAX, ticks),
            refused: Buckets::new(
                Some(Quota::per_minute(REFUSED_A_MINUTE)),
                BUCKETS_MAX,
                ticks,
            ),
        }
    }

    /// Takes one request out of the caller's bucket, or says when there will be one.
    pub fn take(&self, caller: &Caller, address: IpAddr) -> Result<(), Duration> {
        match caller {
            Caller::Machine { name, .. } => self.machines.take(name),
            Caller::Operator(actor) => self.operators.take(&actor.name),
            Caller::Stranger => self.strangers.take(&network(address)),
        }
    }

    /// Counts a refusal: whether this address had few enough lately to be told of them in the log,
    /// and to keep its connection.
    pub fn refuse(&self, address: IpAddr) -> bool {
        self.refused.take(&network(address)).is_ok()
    }
}

/// What one subscriber has: an IPv4 address, or an IPv6 network of 64 bits.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// The runtime's clock, which simulations hold in their hands.
#[derive(Clone, Copy)]
struct Ticks(Instant);

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C>;

struct Bucket<C: Clock<Instant = Nanos>> {
    limiter: Limiter<C>,
    used: Nanos,
}

/// The buckets of one kind of caller.
struct Buckets<K, C: Clock<Instant = Nanos> = Ticks> {
    quota: Option<Quota>,
    max: usize,
    clock: C,
    by_key: Mutex<HashMap<K, Bucket<C>>>,
    /// For everybody who finds no bucket left.
    others: Option<Limiter<C>>,
}

impl<K, C> Buckets<K, C>
where
    K: Clone + Eq + Hash,
    C: Clock<Instant = Nanos> + Clone,
{
    fn new(quota: Option<Quota>, max: usize, clock: C) -> Self {
        Self {
            quota,
            max,
            by_key: Mutex::default(),
            others: quota.map(|quota| limiter(quota, &clock)),
            clock,
        }
    }

    fn take(&self, key: &K) -> Result<(), Duration> {
        let (Some(quota), Some(others)) = (self.quota, &self.others) else {
            return Ok(());
        };
        // Nothing below panics while it holds the lock.
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let check = |limiter: &Limiter<C>| {
            let checked = limiter.check();
            checked.map_err(|until| until.wait_time_from(now))
        };
        if let Some(bucket) = by_key.get_mut(key) {
            bucket.used = now;
            return check(&bucket.limiter);
        }
        if by_key.len() >= self.max {
            // From then on a bucket is as full as a new one.
            let full_after = Nanos::from(quota.burst_size_replenished_in());
            by_key.retain(|_, bucket| now.saturating_sub(bucket.used) < full_after);
        }
        if by_key.len() >= self.max {
            return check(others);
        }
        let bucket = Bucket {
            limiter: limiter(quota, &self.clock),
            used: now,
        };
        let taken = check(&bucket.limiter);
        by_key.insert(key.clone(), bucket);
        taken
    }
}

fn limiter<C: Clock<Instant = Nanos> + Clone>(quota: Quota, clock: &C) -> Limiter<C> {
    RateLimiter::direct_with_clock(quota, clock.clone())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use governor::clock::FakeRelativeClock;

    use super::*;

    type Ours = Buckets<u32, FakeRelativeClock>;

    fn buckets(rate: Option<Rate>, max: usize) -> (Ours, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (
            Buckets::new(rate.map(Rate::quota), max, clock.clone()),
            clock,
        )
    }

    /// How many of a hundred requests at once are let through.
    fn at_once(buckets: &Ours, key: u32) -> usize {
        (0..100).filter(|_| buckets.take(&key).is_ok()).count()
    }

    #[test]
    fn a_burst_and_then_the_rate_for_each_by_itself() {
        let (buckets, clock) = buckets(Rate::of(2, 10), 100);
        assert_eq!((at_once(&buckets, 1), at_once(&buckets, 2)), (10, 10));
        let wait = buckets.take(&1).expect_err("empty");
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        clock.advance(wait);
        assert_eq!(at_once(&buckets, 1), 1);
        clock.advance(Duration::from_secs(3));
        assert_eq!(at_once(&buckets, 1), 6);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(at_once(&buckets, 1), 10);
    }

    #[test]
    fn there_are_never_more_buckets_than_allowed() {
        let (buckets, clock) = buckets(Rate::of(1, 4), 3);
        for key in 0..3 {
            assert_eq!(at_once(&buckets, key), 4);
        }
        // Two more find none left and share one.
        assert_eq!((at_once(&buckets, 3), at_once(&buckets, 4)), (4, 0));
        assert_eq!(buckets.by_key.lock().expect("sound").len(), 3);
        // Those who have been quiet for long enough make room.
        clock.advance(Duration::from_secs(5));
        assert_eq!((at_once(&buckets, 3), at_once(&buckets, 4)), (4, 4));
    }

    #[test]
    fn nothing_is_counted_without_a_limit() {
        let (buckets, _) = buckets(None, 3);
        assert_eq!(at_once(&buckets, 1), 100);
        assert!(buckets.by_key.lock().expect("sound").is_empty());
    }

    #[test]
    fn addresses_of_one_subscriber_are_one() {
        let net = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:1"));
        assert_ne!(net("2001:db8:0:1::1"), net("2001:db8::1"));
        assert_eq!(net("::ffff:192.0.2.7"), Ipv4Addr::new(192, 0, 2, 7));
    }
}
