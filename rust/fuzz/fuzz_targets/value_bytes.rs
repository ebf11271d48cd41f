//! Decoding a stored value does not panic or read foreign memory for any bytes, and all decoders
//! return the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyo3::exceptions::{PyRecursionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sark_cache_fuzz::model::MAX_SIZE;
use sark_cache_fuzz::objects::{read, spoil, with_python};
use sark_cache_fuzz::value::Decision;
use sark_cache_fuzz::value::Stored;
use sark_cache_fuzz::value::decode::Reader;
use sark_cache_fuzz::value::template;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    with_python(|py| try_out(py, &bytes.into()));
});

fn try_out(py: Python<'_>, bytes: &Arc<[u8]>) {
    let value = Reader::new(bytes).value(py);
    let model =
        value.as_ref().ok().map(|value| read(value, false).expect("the decoder returns only JSON"));
    let mut written = model.is_none();
    if let Ok(value) = &value
        && model.as_ref().is_some_and(|model| model.is_json() && model.size() <= MAX_SIZE)
    {
        let stored = Stored::from_python(value).map_err(PyErr::from).expect("it is JSON");
        let served = stored.to_python(py).expect("it was stored");
        assert_eq!(read(&served, false), model);
        written = stored.bytes() == bytes;
    }
    // Templates are built only from encoded values; other bytes may have a second interpretation.
    for _ in 0..if written { 3 } else { 0 } {
        let served = template::rebuild(py, bytes).map_err(|error| assert_corrupt(py, error)).ok();
        assert_eq!(served.as_ref().and_then(|served| read(served, false)), model);
        served.as_ref().inspect(|served| spoil(served));
    }
    let decision = Decision::new(py, Arc::clone(bytes)).expect("there is memory");
    let read = read_all(decision.as_any());
    if value.is_ok_and(|value| value.is_exact_instance_of::<PyDict>()) {
        read.expect("a value that decodes to a dict decodes to a decision");
    } else if let Err(error) = read {
        assert_corrupt(py, error);
    }
}

/// Calls every method of a decision that reads it.
fn read_all(decision: &Bound<'_, PyAny>) -> PyResult<()> {
    let asked = [
        decision.getattr("allow"),
        decision.getattr("reason"),
        decision.call_method0("to_dict"),
        decision.get_item("a").or_else(|_| decision.call_method1("get", ("a",))),
        decision.eq(decision).and_then(|_| decision.call_method0("items")),
    ];
    let fields = decision.call_method0("items")?.try_iter()?.collect::<PyResult<Vec<_>>>();
    let whole = [decision.hash().map(drop), decision.repr().map(drop), decision.len().map(drop)];
    asked.into_iter().try_for_each(|one| one.map(drop))?;
    whole.into_iter().collect::<PyResult<()>>()?;
    fields.map(drop)
}

/// Asserts that an error reports corrupt bytes or invalid text.
fn assert_corrupt(py: Python<'_>, error: PyErr) {
    let corrupt = error.is_instance_of::<PyRuntimeError>(py)
        || error.is_instance_of::<PyRecursionError>(py)
        || error.is_instance_of::<PyValueError>(py);
    assert!(corrupt, "{error}");
}
