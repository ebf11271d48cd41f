//! What a policy cache does with requests and decisions, below its Python methods.

use crate::awaitable::settled;
use crate::convert::json::{is_mapping, not_an_object};
use crate::convert::key::{Request, request};
use crate::error::{Fault, wrong_type};
use crate::load::Loads;
use crate::runtime::complete;
use crate::value::Stored;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sark_cache_core::{Cache, Entry, Key, KeyWriter, Tags, poll_once};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A moment in the life of one cache: `stamp()` before evaluating, `set(..., stamp=...)` after.
#[pyclass(frozen, eq, hash, module = "sark_cache._native")]
#[derive(PartialEq, Eq, Hash)]
pub struct Stamp {
    pub cache: u64,
    pub at: sark_cache_core::Stamp,
}

/// Numbers the caches of a process, so that a stamp of one is not taken for one of another.
pub static CACHES: AtomicU64 = AtomicU64::new(0);

/// One policy cache: its entries and its settings.
pub struct Store {
    pub cache: Arc<Cache<Stored>>,
    pub loads: Arc<Loads>,
    /// Its number among the caches of this process.
    pub identity: u64,
    pub enabled: AtomicBool,
    pub closed: AtomicBool,
    pub use_optimized_ttl: AtomicBool,
    /// Nanoseconds.
    pub ttl: AtomicU64,
    pub max_size: u64,
}

/// One decision on its way in.
pub struct Incoming {
    key: Key,
    value: Stored,
    tags: Tags,
    ttl: Duration,
}

impl Store {
    /// Whether it answers and stores at all.
    pub fn serves(&self) -> bool {
        self.enabled.load(Ordering::Relaxed) && !self.closed.load(Ordering::Acquire)
    }

    /// How long an entry lives unless told otherwise.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
    }

    /// What is stored for a request or, if nothing is, what `missed` makes of its key. Counts
    /// nothing.
    #[inline]
    pub fn look_up<K>(
        &self,
        asked: Request<'_, '_>,
        missed: impl FnOnce(&KeyWriter) -> K,
    ) -> Result<Result<Arc<Entry<Stored>>, K>, Fault> {
        request(asked, |key| {
            // Never pending; should moka change that, a miss is the safe answer.
            poll_once(self.cache.find(key.as_bytes())).flatten().ok_or_else(|| missed(key))
        })
    }

    /// The stamp that was given, or that of now.
    pub fn stamp_or_now(
        &self,
        given: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<sark_cache_core::Stamp> {
        let Some(given) = given else { return Ok(self.cache.stamp()) };
        let stamp = given
            .cast::<Stamp>()
            .map_err(|_| wrong_type("stamp", "what stamp() returned", given))?;
        if stamp.get().cache != self.identity {
            return Err(PyValueError::new_err("stamp was taken from another cache"));
        }
        Ok(stamp.get().at)
    }

    /// Reads a decision and the request that it is for. One that cannot be stored, be it because of
    /// its tags, has superseded what is stored for the request, so that is dropped.
    pub fn incoming(
        &self,
        asked: Request<'_, '_>,
        decision: &Bound<'_, PyAny>,
        tags: Result<Tags, Fault>,
        ttl: Duration,
    ) -> Result<Incoming, Fault> {
        if !is_mapping(decision) {
            return Err(Fault::WrongType(wrong_type("decision", "a dict", decision)));
        }
        let key = request(asked, KeyWriter::to_key)?;
        self.loads.supersede(key.as_bytes());
        let read = tags.and_then(|tags| {
            let value = Stored::from_python(decision)?;
            self.cache.weigh(&key, &value, &tags)?;
            // Of a class that says it is a mapping and is a str or a list as well.
            if value.is_object() { Ok((value, tags)) } else { Err(not_an_object()) }
        });
        match read {
            Ok((value, tags)) => Ok(Incoming { key, value, tags, ttl }),
            Err(fault) => {
                let cache = Arc::clone(&self.cache);
                complete(async move { cache.discard(key.as_bytes()).await });
                Err(fault)
            }
        }
    }

    /// Stores one decision; false if it was refused.
    pub fn insert(
        &self,
        py: Python<'_>,
        Incoming { key, value, tags, ttl }: Incoming,
        stamp: sark_cache_core::Stamp,
    ) -> bool {
        let insert = pin!(self.cache.insert(key, value, ttl, tags, stamp));
        settled(py, insert, || _ = self.cache.maintain()).is_ok()
    }
}
