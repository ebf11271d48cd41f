//! `log` and `load` under the interleavings that a model checker finds: random ones, and those of
//! probabilistic concurrency testing (PCT), which finds any bug that takes up to three ordered
//! events with a known probability.
//!
//! `nox -s model -- 100000` explores that many schedules of each property with each scheduler;
//! without a number it is 10,000. Variants that are broken on purpose show that the
//! checker would notice.

use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::key::without_policy;
use sark_cache_core::single_flight::{
    CHECK_INTERVAL, Caller, Flights, Joined, Leader, WaitGraph, WaitOutcome,
};
use sark_cache_core::{KeyWriter, Scope, Stamp, Tags};
use shuttle::future::{block_on, yield_now};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{future, rand, thread};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};

const PCT_DEPTH: usize = 3;

fn explore(property: fn()) {
    let schedules = std::env::var("SARK_CACHE_SCHEDULES")
        .map_or(10_000, |given| given.parse().expect("SARK_CACHE_SCHEDULES is a number"));
    shuttle::check_random(property, schedules);
    shuttle::check_pct(property, schedules, PCT_DEPTH);
}

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

fn one_of<T>(choices: impl IntoIterator<Item = T>) -> T {
    use rand::Rng;
    let mut choices: Vec<T> = choices.into_iter().collect();
    choices.swap_remove(rand::thread_rng().gen_range(0..choices.len()))
}

/// What is wrong with a world, if anything.
#[derive(Clone, Copy, PartialEq)]
enum Broken {
    Nothing,
    /// What was loaded is stored as if it had been evaluated when it arrived.
    Commit,
    /// Whoever asks joins any load of the key, overtaken or not.
    Join,
    /// A leader that is cancelled hands over to nobody.
    HandOver,
    /// What a flight brought is stored after it ended.
    Order,
    /// The tags that a loader names are not held against those who joined late.
    LateTags,
    /// Nobody looks after those who wait for a task that does not go on.
    LookAfter,
    /// A leader that was deposed and comes back stores what it brings.
    Fence,
}

/// A task, by its number.
#[derive(Clone, Copy)]
struct Task(u64);

impl Caller for Task {
    fn id(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// A policy, a store with the cache's two rules, and the flights between them.
struct World {
    broken: Broken,
    log: Arc<Log>,
    flights: Arc<Flights<u64, Task>>,
    /// The tasks that do not go on, perhaps for a time.
    stopped: Mutex<HashSet<u64>>,
    store: Mutex<HashMap<Vec<u8>, Entry>>,
    /// What evaluating brings.
    policy: AtomicU64,
    /// Whoever asks from now on must not be told less.
    revoked: AtomicU64,
    loads: AtomicU64,
    /// How many tasks have asked; 0 is one that refreshes.
    tasks: AtomicU64,
    /// One sets a decision at a time.
    setting: Mutex<()>,
    /// How many have been answered, where that matters.
    answered: AtomicU64,
    over: AtomicU64,
}

struct Entry {
    decision: u64,
    stamp: Stamp,
    tags: Tags,
}

impl World {
    fn new(broken: Broken) -> Arc<Self> {
        let log = Arc::new(Log::new());
        let asked = if broken == Broken::Join { Arc::new(Log::new()) } else { Arc::clone(&log) };
        Arc::new(Self {
            broken,
            flights: Arc::new(Flights::new(asked, Arc::default())),
            stopped: Mutex::default(),
            log,
            store: Mutex::default(),
            policy: AtomicU64::new(1),
            revoked: AtomicU64::new(1),
            loads: AtomicU64::new(0),
            tasks: AtomicU64::new(1),
            setting: Mutex::default(),
            answered: AtomicU64::new(0),
            over: AtomicU64::new(0),
        })
    }

    fn look_up(&self, key: &[u8]) -> Option<u64> {
        let mut store = self.store.lock().unwrap();
        let entry = store.get_mut(key)?;
        match self.log.verdict(entry.stamp, Subject { key, tags: &entry.tags }) {
            Verdict::Invalidated => None,
            Verdict::Valid(newer) => {
                entry.stamp = entry.stamp.max(newer);
                Some(entry.decision)
            }
        }
    }

    fn commit(&self, key: &[u8], decision: u64, stamp: Stamp, tags: &Tags) {
        let stamp = if self.broken == Broken::Commit { self.log.newest() } else { stamp };
        if let Verdict::Valid(stamp) = self.log.verdict(stamp, Subject { key, tags }) {
            let entry = Entry { decision, stamp, tags: tags.clone() };
            self.store.lock().unwrap().insert(key.to_vec(), entry);
        }
    }

    fn revoke(&self, scope: &Scope) {
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.record(scope, 0);
        self.revoked.fetch_max(policy, Ordering::SeqCst);
    }

    /// Stores what the policy says now, in the place of whatever is being evaluated.
    fn set(&self, key: &[u8]) {
        let _alone = self.setting.lock().unwrap();
        let stamp = self.log.newest();
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.flights.supersede(key);
        self.commit(key, policy, stamp, &Tags::default());
        self.revoked.fetch_max(policy, Ordering::SeqCst);
    }

    /// Asks for what depends on `known` tags, and on `late` ones, which only the loader names.
    async fn ask(&self, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        self.ask_as(Task(self.tasks.fetch_add(1, Ordering::SeqCst)), key, known, late).await
    }

    async fn ask_as(&self, task: Task, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        let must = self.revoked.load(Ordering::SeqCst);
        let told = self.answer(task, key, known, late).await;
        assert!(told >= must, "stale: told {told} after {must}");
        told
    }

    async fn answer(&self, task: Task, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        if let Some(decision) = self.look_up(key) {
            return decision;
        }
        let tags = &known.union(late);
        let mut in_vain = None;
        loop {
            let overtakes = |flight| in_vain == Some(flight);
            match self.flights.join(key, known, &task, overtakes, || self.look_up(key)) {
                Joined::Found(decision) => return decision,
                Joined::Lead(leader) => return self.lead(leader, key, tags).await,
                Joined::TooManyLoads => unreachable!("nobody waits in vain so often"),
                Joined::Wait(waiter) if self.has_stopped(*waiter.leader_at_join()) => {
                    self.flights.end_abandoned(waiter.flight(), waiter.leader_at_join());
                }
                Joined::Wait(waiter) => match waiter.await {
                    WaitOutcome::Outcome(decision) => return decision,
                    WaitOutcome::Lead(leader) => return self.lead(leader, key, tags).await,
                    WaitOutcome::Retry => {}
                    WaitOutcome::TimedOut(flight) => in_vain = Some(flight),
                },
            }
        }
    }

    fn has_stopped(&self, task: Task) -> bool {
        self.stopped.lock().unwrap().contains(&task.0)
    }

    /// Refreshes what is stored, unless that is under way.
    async fn refresh(&self, key: &[u8], tags: &Tags) {
        if self.look_up(key).is_some()
            && let Some(leader) = self.flights.start_refresh(key, tags, &Task(0))
        {
            self.lead(leader, key, tags).await;
        }
    }

    /// Evaluates; may be cancelled at any `await`.
    async fn lead(&self, leader: Leader<u64, Task>, key: &[u8], tags: &Tags) -> u64 {
        let leader = HandsOver { leader: Some(leader), never: self.broken == Broken::HandOver };
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
                self.commit(key, decision, stamp, &all.union(tags));
            }
        });
        if let Some((stamp, all)) = stored {
            self.commit(key, decision, stamp, &all);
        } else if self.broken == Broken::Fence {
            self.commit(key, decision, began, tags);
        }
        decision
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }
}

/// A leader, or one that gets lost with its task.
struct HandsOver {
    leader: Option<Leader<u64, Task>>,
    never: bool,
}

impl HandsOver {
    fn into_inner(mut self) -> Leader<u64, Task> {
        self.leader.take().expect("taken once")
    }
}

impl Drop for HandsOver {
    fn drop(&mut self) {
        if self.never {
            std::mem::forget(self.leader.take());
        }
    }
}

/// Two ask twice each, and refresh now and then, while a policy changes; at each change what it
/// decided is revoked. Some know what it depends on, others learn it from their loader.
fn decisions_change(broken: Broken) {
    let world = World::new(broken);
    let alice = key("alice");
    let (tags, none) = (world.log.tags(&["role:admin"]), Tags::default());
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let (world, alice) = (Arc::clone(&world), alice.clone());
            let (known, late) =
                one_of([(tags.clone(), none.clone()), (none.clone(), tags.clone())]);
            thread::spawn(move || {
                for _ in 0..2 {
                    block_on(world.ask(&alice, &known, &late));
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
    block_on(world.ask(&alice, &none, &tags));
    for asks in asking {
        asks.join().unwrap();
    }
    assert!(world.flights.is_empty());
}

#[test]
fn nobody_is_told_what_was_revoked_before_they_asked() {
    explore(|| decisions_change(Broken::Nothing));
}

#[test]
#[should_panic(expected = "stale")]
fn a_commit_that_ignores_the_stamp_is_noticed() {
    explore(|| decisions_change(Broken::Commit));
}

#[test]
#[should_panic(expected = "stale")]
fn joining_a_load_that_was_overtaken_is_noticed() {
    explore(|| decisions_change(Broken::Join));
}

#[test]
#[should_panic(expected = "stale")]
fn forgetting_what_a_loader_named_late_is_noticed() {
    explore(|| decisions_change(Broken::LateTags));
}

/// Three ask for a key that nobody revokes.
fn one_leads(broken: Broken) {
    let world = World::new(broken);
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                block_on(world.ask(&key("alice"), &Tags::default(), &Tags::default()))
            })
        })
        .collect();
    for asks in asking {
        assert_eq!(asks.join().unwrap(), 1);
    }
    assert_eq!(world.loads(), 1, "loaded more than once");
    assert!(world.flights.is_empty());
}

#[test]
fn exactly_one_of_those_who_ask_loads() {
    explore(|| one_leads(Broken::Nothing));
}

#[test]
#[should_panic(expected = "loaded more than once")]
fn a_flight_that_ends_before_it_stored_is_noticed() {
    explore(|| one_leads(Broken::Order));
}

/// Four ask; two of them are cancelled whenever it may be, one while the key may be revoked.
fn some_are_cancelled(broken: Broken) {
    let world = World::new(broken);
    let mut asking: Vec<_> = (0..4)
        .map(|_| {
            let world = Arc::clone(&world);
            future::spawn(async move {
                world.ask(&key("alice"), &Tags::default(), &Tags::default()).await
            })
        })
        .collect();
    let cancelling = (0..2).map(|_| {
        let asks = asking.swap_remove(one_of(0..asking.len()));
        thread::spawn(move || {
            asks.abort();
            let _ = block_on(asks);
        })
    });
    let cancelling: Vec<_> = cancelling.collect();
    let revoked = one_of([false, true]);
    if revoked {
        world.revoke(&user("alice"));
    }
    for asks in asking {
        let told = block_on(asks).expect("not cancelled, so answered");
        assert!((1..=2).contains(&told));
    }
    for cancels in cancelling {
        cancels.join().unwrap();
    }
    assert!(world.loads() <= 3 + u64::from(revoked), "loaded {} times", world.loads());
    let lost = broken == Broken::HandOver;
    assert!(lost || world.flights.is_empty(), "a flight without a leader is left");
}

#[test]
fn whoever_is_not_cancelled_is_answered() {
    explore(|| some_are_cancelled(Broken::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_leader_that_hands_over_to_nobody_is_noticed() {
    explore(|| some_are_cancelled(Broken::HandOver));
}

/// Three ask. One of them stops wherever it may be, as the tasks of an event loop do that is
/// stopped; perhaps the loop is run again later. The others change the policy in between. Somebody
/// looks after those who wait, as long as anybody does.
fn one_stops(broken: Broken) {
    let world = World::new(broken);
    let none = Tags::default();
    let stops = thread::spawn({
        let (world, none) = (Arc::clone(&world), none.clone());
        move || {
            let task = Task(world.tasks.fetch_add(1, Ordering::SeqCst));
            let mut context = Context::from_waker(Waker::noop());
            let alice = key("alice");
            let mut asks = Box::pin(world.ask_as(task, &alice, &none, &none));
            for _ in 0..one_of(0..4) {
                if asks.as_mut().poll(&mut context).is_ready() {
                    return;
                }
                thread::yield_now();
            }
            world.stopped.lock().unwrap().insert(task.0);
            if broken == Broken::LookAfter || one_of([true, false]) {
                std::mem::forget(asks);
                return;
            }
            while world.answered.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            world.stopped.lock().unwrap().remove(&task.0);
            block_on(asks);
        }
    });
    let asking = [(); 2].map(|()| {
        let (world, none) = (Arc::clone(&world), none.clone());
        thread::spawn(move || {
            block_on(world.ask(&key("alice"), &none, &none));
            if one_of([true, false]) {
                world.set(&key("alice"));
            } else {
                world.revoke(&user("alice"));
            }
            world.answered.fetch_add(1, Ordering::SeqCst);
            block_on(world.ask(&key("alice"), &none, &none));
        })
    });
    let looks_after = (broken != Broken::LookAfter).then(|| {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let moment = u64::try_from(CHECK_INTERVAL.as_nanos()).unwrap();
            for now in 1.. {
                let check = world.flights.check_waiters(now * moment);
                for (flight, leader) in check.slow {
                    if world.has_stopped(leader) {
                        world.flights.end_abandoned(flight, &leader);
                    }
                }
                if world.over.load(Ordering::SeqCst) == 1 {
                    break;
                }
                thread::yield_now();
            }
        })
    });
    for asks in asking {
        asks.join().unwrap();
    }
    stops.join().unwrap();
    world.over.store(1, Ordering::SeqCst);
    if let Some(looks_after) = looks_after {
        looks_after.join().unwrap();
    }
}

#[test]
fn nobody_waits_for_ever_for_a_task_that_stopped() {
    explore(|| one_stops(Broken::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn that_nobody_looks_after_those_who_wait_is_noticed() {
    explore(|| one_stops(Broken::LookAfter));
}

#[test]
#[should_panic(expected = "stale")]
fn a_leader_that_comes_back_and_stores_is_noticed() {
    explore(|| one_stops(Broken::Fence));
}

/// The loader of each of two keys asks for the other; in two caches as well as in one.
fn loaders_ask_for_each_other(caches: usize) {
    type Caches = Vec<Arc<Flights<u64, Task>>>;
    async fn ask(caches: &Caches, task: Task, keys: [usize; 2]) -> u64 {
        let (none, name) = (Tags::default(), ["alice", "bob"][keys[0]]);
        let flights = &caches[keys[0] % caches.len()];
        let leader = match flights.join(&key(name), &none, &task, |_| false, || None::<u64>) {
            Joined::Lead(leader) => leader,
            Joined::Wait(waiter) if waiter.is_deadlocked(|_| Vec::new()) => return 0,
            Joined::Wait(waiter) => match waiter.await {
                WaitOutcome::Outcome(depth) => return depth,
                WaitOutcome::Lead(leader) => leader,
                WaitOutcome::Retry | WaitOutcome::TimedOut(_) => {
                    unreachable!("nobody revokes or looks")
                }
            },
            Joined::TooManyLoads | Joined::Found(_) => unreachable!("nothing is stored"),
        };
        yield_now().await;
        let depth = Box::pin(ask(caches, task, [keys[1], keys[0]])).await + 1;
        leader.finish(&depth, &none, |_, _| {});
        depth
    }
    let graph: Arc<WaitGraph<Task>> = Arc::default();
    let new = |_| Arc::new(Flights::new(Arc::new(Log::new()), Arc::clone(&graph)));
    let flights: Caches = (0..caches).map(new).collect();
    let asking = [(1, [0, 1]), (2, [1, 0])].map(|(task, keys)| {
        let flights = flights.clone();
        thread::spawn(move || block_on(ask(&flights, Task(task), keys)))
    });
    for asks in asking {
        assert!((1..=3).contains(&asks.join().unwrap()));
    }
    assert!(flights.iter().all(|flights| flights.is_empty()));
}

#[test]
fn loaders_that_wait_for_each_other_are_told() {
    explore(|| loaders_ask_for_each_other(1));
}

#[test]
fn loaders_of_two_caches_that_wait_for_each_other_are_told() {
    explore(|| loaders_ask_for_each_other(2));
}

/// One records while two check decisions and stamp them anew, as look-ups do. The log
/// grows or, much later by its clock, prunes; then a floor may take the place of all records.
fn records_are_made() {
    const LATER: u64 = 3_600_000_000_000;
    let log = Arc::new(Log::new());
    log.record(&user("nobody"), 0);
    let (stamp, later) = (log.newest(), one_of([0, LATER]));
    let last = one_of([user("dave"), Scope::Everything]);
    let doubt = later > 0 || last == Scope::Everything;
    let revoked = Arc::new(AtomicU64::new(0));
    let looking = ["alice", "bob"].map(|name| {
        let (log, revoked) = (Arc::clone(&log), Arc::clone(&revoked));
        thread::spawn(move || {
            let (key, mut stamp) = (key(name), stamp);
            let mut overtaken = false;
            for _ in 0..3 {
                let must = name == "alice" && revoked.load(Ordering::SeqCst) > 0;
                match log.verdict(stamp, Subject { key: &key, tags: &[] }) {
                    Verdict::Valid(newer) => {
                        assert!(!must && !overtaken, "{name} was revoked");
                        stamp = newer;
                    }
                    Verdict::Invalidated => overtaken = true,
                }
            }
            // In doubt it may be dropped: only a floor casts doubt on what nobody revoked.
            assert!(name == "alice" || !overtaken || doubt);
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
fn a_record_is_seen_by_every_look_up_after_it() {
    explore(records_are_made);
}
