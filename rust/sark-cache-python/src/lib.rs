//! The compiled module `sark_cache._native`: thin functions that parse, call the core and convert.
//!
//! Everything that can be answered at once is: see [`awaitable`].

use pyo3::prelude::*;

mod arguments;
mod awaitable;
mod cache;
mod error;
mod json;
mod key;
mod load;
mod names;
mod pending;
mod policy;
mod runtime;
mod store;
mod value;
mod wake;

/// The compiled core of sark-cache.
// Until it is tested without one, an interpreter that can do without a GIL turns it on for us.
#[pymodule(gil_used = true)]
mod _native {
    use super::{PyResult, runtime};
    #[pymodule_export]
    use super::{cache::AsyncCache, load::Load, policy::PolicyStore, store::Stamp};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        runtime::register_hooks(module)
    }
}
