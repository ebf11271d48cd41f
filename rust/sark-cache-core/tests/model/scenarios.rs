//! The scenarios: each is one run of a world, with a rule that may be broken.

use crate::checker::one_of;
use crate::world::{Broken, POLICY, Task, World, in_threads, join_all, key, user};
use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::key::without_policy;
use sark_cache_core::single_flight::{CHECK_INTERVAL, Flights, Joined, WaitGraph, WaitOutcome};
use sark_cache_core::{Scope, Tags};
use shuttle::future::{block_on, yield_now};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{future, thread};
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};

/// Two threads request a decision twice each and sometimes refresh it. The policy changes
/// twice, and each change revokes its decisions. Some requests know the tags, others learn them from
/// their loader.
pub fn decisions_change(broken: Broken) {
    let world = World::new(broken);
    let alice = key("alice");
    let (tags, none) = (world.log.tags(&["role:admin"]), Tags::default());
    let requests = in_threads(2, &world, {
        let (alice, tags, none) = (alice.clone(), tags.clone(), none.clone());
        move |world| {
            let (known, late) = one_of([(&tags, &none), (&none, &tags)]);
            for _ in 0..2 {
                block_on(world.request(&alice, known, late));
                if one_of([true, false, false]) {
                    block_on(world.refresh(&alice, &known.union(late)));
                }
            }
        }
    });
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
    join_all(requests);
    assert!(world.flights.is_empty());
}

/// Three threads request a key that is not revoked.
pub fn one_leads(broken: Broken) {
    let world = World::new(broken);
    let requests = in_threads(3, &world, |world| world.request_for("alice"));
    assert_eq!(join_all(requests), [1; 3]);
    assert_eq!(world.loads(), 1, "loaded more than once");
    assert!(world.flights.is_empty());
}

/// Four tasks request a key. Two of them are cancelled at any time, and the key may be revoked.
pub fn some_are_cancelled(broken: Broken) {
    let world = World::new(broken);
    let (requests, cancelling) = two_of_four_are_cancelled(&world);
    let revoked = one_of([false, true]);
    if revoked {
        world.revoke(&user("alice"));
    }
    for request in requests {
        let answer = block_on(request).expect("it was not cancelled");
        assert!((1..=2).contains(&answer));
    }
    join_all(cancelling);
    assert!(world.loads() <= 3 + u64::from(revoked), "loaded {} times", world.loads());
    let lost = broken == Broken::HandOver;
    assert!(lost || world.flights.is_empty(), "a flight without a leader remains");
}

/// Four tasks request a key without a lease. Two of them are cancelled at any time.
pub fn some_are_cancelled_without_a_lease() {
    let world = World::new(Broken::Nothing);
    world.lease.end();
    let (requests, cancelling) = two_of_four_are_cancelled(&world);
    for request in requests {
        block_on(request).expect("it was not cancelled");
    }
    join_all(cancelling);
    assert!(world.loads() <= 4, "loaded {} times", world.loads());
    assert!(world.flights.is_empty(), "a flight remains");
}

/// Starts four tasks that request a key, and two threads that cancel one of them each. Returns the
/// remaining tasks and the threads.
fn two_of_four_are_cancelled(
    world: &Arc<World>,
) -> (Vec<future::JoinHandle<u64>>, [thread::JoinHandle<()>; 2]) {
    let mut requests: Vec<_> = (0..4)
        .map(|_| {
            let world = Arc::clone(world);
            future::spawn(async move {
                world.request(&key("alice"), &Tags::default(), &Tags::default()).await
            })
        })
        .collect();
    let cancelling = [(); 2].map(|()| {
        let request = requests.swap_remove(one_of(0..requests.len()));
        thread::spawn(move || {
            request.abort();
            let _ = block_on(request);
        })
    });
    (requests, cancelling)
}

/// Three threads request a key. One of them stops at any point, as a task does when its event loop
/// stops, and may resume later. The others change the policy in between. A fourth thread checks the
/// waiters until all requests are answered.
pub fn one_task_stops(broken: Broken) {
    let world = World::new(broken);
    let stops = thread::spawn({
        let (world, none) = (Arc::clone(&world), Tags::default());
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
    let requests = in_threads(2, &world, |world| {
        world.request_for("alice");
        if one_of([true, false]) {
            world.set(&key("alice"));
        } else {
            world.revoke(&user("alice"));
        }
        world.answered.fetch_add(1, Ordering::SeqCst);
        world.request_for("alice");
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
    join_all(requests);
    stops.join().unwrap();
    world.finished.store(1, Ordering::SeqCst);
    if let Some(checks) = checks {
        checks.join().unwrap();
    }
}

/// The loaders of two keys request each other's key, in one cache or in two.
pub fn loaders_request_each_other(caches: usize) {
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
    for depth in join_all(requests) {
        assert!((1..=3).contains(&depth));
    }
    assert!(flights.iter().all(|flights| flights.is_empty()));
}

/// One thread records while two check decisions and raise their stamps, as lookups do. The log grows
/// or, much later by its clock, prunes its records; then the floor may replace all of them.
pub fn records_are_made() {
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
    join_all(looking);
}

/// Three threads request a decision twice each, and may refresh it. Another process revokes it
/// twice, each time without this process's knowledge until its lease has ended.
pub fn another_process_revokes(broken: Broken) {
    let world = World::new(broken);
    let requests = in_threads(3, &world, |world| {
        for _ in 0..2 {
            world.request_for("alice");
            if one_of([true, false, false]) {
                block_on(world.refresh(&key("alice"), &Tags::default()));
            }
        }
    });
    for _ in 0..2 {
        world.revoke_elsewhere(&user("alice"));
    }
    world.request_for("alice");
    join_all(requests);
    assert!(world.flights.is_empty(), "a flight remains");
}
