//! A process: its caches, and the reader that confirms, applies, acknowledges and settles for them.

use crate::checker::one_of;
use crate::server::{Record, Server, What};
use crate::world::{Broken, LEASE, PAGE, SPAN, WAIT, World, dawdle, random};
use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::{KeyWriter, Lease, Position, Scope, Stamp};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

/// One tiered cache: its entry for the one request of this model, and its log.
pub struct Cache {
    pub log: Log,
    pub lease: Lease,
    pub entry: Mutex<Option<(u64, Stamp)>>,
    /// The records that this cache itself made.
    pub own: Mutex<HashSet<u64>>,
}

impl Cache {
    pub fn store(&self, version: u64, stamp: Stamp) {
        let key = key();
        let mut entry = self.entry.lock().unwrap();
        let subject = Subject { key: &key, tags: &[] };
        if let Verdict::Valid(stamp) = self.log.verdict(stamp, subject) {
            *entry = Some((version, stamp));
        }
    }
}

/// The state of the reader of a process.
pub struct Known {
    pub id: u64,
    pub position: Position,
    pub history: u64,
    pub generation: u64,
    /// The time, by its own clock, since which it has held positions under this history and
    /// generation.
    pub held_since: u64,
}

/// A process: its caches, and one reader for all of them.
pub struct Process {
    pub world: Arc<World>,
    /// Tenths of real time that its clock counts.
    pub rate: u64,
    pub caches: Vec<Cache>,
    pub known: Mutex<Known>,
    /// True if it stays with a replaced primary until that server answers that it is not the
    /// primary.
    pub is_cut_off: Mutex<bool>,
}

pub fn key() -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.request("alice", "read", "doc").unwrap();
    writer.as_bytes().to_vec()
}

pub fn alice() -> Scope {
    Scope::of([Some("alice"), None, None], &[])
}

impl Process {
    /// Creates a process that has adopted the log and registered, and holds no lease yet.
    pub fn start(world: &Arc<World>, caches: usize) -> Arc<Self> {
        let id = random();
        let (position, history, generation) = {
            let mut server = world.server.lock().unwrap();
            let position = server.log.last().expect("a log was begun").position;
            server.readers.insert(id, position);
            (position, server.history, server.generation)
        };
        let caches = (0..caches).map(|_| Cache {
            log: Log::new(),
            lease: Lease::none(),
            entry: Mutex::default(),
            own: Mutex::default(),
        });
        let rate = one_of([9, 10, 11]);
        let held_since = world.now() * rate / 10;
        let known = Known { id, position, history, generation, held_since };
        Arc::new(Self {
            world: Arc::clone(world),
            rate,
            caches: caches.collect(),
            known: Mutex::new(known),
            is_cut_off: Mutex::new(false),
        })
    }

    /// Returns the time of this process's clock, and the real time at which it was read.
    pub fn clock(&self) -> (u64, u64) {
        let real = self.world.now();
        (real * self.rate / 10, real)
    }

    pub fn evaluates(&self, cache: &Cache) -> u64 {
        let stamp = cache.log.newest();
        self.world.step();
        let version = self.world.engine.load(Ordering::SeqCst);
        self.world.step();
        cache.store(version, stamp);
        version
    }

    /// Requests a decision from one of the caches. The cache evaluates if it cannot serve.
    pub fn ask(&self, cache: &Cache) {
        let must = self.world.settled.load(Ordering::SeqCst);
        self.world.step();
        match self.look_up(cache) {
            Some((version, served)) => self.world.check(version, must, served),
            None => assert!(self.evaluates(cache) >= must, "settled: evaluated too early"),
        }
    }

    pub fn look_up(&self, cache: &Cache) -> Option<(u64, u64)> {
        let (key, early) = (key(), self.world.broken == Broken::LogBeforeLease);
        let before = (!early).then(|| (cache.lease.until(), self.clock()));
        self.world.step();
        let holds = {
            let mut entry = cache.entry.lock().unwrap();
            let (version, stamp) = (*entry)?;
            match cache.log.verdict(stamp, Subject { key: &key, tags: &[] }) {
                Verdict::Invalidated => None,
                Verdict::Valid(newer) => {
                    *entry = Some((version, stamp.max(newer)));
                    Some(version)
                }
            }
        };
        self.world.step();
        let (until, (now, real)) = before.unwrap_or_else(|| (cache.lease.until(), self.clock()));
        holds.filter(|_| now < until).map(|version| (version, real))
    }

    /// Makes one confirmation: reads new records, applies and acknowledges them, and extends the
    /// lease if every step succeeded.
    pub fn confirm(&self) {
        let (world, broken) = (&self.world, self.world.broken);
        let (reader, position) = {
            let known = self.known.lock().unwrap();
            (known.id, known.position)
        };
        let (mut sent, _) = self.clock();
        world.travel();
        let reply = self.ask_server(|server| server.confirm(reader, position));
        world.travel();
        if broken == Broken::LeaseFromReply {
            sent = self.clock().0;
        }
        if !reply.is_primary && broken != Broken::AnyRole {
            // It leaves this server, and uses the present primary from now on.
            *self.is_cut_off.lock().unwrap() = false;
            return;
        }
        let lasts = if broken == Broken::NoDrift { SPAN } else { LEASE };
        let is_same_history = self.known.lock().unwrap().history == reply.history;
        if !is_same_history && broken != Broken::AnyHistory {
            return self.adopt();
        }
        let is_mine = reply.records.first().is_some_and(|first| {
            first.position.id == position.id
                && (first.position.nonce == position.nonce || broken == Broken::NoNonce)
        });
        if !is_mine {
            return self.adopt();
        }
        self.note(reply.history, reply.generation);
        let may_lease =
            if broken == Broken::UnregisteredLease || broken == Broken::RemovedWithoutMark {
                reply.is_registered || self.register() || broken == Broken::UnregisteredLease
            } else if !reply.is_registered || reply.is_marked {
                // Registered now, so the next confirmation may grant a lease.
                self.register();
                false
            } else {
                true
            };
        let is_last = reply.records.len() < PAGE;
        let grants = may_lease && (is_last || broken == Broken::LeaseForHalfAPage);
        if grants && broken == Broken::LeaseBeforeRecords {
            self.extend(sent + lasts);
        }
        if broken == Broken::AcknowledgedEarly {
            self.acknowledge(&reply.records);
        }
        let mut own_of_all = HashSet::new();
        for record in &reply.records[1..] {
            for cache in &self.caches {
                self.apply(cache, record, &mut own_of_all);
            }
        }
        self.known.lock().unwrap().position = reply.records.last().expect("mine is there").position;
        if grants {
            self.extend(sent + lasts);
        }
        self.acknowledge(&reply.records);
    }

    pub fn ask_server<R>(&self, ask: impl FnOnce(&Server) -> R) -> R {
        let replaced = self.world.replaced.lock().unwrap().clone();
        match replaced {
            Some(replaced) if *self.is_cut_off.lock().unwrap() => ask(&replaced),
            _ => ask(&self.world.server.lock().unwrap()),
        }
    }

    pub fn apply(&self, cache: &Cache, record: &Record, own_of_all: &mut HashSet<u64>) {
        self.world.step();
        let nonce = record.position.nonce;
        let mut is_own = cache.own.lock().unwrap().remove(&nonce);
        if self.world.broken == Broken::OneOwnSet {
            is_own |= own_of_all.contains(&nonce);
            if is_own {
                own_of_all.insert(nonce);
            }
        }
        match record.what {
            What::Begun => {}
            _ if is_own => {}
            What::Revoked => _ = cache.log.record(&alice(), 0),
            What::Other => _ = cache.log.record(&Scope::of([Some("bob"), None, None], &[]), 0),
        }
    }

    pub fn extend(&self, until: u64) {
        for cache in &self.caches {
            cache.lease.extend_until(until);
        }
    }

    pub fn acknowledge(&self, records: &[Record]) {
        let position = records.last().expect("mine is there").position;
        self.world.step();
        let mut server = self.world.server.lock().unwrap();
        let id = self.known.lock().unwrap().id;
        if server.takes_writes
            && let Some(applied) = server.readers.get_mut(&id)
        {
            *applied = position;
        }
    }

    /// Registers under the position that was applied, and clears the mark. Returns false if the
    /// server refuses.
    pub fn register(&self) -> bool {
        self.world.step();
        let mut server = self.world.server.lock().unwrap();
        let known = self.known.lock().unwrap();
        if server.takes_writes {
            server.readers.insert(known.id, known.position);
            server.suspects.remove(&known.id);
        }
        server.takes_writes
    }

    /// Adopts the log as it is now. Nothing that was cached before is served.
    pub fn adopt(&self) {
        let broken = self.world.broken;
        let flush = || {
            for cache in &self.caches {
                cache.log.record(&Scope::Everything, 0);
                cache.own.lock().unwrap().clear();
            }
        };
        if broken == Broken::FlushBeforePosition {
            flush();
            dawdle();
        }
        self.world.travel();
        let (position, history, generation) = {
            let now = self.world.now();
            let mut server = self.world.server.lock().unwrap();
            if server.log.is_empty() {
                if !server.takes_writes {
                    return;
                }
                server.append(now, random(), What::Begun);
            }
            let newest = server.log.last().expect("begun").position;
            (newest, server.history, server.generation)
        };
        self.world.travel();
        if broken != Broken::FlushBeforePosition {
            flush();
        }
        self.known.lock().unwrap().position = position;
        self.forget_history();
        self.note(history, generation);
        self.register();
    }

    pub fn forget_history(&self) {
        self.known.lock().unwrap().held_since = self.clock().0;
    }

    /// Records the history and the generation of the held positions, and the time since which they
    /// are held.
    pub fn note(&self, history: u64, generation: u64) {
        let now = self.clock().0;
        let mut known = self.known.lock().unwrap();
        if (known.history, known.generation) != (history, generation) {
            (known.history, known.generation) = (history, generation);
            known.held_since = now;
        }
    }

    /// Revokes in all processes. Returns when no process can serve the revoked decision.
    pub fn invalidate(&self, cache: &Cache) {
        let (world, broken) = (&self.world, self.world.broken);
        let version = world.revoke_in_engine();
        let nonce = random();
        cache.log.record(&alice(), 0);
        cache.own.lock().unwrap().insert(nonce);
        world.travel();
        let own = self.known.lock().unwrap().position;
        let Some(record) = (0..8).find_map(|_| {
            world.travel();
            world.append(version, nonce)
        }) else {
            return; // an InvalidationError: the revocation is not confirmed
        };
        world.travel();
        let (answered, _) = self.clock();
        let waits = if broken == Broken::NoDrift { SPAN } else { WAIT };
        let mut marked = HashSet::new();
        while self.clock().0 < answered + waits {
            world.travel();
            let progress = world.server.lock().unwrap().progress(record, own, broken);
            let may_return_early = {
                let known = self.known.lock().unwrap();
                let held = self.clock().0.saturating_sub(known.held_since) >= waits;
                broken == Broken::EarlyAfterNewGeneration
                    || (held
                        && progress.has_own_position
                        && (known.history, known.generation)
                            == (progress.history, progress.generation))
            };
            if progress.everybody_applied && may_return_early {
                break;
            }
            self.mark(&progress.behind, nonce, &mut marked);
        }
        if self.clock().0 >= answered + waits {
            self.remove(&marked, nonce);
        }
        world.settled.fetch_max(version + 1, Ordering::SeqCst);
    }

    /// Revokes, and waits only until the record is written.
    pub fn records(&self) {
        let (version, nonce) = (self.world.revoke_in_engine(), random());
        self.caches[0].log.record(&alice(), 0);
        self.caches[0].own.lock().unwrap().insert(nonce);
        self.world.step();
        self.world.append(version, nonce);
    }

    pub fn mark(&self, behind: &[u64], nonce: u64, marked: &mut HashSet<u64>) {
        let mut server = self.world.server.lock().unwrap();
        for reader in behind {
            if marked.insert(*reader) {
                server.suspects.entry(*reader).or_insert(nonce);
            }
        }
    }

    /// Removes readers that stayed silent for as long as a lease can last.
    pub fn remove(&self, marked: &HashSet<u64>, nonce: u64) {
        self.world.step();
        let mut server = self.world.server.lock().unwrap();
        for reader in marked {
            let stands = server.suspects.get(reader) == Some(&nonce);
            if stands || self.world.broken == Broken::RemovedWithoutMark {
                server.readers.remove(reader);
                server.suspects.remove(reader);
            }
        }
    }

    /// Returns a forked child with a copy of everything. Its lease ends before any other code runs.
    pub fn fork(&self) -> Arc<Self> {
        let parent = self.known.lock().unwrap();
        let caches = self.caches.iter().map(|cache| {
            let lease = Lease::none();
            if self.world.broken == Broken::InheritedLease {
                lease.extend_until(cache.lease.until());
            }
            // Its own log has no records yet, and its entry is older than all of them.
            let entry = cache.entry.lock().unwrap().map(|(version, _)| (version, Stamp::default()));
            Cache { log: Log::new(), lease, entry: Mutex::new(entry), own: Mutex::default() }
        });
        let known = Known { id: random(), held_since: self.clock().0, ..*parent };
        Arc::new(Self {
            world: Arc::clone(&self.world),
            rate: self.rate,
            caches: caches.collect(),
            known: Mutex::new(known),
            is_cut_off: Mutex::new(false),
        })
    }
}
