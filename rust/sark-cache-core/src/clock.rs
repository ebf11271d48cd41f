//! The one place that reads the clock: nanoseconds since the cache was made, as a `u64`.
//!
//! A reading costs 25–35 ns on Linux (vDSO). Whether a deadline has passed can mostly be told for a
//! fifth of that, from the clock that the kernel moves on at every tick. 64 bits last 584 years.

use std::time::Duration;

/// A monotonic clock that starts at zero when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: source::Origin,
}

impl Clock {
    /// Starts the clock.
    #[expect(clippy::new_without_default, reason = "a default that reads the time would surprise")]
    pub fn new() -> Self {
        Self { origin: source::Origin::now() }
    }

    /// Nanoseconds since the clock was started.
    #[inline]
    pub fn now(&self) -> u64 {
        self.origin.elapsed()
    }

    /// Whether a moment has come, to the nanosecond.
    #[inline]
    pub fn has_reached(&self, moment: u64) -> bool {
        !self.origin.is_long_before(moment) && moment <= self.now()
    }
}

/// A duration in nanoseconds, `u64::MAX` when it does not fit (584 years).
#[inline]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(target_os = "linux")]
mod source {
    use rustix::time::{ClockId, clock_gettime};

    /// The coarse clock lags by a tick, 10 ms at most; on a virtual machine, by as long as the
    /// processor that moves it on was taken away. Beyond this, an entry may outlive its deadline.
    const LAG: u64 = 5_000_000_000;

    #[derive(Debug, Clone, Copy)]
    pub(super) struct Origin(u64);

    impl Origin {
        pub(super) fn now() -> Self {
            Self(read(ClockId::Monotonic))
        }

        #[inline]
        pub(super) fn elapsed(self) -> u64 {
            read(ClockId::Monotonic).saturating_sub(self.0)
        }

        /// True only if `moment` is yet to come.
        #[inline]
        pub(super) fn is_long_before(self, moment: u64) -> bool {
            let elapsed = read(ClockId::MonotonicCoarse).saturating_sub(self.0);
            elapsed.saturating_add(LAG) < moment
        }
    }

    #[inline]
    fn read(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        // Both are positive: the clock starts when the machine does.
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }
}

#[cfg(not(target_os = "linux"))]
mod source {
    use std::time::Instant;

    #[derive(Debug, Clone, Copy)]
    pub(super) struct Origin(Instant);

    impl Origin {
        pub(super) fn now() -> Self {
            Self(Instant::now())
        }

        pub(super) fn elapsed(self) -> u64 {
            super::nanos(self.0.elapsed())
        }

        /// There is no clock that would tell for less.
        pub(super) fn is_long_before(self, _moment: u64) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_reached_when_it_comes_and_not_before() {
        let clock = Clock::new();
        for wait in [0, 1, 50_000, 3_000_000] {
            let moment = clock.now() + wait;
            while !clock.has_reached(moment) {
                assert!(clock.now() < moment + 100_000_000);
            }
            assert!(clock.now() >= moment);
        }
        assert!(!clock.has_reached(clock.now() + 10_000_000_000));
        assert!(!clock.has_reached(u64::MAX));
    }

    #[test]
    fn the_clock_moves_as_that_of_the_system_does() {
        let (clock, system) = (Clock::new(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let (ours, theirs) = (clock.now(), nanos(system.elapsed()));
        assert!(ours.abs_diff(theirs) < 5_000_000, "{ours} {theirs}");
    }
}
