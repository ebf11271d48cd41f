//! The compiled module `sark_cache._native`: converts Python arguments, calls the core crate, and
//! converts the results.
//!
//! Every method acts when it is called and returns an awaitable. A result that is ready needs no
//! event loop, task or thread: see [`awaitable`].
//!
//! The modules from the lowest to the highest, each importing only those below it: [`interned`],
//! [`python_modules`], [`error`], [`convert`], [`constants`], [`value`], [`runtime`], [`awaitable`], [`load`],
//! [`async_cache`], [`policy`].
//!
//! # Locks and threads
//! No thread waits for a lock of this crate while the holder may run Python code, or may have to stop
//! for all threads to stop (as without a GIL). Shared state is atomic or never changes.

use error::InvalidationError;
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::types::PyMapping;
use pyo3_async_runtimes::TaskLocals;

#[macro_use]
mod interned;

mod async_cache;
mod awaitable;
mod constants;
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
#[pymodule(gil_used = false)]
mod _native {
    use super::{PyResult, constants, runtime};
    #[pymodule_export]
    use super::{
        async_cache::AsyncCache, load::Load, policy::PolicyStore, policy::store::Stamp,
        runtime::lease::Lease, value::Decision,
    };
    use pyo3::prelude::*;
    use pyo3::types::PyMapping;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("CONSTANTS", constants::constants(module.py())?)?;
        super::initialize(module.py())?;
        PyMapping::register::<Decision>(module.py())?;
        super::mark_methods(module.py())?;
        runtime::register_hooks(module)
    }
}

/// Marks the methods that return awaitables as coroutine functions, for frameworks that check.
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

/// Initializes the lazy globals that pyo3 would otherwise initialize at first use.
///
/// pyo3 may release the interpreter in the middle of that. If another thread forks at that moment,
/// the child waits forever for a thread that it does not have.
fn initialize(py: Python<'_>) -> PyResult<()> {
    // The check of a `Mapping` imports collections.abc.
    let _ = py.None().bind(py).cast::<PyMapping>();
    InvalidationError::type_object(py);
    error::type_name(py.None().bind(py));
    py.get_type::<awaitable::pending::Pending>();
    load::Load::import(py)?;
    python_modules::waiting(py)?;
    awaitable::ready(py, py.None())?;
    // An error, since no loop runs; but pyo3-async-runtimes has imported asyncio for it.
    let _ = pyo3_async_runtimes::get_running_loop(py);
    TaskLocals::new(python_modules::asyncio(py)?.clone().into_any()).copy_context(py)?;
    Ok(())
}
