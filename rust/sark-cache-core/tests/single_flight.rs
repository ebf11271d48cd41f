//! How long a request waits for a load: an heir's moment, a waiter's patience, and what piles up.

use sark_cache_core::invalidation::Log;
use sark_cache_core::single_flight::{
    CHECK_INTERVAL, Caller, Joined, Leader, MAX_SUPERSEDED, WAIT_LIMIT, WaitGraph, WaitOutcome,
    Waiter,
};
use sark_cache_core::{Flights, Tags};
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

type Loads = Arc<Flights<u64, Task>>;

fn loads() -> Loads {
    Arc::new(Flights::new(Arc::new(Log::new()), Arc::<WaitGraph<Task>>::default()))
}

fn join(loads: &Loads, task: u64, in_vain: Option<u64>) -> Joined<u64, Task, ()> {
    loads.join(b"key", &Tags::default(), &Task(task), |flight| in_vain == Some(flight), || None)
}

fn lead(loads: &Loads, task: u64) -> Leader<u64, Task> {
    match join(loads, task, None) {
        Joined::Lead(leader) => leader,
        _ => panic!("{task} does not lead"),
    }
}

fn wait(loads: &Loads, task: u64) -> Waiter<u64, Task> {
    match join(loads, task, None) {
        Joined::Wait(waiter) => waiter,
        _ => panic!("{task} does not wait"),
    }
}

/// Counts how often it is woken.
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

fn turn(waiter: &mut Waiter<u64, Task>) -> WaitOutcome<u64, Task> {
    match poll(waiter, &Arc::default()) {
        Poll::Ready(turn) => turn,
        Poll::Pending => panic!("nothing was given to this waiter"),
    }
}

fn after(moments: u32) -> u64 {
    u64::try_from((CHECK_INTERVAL * moments).as_nanos()).unwrap()
}

fn finish(leader: Leader<u64, Task>, outcome: u64) -> bool {
    let mut stored = false;
    leader.finish(&outcome, &Tags::default(), |_, _| stored = true);
    stored
}

#[test]
fn an_heir_that_does_not_come_is_passed_over() {
    let loads = loads();
    let leader = lead(&loads, 1);
    let (mut late, mut next) = (wait(&loads, 2), wait(&loads, 3));
    drop(leader);
    loads.check_waiters(after(1)); // sees the heir for the first time
    assert!(poll(&mut next, &Arc::default()).is_pending());
    loads.check_waiters(after(2));
    let WaitOutcome::Lead(leader) = turn(&mut next) else { panic!("the next one leads") };
    assert!(matches!(turn(&mut late), WaitOutcome::Retry), "it joins again");
    assert!(finish(leader, 7));
    assert!(loads.is_empty());
}

#[test]
fn a_flight_whose_only_heir_does_not_come_ends() {
    let loads = loads();
    let leader = lead(&loads, 1);
    let mut late = wait(&loads, 2);
    drop(leader);
    loads.check_waiters(after(1));
    loads.check_waiters(after(2));
    assert!(loads.is_empty());
    let leader = lead(&loads, 3);
    assert!(matches!(turn(&mut late), WaitOutcome::Retry));
    assert!(finish(leader, 7));
}

#[test]
fn a_waiter_that_declines_passes_the_lead_on() {
    let loads = loads();
    let leader = lead(&loads, 1);
    let (mut first, mut second) = (wait(&loads, 2), wait(&loads, 3));
    first.decline(); // it was not called: nothing happens
    drop(leader);
    first.decline();
    assert!(matches!(turn(&mut second), WaitOutcome::Lead(_)));
    assert!(matches!(turn(&mut first), WaitOutcome::Retry));
}

#[test]
fn a_wake_up_that_was_lost_is_made_again() {
    let loads = loads();
    let leader = lead(&loads, 1);
    let (mut waiter, woken) = (wait(&loads, 2), Arc::new(Woken::default()));
    assert!(poll(&mut waiter, &woken).is_pending());
    assert!(finish(leader, 7));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(loads.check_waiters(after(1)).pending);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    loads.check_waiters(after(2));
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert!(matches!(poll(&mut waiter, &woken), Poll::Ready(WaitOutcome::Outcome(7))));
    assert!(!loads.check_waiters(after(3)).pending);
}

#[test]
fn a_leader_that_was_deposed_stores_nothing_and_answers_nobody() {
    let loads = loads();
    let old = lead(&loads, 1);
    let mut waiter = wait(&loads, 2);
    loads.end_abandoned(waiter.flight(), &Task(9)); // not the leader
    assert!(poll(&mut waiter, &Arc::default()).is_pending());
    loads.end_abandoned(waiter.flight(), &Task(1));
    assert!(matches!(turn(&mut waiter), WaitOutcome::Retry));
    let new = lead(&loads, 2);
    assert!(!finish(old, 1));
    assert_eq!(loads.len(), 1);
    assert!(finish(new, 2));
}

#[test]
fn a_waiter_whose_patience_ended_takes_the_place() {
    let loads = loads();
    let slow = lead(&loads, 1);
    let mut early = wait(&loads, 2);
    loads.check_waiters(after(1));
    let mut later = wait(&loads, 3);
    let patience = u64::try_from(WAIT_LIMIT.as_nanos()).unwrap();
    let check = loads.check_waiters(after(1) + patience);
    assert_eq!(check.slow, [(early.flight(), Task(1))]);
    let WaitOutcome::TimedOut(flight) = turn(&mut early) else { panic!("it waited long enough") };
    assert!(poll(&mut later, &Arc::default()).is_pending(), "this one did not");
    let Joined::Lead(new) = join(&loads, 2, Some(flight)) else { panic!("it leads") };
    assert!(new.superseded_another());
    assert!(!finish(slow, 1), "it lost its place");
    assert!(matches!(turn(&mut later), WaitOutcome::Outcome(1)), "and is finished for who waited");
    assert!(finish(new, 2));
}

#[test]
fn evaluations_that_never_end_do_not_pile_up_for_ever() {
    let loads = loads();
    let mut leaders = vec![lead(&loads, 0)];
    for task in 1.. {
        let flight = leaders.last().unwrap().flight();
        match join(&loads, task, Some(flight)) {
            Joined::Lead(leader) => leaders.push(leader),
            Joined::TooManyLoads => break,
            _ => panic!("it takes the place of the last one"),
        }
        assert!(task <= u64::from(MAX_SUPERSEDED));
    }
    assert_eq!(leaders.len(), 1 + MAX_SUPERSEDED as usize);
    assert!(finish(leaders.pop().unwrap(), 1));
    assert!(finish(lead(&loads, 99), 2), "where one ended, the next may begin");
}

#[test]
fn a_refresh_that_was_cut_off_can_be_given_up() {
    let loads = loads();
    let none = Tags::default();
    let cut_off = loads.start_refresh(b"key", &none, &Task(1)).unwrap();
    assert!(loads.start_refresh(b"key", &none, &Task(2)).is_none());
    let (flight, leader) = loads.running_refresh(b"key").unwrap();
    loads.end_abandoned(flight, &leader);
    let again = loads.start_refresh(b"key", &none, &Task(2)).unwrap();
    assert!(!finish(cut_off, 1));
    assert!(loads.running_refresh(b"key").is_some());
    assert!(finish(again, 2));
    assert!(loads.running_refresh(b"key").is_none());
}

#[test]
fn a_circle_through_what_only_the_caller_knows_is_seen() {
    let graph = WaitGraph::<Task>::default();
    let others = |task: &Task| if task.0 < 5 { vec![Task(task.0 + 1)] } else { vec![] };
    assert!(graph.reaches(Task(1), 5, others));
    assert!(!graph.reaches(Task(2), 1, others));
    assert!(!graph.is_deadlocked(&Task(1), others));
    assert!(graph.is_deadlocked(&Task(1), |task: &Task| vec![Task(task.0 % 3 + 1)]));
    let endless = |task: &Task| vec![Task(task.0 + 1)];
    assert!(!graph.reaches(Task(1), 1_000_000, endless), "it is looked for within a bound");
}
