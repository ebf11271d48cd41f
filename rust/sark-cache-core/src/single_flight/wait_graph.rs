//! Which task waits for which other task, across all caches whose loaders may ask each other.

use super::table::lock;
use super::{Map, RandomState};
use crate::shim::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

/// The most tasks that one search of the graph visits.
const MAX_VISITED: usize = 1_000;

/// A task that asks, as far as the flights have to know it.
pub trait Asker: Clone {
    /// Names the task while it lives; `None`: it cannot be told from others.
    fn id(&self) -> Option<u64>;
}

/// The tasks that wait for flights, and those that lead them. One for all caches whose loaders may
/// ask for each other's values.
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

impl<A: Asker> WaitGraph<A> {
    /// Whether `from` is the task `to` or waits for it, however many are in between.
    ///
    /// `others` returns the tasks that a task waits for without a flight. Called without a lock.
    pub fn leads_to(&self, from: A, to: u64, mut others: impl FnMut(&A) -> Vec<A>) -> bool {
        let (mut seen, mut ahead) = (HashSet::<u64, RandomState>::default(), vec![from]);
        while let Some(asker) = ahead.pop() {
            match asker.id() {
                Some(id) if id == to => return true,
                Some(id) if seen.len() < MAX_VISITED && seen.insert(id) => {
                    ahead.extend(self.leader_for(id));
                    ahead.extend(others(&asker));
                }
                _ => {}
            }
        }
        false
    }

    /// Whether a task waits for itself.
    pub fn is_circular(&self, asker: &A, mut others: impl FnMut(&A) -> Vec<A>) -> bool {
        let Some(id) = asker.id() else { return false };
        let next = self.leader_for(id).into_iter().chain(others(asker));
        next.collect::<Vec<_>>().into_iter().any(|next| self.leads_to(next, id, &mut others))
    }

    /// The leader that a task waits for.
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
