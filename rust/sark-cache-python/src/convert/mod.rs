//! Conversion of Python arguments: to checked Rust values, and to canonical key bytes.

pub mod arguments;
pub mod flat_dict;
pub mod json;
pub mod key;
pub mod rows;
pub mod tags;
