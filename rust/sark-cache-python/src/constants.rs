//! The limits and defaults that the Python package repeats, as `_native.CONSTANTS`.
//!
//! The caches that are written in Python work without the compiled module, so they have these numbers
//! in `sark_cache/_core/limits.py`. A test holds both equal. A number has the same name on both sides;
//! a duration `X` is `X_SECONDS` in Python.

use crate::convert::arguments::{
    DEFAULT_MAX_SIZE, DEFAULT_TTL, MAX_CAPACITY, MAX_TTL, MIN_MAX_BYTES,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sark_cache_core::key::KEY_PREFIX;
use sark_cache_core::limits::{
    MAX_DEPTH, MAX_ENTRY_BYTES, MAX_FIELD_BYTES, MAX_PATTERN_BYTES, MAX_POLICY_BYTES,
    MAX_REVOKED_TAGS, MAX_TAG_BYTES, MAX_TAGS,
};
use sark_cache_core::single_flight::{
    CHECK_INTERVAL, FIRST_PAUSE, LONGEST_PAUSE, MAX_PAUSES, MAX_SUPERSEDED, MAX_VISITED, WAIT_LIMIT,
};

/// Returns the values by their names in Python.
pub fn constants(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let values = PyDict::new(py);
    macro_rules! add {
        ($($name:ident)*) => { $(values.set_item(stringify!($name), $name)?;)* };
    }
    macro_rules! add_seconds {
        ($($name:ident)*) => {
            $(values.set_item(concat!(stringify!($name), "_SECONDS"), $name.as_secs_f64())?;)*
        };
    }
    add!(MAX_FIELD_BYTES MAX_POLICY_BYTES MAX_TAGS MAX_TAG_BYTES MAX_REVOKED_TAGS);
    add!(MAX_ENTRY_BYTES MAX_DEPTH MAX_PATTERN_BYTES);
    add!(KEY_PREFIX DEFAULT_MAX_SIZE MIN_MAX_BYTES MAX_CAPACITY);
    add!(MAX_SUPERSEDED MAX_VISITED MAX_PAUSES);
    add_seconds!(DEFAULT_TTL MAX_TTL CHECK_INTERVAL WAIT_LIMIT FIRST_PAUSE LONGEST_PAUSE);
    Ok(values)
}
