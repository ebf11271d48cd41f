//! The shared code of the fuzz targets, which `nox -s fuzz` runs.
//!
//! Each target starts from its inputs in `seeds`, which are named after their contents. The library
//! contains an interpreter, and the files of the compiled module that convert Python objects to keys
//! and values. All memory, the interpreter's included, comes from the fuzzer's checked allocator, so
//! a read of freed memory or beyond the end of an allocation is found.

pub mod model;
pub mod objects;
pub mod reference;

#[macro_use]
#[path = "../../sark-cache-python/src/interned.rs"]
mod interned;

#[path = "../../sark-cache-python/src/convert/mod.rs"]
pub mod convert;
#[path = "../../sark-cache-python/src/error.rs"]
pub mod error;
#[path = "../../sark-cache-python/src/value/mod.rs"]
pub mod value;
