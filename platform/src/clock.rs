//! The clock: the only place from which the daemons read the time.
//!
//! `system` follows the machine's wall clock, as maintenance windows must. `scaled` starts from the
//! wall clock and then runs faster; only tests and the demo use it. For waiting there is `uptime`,
//! which neither jumps when somebody corrects the time nor stands still while the machine sleeps.
//! A simulation brings a time of its own, as a [`TimeSource`].

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::Timestamp;
use nix::time::{ClockId, clock_gettime};
use tokio::time::error::Elapsed;

/// Fastest fleet time, as a multiple of real time: above it, whole lease lengths vanish in the
/// scheduling jitter of a busy host.
pub const SPEED_MAX: f64 = 10_000.0;

/// What a process or a call gets at least, however fast the fleet's time runs.
pub const WORK_MIN: Duration = Duration::from_secs(3);

/// A clock; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    speed: f64,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// The wall clock, wherever it jumps.
    Wall,
    /// `fleet` was the fleet's time when the boot-time clock showed `uptime`.
    Anchored { fleet: Timestamp, uptime: Duration },
    /// Somebody else's time.
    Given(Arc<dyn TimeSource>),
}

/// A time that does not come from this host: that of a simulation. The runtime's timers must follow
/// it, one second of theirs for each of its own.
pub trait TimeSource: fmt::Debug + Send + Sync {
    /// The fleet's time now; may jump, as wall clocks do.
    fn now(&self) -> Timestamp;

    /// Time since the boot; only moves forward, and begins again at a reboot.
    fn uptime(&self) -> Duration;
}

/// Why a clock cannot be made from these settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClockError {
    /// Speed zero, negative, not a number, or beyond [`SPEED_MAX`].
    #[error("speed is {0}; it must be above 0 and at most {SPEED_MAX}")]
    Speed(f64),
    /// Not a time with a zone.
    #[error("{key} is {text:?}; a time such as 2026-11-22T02:00:00Z is needed")]
    Time {
        /// Which setting.
        key: &'static str,
        /// What it says.
        text: String,
    },
    /// One of the two without the other.
    #[error("start and real_start belong together: give both or neither")]
    Pair,
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Self {
        Self {
            speed: 1.0,
            source: Source::Wall,
        }
    }

    /// The time of a simulation.
    pub fn given(source: Arc<dyn TimeSource>) -> Self {
        Self {
            speed: 1.0,
            source: Source::Given(source),
        }
    }

    /// Starts at the wall clock and runs `speed` times as fast.
    pub fn scaled(speed: f64) -> Self {
        Self::scaled_from(speed, wall(), SystemTime::now())
    }

    /// Runs `speed` times as fast; `fleet_start` was at `real_start`, so that several processes
    /// share one fast time.
    pub fn scaled_from(speed: f64, fleet_start: Timestamp, real_start: SystemTime) -> Self {
        let passed = SystemTime::now()
            .duration_since(real_start)
            .unwrap_or_default();
        Self {
            speed,
            source: Source::Anchored {
                fleet: fleet_start + passed.mul_f64(speed),
                uptime: uptime(),
            },
        }
    }

    /// From the `[clock]` section of a configuration file. `None` when nothing is scaled: which
    /// unscaled clock fits is the daemon's own choice.
    pub fn from_settings(
        speed: f64,
        start: Option<&str>,
        real_start: Option<&str>,
    ) -> Result<Option<Self>, ClockError> {
        // Written so that NaN is refused.
        if !(speed > 0.0 && speed <= SPEED_MAX) {
            return Err(ClockError::Speed(speed));
        }
        match (start, real_start) {
            (None, None) if (speed - 1.0).abs() < f64::EPSILON => Ok(None),
            (None, None) => Ok(Some(Self::scaled(speed))),
            (Some(start), Some(real)) => {
                let fleet = parse_time("start", start)?;
                let real = parse_time("real_start", real)?;
                let real = UNIX_EPOCH + real.since(Timestamp(0));
                Ok(Some(Self::scaled_from(speed, fleet, real)))
            }
            (Some(_), None) | (None, Some(_)) => Err(ClockError::Pair),
        }
    }

    /// The fleet's time now.
    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::Wall => wall(),
            Source::Anchored {
                fleet,
                uptime: then,
            } => *fleet + uptime().saturating_sub(*then).mul_f64(self.speed),
            Source::Given(source) => source.now(),
        }
    }

    /// Fleet time since the machine was booted, sleep included. Only moves forward, begins again at
    /// a reboot, and is the same for every process of one boot.
    pub fn uptime(&self) -> Duration {
        match &self.source {
            Source::Wall | Source::Anchored { .. } => uptime().mul_f64(self.speed),
            Source::Given(source) => source.uptime(),
        }
    }

    /// How long a span of fleet time takes in real time.
    pub fn real(&self, fleet: Duration) -> Duration {
        Duration::try_from_secs_f64(fleet.as_secs_f64() / self.speed).unwrap_or(Duration::MAX)
    }

    /// How long a span of real time is in fleet time.
    pub fn fleet(&self, real: Duration) -> Duration {
        Duration::try_from_secs_f64(real.as_secs_f64() * self.speed).unwrap_or(Duration::MAX)
    }

    /// The real time to give to work that takes real time (a process, a call), when it may take
    /// `fleet`. The same as [`Self::real`], but a fast clock does not go below [`WORK_MIN`].
    pub fn patience(&self, fleet: Duration) -> Duration {
        self.real(fleet).max(fleet.min(WORK_MIN))
    }

    /// Waits a span of fleet time.
    pub async fn sleep(&self, fleet: Duration) {
        tokio::time::sleep(self.real(fleet)).await;
    }

    /// Waits until the fleet's time is `at`; at once when that has passed.
    pub async fn sleep_until(&self, at: Timestamp) {
        // In steps, since a wall clock may be set forward while we sleep, and since a timer of the
        // runtime stands still while the machine is suspended.
        const STEP: Duration = Duration::from_secs(30);
        loop {
            let left = at.since(self.now());
            if left.is_zero() {
                return;
            }
            // A timer may fire within the last millisecond; never spin there.
            let real = self.real(left).clamp(Duration::from_millis(1), STEP);
            tokio::time::sleep(real).await;
        }
    }

    /// Gives work that takes real time a span of fleet time (see [`Self::patience`]).
    pub async fn timeout<F: Future>(
        &self,
        fleet: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(self.patience(fleet), future).await
    }
}

fn parse_time(key: &'static str, text: &str) -> Result<Timestamp, ClockError> {
    text.parse::<jiff::Timestamp>()
        .map(|time| Timestamp(time.as_millisecond()))
        .map_err(|_| ClockError::Time {
            key,
            text: text.chars().take(100).collect(),
        })
}

/// The wall clock; before 1970 it counts as 1970.
fn wall() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Time since the machine was booted, sleep included.
fn uptime() -> Duration {
    // CLOCK_BOOTTIME exists on every Linux since 2.6.39, and reading it has no other failure.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_runs_fast_and_two_agree() {
        let start = Timestamp::from_secs(1_000_000);
        let real = SystemTime::now() - Duration::from_secs(2);
        let one = Clock::scaled_from(100.0, start, real);
        let two = Clock::scaled_from(100.0, start, real);
        let passed = one.now().since(start);
        assert!(passed >= Duration::from_secs(200), "{passed:?}");
        assert!(passed < Duration::from_secs(400), "{passed:?}");
        assert!(two.now().since(one.now()) < Duration::from_secs(20));
        assert_eq!(one.patience(Duration::from_secs(60)), WORK_MIN);
        assert_eq!(
            one.real(Duration::from_secs(60)),
            Duration::from_millis(600)
        );
    }

    #[test]
    fn uptime_only_moves_forward() {
        let clock = Clock::scaled(1000.0);
        let before = clock.uptime();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.uptime() >= before + Duration::from_secs(2));
    }

    /// A time that stands still.
    #[derive(Debug)]
    struct Still;

    impl TimeSource for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(77)
        }

        fn uptime(&self) -> Duration {
            Duration::from_secs(5)
        }
    }

    #[test]
    fn a_given_time_is_taken_as_it_is() {
        let clock = Clock::given(Arc::new(Still));
        assert_eq!(clock.now(), Timestamp::from_secs(77));
        assert_eq!(clock.uptime(), Duration::from_secs(5));
        assert_eq!(clock.real(Duration::from_secs(9)), Duration::from_secs(9));
    }

    #[tokio::test]
    async fn sleeping_until_a_point_in_the_past_returns_at_once() {
        let clock = Clock::scaled(1000.0);
        clock
            .sleep_until(clock.now() - Duration::from_secs(5))
            .await;
        let before = clock.now();
        clock.sleep_until(before + Duration::from_secs(20)).await;
        assert!(clock.now() >= before + Duration::from_secs(20));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let zone = Some("2026-11-22T02:00:00Z");
        assert!(matches!(Clock::from_settings(1.0, None, None), Ok(None)));
        assert!(matches!(Clock::from_settings(9.0, zone, zone), Ok(Some(_))));
        for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                Clock::from_settings(speed, None, None),
                Err(ClockError::Speed(_))
            ));
        }
        assert_eq!(
            Clock::from_settings(2.0, zone, None).err(),
            Some(ClockError::Pair)
        );
        assert!(matches!(
            Clock::from_settings(2.0, Some("yesterday"), zone),
            Err(ClockError::Time { key: "start", .. })
        ));
    }
}
