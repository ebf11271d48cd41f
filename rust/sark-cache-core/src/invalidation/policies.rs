//! The policies that decisions were stored under, so that one request can be removed under all of
//! them without a visit to every entry.
//!
//! # Cost
//! A decision under no policy costs nothing. Under one it costs a look through the known ones when it
//! is stored, and a lock when its policy is new.

use crate::key::{KeyWriter, policy_of};
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};

/// The most policies that are known by name; with more of them every entry is visited.
pub(crate) const MAX_KNOWN: usize = 256;

/// The names, sorted. The empty one is known from the start.
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
    /// Notes the policy of a key that is about to be stored under.
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
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load();
        if !is_known(&known) {
            let mut more = Vec::clone(&known);
            more.push(policy.into());
            more.sort_unstable();
            self.known.store(Arc::new(more));
        }
    }

    /// The keys of a request, given by its key under no policy, under each known one; `None` if
    /// there are more policies than are known.
    pub(crate) fn keys_of(&self, request: &[u8]) -> Option<Vec<Box<[u8]>>> {
        let known = self.known.load();
        if known.len() > MAX_KNOWN {
            return None;
        }
        Some(known.iter().map(|policy| KeyWriter::under(policy, request)).collect())
    }
}
