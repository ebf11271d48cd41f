//! The world of a scenario: a policy that changes, a map of entries with the rules of the cache, and
//! the flights between them.

use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::single_flight::{Caller, Flights, Joined, Leader, WaitOutcome};
use sark_cache_core::{KeyWriter, Lease, Scope, Stamp, Tags};
use shuttle::future::{block_on, yield_now};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread::{self, JoinHandle};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub const POLICY: &str = "admins";

pub fn key(user: &str) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.policy(POLICY).unwrap();
    writer.request(user, "read", "doc").unwrap();
    writer.as_bytes().to_vec()
}

pub fn user(user: &str) -> Scope {
    Scope::of([Some(user), None, None], &[])
}

/// The rule that a world breaks on purpose, if any.
#[derive(Clone, Copy, PartialEq)]
pub enum Broken {
    Nothing,
    /// A loaded decision is stored with the stamp of its arrival, not of its evaluation.
    Stamp,
    /// A caller joins any flight of its key, revoked or not.
    Join,
    /// A cancelled leader does not hand over.
    HandOver,
    /// A decision is stored after its flight ended.
    Order,
    /// The tags that a loader names late are not checked for the waiters.
    LateTags,
    /// No check ends the wait for a task that stopped.
    Check,
    /// An abandoned leader that resumes stores its decision.
    Fence,
    /// A caller without a lease joins a flight that had begun before it asked.
    OldFlight,
}

/// A task, by its number.
#[derive(Clone, Copy)]
pub struct Task(pub u64);

impl Caller for Task {
    fn id(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// A policy, a map of entries with the rules of the cache, and the flights between them.
pub struct World {
    broken: Broken,
    pub log: Arc<Log>,
    pub lease: Lease,
    pub flights: Arc<Flights<u64, Task>>,
    /// The tasks that have stopped, perhaps for a time.
    pub stopped: Mutex<HashSet<u64>>,
    entries: Mutex<HashMap<Vec<u8>, Entry>>,
    /// The decision of an evaluation. It grows with each change of the policy.
    policy: AtomicU64,
    /// The oldest decision that a new request may get.
    oldest_valid: AtomicU64,
    loads: AtomicU64,
    /// The number of tasks so far. Task 0 refreshes.
    pub tasks: AtomicU64,
    /// Held while a decision is set.
    setting: Mutex<()>,
    /// The number of answered requests, in `one_task_stops`.
    pub answered: AtomicU64,
    pub finished: AtomicU64,
}

struct Entry {
    decision: u64,
    stamp: Stamp,
    tags: Tags,
}

impl World {
    pub fn new(broken: Broken) -> Arc<Self> {
        let log = Arc::new(Log::new());
        let log_of_flights =
            if broken == Broken::Join { Arc::new(Log::new()) } else { Arc::clone(&log) };
        let lease = Lease::always();
        let lease_of_flights =
            if broken == Broken::OldFlight { Lease::always() } else { lease.clone() };
        let flights = Flights::new(log_of_flights, Arc::default()).with_lease(lease_of_flights);
        Arc::new(Self {
            broken,
            lease,
            flights: Arc::new(flights),
            stopped: Mutex::default(),
            log,
            entries: Mutex::default(),
            policy: AtomicU64::new(1),
            oldest_valid: AtomicU64::new(1),
            loads: AtomicU64::new(0),
            tasks: AtomicU64::new(1),
            setting: Mutex::default(),
            answered: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        })
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        self.lease.is_valid().then(|| self.find(key)).flatten()
    }

    fn find(&self, key: &[u8]) -> Option<u64> {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.get_mut(key)?;
        match self.log.verdict(entry.stamp, Subject { key, tags: &entry.tags }) {
            Verdict::Invalidated => None,
            Verdict::Valid(newer) => {
                entry.stamp = entry.stamp.max(newer);
                Some(entry.decision)
            }
        }
    }

    fn insert(&self, key: &[u8], decision: u64, stamp: Stamp, tags: &Tags) {
        let stamp = if self.broken == Broken::Stamp { self.log.newest() } else { stamp };
        if let Verdict::Valid(stamp) = self.log.verdict(stamp, Subject { key, tags }) {
            let entry = Entry { decision, stamp, tags: tags.clone() };
            self.entries.lock().unwrap().insert(key.to_vec(), entry);
        }
    }

    pub fn revoke(&self, scope: &Scope) {
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.record(scope, 0);
        self.oldest_valid.fetch_max(policy, Ordering::SeqCst);
    }

    /// Revokes as another process does that settles: its revocation returns when the lease of this
    /// process has ended. The record arrives later, and the next lease after it.
    pub fn revoke_elsewhere(&self, scope: &Scope) {
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.lease.end();
        self.oldest_valid.fetch_max(policy, Ordering::SeqCst);
        thread::yield_now();
        self.log.record(scope, 0);
        self.lease.extend_until(u64::MAX);
    }

    /// Changes the policy and stores its decision. Supersedes a running evaluation.
    pub fn set(&self, key: &[u8]) {
        let _setting = self.setting.lock().unwrap();
        let stamp = self.log.newest();
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.flights.supersede(key);
        self.insert(key, policy, stamp, &Tags::default());
        self.oldest_valid.fetch_max(policy, Ordering::SeqCst);
    }

    /// Requests a decision that depends on `known` tags, and on `late` ones that only the loader names.
    pub async fn request(&self, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        self.request_as(Task(self.tasks.fetch_add(1, Ordering::SeqCst)), key, known, late).await
    }

    /// Requests a decision that depends on no tags, from a thread.
    pub fn request_for(&self, user: &str) -> u64 {
        block_on(self.request(&key(user), &Tags::default(), &Tags::default()))
    }

    pub async fn request_as(&self, task: Task, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        let oldest_valid = self.oldest_valid.load(Ordering::SeqCst);
        let answer = self.answer(task, key, known, late).await;
        assert!(answer >= oldest_valid, "stale: {answer} after {oldest_valid}");
        answer
    }

    async fn answer(&self, task: Task, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        if let Some(decision) = self.get(key) {
            return decision;
        }
        let tags = &known.union(late);
        let mut timed_out = None;
        loop {
            let supersedes = |flight| timed_out == Some(flight);
            match self.flights.join(key, known, &task, supersedes, || self.get(key)) {
                Joined::Found(decision) => return decision,
                Joined::Lead(leader) => return self.lead(leader, key, tags).await,
                Joined::TooManyLoads => unreachable!("so many waiters never time out"),
                Joined::Wait(waiter) if self.has_stopped(*waiter.leader_at_join()) => {
                    self.flights.end_abandoned(waiter.flight(), waiter.leader_at_join());
                }
                Joined::Wait(waiter) => match waiter.await {
                    WaitOutcome::Outcome(decision) => return decision,
                    WaitOutcome::Lead(leader) => return self.lead(leader, key, tags).await,
                    WaitOutcome::Retry => {}
                    WaitOutcome::TimedOut(flight) => timed_out = Some(flight),
                },
            }
        }
    }

    pub fn has_stopped(&self, task: Task) -> bool {
        self.stopped.lock().unwrap().contains(&task.0)
    }

    /// Refreshes an entry, unless a refresh is running.
    pub async fn refresh(&self, key: &[u8], tags: &Tags) {
        if self.get(key).is_some()
            && let Some(leader) = self.flights.start_refresh(key, tags, &Task(0))
        {
            self.lead(leader, key, tags).await;
        }
    }

    /// Evaluates. May be cancelled at any `await`.
    async fn lead(&self, leader: Leader<u64, Task>, key: &[u8], tags: &Tags) -> u64 {
        let leader =
            DroppedLeader { leader: Some(leader), is_lost: self.broken == Broken::HandOver };
        self.loads.fetch_add(1, Ordering::SeqCst);
        let began = self.log.newest();
        yield_now().await;
        let decision = self.policy.load(Ordering::SeqCst);
        yield_now().await;
        let late = if self.broken == Broken::LateTags { &Tags::default() } else { tags };
        let mut stored = None;
        leader.into_inner().finish(&decision, late, |stamp, all| {
            if self.broken == Broken::Order {
                stored = Some((stamp, all));
            } else {
                self.insert(key, decision, stamp, &all.union(tags));
            }
        });
        if let Some((stamp, all)) = stored {
            self.insert(key, decision, stamp, &all);
        } else if self.broken == Broken::Fence {
            self.insert(key, decision, began, tags);
        }
        decision
    }

    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }
}

/// A leader that hands over when it is dropped, or that is lost with its task.
struct DroppedLeader {
    leader: Option<Leader<u64, Task>>,
    is_lost: bool,
}

impl DroppedLeader {
    fn into_inner(mut self) -> Leader<u64, Task> {
        self.leader.take().expect("taken once")
    }
}

impl Drop for DroppedLeader {
    fn drop(&mut self) {
        if self.is_lost {
            std::mem::forget(self.leader.take());
        }
    }
}

/// Starts threads that do the same in one world.
pub fn in_threads<T: Send + 'static>(
    threads: usize,
    world: &Arc<World>,
    run: impl Fn(&World) -> T + Clone + Send + 'static,
) -> Vec<JoinHandle<T>> {
    (0..threads)
        .map(|_| {
            let (world, run) = (Arc::clone(world), run.clone());
            thread::spawn(move || run(&world))
        })
        .collect()
}

/// Waits for threads. Returns their results.
pub fn join_all<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}
