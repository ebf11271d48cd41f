//! The limits of waiting: late successors, waiters that time out, and evaluations that do not end.

use sark_cache_core::invalidation::Log;
use sark_cache_core::single_flight::{
    CHECK_INTERVAL, Caller, Joined, Leader, MAX_SUPERSEDED, WAIT_LIMIT, WaitGraph, WaitOutcome,
    Waiter,
};
use sark_cache_core::{Flights, Lease, Tags};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

#[derive(Clone, Copy, PartialEq, Debug)]
struct Task(u64);

impl Caller for Task {
    fn id(&self) -> Option<u64> {
        Some(self.0)
    }
}

type TestFlights = Arc<Flights<u64, Task>>;

fn new_flights() -> TestFlights {
    Arc::new(Flights::new(Arc::new(Log::new()), Arc::<WaitGraph<Task>>::default()))
}

fn join(flights: &TestFlights, task: u64, timed_out: Option<u64>) -> Joined<u64, Task, ()> {
    flights.join(b"key", &Tags::default(), &Task(task), |flight| timed_out == Some(flight), || None)
}

fn lead(flights: &TestFlights, task: u64) -> Leader<u64, Task> {
    match join(flights, task, None) {
        Joined::Lead(leader) => leader,
        _ => panic!("{task} does not lead"),
    }
}

fn wait(flights: &TestFlights, task: u64) -> Waiter<u64, Task> {
    match join(flights, task, None) {
        Joined::Wait(waiter) => waiter,
        _ => panic!("{task} does not wait"),
    }
}

/// A waker that counts its calls.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(waiter: &mut Waiter<u64, Task>, woken: &Arc<Woken>) -> Poll<WaitOutcome<u64, Task>> {
    let waker = Waker::from(Arc::clone(woken));
    Pin::new(waiter).poll(&mut Context::from_waker(&waker))
}

fn outcome(waiter: &mut Waiter<u64, Task>) -> WaitOutcome<u64, Task> {
    match poll(waiter, &Arc::default()) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("nothing was delivered to this waiter"),
    }
}

fn after(intervals: u32) -> u64 {
    u64::try_from((CHECK_INTERVAL * intervals).as_nanos()).unwrap()
}

fn finish(leader: Leader<u64, Task>, outcome: u64) -> bool {
    let mut stored = false;
    leader.finish(&outcome, &Tags::default(), |_, _| stored = true);
    stored
}

#[test]
fn a_late_successor_is_passed_over() {
    let flights = new_flights();
    let leader = lead(&flights, 1);
    let (mut late, mut next) = (wait(&flights, 2), wait(&flights, 3));
    drop(leader);
    flights.check_waiters(after(1)); // sees the successor for the first time
    assert!(poll(&mut next, &Arc::default()).is_pending());
    flights.check_waiters(after(2));
    let WaitOutcome::Lead(leader) = outcome(&mut next) else { panic!("the next one leads") };
    assert!(matches!(outcome(&mut late), WaitOutcome::Retry), "it joins again");
    assert!(finish(leader, 7));
    assert!(flights.is_empty());
}

#[test]
fn a_flight_ends_if_its_only_successor_is_late() {
    let flights = new_flights();
    let leader = lead(&flights, 1);
    let mut late = wait(&flights, 2);
    drop(leader);
    flights.check_waiters(after(1));
    flights.check_waiters(after(2));
    assert!(flights.is_empty());
    let leader = lead(&flights, 3);
    assert!(matches!(outcome(&mut late), WaitOutcome::Retry));
    assert!(finish(leader, 7));
}

#[test]
fn a_waiter_that_declines_passes_the_lead_to_the_next() {
    let flights = new_flights();
    let leader = lead(&flights, 1);
    let (mut first, mut second) = (wait(&flights, 2), wait(&flights, 3));
    first.decline(); // it was not appointed: no effect
    drop(leader);
    first.decline();
    assert!(matches!(outcome(&mut second), WaitOutcome::Lead(_)));
    assert!(matches!(outcome(&mut first), WaitOutcome::Retry));
}

#[test]
fn a_lost_wake_up_is_repeated() {
    let flights = new_flights();
    let leader = lead(&flights, 1);
    let (mut waiter, woken) = (wait(&flights, 2), Arc::new(Woken::default()));
    assert!(poll(&mut waiter, &woken).is_pending());
    assert!(finish(leader, 7));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(flights.check_waiters(after(1)).pending);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    flights.check_waiters(after(2));
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert!(matches!(poll(&mut waiter, &woken), Poll::Ready(WaitOutcome::Outcome(7))));
    assert!(!flights.check_waiters(after(3)).pending);
}

#[test]
fn an_abandoned_leader_stores_nothing_and_answers_no_waiter() {
    let flights = new_flights();
    let old = lead(&flights, 1);
    let mut waiter = wait(&flights, 2);
    flights.end_abandoned(waiter.flight(), &Task(9)); // not the leader
    assert!(poll(&mut waiter, &Arc::default()).is_pending());
    flights.end_abandoned(waiter.flight(), &Task(1));
    assert!(matches!(outcome(&mut waiter), WaitOutcome::Retry));
    let new = lead(&flights, 2);
    assert!(!finish(old, 1));
    assert_eq!(flights.len(), 1);
    assert!(finish(new, 2));
}

#[test]
fn a_waiter_that_timed_out_supersedes_the_flight() {
    let flights = new_flights();
    let slow = lead(&flights, 1);
    let mut early = wait(&flights, 2);
    flights.check_waiters(after(1));
    let mut later = wait(&flights, 3);
    let limit = u64::try_from(WAIT_LIMIT.as_nanos()).unwrap();
    let check = flights.check_waiters(after(1) + limit);
    assert_eq!(check.slow, [(early.flight(), Task(1))]);
    let WaitOutcome::TimedOut(flight) = outcome(&mut early) else {
        panic!("it waited long enough")
    };
    assert!(poll(&mut later, &Arc::default()).is_pending(), "this one waited less");
    let Joined::Lead(new) = join(&flights, 2, Some(flight)) else { panic!("it leads") };
    assert!(new.superseded_another());
    assert!(!finish(slow, 1), "it was superseded");
    assert!(matches!(outcome(&mut later), WaitOutcome::Outcome(1)), "it still answers its waiters");
    assert!(finish(new, 2));
}

#[test]
fn the_number_of_evaluations_that_do_not_end_is_bounded() {
    let flights = new_flights();
    let mut leaders = vec![lead(&flights, 0)];
    for task in 1.. {
        let flight = leaders.last().unwrap().flight();
        match join(&flights, task, Some(flight)) {
            Joined::Lead(leader) => leaders.push(leader),
            Joined::TooManyLoads => break,
            _ => panic!("it supersedes the last one"),
        }
        assert!(task <= u64::from(MAX_SUPERSEDED));
    }
    assert_eq!(leaders.len(), 1 + MAX_SUPERSEDED as usize);
    assert!(finish(leaders.pop().unwrap(), 1));
    assert!(finish(lead(&flights, 99), 2), "after one ended, the next can start");
}

#[test]
fn an_abandoned_refresh_can_be_ended() {
    let flights = new_flights();
    let none = Tags::default();
    let abandoned = flights.start_refresh(b"key", &none, &Task(1)).unwrap();
    assert!(flights.start_refresh(b"key", &none, &Task(2)).is_none());
    let (flight, leader) = flights.running_refresh(b"key").unwrap();
    flights.end_abandoned(flight, &leader);
    let again = flights.start_refresh(b"key", &none, &Task(2)).unwrap();
    assert!(!finish(abandoned, 1));
    assert!(flights.running_refresh(b"key").is_some());
    assert!(finish(again, 2));
    assert!(flights.running_refresh(b"key").is_none());
}

#[test]
fn a_deadlock_through_other_tasks_is_found() {
    let graph = WaitGraph::<Task>::default();
    let others = |task: &Task| if task.0 < 5 { vec![Task(task.0 + 1)] } else { vec![] };
    assert!(graph.reaches(Task(1), 5, others));
    assert!(!graph.reaches(Task(2), 1, others));
    assert!(!graph.is_deadlocked(&Task(1), others));
    assert!(graph.is_deadlocked(&Task(1), |task: &Task| vec![Task(task.0 % 3 + 1)]));
    let endless = |task: &Task| vec![Task(task.0 + 1)];
    assert!(!graph.reaches(Task(1), 1_000_000, endless), "the search is bounded");
}

fn leased_flights() -> (TestFlights, Lease) {
    let lease = Lease::none();
    let flights = Flights::new(Arc::new(Log::new()), Arc::<WaitGraph<Task>>::default());
    (Arc::new(flights.with_lease(lease.clone())), lease)
}

fn leads(outcome: WaitOutcome<u64, Task>) -> Leader<u64, Task> {
    match outcome {
        WaitOutcome::Lead(leader) => leader,
        _ => panic!("this waiter was not appointed"),
    }
}

#[test]
fn callers_without_a_lease_share_the_flight_after_the_one_that_had_begun() {
    let (flights, lease) = leased_flights();
    let first = lead(&flights, 1);
    let [mut second, mut third] = [2, 3].map(|task| wait(&flights, task));
    assert_ne!(second.flight(), first.flight());
    assert_eq!(second.flight(), third.flight());
    assert!(poll(&mut second, &Arc::default()).is_pending());

    // Under a lease a caller joins the flight that runs.
    lease.extend(lease.now(), WAIT_LIMIT * 100);
    let mut leased = wait(&flights, 4);
    assert_eq!(leased.flight(), first.flight());
    lease.end();

    assert!(finish(first, 10), "it is stored under the stamp of its beginning");
    assert!(matches!(outcome(&mut leased), WaitOutcome::Outcome(10)));
    let next = leads(outcome(&mut second));
    assert!(poll(&mut third, &Arc::default()).is_pending(), "an older outcome was delivered");
    let mut later = wait(&flights, 5);
    assert_ne!(later.flight(), next.flight(), "it had begun");
    assert!(finish(next, 20));
    assert!(matches!(outcome(&mut third), WaitOutcome::Outcome(20)));
    assert!(finish(leads(outcome(&mut later)), 30));
    assert!(flights.is_empty());
}

#[test]
fn the_next_flight_begins_when_the_one_before_it_is_dropped_abandoned_or_superseded() {
    let (flights, _) = leased_flights();
    // Dropped: there is no waiter of its own to take over.
    let first = lead(&flights, 1);
    let mut second = wait(&flights, 2);
    drop(first);
    let second = leads(outcome(&mut second));

    // Abandoned: the number of the next flight stands for the leader that it waits for.
    let mut third = wait(&flights, 3);
    assert_eq!(*third.leader_at_join(), Task(2));
    flights.end_abandoned(third.flight(), &Task(2));
    let third = leads(outcome(&mut third));
    assert!(!finish(second, 2), "an abandoned leader stores nothing");

    // Superseded by a decision that is set: the key has no current flight, so the next one becomes
    // it.
    let mut fourth = wait(&flights, 4);
    flights.supersede(b"key");
    assert!(!finish(third, 3));
    assert!(finish(leads(outcome(&mut fourth)), 4));
    assert!(flights.is_empty());
}

#[test]
fn a_next_flight_without_waiters_ends_with_the_one_before_it() {
    let (flights, _) = leased_flights();
    let first = lead(&flights, 1);
    drop(wait(&flights, 2));
    assert!(finish(first, 1));
    assert!(flights.is_empty());
}

#[test]
fn a_loader_without_a_lease_that_asks_for_its_own_key_is_deadlocked() {
    let (flights, _) = leased_flights();
    let _leader = lead(&flights, 1);
    assert!(wait(&flights, 1).is_deadlocked(|_| Vec::new()));
    assert!(!wait(&flights, 2).is_deadlocked(|_| Vec::new()));
}

#[test]
fn a_caller_that_waited_too_long_for_the_next_flight_supersedes_the_running_one() {
    let (flights, _) = leased_flights();
    let stuck = lead(&flights, 1);
    let mut waiter = wait(&flights, 2);
    for interval in 0..=10 {
        flights.check_waiters(after(interval));
    }
    let WaitOutcome::TimedOut(next) = outcome(&mut waiter) else { panic!("it still waits") };
    let Joined::Lead(leader) = join(&flights, 2, Some(next)) else { panic!("it does not lead") };
    assert!(leader.superseded_another());
    assert!(finish(leader, 2));
    assert!(!finish(stuck, 1));
    assert!(flights.is_empty());
}
