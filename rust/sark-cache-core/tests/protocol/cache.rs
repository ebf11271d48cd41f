//! One tiered cache: its entry for the one request of this model, its log, and its lease.

use crate::broken::Broken;
use crate::world::World;
use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::{KeyWriter, Lease, Scope, Stamp};
use shuttle::sync::Mutex;
use std::collections::HashSet;

pub struct Cache {
    pub log: Log,
    pub lease: Lease,
    pub entry: Mutex<Option<(u64, Stamp)>>,
    /// The records that this cache itself made.
    pub own: Mutex<HashSet<u64>>,
    /// The scopes in the log, for the copy that a forked child has. Held while one is recorded.
    recorded: Mutex<Vec<Scope>>,
}

pub fn key() -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.request("alice", "read", "doc").unwrap();
    writer.as_bytes().to_vec()
}

pub fn alice() -> Scope {
    Scope::of([Some("alice"), None, None], &[])
}

pub fn bob() -> Scope {
    Scope::of([Some("bob"), None, None], &[])
}

impl Cache {
    pub fn new() -> Self {
        Self {
            log: Log::new(),
            lease: Lease::none(),
            entry: Mutex::default(),
            own: Mutex::default(),
            recorded: Mutex::default(),
        }
    }

    pub fn record(&self, scope: Scope) -> Stamp {
        let mut recorded = self.recorded.lock().unwrap();
        let stamp = self.log.record(&scope, 0).stamp;
        recorded.push(scope);
        stamp
    }

    pub fn store(&self, version: u64, stamp: Stamp) {
        let key = key();
        let mut entry = self.entry.lock().unwrap();
        let subject = Subject { key: &key, tags: &[] };
        if let Verdict::Valid(stamp) = self.log.verdict(stamp, subject) {
            *entry = Some((version, stamp));
        }
    }

    /// Returns the version to serve, and the time of `clock` at which the lease was valid.
    pub fn look_up(&self, world: &World, clock: impl Fn() -> (u64, u64)) -> Option<(u64, u64)> {
        let early = world.broken == Broken::LogBeforeLease;
        let before = (!early).then(|| (self.lease.until(), clock()));
        world.step();
        let holds = self.find();
        world.step();
        let (until, (now, real)) = before.unwrap_or_else(|| (self.lease.until(), clock()));
        holds.filter(|_| now < until).map(|version| (version, real))
    }

    fn find(&self) -> Option<u64> {
        let key = key();
        let mut entry = self.entry.lock().unwrap();
        let (version, stamp) = (*entry)?;
        match self.log.verdict(stamp, Subject { key: &key, tags: &[] }) {
            Verdict::Invalidated => None,
            Verdict::Valid(newer) => {
                *entry = Some((version, stamp.max(newer)));
                Some(version)
            }
        }
    }

    /// Copies the memory of a process that forks: its entry, its log and its own records.
    pub fn fork(&self) -> Self {
        // A child has whole records: the lock of a log is not held while a process forks.
        let recorded = self.recorded.lock().unwrap();
        let child = Self {
            entry: Mutex::new(*self.entry.lock().unwrap()),
            own: Mutex::new(self.own.lock().unwrap().clone()),
            ..Self::new()
        };
        for scope in &*recorded {
            child.record(scope.clone());
        }
        child
    }
}
