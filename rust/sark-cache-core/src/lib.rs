//! An in-process cache of authorization decisions that never serves a revoked one.
//!
//! Two rules hold everywhere:
//!
//! 1. A hit never leaves the caller's thread: [`Cache::get`] is ready at its first poll.
//! 2. A decision is served only if nothing in the [invalidation log](invalidation) newer than its
//!    stamp matches it. The rule is the same for stored entries and for decisions that are
//!    still being evaluated when the invalidation comes.
//!
//! The crate knows nothing of Python and holds no unsafe code; a Rust service can use it as it is.

#![forbid(unsafe_code)]

pub mod cache;
pub mod clock;
mod error;
pub mod invalidation;
pub mod key;
pub mod limits;
pub mod metrics;
mod options;
pub mod poll;
mod shim;
pub mod single_flight;

pub use cache::{BatchLookup, Cache, Entry};
pub use error::{EncodeError, InsertError};
pub use invalidation::{Glob, Scope, Stamp, Tags};
pub use key::{Key, KeyWriter};
pub use options::{Eviction, Options};
pub use poll::{poll_once, poll_or_keep};
pub use single_flight::Flights;
