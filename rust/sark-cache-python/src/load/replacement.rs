//! Decisions that replace others, in a cache that shares its invalidation log with other processes.
//!
//! A caller that stores another decision than the cached one knows more than the other processes,
//! which may still serve the older one. So the Python class revokes it there. The result of a load
//! is stored after a miss, and replaces nothing that may be served; a refresh replaces an entry.

use crate::value::Stored;
use pyo3::prelude::*;
use sark_cache_core::key::{KeyParts, context_digits};
use sark_cache_core::{Cache, Key};

/// Stands for a decision that cannot be stored. No stored value is empty.
pub const NO_VALUE: &[u8] = &[];

/// Calls `_replaced` of the Python class if an entry with another value than `value` is stored under
/// `key`. Call it before the value is stored. Does nothing if the lease never ends.
#[inline]
pub fn announce(object: &Bound<'_, PyAny>, cache: &Cache<Stored>, key: &Key, value: &[u8]) {
    if !cache.lease().is_endless() && cache.holds_other(key.as_bytes(), value) {
        call(object, key);
    }
}

#[cold]
fn call(object: &Bound<'_, PyAny>, key: &Key) {
    let py = object.py();
    let Some(KeyParts { policy, fields: [user_id, action, resource], context }) =
        KeyParts::of(key.as_bytes())
    else {
        return;
    };
    let arguments = (policy, user_id, action, resource, context_digits(context));
    // It starts a revocation, and reports a failure of that. An error of its own fails no request.
    if let Err(error) = object.call_method1(interned!(py, "_replaced"), arguments) {
        error.write_unraisable(py, Some(object));
    }
}
