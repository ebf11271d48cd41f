//! The graph of tasks that wait for other tasks, shared by all caches whose loaders may call each
//! other's caches.

use super::table::lock;
use super::{Map, RandomState};
use crate::shim::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

/// The largest number of tasks that one search of the graph visits.
pub const MAX_VISITED: usize = 1_000;

/// The task that calls the cache.
pub trait Caller: Clone {
    /// Returns a number that is unique among the running tasks.
    ///
    /// `None` means that the task cannot be identified; deadlocks through it are not
    /// found.
    fn id(&self) -> Option<u64>;
}

/// For services whose loaders never call the cache, which cannot deadlock.
impl Caller for () {
    fn id(&self) -> Option<u64> {
        None
    }
}

/// The tasks that wait for flights, and the leaders they wait for.
///
/// Caches whose loaders may ask for each other's values share one graph. A search visits at most
/// 1,000 tasks.
pub struct WaitGraph<A> {
    waiting: Mutex<Map<u64, Wait<A>>>,
}

struct Wait<A> {
    slot: u64,
    leader: Arc<Mutex<A>>,
}

impl<A> Default for WaitGraph<A> {
    fn default() -> Self {
        Self { waiting: Mutex::new(Map::default()) }
    }
}

impl<A: Caller> WaitGraph<A> {
    /// Returns whether `from` is the task `to`, or waits for it directly or through other tasks.
    ///
    /// `others` returns the tasks that a task waits for without a flight. It is called while no lock
    /// is held.
    pub fn reaches(&self, from: A, to: u64, mut others: impl FnMut(&A) -> Vec<A>) -> bool {
        let (mut seen, mut ahead) = (HashSet::<u64, RandomState>::default(), vec![from]);
        while let Some(caller) = ahead.pop() {
            match caller.id() {
                Some(id) if id == to => return true,
                Some(id) if seen.len() < MAX_VISITED && seen.insert(id) => {
                    ahead.extend(self.leader_for(id));
                    ahead.extend(others(&caller));
                }
                _ => {}
            }
        }
        false
    }

    /// Returns whether a task waits for itself, directly or through other tasks.
    ///
    /// `others` is as in [`reaches`](Self::reaches).
    pub fn is_deadlocked(&self, caller: &A, mut others: impl FnMut(&A) -> Vec<A>) -> bool {
        let Some(id) = caller.id() else { return false };
        let next = self.leader_for(id).into_iter().chain(others(caller));
        next.collect::<Vec<_>>().into_iter().any(|next| self.reaches(next, id, &mut others))
    }

    /// Returns the leader that a task waits for.
    pub(super) fn leader_for(&self, id: u64) -> Option<A> {
        let leader = Arc::clone(&lock(&self.waiting).get(&id)?.leader);
        let leader = lock(&leader).clone();
        Some(leader)
    }

    pub(super) fn enter(&self, id: Option<u64>, slot: u64, leader: &Arc<Mutex<A>>) {
        if let Some(id) = id {
            let wait = Wait { slot, leader: Arc::clone(leader) };
            lock(&self.waiting).insert(id, wait);
        }
    }

    pub(super) fn leave(&self, id: Option<u64>, slot: u64) {
        let Some(id) = id else { return };
        let mut waiting = lock(&self.waiting);
        let left = match waiting.get(&id) {
            Some(wait) if wait.slot == slot => waiting.remove(&id),
            _ => None,
        };
        drop(waiting);
        drop(left);
    }
}
