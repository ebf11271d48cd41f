//! The world of a run: its clock, the servers, the engine, the broken rule, and the properties.

use crate::broken::Broken;
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
/// Clocks are read in whole units.
pub const ROUNDING: u64 = 4;
/// The most records in a confirmation.
pub const PAGE: usize = 3;
/// Record IDs have a time in this many units, and a sequence number.
pub const MILLISECOND: u64 = 5_000;

/// Lets others run for a while.
pub fn dawdle() {
    for _ in 0..one_of(0..16) {
        thread::yield_now();
    }
}

pub fn random() -> u64 {
    use rand::RngCore;
    rand::thread_rng().next_u64()
}

/// The servers, the engine, real time, and what has to hold.
pub struct World {
    pub broken: Broken,
    pub time: AtomicU64,
    /// The most time that passes in a step.
    pub pace: u64,
    /// The present primary.
    pub server: Mutex<Server>,
    /// The primary of before, for processes that are cut off with it.
    pub replaced: Mutex<Option<Server>>,
    /// The state that the replica of the primary has, if there is a replica.
    pub replica: Mutex<Option<Server>>,
    /// The snapshot on the primary's disk.
    pub saved: Mutex<Server>,
    /// The version that evaluating brings.
    pub engine: AtomicU64,
    /// Requests that begin from now on get no version below this one.
    pub settled: AtomicU64,
    /// When the revocation of each version was recorded, in real time.
    pub recorded: Mutex<HashMap<u64, u64>>,
}

/// The record of a revocation that cannot get lost.
pub struct Recorded {
    /// The position of the record. `None`: the whole log was removed instead.
    pub position: Option<Position>,
    /// The history of the server that has it.
    pub history: u64,
}

impl World {
    pub fn new(broken: Broken) -> Arc<Self> {
        let server = Server::new();
        Arc::new(Self {
            broken,
            time: AtomicU64::new(100 * SPAN),
            pace: one_of([SPAN / 200, SPAN / 3]),
            saved: Mutex::new(server.clone()),
            server: Mutex::new(server),
            replaced: Mutex::default(),
            replica: Mutex::default(),
            engine: AtomicU64::new(1),
            settled: AtomicU64::new(1),
            recorded: Mutex::default(),
        })
    }

    pub fn now(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    pub fn wait(&self, passes: u64) {
        self.time.fetch_add(passes, Ordering::SeqCst);
        thread::yield_now();
    }

    /// Lets others run, and time pass.
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

    /// Runs a command over a connection to the primary with this history. `None`: that server is not
    /// the primary any more, so the connection is lost, or no primary is elected yet.
    pub fn send<R>(&self, history: u64, command: impl FnOnce(&mut Server) -> R) -> Option<R> {
        let mut server = self.server.lock().unwrap();
        (server.history == history && server.takes_writes).then(|| command(&mut server))
    }

    /// Appends the record of a revoked version. At `maxmemory` it removes the log instead. Returns
    /// `None` if no primary takes it, or if a replica does not confirm it.
    pub fn record(&self, version: u64, nonce: u64) -> Option<Recorded> {
        let (recorded, now) = {
            let mut server = self.server.lock().unwrap();
            let now = self.now();
            if !server.takes_writes {
                return None;
            }
            let position = (!server.is_full).then(|| server.append(now, nonce, What::Revoked));
            if position.is_none() {
                server.clear(true);
            }
            let has_replica = self.replica.lock().unwrap().is_some();
            if !has_replica || self.broken == Broken::UnconfirmedRecord {
                self.recorded.lock().unwrap().insert(version, now);
            }
            (Recorded { position, history: server.history }, now)
        };
        if self.broken != Broken::UnconfirmedRecord {
            self.travel();
            self.replicate(recorded.history)?;
            self.recorded.lock().unwrap().insert(version, now);
        }
        Some(recorded)
    }

    /// Waits until the replica has every write of a connection to the primary with this history.
    /// Returns `None` if that server is not the primary any more.
    pub fn replicate(&self, history: u64) -> Option<()> {
        let server = self.server.lock().unwrap();
        let mut replica = self.replica.lock().unwrap();
        (server.history == history).then(|| {
            if let Some(replica) = &mut *replica {
                *replica = server.clone();
            }
        })
    }

    /// Takes a snapshot, which the server comes back from.
    pub fn save(&self) {
        let server = self.server.lock().unwrap().clone();
        *self.saved.lock().unwrap() = server;
    }

    pub fn revoke_in_engine(&self) -> u64 {
        self.engine.fetch_add(1, Ordering::SeqCst)
    }

    /// Checks an answer that was read from a cache at `served`, in real time.
    pub fn check(&self, version: u64, must: u64, served: u64, span: u64) {
        assert!(version >= must, "settled: got {version}, must be {must}");
        for (revoked, recorded) in self.recorded.lock().unwrap().iter() {
            assert!(
                version > *revoked || served < recorded + span + ROUNDING,
                "stale: {version} served {} after it was recorded",
                served - recorded
            );
        }
    }
}
