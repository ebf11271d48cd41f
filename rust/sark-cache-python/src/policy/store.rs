//! One policy cache below its Python methods: entries, settings, and inserts.

use crate::awaitable::poll_or_block;
use crate::convert::arguments::Request;
use crate::convert::json::{is_mapping, not_an_object};
use crate::convert::key::request;
use crate::error::{Fault, wrong_type};
use crate::load::owner::Switch;
use crate::load::registry::{LoadRegistry, remove_superseded};
use crate::load::replacement::{NO_VALUE, announce};
use crate::value::Stored;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;
use sark_cache_core::clock::nanos;
use sark_cache_core::{Cache, Hit, Key, KeyWriter, Options, Tags};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A position in the invalidation log of one cache.
///
/// Take one with `stamp()` before the evaluation of a decision, and pass it to
/// `set(..., stamp=...)`. A decision that has been revoked since then is not stored.
#[pyclass(frozen, eq, hash, module = "sark_cache._native")]
#[derive(PartialEq, Eq, Hash)]
pub struct Stamp {
    cache: u64,
    at: sark_cache_core::Stamp,
}

/// Numbers the caches of a process, so that a stamp of one cache is refused by another.
static CACHES: AtomicU64 = AtomicU64::new(0);

/// A name of a sensitivity, read when the cache is created.
pub struct Sensitivity {
    pub name: String,
    /// True if its entries are refreshed before they expire.
    pub is_refreshed: bool,
}

/// The entries and the settings of one policy cache.
pub struct Store {
    pub cache: Arc<Cache<Stored>>,
    pub loads: Arc<LoadRegistry>,
    pub switch: Arc<Switch>,
    /// Its number among the caches of this process.
    identity: u64,
    pub use_optimized_ttl: AtomicBool,
    pub sensitivities: Box<[Sensitivity]>,
    /// The default time to live in nanoseconds.
    ttl: AtomicU64,
    pub max_size: u64,
}

/// A policy cache as its methods use it: the Python object and its store.
#[derive(Clone, Copy)]
pub struct Instance<'a, 'py> {
    pub object: &'a Bound<'py, PyAny>,
    pub store: &'a Store,
}

impl<'py> Instance<'_, 'py> {
    #[inline]
    pub fn py(self) -> Python<'py> {
        self.object.py()
    }

    /// Reads a decision and its request. From here on no running load overwrites the decision.
    ///
    /// If the decision cannot be stored, the entry of its request is removed: it is superseded. Other
    /// processes are shown a decision that it replaces.
    pub fn prepare_insert(
        self,
        asked: Request<'_, '_>,
        decision: &Bound<'_, PyAny>,
        tags: Result<Tags, Fault>,
        ttl: Duration,
    ) -> Result<PendingInsert, Fault> {
        if !is_mapping(decision) {
            return Err(Fault::WrongType(wrong_type("decision", "a dict", decision)));
        }
        let Self { object, store } = self;
        let key = request(asked, KeyWriter::to_key)?;
        store.loads.supersede(key.as_bytes());
        let read = tags.and_then(|tags| {
            let value = Stored::from_python(decision).map_err(|fault| fault.of("decision"))?;
            store.cache.weigh(&key, &value, &tags)?;
            // False for a class that is registered as a mapping and is also a str or a list.
            if value.is_object() { Ok((value, tags)) } else { Err(not_an_object()) }
        });
        match read {
            Ok((value, tags)) => {
                announce(object, &store.cache, &key, value.as_ref());
                Ok(PendingInsert { key, value, tags, ttl })
            }
            Err(fault) => {
                announce(object, &store.cache, &key, NO_VALUE);
                remove_superseded(&store.cache, key);
                Err(fault)
            }
        }
    }
}

/// A decision that was read and checked, before it is stored.
pub struct PendingInsert {
    key: Key,
    value: Stored,
    tags: Tags,
    ttl: Duration,
}

impl Store {
    pub fn new(
        options: Options,
        ttl: Duration,
        enabled: bool,
        use_optimized_ttl: bool,
        sensitivities: Box<[Sensitivity]>,
    ) -> Self {
        let max_size = options.max_size;
        let cache = Arc::new(Cache::new(options));
        Self {
            loads: LoadRegistry::new(&cache),
            cache,
            switch: Arc::new(Switch::new(enabled)),
            identity: CACHES.fetch_add(1, Ordering::Relaxed),
            use_optimized_ttl: AtomicBool::new(use_optimized_ttl),
            sensitivities,
            ttl: AtomicU64::new(nanos(ttl)),
            max_size,
        }
    }

    /// Returns whether the cache is enabled and not closed.
    #[inline]
    pub fn serves(&self) -> bool {
        self.switch.serves()
    }

    /// Returns the default time to live.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
    }

    /// Sets the default time to live.
    pub fn set_ttl(&self, ttl: Duration) {
        self.ttl.store(nanos(ttl), Ordering::Relaxed);
    }

    /// Returns the entry of a request or, after a miss, the result of `missed` for its key. Counts
    /// nothing.
    #[inline]
    pub fn look_up<K>(
        &self,
        asked: Request<'_, '_>,
        missed: impl FnOnce(&KeyWriter) -> K,
    ) -> Result<Result<Hit<Stored>, K>, Fault> {
        request(asked, |key| self.cache.look_up(key.as_bytes()).ok_or_else(|| missed(key)))
    }

    /// Returns the current stamp.
    pub fn stamp(&self) -> Stamp {
        Stamp { cache: self.identity, at: self.cache.stamp() }
    }

    /// Returns the stamp that was given, or the current one.
    pub fn stamp_or_now(
        &self,
        given: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<sark_cache_core::Stamp> {
        let Some(given) = given else { return Ok(self.cache.stamp()) };
        let stamp = given
            .cast::<Stamp>()
            .map_err(|_| wrong_type("stamp", "a stamp that stamp() returned, or None", given))?;
        if stamp.get().cache != self.identity {
            return Err(PyValueError::new_err(
                "stamp was taken from another cache: take it from the cache that stores the \
                 decision",
            ));
        }
        Ok(stamp.get().at)
    }

    /// Removes the entry of a decision that is not stored because the cache is off: it is
    /// superseded.
    pub fn discard(&self, insert: PendingInsert) {
        remove_superseded(&self.cache, insert.key);
    }

    /// Returns a Python function that removes the entry under `key`, and keeps running loads from
    /// storing one.
    pub fn superseding<'py>(&self, py: Python<'py>, key: Key) -> PyResult<Bound<'py, PyCFunction>> {
        let (cache, loads) = (Arc::clone(&self.cache), Arc::clone(&self.loads));
        PyCFunction::new_closure(py, None, None, move |_, _| {
            loads.supersede(key.as_bytes());
            remove_superseded(&cache, key.clone());
        })
    }

    /// Stores one decision; returns false if it was refused.
    pub fn insert(
        &self,
        py: Python<'_>,
        PendingInsert { key, value, tags, ttl }: PendingInsert,
        stamp: sark_cache_core::Stamp,
    ) -> bool {
        let insert = pin!(self.cache.insert(key, value, ttl, tags, stamp));
        poll_or_block(py, insert, || _ = self.cache.maintain()).is_ok()
    }
}
