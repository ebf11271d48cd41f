//! Python modules that Rust code calls, each imported once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;

/// Returns `asyncio`.
pub fn asyncio(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static ASYNCIO: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    import(py, &ASYNCIO, "asyncio")
}

/// Returns `sark_cache.backends._shared.loading`, whose coroutines drive the loads.
pub fn loading(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static LOADING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    import(py, &LOADING, "sark_cache.backends._shared.loading")
}

/// Returns `sark_cache.backends._shared.task_waits`, which finds the tasks that a task awaits.
pub fn waiting(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static WAITING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    import(py, &WAITING, "sark_cache.backends._shared.task_waits")
}

fn import<'py>(
    py: Python<'py>,
    module: &'static PyOnceLock<Py<PyModule>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyModule>> {
    let imported = module.get_or_try_init(py, || py.import(name).map(Bound::unbind))?;
    Ok(imported.bind(py))
}
