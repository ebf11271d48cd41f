//! Decisions as compact bytes: what the cache stores, and what every hit is rebuilt from.
//!
//! The bytes hold no Python object. So stored entries are invisible to the garbage collector, may
//! be dropped on any thread, survive a fork, and nobody can change them from outside. Field names
//! are two bytes (see [`field_names`]); everything else is written out (see [`format`]). A hit is
//! rebuilt from them, or from a copy of them that is at hand as a Python object (see [`template`]).

pub mod decision;
pub mod decode;
pub mod deferred_drop;
pub mod encode;
pub mod field_names;
mod format;
pub mod stored;
pub mod template;

pub use decision::Decision;
pub use stored::Stored;
