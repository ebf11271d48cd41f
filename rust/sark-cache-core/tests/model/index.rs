//! The index in front of a map that takes the place of moka: inserts, overwrites, removals, evictions,
//! revocations and lookups.

use crate::checker::{explore, one_of};
use crate::world::{key, user};
use sark_cache_core::Stamp;
use sark_cache_core::index::{Index, Indexed};
use sark_cache_core::invalidation::{Log, Subject, Verdict};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use std::collections::HashMap;
use std::sync::Arc;

/// The rule that is broken on purpose, if any.
#[derive(Clone, Copy, PartialEq)]
enum Broken {
    Nothing,
    /// The map changes after the turn.
    Write,
    /// A removal leaves the index as it is.
    Erase,
    /// A write that cannot get its turn leaves the index as it is.
    GivesUp,
    /// An entry that was found in the map before the turn gets into the index.
    Adopt,
    /// An entry that was evicted while it was put into the index stays there.
    Held,
    /// A revoked entry of the index is served.
    Verdict,
}

/// Two keys of one set and of one mark, so that they compete for a slot.
const NAMES: [&str; 2] = ["alice", "bob"];
const HASH: u64 = 7;

struct Entry {
    of: usize,
    key: Vec<u8>,
    version: u64,
    stamp: Stamp,
    is_held: AtomicU64,
    broken: Broken,
}

impl Indexed for Entry {
    fn hash(&self) -> u64 {
        HASH
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn is_held(&self) -> bool {
        self.broken == Broken::Held || self.is_held.load(Ordering::SeqCst) == 1
    }
}

struct World {
    broken: Broken,
    index: Index<Entry>,
    map: Mutex<HashMap<usize, Arc<Entry>>>,
    log: Log,
    versions: AtomicU64,
    /// For each key, the oldest version that a new lookup may find.
    oldest: [AtomicU64; 2],
    /// Held while a decision is set or removed, as the flights do for a key.
    setting: [Mutex<()>; 2],
    finished: AtomicU64,
}

impl World {
    fn new(broken: Broken) -> Arc<Self> {
        let world = Self {
            broken,
            index: Index::new(60),
            map: Mutex::default(),
            log: Log::new(),
            versions: AtomicU64::new(0),
            oldest: [AtomicU64::new(0), AtomicU64::new(0)],
            setting: [Mutex::default(), Mutex::default()],
            finished: AtomicU64::new(0),
        };
        world.index.grow(1);
        Arc::new(world)
    }

    /// Drops what the map held. moka does so a while later.
    fn drop_later(&self, dropped: Option<Arc<Entry>>) {
        if let Some(entry) = dropped {
            thread::yield_now();
            entry.is_held.store(0, Ordering::SeqCst);
            self.index.forget(&entry);
        }
    }

    fn set(&self, of: usize) {
        let _setting = self.setting[of].lock().unwrap();
        // The stamp first, as before an evaluation.
        let stamp = self.log.newest();
        let version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        let entry = Arc::new(Entry {
            of,
            key: key(NAMES[of]),
            version,
            stamp,
            is_held: AtomicU64::new(1),
            broken: self.broken,
        });
        let hold = || self.map.lock().unwrap().insert(of, Arc::clone(&entry));
        let replaced = match self.broken {
            Broken::Write => {
                self.index.write(&entry, || ());
                thread::yield_now();
                hold()
            }
            Broken::GivesUp => {
                let mut replaced = None;
                self.index.adopt(HASH, || {
                    replaced = hold();
                    Some(Arc::clone(&entry))
                });
                replaced
            }
            _ => self.index.write(&entry, hold),
        };
        self.oldest[of].fetch_max(version, Ordering::SeqCst);
        drop(entry);
        self.drop_later(replaced);
    }

    fn remove(&self, of: usize) {
        let _setting = self.setting[of].lock().unwrap();
        let version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        let remove = || self.map.lock().unwrap().remove(&of);
        let removed = if self.broken == Broken::Erase {
            remove()
        } else {
            self.index.erase(HASH, &key(NAMES[of]), remove)
        };
        self.oldest[of].fetch_max(version, Ordering::SeqCst);
        self.drop_later(removed);
    }

    fn evict(&self, of: usize) {
        let evicted = self.map.lock().unwrap().remove(&of);
        self.drop_later(evicted);
    }

    fn revoke(&self, of: usize) {
        let version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.record(&user(NAMES[of]), 0);
        self.oldest[of].fetch_max(version, Ordering::SeqCst);
    }

    /// Looks a key up as the cache does.
    fn look_up(&self, of: usize) {
        let oldest = self.oldest[of].load(Ordering::SeqCst);
        let key = key(NAMES[of]);
        let held = || self.map.lock().unwrap().get(&of).cloned();
        let found = match self.index.find(HASH, &key) {
            Some(found) if self.broken == Broken::Verdict => {
                assert!(found.version >= oldest, "stale");
                return;
            }
            Some(found) => Some(found.into_arc()),
            None if self.broken == Broken::Adopt => {
                let held = held();
                thread::yield_now();
                self.index.adopt(HASH, || held)
            }
            None => self.index.adopt(HASH, held),
        };
        let Some(entry) = found else { return };
        assert_eq!(entry.of, of, "another key");
        let subject = Subject { key: &entry.key, tags: &[] };
        if self.log.verdict(entry.stamp, subject) != Verdict::Invalidated {
            assert!(entry.version >= oldest, "stale");
        }
    }
}

const OPERATIONS: [&str; 8] =
    ["set", "set", "remove", "evict", "revoke", "grow", "look up", "look up"];

/// Three threads set, remove, evict, revoke and look up two keys of one set.
fn decisions_change(broken: Broken) {
    let world = World::new(broken);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for _ in 0..4 {
                    let of = one_of([0, 0, 1]);
                    match one_of(OPERATIONS) {
                        "set" => world.set(of),
                        "remove" => world.remove(of),
                        "evict" => world.evict(of),
                        "revoke" => world.revoke(of),
                        "grow" => world.index.grow(60),
                        _ => world.look_up(of),
                    }
                }
            })
        })
        .collect();
    for each in threads {
        each.join().unwrap();
    }
    for of in 0..2 {
        world.look_up(of);
        if let Some(found) = world.index.find(HASH, &key(NAMES[of])) {
            assert!(found.is_held.load(Ordering::SeqCst) == 1, "an evicted entry stays");
        }
    }
}

/// A forked child inherited a turn that no thread of it has.
fn a_turn_is_never_released(broken: Broken) {
    let world = World::new(broken);
    world.set(0);
    let forever = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            world.index.erase(HASH, b"", || {
                while world.finished.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
            });
        })
    };
    let changes = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            for _ in 0..2 {
                if one_of([true, false]) {
                    world.set(0)
                } else {
                    world.remove(0)
                }
                world.look_up(0);
            }
        })
    };
    world.look_up(0);
    changes.join().unwrap();
    world.look_up(0);
    world.finished.store(1, Ordering::SeqCst);
    forever.join().unwrap();
}

#[test]
fn no_lookup_finds_what_was_overwritten_removed_or_revoked_before_it() {
    explore(|| decisions_change(Broken::Nothing));
}

#[test]
fn a_turn_that_nobody_releases_hides_no_change() {
    explore(|| a_turn_is_never_released(Broken::Nothing));
}

is_noticed! {
    a_map_that_changes_after_the_turn_is_noticed: "stale", Write, decisions_change;
    a_removal_that_leaves_the_index_is_noticed: "stale", Erase, decisions_change;
    a_write_that_gives_up_is_noticed: "stale", GivesUp, a_turn_is_never_released;
    an_entry_that_was_found_before_the_turn_is_noticed: "stale", Adopt, decisions_change;
    an_evicted_entry_that_stays_is_noticed: "an evicted entry stays", Held, decisions_change;
    a_revoked_entry_of_the_index_that_is_served_is_noticed: "stale", Verdict, decisions_change;
}
