//! The names of the policies that decisions were stored under.
//!
//! With them, one request can be removed under every policy without a visit to every entry.
//!
//! # Cost
//! Storing a decision under no policy costs nothing. Storing one under a policy costs a binary search
//! among the known names, and a lock if its name is new.

use crate::key::{KeyWriter, policy_of};
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};

/// The largest number of names that are kept. With more policies, every entry is visited.
pub(crate) const MAX_KNOWN: usize = 256;

/// The names, sorted. The empty one is always known.
pub(crate) struct KnownPolicies {
    known: ArcSwap<Vec<Box<str>>>,
    writer: Mutex<()>,
}

impl Default for KnownPolicies {
    fn default() -> Self {
        Self { known: ArcSwap::from_pointee(vec![Box::default()]), writer: Mutex::default() }
    }
}

impl KnownPolicies {
    /// Adds the policy of a key that is about to be stored.
    #[inline]
    pub(crate) fn remember(&self, key: &[u8]) {
        let policy = policy_of(key);
        if !policy.is_empty() {
            self.remember_named(policy);
        }
    }

    fn remember_named(&self, policy: &str) {
        let is_known = |known: &[Box<str>]| {
            known.len() > MAX_KNOWN || known.binary_search_by(|it| (**it).cmp(policy)).is_ok()
        };
        if is_known(&self.known.load()) {
            return;
        }
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load();
        if !is_known(&known) {
            let mut more = Vec::clone(&known);
            more.push(policy.into());
            more.sort_unstable();
            self.known.store(Arc::new(more));
        }
    }

    /// Returns the keys of a request under each policy, given its key under no policy.
    ///
    /// Returns `None` if there are more policies than names are kept.
    pub(crate) fn keys_of(&self, request: &[u8]) -> Option<Vec<Box<[u8]>>> {
        let known = self.known.load();
        if known.len() > MAX_KNOWN {
            return None;
        }
        Some(known.iter().map(|policy| KeyWriter::under(policy, request)).collect())
    }
}
