//! The clock of a cache: nanoseconds since it was created, as a `u64`.
//!
//! The clock advances while the machine is suspended, so an hour of sleep is an hour of a decision's
//! time to live. 64 bits last 584 years. All clock readings of this crate happen here, except the
//! timing of requests for metrics.
//!
//! | system | clock | while the machine sleeps |
//! |---|---|---|
//! | Linux | `CLOCK_BOOTTIME` | advances |
//! | macOS | `CLOCK_MONOTONIC` | advances; `CLOCK_UPTIME_RAW`, which `Instant` reads, does not |
//! | Windows | `QueryPerformanceCounter` | advances, in standby and hibernation too |
//!
//! A hypervisor that pauses a virtual machine may stop all clocks of that machine. Such a pause does
//! not count towards a time to live.
//!
//! # Cost
//! A reading costs 25–35 ns on Linux (vDSO). A lookup usually needs a quarter of that to find that a
//! deadline has not passed: `CLOCK_MONOTONIC_COARSE` costs 6 ns. It advances at every tick of the
//! kernel, but not during a suspension, so it only identifies the tick. `Tick` remembers by how much
//! the precise clock was ahead when a thread read both in that tick. The kernel updates the coarse
//! clock when it suspends the machine, so no tick spans a suspension.

use std::time::Duration;

/// A monotonic clock that starts at zero.
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

    /// Returns the nanoseconds since the clock was started. Costs 25–35 ns on Linux.
    #[inline]
    pub fn now(&self) -> u64 {
        self.origin.elapsed()
    }

    /// Returns whether `moment`, in nanoseconds of this clock, has come. Exact to the nanosecond.
    ///
    /// Costs 6–10 ns on Linux if the moment is more than 5 seconds away, and a reading otherwise.
    #[inline]
    pub fn has_reached(&self, moment: u64) -> bool {
        !self.origin.is_far_before(moment) && self.has_reached_exactly(moment)
    }

    /// Returns whether `moment`, in nanoseconds of this clock, has come, by a reading of the precise
    /// clock, however far away the moment is. For leases, which must not use the coarse clock.
    ///
    /// Costs 25–35 ns on Linux.
    #[inline]
    pub fn has_reached_exactly(&self, moment: u64) -> bool {
        moment <= self.now()
    }
}

/// Returns a duration in nanoseconds, or `u64::MAX` if it does not fit (584 years).
#[inline]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(target_os = "linux")]
mod source {
    use rustix::time::{ClockId, clock_gettime};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The largest lag of the coarse clock that is allowed for.
    ///
    /// It lags by a tick, at most 10 ms. On a virtual machine it also lags by the time for which the
    /// hypervisor took away the processor that updates it. An entry could outlive its deadline only
    /// if that were longer.
    const MAX_LAG: u64 = 5_000_000_000;

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

        /// Returns true only if `moment` has not come; false means that it may have.
        #[inline]
        pub(super) fn is_far_before(self, moment: u64) -> bool {
            let coarse = read(ClockId::MonotonicCoarse);
            let about = TICK.precise(coarse, || read(ClockId::Boottime));
            about.saturating_sub(self.0).saturating_add(MAX_LAG) < moment
        }
    }

    #[inline]
    fn read(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        // Both are positive: the clock starts when the machine does.
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }

    /// The newest tick of the coarse clock in which the precise clock was read, and by how much the
    /// precise clock was ahead.
    ///
    /// Both numbers only grow. A thread that is delayed between its readings, even by a suspension,
    /// sets neither of them back. At worst it leaves a time that is too far ahead; then a deadline is
    /// compared with a new reading.
    pub(super) struct Tick {
        coarse: AtomicU64,
        ahead: AtomicU64,
    }

    impl Tick {
        pub(super) const fn new() -> Self {
            Self { coarse: AtomicU64::new(0), ahead: AtomicU64::new(0) }
        }

        /// Returns the precise clock's time at this tick, or up to a tick later. Calls `read` once
        /// per tick.
        #[inline]
        pub(super) fn precise(&self, coarse: u64, read: impl FnOnce() -> u64) -> u64 {
            if self.coarse.load(Ordering::Acquire) != coarse {
                return self.record(coarse, read());
            }
            coarse.saturating_add(self.ahead.load(Ordering::Relaxed))
        }

        /// Records a reading of the precise clock that followed one of the coarse clock.
        #[cold]
        fn record(&self, coarse: u64, precise: u64) -> u64 {
            self.ahead.fetch_max(precise.saturating_sub(coarse), Ordering::Relaxed);
            self.coarse.fetch_max(coarse, Ordering::Release);
            precise
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const HOUR: u64 = 3_600_000_000_000;
        const TICK: u64 = 4_000_000;

        #[test]
        fn the_precise_clock_is_read_once_per_tick() {
            let tick = Tick::new();
            let mut reads = 0;
            for coarse in [1, 1, 1, 2, 2, 3].map(|ticks| ticks * TICK) {
                let precise = tick.precise(coarse, || {
                    reads += 1;
                    coarse + 7
                });
                assert_eq!(precise, coarse + 7);
            }
            assert_eq!(reads, 3);
        }

        #[test]
        fn a_suspension_counts_from_the_first_reading_after_it() {
            let tick = Tick::new();
            assert_eq!(tick.precise(TICK, || TICK + 5), TICK + 5);
            // The kernel updates the coarse clock when it suspends; then the clock stands still.
            let resumed = TICK + 1_000;
            assert_eq!(tick.precise(resumed, || resumed + HOUR), resumed + HOUR);
            assert_eq!(tick.precise(resumed, || unreachable!()), resumed + HOUR);
        }

        #[test]
        fn a_thread_that_a_suspension_delayed_does_not_hide_it() {
            let tick = Tick::new();
            let resumed = 2 * TICK;
            // A thread read both clocks before, and records them after another thread did.
            let (coarse_before, precise_before) = (TICK, TICK + 5);
            tick.precise(resumed, || resumed + HOUR);
            tick.record(coarse_before, precise_before);
            assert_eq!(tick.precise(resumed, || unreachable!()), resumed + HOUR);
            // A thread read the coarse clock before, and the precise clock after.
            let tick = Tick::new();
            tick.record(TICK, TICK + HOUR);
            assert!(tick.precise(TICK, || unreachable!()) >= TICK + HOUR);
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

        /// Returns false: this system has no cheaper clock.
        pub(super) fn is_far_before(self, _moment: u64) -> bool {
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

        /// Returns false: this system has no cheaper clock.
        pub(super) fn is_far_before(self, _moment: u64) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_reached_when_it_comes_and_not_earlier() {
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
    fn the_clock_advances_with_that_of_the_system() {
        let (clock, system) = (Clock::new(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let (ours, theirs) = (clock.now(), nanos(system.elapsed()));
        assert!(ours.abs_diff(theirs) < 5_000_000, "{ours} {theirs}");
    }
}
