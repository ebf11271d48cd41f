//! The time until which a cache may serve without a new confirmation of its log.

use crate::clock::{Clock, nanos};
use crate::shim::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// The right to serve cached decisions, for a span after the shared log was confirmed.
///
/// The lease counts from *before the confirming request was sent*. A revocation that the
/// confirmation does not show was recorded later than that. So no hit serves a decision for longer
/// than the span after its revocation was recorded, however slow the network or the scheduler is,
/// and however long the process is paused.
///
/// ```
/// use sark_cache_core::{Cache, Lease, Options};
/// use std::time::Duration;
///
/// let lease = Lease::none();
/// let cache = Cache::<&str>::new(Options { lease: lease.clone(), ..Options::new(10_000) });
///
/// let sent = cache.lease().now();
/// // Ask the shared log, and apply all its records with `cache.note_foreign` …
/// lease.extend(sent, Duration::from_millis(900));
/// assert!(lease.is_valid());
/// ```
///
/// # Order
/// A reader applies all records of a confirmation before it extends the lease. A lookup loads the
/// lease before it asks the log. So a lookup that sees a lease also sees every record that this
/// lease relies on.
///
/// # The clock
/// A lease has a [`Clock`], which counts the time for which the machine is suspended. All caches
/// with this lease use it. The clock of another process may run at another rate. So a process that
/// waits for the end of leases waits a little longer than the span.
///
/// # Cost
/// A clone shares the lease. Loading it costs one atomic load. [`is_valid`](Self::is_valid) also
/// reads the clock, unless the lease never ends.
#[derive(Debug, Clone)]
pub struct Lease {
    until: Arc<AtomicU64>,
    clock: Clock,
}

/// The end of a lease that never ends.
const NEVER: u64 = u64::MAX;

impl Lease {
    /// Returns a lease that never ends, for a cache that shares its log with no other process.
    pub fn always() -> Self {
        Self::ending(NEVER)
    }

    /// Returns a lease under which nothing is served until it is extended.
    pub fn none() -> Self {
        Self::ending(0)
    }

    fn ending(until: u64) -> Self {
        Self { until: Arc::new(AtomicU64::new(until)), clock: Clock::new() }
    }

    /// Returns the clock of the lease, and of the caches that have it.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the time, in nanoseconds of the lease's clock. Read it before a confirming request is
    /// sent.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Extends the lease to `sent` plus `length`. It never becomes shorter.
    ///
    /// `sent` is the [time](Self::now) *before the confirming request was sent*. Apply every record
    /// that the confirmation showed before this call.
    pub fn extend(&self, sent: u64, length: Duration) {
        self.extend_until(sent.saturating_add(nanos(length)));
    }

    /// Extends the lease to `until`, in nanoseconds of its clock. It never becomes shorter.
    pub fn extend_until(&self, until: u64) {
        self.until.fetch_max(until, Ordering::AcqRel);
    }

    /// Ends the lease now: when the process stops, and in the child after a fork.
    ///
    /// A reader that still runs can extend it again, so stop the reader first.
    pub fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// Returns the end of the lease, in nanoseconds of its clock. Load it before the log is asked.
    ///
    /// Costs one atomic load.
    #[inline]
    pub fn until(&self) -> u64 {
        self.until.load(Ordering::Acquire)
    }

    /// Returns whether decisions may be served now. Ask it before the log is asked.
    #[inline]
    pub fn is_valid(&self) -> bool {
        Self::never_ends(self.until()) || self.is_before_end()
    }

    /// Returns the time for which decisions may still be served. Zero: there is no lease.
    pub fn remaining(&self) -> Duration {
        match self.until() {
            until if Self::never_ends(until) => Duration::MAX,
            until => Duration::from_nanos(until.saturating_sub(self.clock.now())),
        }
    }

    /// Returns whether the lease never ends.
    pub fn is_endless(&self) -> bool {
        Self::never_ends(self.until())
    }

    /// Returns whether `until`, loaded from a lease, belongs to one that never ends.
    #[inline]
    pub(crate) fn never_ends(until: u64) -> bool {
        until == NEVER
    }

    #[inline(never)]
    fn is_before_end(&self) -> bool {
        self.clock.now() < self.until()
    }
}

impl Default for Lease {
    /// Returns a lease that never ends.
    fn default() -> Self {
        Self::always()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(30);

    #[test]
    fn a_lease_counts_from_before_the_request_was_sent() {
        let lease = Lease::none();
        assert!(!lease.is_valid());
        assert_eq!(lease.remaining(), Duration::ZERO);
        let sent = lease.now();
        while lease.now() < sent + nanos(LENGTH) {
            std::thread::yield_now();
        }
        lease.extend(sent, LENGTH);
        assert!(!lease.is_valid(), "it counts from the reply");
        lease.extend(lease.now(), LENGTH * 1_000);
        assert!(lease.is_valid());
        assert!(lease.remaining() > LENGTH * 900);
    }

    #[test]
    fn a_lease_lasts_until_its_end_and_no_longer() {
        let lease = Lease::none();
        lease.extend(lease.now(), LENGTH);
        loop {
            let before = lease.now();
            let valid = lease.is_valid();
            if before >= lease.until() {
                assert!(!valid);
                break;
            }
            assert!(valid || lease.now() >= lease.until());
        }
    }

    #[test]
    fn an_older_confirmation_does_not_shorten_a_lease_and_an_end_is_one_for_all_clones() {
        let (lease, sent) = (Lease::none(), 1_000);
        let clone = lease.clone();
        lease.extend(sent, Duration::from_secs(60));
        lease.extend(sent, Duration::from_secs(1));
        assert_eq!(clone.until(), sent + 60_000_000_000);
        clone.end();
        assert!(!lease.is_valid());
        lease.extend(sent, Duration::MAX);
        assert!(clone.is_valid());
    }

    #[test]
    fn a_lease_without_an_end_is_always_valid() {
        let lease = Lease::always();
        assert!(lease.is_valid());
        assert_eq!(lease.remaining(), Duration::MAX);
        lease.extend(lease.now(), LENGTH);
        assert!(lease.is_valid());
    }
}
