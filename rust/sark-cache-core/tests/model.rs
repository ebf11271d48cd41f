//! `log` and `load` under the interleavings that a model checker finds: random ones, and those of
//! probabilistic concurrency testing (PCT), which finds any bug that takes up to three ordered
//! events with a known probability.
//!
//! `nox -s model -- 100000` explores that many schedules of each property with each scheduler;
//! without a number it is 10,000. Variants that are broken on purpose show that the
//! checker would notice.

use sark_cache_core::key::without_policy;
use sark_cache_core::load::{Flights, Joined, Leader, Turn};
use sark_cache_core::log::{Log, Subject, Verdict};
use sark_cache_core::{KeyWriter, Scope, Stamp, Tags};
use shuttle::future::{block_on, yield_now};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{future, rand, thread};
use std::collections::HashMap;
use std::sync::Arc;

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
}

/// A policy, a store with the cache's two rules, and the flights between them.
struct World {
    broken: Broken,
    log: Arc<Log>,
    flights: Arc<Flights<u64>>,
    store: Mutex<HashMap<Vec<u8>, Entry>>,
    /// What evaluating brings.
    policy: AtomicU64,
    /// Whoever asks from now on must not be told less.
    revoked: AtomicU64,
    loads: AtomicU64,
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
            flights: Arc::new(Flights::new(asked)),
            log,
            store: Mutex::default(),
            policy: AtomicU64::new(1),
            revoked: AtomicU64::new(1),
            loads: AtomicU64::new(0),
        })
    }

    fn look_up(&self, key: &[u8]) -> Option<u64> {
        let mut store = self.store.lock().unwrap();
        let entry = store.get_mut(key)?;
        match self.log.verdict(entry.stamp, Subject { key, tags: &entry.tags }) {
            Verdict::Overtaken => None,
            Verdict::Holds(newer) => {
                entry.stamp = entry.stamp.max(newer);
                Some(entry.decision)
            }
        }
    }

    fn commit(&self, key: &[u8], decision: u64, stamp: Stamp, tags: &Tags) {
        let stamp = if self.broken == Broken::Commit { self.log.newest() } else { stamp };
        if let Verdict::Holds(stamp) = self.log.verdict(stamp, Subject { key, tags }) {
            let entry = Entry { decision, stamp, tags: tags.clone() };
            self.store.lock().unwrap().insert(key.to_vec(), entry);
        }
    }

    fn revoke(&self, scope: &Scope) {
        let policy = self.policy.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.record(scope, 0);
        self.revoked.fetch_max(policy, Ordering::SeqCst);
    }

    /// Asks for what depends on `known` tags, and on `late` ones, which only the loader names.
    async fn ask(&self, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        let must = self.revoked.load(Ordering::SeqCst);
        let told = self.answer(key, known, late).await;
        assert!(told >= must, "stale: told {told} after {must}");
        told
    }

    async fn answer(&self, key: &[u8], known: &Tags, late: &Tags) -> u64 {
        if let Some(decision) = self.look_up(key) {
            return decision;
        }
        let tags = &known.with(late);
        loop {
            match self.flights.join(key, known, &[], || self.look_up(key)) {
                Joined::Found(decision) => return decision,
                Joined::Lead(leader) => return self.lead(leader, key, tags).await,
                Joined::Circular => unreachable!("nothing here asks from inside a load"),
                Joined::Wait(waiter) => match waiter.await {
                    Turn::Outcome(decision) => return decision,
                    Turn::Lead(leader) => return self.lead(leader, key, tags).await,
                    Turn::Retry => {}
                },
            }
        }
    }

    /// Refreshes what is stored, unless that is under way.
    async fn refresh(&self, key: &[u8], tags: &Tags) {
        if self.look_up(key).is_some()
            && let Some(leader) = self.flights.lead_ahead(key, tags)
        {
            self.lead(leader, key, tags).await;
        }
    }

    /// Evaluates; may be cancelled at any `await`.
    async fn lead(&self, leader: Leader<u64>, key: &[u8], tags: &Tags) -> u64 {
        let leader = HandsOver { leader: Some(leader), never: self.broken == Broken::HandOver };
        self.loads.fetch_add(1, Ordering::SeqCst);
        yield_now().await;
        let decision = self.policy.load(Ordering::SeqCst);
        yield_now().await;
        let late = if self.broken == Broken::LateTags { &Tags::default() } else { tags };
        let mut stored = None;
        leader.into_inner().finish(&decision, late, |stamp, all| {
            if self.broken == Broken::Order {
                stored = Some((stamp, all));
            } else {
                self.commit(key, decision, stamp, &all.with(tags));
            }
        });
        if let Some((stamp, all)) = stored {
            self.commit(key, decision, stamp, &all);
        }
        decision
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }
}

/// A leader, or one that gets lost with its task.
struct HandsOver {
    leader: Option<Leader<u64>>,
    never: bool,
}

impl HandsOver {
    fn into_inner(mut self) -> Leader<u64> {
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
                        block_on(world.refresh(&alice, &known.with(&late)));
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

/// The loader of each of two keys asks for the other.
fn loaders_ask_for_each_other() {
    async fn ask(flights: &Arc<Flights<u64>>, names: [&str; 2], within: &[u64]) -> u64 {
        let none = Tags::default();
        let leader = match flights.join(&key(names[0]), &none, within, || None::<u64>) {
            Joined::Lead(leader) => leader,
            Joined::Wait(waiter) => match waiter.await {
                Turn::Outcome(depth) => return depth,
                Turn::Lead(leader) => leader,
                Turn::Retry => unreachable!("nothing is revoked"),
            },
            Joined::Circular => return 0,
            Joined::Found(_) => unreachable!("nothing is stored"),
        };
        yield_now().await;
        let within = [within, &[leader.flight()]].concat();
        let depth = Box::pin(ask(flights, [names[1], names[0]], &within)).await + 1;
        leader.finish(&depth, &none, |_, _| {});
        depth
    }
    let flights = Arc::new(Flights::new(Arc::new(Log::new())));
    let asking = [["alice", "bob"], ["bob", "alice"]].map(|names| {
        let flights = Arc::clone(&flights);
        thread::spawn(move || block_on(ask(&flights, names, &[])))
    });
    for asks in asking {
        assert!((1..=3).contains(&asks.join().unwrap()));
    }
    assert!(flights.is_empty());
}

#[test]
fn loaders_that_wait_for_each_other_are_told() {
    explore(loaders_ask_for_each_other);
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
                    Verdict::Holds(newer) => {
                        assert!(!must && !overtaken, "{name} was revoked");
                        stamp = newer;
                    }
                    Verdict::Overtaken => overtaken = true,
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
