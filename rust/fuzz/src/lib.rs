//! What the fuzz targets share. Run by `nox -s fuzz`; what they start from is in `seeds`, named after
//! what it holds.
//!
//! The files of the compiled module that turn Python objects into keys and values are compiled in,
//! and an interpreter with them. All memory, the interpreter's included, comes from the checked
//! allocator of the fuzzer, so what is read after it was freed, or beyond its end, is found.

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
