//! The compiled module `sark_cache._native`: thin functions that parse, call the core and convert.
//!
//! Everything that can be answered at once is: see [`awaitable`].

use error::InvalidationError;
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::types::PyMapping;
use pyo3_async_runtimes::TaskLocals;

#[macro_use]
mod interned;

mod async_cache;
mod awaitable;
mod convert;
mod error;
mod load;
mod policy;
mod python_modules;
mod runtime;
mod value;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The compiled core of sark-cache.
// Where Python code may run, or a thread may have to stop for all of them to stop, no lock is held
// that a thread waits for; what is shared is atomic, or never changes.
#[pymodule(gil_used = false)]
mod _native {
    use super::{PyResult, runtime};
    #[pymodule_export]
    use super::{
        async_cache::AsyncCache, load::Load, policy::PolicyStore, policy::store::Stamp,
        value::Decision,
    };
    use pyo3::prelude::*;
    use pyo3::types::PyMapping;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        super::import_now(module.py())?;
        PyMapping::register::<Decision>(module.py())?;
        super::mark_methods(module.py())?;
        runtime::register_hooks(module)
    }
}

/// Lets frameworks know the methods that return awaitables.
fn mark_methods(py: Python<'_>) -> PyResult<()> {
    let general = ["get", "set", "get_or_load", "delete", "clear", "size", "cleanup_expired"];
    awaitable::coroutine_method::mark(&py.get_type::<async_cache::AsyncCache>(), &general)?;
    let policy = [
        "get",
        "get_decision",
        "get_batch",
        "set",
        "get_or_load",
        "delete",
        "set_batch",
        "invalidate",
        "invalidate_pattern",
        "clear",
        "size",
        "cleanup_expired",
        "close",
    ];
    awaitable::coroutine_method::mark(&py.get_type::<policy::PolicyStore>(), &policy)
}

/// Does now what pyo3 would else do at first use, without holding the interpreter all the time. A
/// process that forks while another thread is in the middle of that has a child that waits for this
/// thread, which it does not have, forever.
fn import_now(py: Python<'_>) -> PyResult<()> {
    // Whatever is not a dict is asked whether it is a mapping: of collections.abc.
    let _ = py.None().bind(py).cast::<PyMapping>();
    InvalidationError::type_object(py);
    error::type_name(py.None().bind(py));
    py.get_type::<awaitable::pending::Pending>();
    load::Load::import(py)?;
    python_modules::waiting(py)?;
    awaitable::ready(py, py.None())?;
    // No loop runs yet, which is an error, and then pyo3-async-runtimes has asked asyncio.
    let _ = pyo3_async_runtimes::get_running_loop(py);
    TaskLocals::new(python_modules::asyncio(py)?.clone().into_any()).copy_context(py)?;
    Ok(())
}
