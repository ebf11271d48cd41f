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
#[path = "../../sark-cache-python/src/constant.rs"]
mod constant;

#[path = "../../sark-cache-python/src/arguments.rs"]
pub mod arguments;
#[path = "../../sark-cache-python/src/atoms.rs"]
pub mod atoms;
#[path = "../../sark-cache-python/src/decision.rs"]
pub mod decision;
#[path = "../../sark-cache-python/src/error.rs"]
pub mod error;
#[path = "../../sark-cache-python/src/json.rs"]
pub mod json;
#[path = "../../sark-cache-python/src/key.rs"]
pub mod key;
#[path = "../../sark-cache-python/src/names.rs"]
pub mod names;
#[path = "../../sark-cache-python/src/released.rs"]
pub mod released;
#[path = "../../sark-cache-python/src/template.rs"]
pub mod template;
#[path = "../../sark-cache-python/src/value.rs"]
pub mod value;
