//! The world of a run: its clock, the server, the engine, the broken rule, and the properties.

use crate::checker::one_of;
use crate::server::{Server, What};
use sark_cache_core::Position;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{rand, thread};
use std::collections::HashMap;
use std::sync::Arc;

/// The longest staleness, in units of the modelled time.
pub const SPAN: u64 = 10_000;
/// The length of a lease by the clock of its process, which may be slow.
pub const LEASE: u64 = SPAN / 10 * 9;
/// The time that a writer waits for all leases to end, by its own clock, which may be fast.
pub const WAIT: u64 = SPAN / 10 * 11 + 10;
/// The resolution of clocks: they are read in whole units.
pub const ROUNDING: u64 = 4;
/// The largest number of records in a confirmation.
pub const PAGE: usize = 3;
/// The resolution of record IDs: an ID has a time in this many units, and a sequence number.
pub const MILLISECOND: u64 = 5_000;

/// Lets other threads run.
pub fn dawdle() {
    for _ in 0..one_of(0..16) {
        thread::yield_now();
    }
}

pub fn random() -> u64 {
    use rand::RngCore;
    rand::thread_rng().next_u64()
}

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Broken {
    Nothing,
    /// The lease counts from the reply.
    LeaseFromReply,
    /// The lease is published before the records are applied.
    LeaseBeforeRecords,
    /// A page that is not the last one grants a lease.
    LeaseForHalfAPage,
    /// A new position is read after the flush that belongs to it.
    FlushBeforePosition,
    /// A record is identified by its ID alone.
    NoNonce,
    /// A lookup asks the log before it loads the lease.
    LogBeforeLease,
    /// The history of the server is not compared.
    AnyHistory,
    /// A server that is no longer the primary confirms.
    AnyRole,
    /// Leases and waits do not allow for clocks of different rates.
    NoDrift,
    /// A process that acknowledged nothing for a span is removed without being marked first.
    RemovedWithoutMark,
    /// Positions are compared by their milliseconds alone.
    ByMilliseconds,
    /// A lease is granted though the registration could not be written.
    UnregisteredLease,
    /// A forked child keeps its parent's lease.
    InheritedLease,
    /// One set of own records serves all caches of a process.
    OneOwnSet,
    /// A writer returns early though registrations may have been lost.
    EarlyAfterNewGeneration,
    /// A record is acknowledged before every cache of the process applied it.
    AcknowledgedEarly,
    /// The position of a foreign record stands for a stamp newer than an unseen own revocation.
    PositionPastOwn,
    /// A value of another process is stamped when it is read.
    StampedWhenRead,
}

/// The server, the engine, real time, and the state that the properties are checked against.
pub struct World {
    pub broken: Broken,
    pub time: AtomicU64,
    /// The longest time that passes in a step.
    pub pace: u64,
    pub server: Mutex<Server>,
    /// The old primary, for the processes that are cut off with it.
    pub replaced: Mutex<Option<Server>>,
    /// The version that an evaluation returns.
    pub engine: AtomicU64,
    /// The oldest version that a new request may get.
    pub settled: AtomicU64,
    /// The real time at which the revocation of each version was recorded.
    pub recorded: Mutex<HashMap<u64, u64>>,
    pub answers: AtomicU64,
}

impl World {
    pub fn new(broken: Broken) -> Arc<Self> {
        Arc::new(Self {
            broken,
            time: AtomicU64::new(100 * SPAN),
            pace: one_of([SPAN / 200, SPAN / 3]),
            server: Mutex::new(Server::new()),
            replaced: Mutex::default(),
            engine: AtomicU64::new(1),
            settled: AtomicU64::new(1),
            recorded: Mutex::default(),
            answers: AtomicU64::new(0),
        })
    }

    pub fn now(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    pub fn wait(&self, passes: u64) {
        self.time.fetch_add(passes, Ordering::SeqCst);
        thread::yield_now();
    }

    /// Lets other threads run, and time pass.
    pub fn step(&self) {
        let passes = one_of([0, 0, 0, self.pace / 8, self.pace]);
        if passes > 0 {
            self.time.fetch_add(passes, Ordering::SeqCst);
        }
        thread::yield_now();
    }

    /// Makes one step of a request, which may take longer than a lease.
    pub fn travel(&self) {
        self.step();
        if one_of(0..12) == 0 {
            self.wait(2 * self.pace);
        }
    }

    /// Records the revocation of a version, unless writes are refused.
    pub fn append(&self, version: u64, nonce: u64) -> Option<Position> {
        let mut server = self.server.lock().unwrap();
        let now = self.now();
        server.takes_writes.then(|| {
            self.recorded.lock().unwrap().insert(version, now);
            server.append(now, nonce, What::Revoked)
        })
    }

    pub fn revoke_in_engine(&self) -> u64 {
        self.engine.fetch_add(1, Ordering::SeqCst)
    }

    /// Checks an answer that was read from a cache at `served`, in real time.
    pub fn check(&self, version: u64, must: u64, served: u64) {
        self.answers.fetch_add(1, Ordering::SeqCst);
        assert!(version >= must, "settled: got {version}, must be {must}");
        for (revoked, recorded) in self.recorded.lock().unwrap().iter() {
            assert!(
                version > *revoked || served < recorded + SPAN + ROUNDING,
                "stale: {version} served {} after it was recorded",
                served - recorded
            );
        }
    }
}
