//! Decisions as compact bytes. The cache stores them, and every hit is rebuilt from them.
//!
//! The bytes contain no Python object. So the garbage collector does not visit stored entries, any
//! thread may drop them, they survive a fork, and no caller can change them. Field names are two
//! bytes (see [`field_names`]); everything else is written out (see [`format`]). A hit is decoded
//! from the bytes, or copied from a dict that was decoded before (see [`template`]).

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
