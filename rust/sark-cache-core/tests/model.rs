//! The invalidation log and the single flight under a model checker.
//!
//! The checker runs random interleavings, and those of probabilistic concurrency testing (PCT), which
//! finds any bug that takes up to three ordered events with a known probability. `nox -s model --
//! 100000` runs that many schedules of each property with each scheduler; the default is 10,000.
//! Variants that are broken on purpose show that the checker finds such faults.

mod checker;

use checker::{explore, expose, one_of};
use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::key::without_policy;
use sark_cache_core::single_flight::{
    CHECK_INTERVAL, Caller, Flights, Joined, Leader, WaitGraph, WaitOutcome,
};
use sark_cache_core::{KeyWriter, Lease, Scope, Stamp, Tags};
use shuttle::future::{block_on, yield_now};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{future, thread};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};

/// The number of schedules of a property under each scheduler.
const SCHEDULES: usize = 10_000;

const POLICY: &str = "admins";

fn key(user: &str) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.policy(POLICY).unwrap();
    writer.request(user, "read", "doc").unwrap();
    writer.as_bytes().to_vec()
}

fn user(user: &str) -> Scope {
    Scope::of([Some(user), None, None], &[])
}

/// The rule that a world breaks on purpose, if any.
#[derive(Clone, Copy, PartialEq)]
enum Broken {
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
struct Task(u64);

impl Caller for Task {
    fn id(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// A policy, a map of entries with the rules of the cache, and the flights between them.
struct World {
    broken: Broken,
    log: Arc<Log>,
    lease: Lease,
    flights: Arc<Flights<u64, Task>>,
    /// The tasks that have stopped, perhaps for a time.
    stopped: Mutex<HashSet<u64>>,
    entries: Mutex<HashMap<Vec<u8>, Entry>>,
    /// The decision of an evaluation. It grows with each change of the policy.
    policy: AtomicU64,
    /// The oldest decision that a new request may get.
    oldest_valid: AtomicU64,
    loads: AtomicU64,
    /// The number of tasks so far. Task 0 refreshes.
    tasks: AtomicU64,
    /// Held while a decision is set.
    setting: Mutex<()>,
    /// The number of answered requests, in `one_task_stops`.
    answered: AtomicU64,
    finished: AtomicU64,
}

struct Entry {
    decision: u64,
    stamp: Stamp,
    tags: Tags,
}

impl World {
    fn new(broken: Broken) -> Arc<Self> {
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

    fn revoke(&self, scope: &Scope) {
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.record(scope, 0);
        self.oldest_valid.fetch_max(policy, Ordering::SeqCst);
    }

    /// Revokes as another process does that settles: its revocation returns when the lease of this
    /// process has ended. The record arrives later, and the next lease after it.
    fn revoke_elsewhere(&self, scope: &Scope) {
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.lease.end();
        self.oldest_valid.fetch_max(policy, Ordering::SeqCst);
        thread::yield_now();
        self.log.record(scope, 0);
        self.lease.extend_until(u64::MAX);
    }

    /// Changes the policy and stores its decision. Supersedes a running evaluation.
    fn set(&self, key: &[u8]) {
        let _setting = self.setting.lock().unwrap();
        let stamp = self.log.newest();
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.flights.supersede(key);
        self.insert(key, policy, stamp, &Tags::default());
        self.oldest_valid.fetch_max(policy, Ordering::SeqCst);
    }

    /// Requests a decision that depends on `known` tags, and on `late` ones that only the loader names.
    async fn request(&self, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        self.request_as(Task(self.tasks.fetch_add(1, Ordering::SeqCst)), key, known, late).await
    }

    async fn request_as(&self, task: Task, key: &[u8], known: &Tags, late: &Tags) -> u64 {
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

    fn has_stopped(&self, task: Task) -> bool {
        self.stopped.lock().unwrap().contains(&task.0)
    }

    /// Refreshes an entry, unless a refresh is running.
    async fn refresh(&self, key: &[u8], tags: &Tags) {
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

    fn loads(&self) -> u64 {
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

/// Two threads request a decision twice each and sometimes refresh it. The policy changes
/// twice, and each change revokes its decisions. Some requests know the tags, others learn them from
/// their loader.
fn decisions_change(broken: Broken) {
    let world = World::new(broken);
    let alice = key("alice");
    let (tags, none) = (world.log.tags(&["role:admin"]), Tags::default());
    let requests: Vec<_> = (0..2)
        .map(|_| {
            let (world, alice) = (Arc::clone(&world), alice.clone());
            let (known, late) =
                one_of([(tags.clone(), none.clone()), (none.clone(), tags.clone())]);
            thread::spawn(move || {
                for _ in 0..2 {
                    block_on(world.request(&alice, &known, &late));
                    if one_of([true, false, false]) {
                        block_on(world.refresh(&alice, &known.union(&late)));
                    }
                }
            })
        })
        .collect();
    for _ in 0..2 {
        world.revoke(&one_of([
            user("alice"),
            Scope::of([None; 3], &["role:admin"]),
            Scope::of([None, Some("read"), None], &["role:admin"]),
            Scope::under(Some(POLICY), [None; 3], &[]),
            Scope::Key(alice.clone().into()),
            Scope::Request(without_policy(&alice).into()),
            Scope::Everything,
        ]));
    }
    block_on(world.request(&alice, &none, &tags));
    for request in requests {
        request.join().unwrap();
    }
    assert!(world.flights.is_empty());
}

#[test]
fn no_request_gets_a_decision_that_was_revoked_before_it() {
    explore(|| decisions_change(Broken::Nothing));
}

#[test]
#[should_panic(expected = "stale")]
fn an_insert_that_ignores_the_stamp_is_noticed() {
    expose(|| decisions_change(Broken::Stamp));
}

#[test]
#[should_panic(expected = "stale")]
fn joining_a_revoked_flight_is_noticed() {
    expose(|| decisions_change(Broken::Join));
}

#[test]
#[should_panic(expected = "stale")]
fn forgetting_the_late_tags_of_a_loader_is_noticed() {
    expose(|| decisions_change(Broken::LateTags));
}

/// Three threads request a key that is not revoked.
fn one_leads(broken: Broken) {
    let world = World::new(broken);
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                block_on(world.request(&key("alice"), &Tags::default(), &Tags::default()))
            })
        })
        .collect();
    for request in requests {
        assert_eq!(request.join().unwrap(), 1);
    }
    assert_eq!(world.loads(), 1, "loaded more than once");
    assert!(world.flights.is_empty());
}

#[test]
fn exactly_one_of_three_requests_loads() {
    explore(|| one_leads(Broken::Nothing));
}

#[test]
#[should_panic(expected = "loaded more than once")]
fn a_flight_that_ends_before_it_stores_is_noticed() {
    expose(|| one_leads(Broken::Order));
}

/// Four tasks request a key. Two of them are cancelled at any time, and the key may be revoked.
fn some_are_cancelled(broken: Broken) {
    let world = World::new(broken);
    let mut requests: Vec<_> = (0..4)
        .map(|_| {
            let world = Arc::clone(&world);
            future::spawn(async move {
                world.request(&key("alice"), &Tags::default(), &Tags::default()).await
            })
        })
        .collect();
    let cancelling = (0..2).map(|_| {
        let request = requests.swap_remove(one_of(0..requests.len()));
        thread::spawn(move || {
            request.abort();
            let _ = block_on(request);
        })
    });
    let cancelling: Vec<_> = cancelling.collect();
    let revoked = one_of([false, true]);
    if revoked {
        world.revoke(&user("alice"));
    }
    for request in requests {
        let answer = block_on(request).expect("it was not cancelled");
        assert!((1..=2).contains(&answer));
    }
    for cancels in cancelling {
        cancels.join().unwrap();
    }
    assert!(world.loads() <= 3 + u64::from(revoked), "loaded {} times", world.loads());
    let lost = broken == Broken::HandOver;
    assert!(lost || world.flights.is_empty(), "a flight without a leader remains");
}

#[test]
fn every_request_that_is_not_cancelled_is_answered() {
    explore(|| some_are_cancelled(Broken::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_cancelled_leader_that_does_not_hand_over_is_noticed() {
    expose(|| some_are_cancelled(Broken::HandOver));
}

/// Three threads request a key. One of them stops at any point, as a task does when its event loop
/// stops, and may resume later. The others change the policy in between. A fourth thread checks the
/// waiters until all requests are answered.
fn one_task_stops(broken: Broken) {
    let world = World::new(broken);
    let none = Tags::default();
    let stops = thread::spawn({
        let (world, none) = (Arc::clone(&world), none.clone());
        move || {
            let task = Task(world.tasks.fetch_add(1, Ordering::SeqCst));
            let mut context = Context::from_waker(Waker::noop());
            let alice = key("alice");
            let mut request = Box::pin(world.request_as(task, &alice, &none, &none));
            for _ in 0..one_of(0..4) {
                if request.as_mut().poll(&mut context).is_ready() {
                    return;
                }
                thread::yield_now();
            }
            world.stopped.lock().unwrap().insert(task.0);
            if broken == Broken::Check || one_of([true, false]) {
                std::mem::forget(request);
                return;
            }
            while world.answered.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            world.stopped.lock().unwrap().remove(&task.0);
            block_on(request);
        }
    });
    let requests = [(); 2].map(|()| {
        let (world, none) = (Arc::clone(&world), none.clone());
        thread::spawn(move || {
            block_on(world.request(&key("alice"), &none, &none));
            if one_of([true, false]) {
                world.set(&key("alice"));
            } else {
                world.revoke(&user("alice"));
            }
            world.answered.fetch_add(1, Ordering::SeqCst);
            block_on(world.request(&key("alice"), &none, &none));
        })
    });
    let checks = (broken != Broken::Check).then(|| {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let interval = u64::try_from(CHECK_INTERVAL.as_nanos()).unwrap();
            for now in 1.. {
                let check = world.flights.check_waiters(now * interval);
                for (flight, leader) in check.slow {
                    if world.has_stopped(leader) {
                        world.flights.end_abandoned(flight, &leader);
                    }
                }
                if world.finished.load(Ordering::SeqCst) == 1 {
                    break;
                }
                thread::yield_now();
            }
        })
    });
    for request in requests {
        request.join().unwrap();
    }
    stops.join().unwrap();
    world.finished.store(1, Ordering::SeqCst);
    if let Some(checks) = checks {
        checks.join().unwrap();
    }
}

#[test]
fn no_request_waits_forever_for_a_task_that_stopped() {
    explore(|| one_task_stops(Broken::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn waiters_that_are_not_checked_are_noticed() {
    expose(|| one_task_stops(Broken::Check));
}

#[test]
#[should_panic(expected = "stale")]
fn an_abandoned_leader_that_stores_is_noticed() {
    expose(|| one_task_stops(Broken::Fence));
}

/// The loaders of two keys request each other's key, in one cache or in two.
fn loaders_request_each_other(caches: usize) {
    type Caches = Vec<Arc<Flights<u64, Task>>>;
    async fn request(caches: &Caches, task: Task, keys: [usize; 2]) -> u64 {
        let (none, name) = (Tags::default(), ["alice", "bob"][keys[0]]);
        let flights = &caches[keys[0] % caches.len()];
        let leader = match flights.join(&key(name), &none, &task, |_| false, || None::<u64>) {
            Joined::Lead(leader) => leader,
            Joined::Wait(waiter) if waiter.is_deadlocked(|_| Vec::new()) => return 0,
            Joined::Wait(waiter) => match waiter.await {
                WaitOutcome::Outcome(depth) => return depth,
                WaitOutcome::Lead(leader) => leader,
                WaitOutcome::Retry | WaitOutcome::TimedOut(_) => {
                    unreachable!("nothing is revoked or checked")
                }
            },
            Joined::TooManyLoads | Joined::Found(_) => unreachable!("nothing is stored"),
        };
        yield_now().await;
        let depth = Box::pin(request(caches, task, [keys[1], keys[0]])).await + 1;
        leader.finish(&depth, &none, |_, _| {});
        depth
    }
    let graph: Arc<WaitGraph<Task>> = Arc::default();
    let new = |_| Arc::new(Flights::new(Arc::new(Log::new()), Arc::clone(&graph)));
    let flights: Caches = (0..caches).map(new).collect();
    let requests = [(1, [0, 1]), (2, [1, 0])].map(|(task, keys)| {
        let flights = flights.clone();
        thread::spawn(move || block_on(request(&flights, Task(task), keys)))
    });
    for request in requests {
        assert!((1..=3).contains(&request.join().unwrap()));
    }
    assert!(flights.iter().all(|flights| flights.is_empty()));
}

#[test]
fn loaders_that_wait_for_each_other_get_an_error() {
    explore(|| loaders_request_each_other(1));
}

#[test]
fn loaders_of_two_caches_that_wait_for_each_other_get_an_error() {
    explore(|| loaders_request_each_other(2));
}

/// One thread records while two check decisions and raise their stamps, as lookups do. The log grows
/// or, much later by its clock, prunes its records; then the floor may replace all of them.
fn records_are_made() {
    const LATER: u64 = 3_600_000_000_000;
    let log = Arc::new(Log::new());
    log.record(&user("nobody"), 0);
    let (stamp, later) = (log.newest(), one_of([0, LATER]));
    let last = one_of([user("dave"), Scope::Everything]);
    let in_doubt = later > 0 || last == Scope::Everything;
    let revoked = Arc::new(AtomicU64::new(0));
    let looking = ["alice", "bob"].map(|name| {
        let (log, revoked) = (Arc::clone(&log), Arc::clone(&revoked));
        thread::spawn(move || {
            let (key, mut stamp) = (key(name), stamp);
            let mut was_revoked = false;
            for _ in 0..3 {
                let must_be_revoked = name == "alice" && revoked.load(Ordering::SeqCst) > 0;
                match log.verdict(stamp, Subject { key: &key, tags: &[] }) {
                    Verdict::Valid(newer) => {
                        assert!(!must_be_revoked && !was_revoked, "{name} was revoked");
                        stamp = newer;
                    }
                    Verdict::Invalidated => was_revoked = true,
                }
            }
            // Only a floor may revoke a decision that no record matches.
            assert!(name == "alice" || !was_revoked || in_doubt);
        })
    });
    log.record(&user("carol"), later);
    log.record(&user("alice"), later);
    revoked.store(1, Ordering::SeqCst);
    log.record(&last, later);
    for looks in looking {
        looks.join().unwrap();
    }
}

#[test]
fn every_lookup_after_a_record_sees_it() {
    explore(records_are_made);
}

/// Three threads request a decision twice each, and may refresh it. Another process revokes it
/// twice, each time without this process's knowledge until its lease has ended.
fn another_process_revokes(broken: Broken) {
    let world = World::new(broken);
    let none = Tags::default();
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let (world, none) = (Arc::clone(&world), none.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    block_on(world.request(&key("alice"), &none, &none));
                    if one_of([true, false, false]) {
                        block_on(world.refresh(&key("alice"), &none));
                    }
                }
            })
        })
        .collect();
    for _ in 0..2 {
        world.revoke_elsewhere(&user("alice"));
    }
    block_on(world.request(&key("alice"), &none, &none));
    for request in requests {
        request.join().unwrap();
    }
    assert!(world.flights.is_empty(), "a flight remains");
}

#[test]
fn no_request_gets_a_decision_that_another_process_revoked_before_it() {
    explore(|| another_process_revokes(Broken::Nothing));
}

#[test]
#[should_panic(expected = "stale")]
fn joining_an_old_flight_without_a_lease_is_noticed() {
    expose(|| another_process_revokes(Broken::OldFlight));
}

/// Four tasks request a key without a lease. Two of them are cancelled at any time.
#[test]
fn every_request_without_a_lease_that_is_not_cancelled_is_answered() {
    explore(|| {
        let world = World::new(Broken::Nothing);
        world.lease.end();
        let mut requests: Vec<_> = (0..4)
            .map(|_| {
                let world = Arc::clone(&world);
                future::spawn(async move {
                    world.request(&key("alice"), &Tags::default(), &Tags::default()).await
                })
            })
            .collect();
        let cancelled = [0, 1].map(|_| requests.swap_remove(one_of(0..requests.len())));
        let cancelling = thread::spawn(move || {
            for request in cancelled {
                request.abort();
                let _ = block_on(request);
            }
        });
        for request in requests {
            block_on(request).expect("it was not cancelled");
        }
        cancelling.join().unwrap();
        assert!(world.loads() <= 4, "loaded {} times", world.loads());
        assert!(world.flights.is_empty(), "a flight remains");
    });
}
