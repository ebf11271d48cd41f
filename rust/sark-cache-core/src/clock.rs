//! The one place that reads the clock: nanoseconds since the cache was made, as a `u64`.
//!
//! The clock goes on while the machine is suspended, so that an hour of sleep is an hour of a
//! decision's time to live. 64 bits last 584 years.
//!
//! | system | clock | while the machine sleeps |
//! |---|---|---|
//! | Linux | `CLOCK_BOOTTIME` | goes on |
//! | macOS | `CLOCK_MONOTONIC` | goes on; `CLOCK_UPTIME_RAW`, which `Instant` reads, does not |
//! | Windows | `QueryPerformanceCounter` | goes on, standby and hibernation included |
//!
//! No clock shows what the machine itself cannot see: a hypervisor that pauses a virtual machine may
//! keep its clocks from going on. Such a pause does not count.
//!
//! # Cost
//! A reading costs 25–35 ns on Linux (vDSO). A look-up mostly needs a quarter of that to see that a
//! deadline has not passed. `CLOCK_MONOTONIC_COARSE` costs 6 ns and moves at every tick of the
//! kernel, but it stands still during a suspension. So it only says whether the tick is still the one
//! in which a thread read the whole clock; `Tick` remembers how far that one was ahead. The kernel
//! moves the coarse clock on when it suspends the machine, so no tick spans a suspension.

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
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The coarse clock lags by a tick, 10 ms at most; on a virtual machine, by as long as the
    /// processor that moves it on was taken away. Beyond this, an entry may outlive its deadline.
    const LAG: u64 = 5_000_000_000;

    static TICK: Tick = Tick::new();

    #[derive(Debug, Clone, Copy)]
    pub(super) struct Origin(u64);

    impl Origin {
        pub(super) fn now() -> Self {
            Self(read(ClockId::Boottime))
        }

        #[inline]
        pub(super) fn elapsed(self) -> u64 {
            read(ClockId::Boottime).saturating_sub(self.0)
        }

        /// True only if `moment` is yet to come.
        #[inline]
        pub(super) fn is_long_before(self, moment: u64) -> bool {
            let coarse = read(ClockId::MonotonicCoarse);
            let about = TICK.whole(coarse, || read(ClockId::Boottime));
            about.saturating_sub(self.0).saturating_add(LAG) < moment
        }
    }

    #[inline]
    fn read(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        // Both are positive: the clock starts when the machine does.
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }

    /// The newest tick of the coarse clock in which the whole clock was read, and by how much that
    /// was ahead.
    ///
    /// Both only grow. A thread that was held up, even by a suspension, can so set neither of them
    /// back, and what it leaves is at worst too far ahead: then a deadline is looked at closely.
    pub(super) struct Tick {
        coarse: AtomicU64,
        ahead: AtomicU64,
    }

    impl Tick {
        pub(super) const fn new() -> Self {
            Self { coarse: AtomicU64::new(0), ahead: AtomicU64::new(0) }
        }

        /// The whole clock's time at this tick, or up to a tick later. Reads it once a tick.
        #[inline]
        pub(super) fn whole(&self, coarse: u64, read: impl FnOnce() -> u64) -> u64 {
            if self.coarse.load(Ordering::Acquire) != coarse {
                return self.note(coarse, read());
            }
            coarse.saturating_add(self.ahead.load(Ordering::Relaxed))
        }

        /// Takes down what the whole clock said after the coarse one was read.
        #[cold]
        fn note(&self, coarse: u64, whole: u64) -> u64 {
            self.ahead.fetch_max(whole.saturating_sub(coarse), Ordering::Relaxed);
            self.coarse.fetch_max(coarse, Ordering::Release);
            whole
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const HOUR: u64 = 3_600_000_000_000;
        const TICK: u64 = 4_000_000;

        #[test]
        fn the_whole_clock_is_read_once_a_tick() {
            let tick = Tick::new();
            let mut reads = 0;
            for coarse in [1, 1, 1, 2, 2, 3].map(|ticks| ticks * TICK) {
                let whole = tick.whole(coarse, || {
                    reads += 1;
                    coarse + 7
                });
                assert_eq!(whole, coarse + 7);
            }
            assert_eq!(reads, 3);
        }

        #[test]
        fn a_suspension_counts_from_the_first_look_after_it() {
            let tick = Tick::new();
            assert_eq!(tick.whole(TICK, || TICK + 5), TICK + 5);
            // The coarse clock is brought up to the moment of the suspension, and stands still.
            let resumed = TICK + 1_000;
            assert_eq!(tick.whole(resumed, || resumed + HOUR), resumed + HOUR);
            assert_eq!(tick.whole(resumed, || unreachable!()), resumed + HOUR);
        }

        #[test]
        fn a_thread_that_was_held_up_by_a_suspension_hides_it_from_nobody() {
            let tick = Tick::new();
            let resumed = 2 * TICK;
            // One thread read both clocks before, and leaves what it read after another one did.
            let (coarse_before, whole_before) = (TICK, TICK + 5);
            tick.whole(resumed, || resumed + HOUR);
            tick.note(coarse_before, whole_before);
            assert_eq!(tick.whole(resumed, || unreachable!()), resumed + HOUR);
            // Or read the coarse one before and the whole one after.
            let tick = Tick::new();
            tick.note(TICK, TICK + HOUR);
            assert!(tick.whole(TICK, || unreachable!()) >= TICK + HOUR);
        }
    }
}

#[cfg(target_vendor = "apple")]
mod source {
    use rustix::time::{ClockId, clock_gettime};

    #[derive(Debug, Clone, Copy)]
    pub(super) struct Origin(u64);

    impl Origin {
        pub(super) fn now() -> Self {
            Self(read())
        }

        pub(super) fn elapsed(self) -> u64 {
            read().saturating_sub(self.0)
        }

        /// There is no clock that would tell for less.
        pub(super) fn is_long_before(self, _moment: u64) -> bool {
            false
        }
    }

    fn read() -> u64 {
        let time = clock_gettime(ClockId::Monotonic);
        // Both are positive: the clock starts when the machine does.
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
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
