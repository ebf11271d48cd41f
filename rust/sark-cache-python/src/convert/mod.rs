//! Conversion of Python arguments into checked Rust values and canonical key bytes.

pub mod arguments;
pub mod flat_dict;
pub mod json;
pub mod key;
pub mod rows;
pub mod tags;
