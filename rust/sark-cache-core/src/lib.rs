//! An in-process cache of authorization decisions that never serves a revoked one.
//!
//! Two rules hold everywhere:
//!
//! 1. A hit never leaves the caller's thread: [`Cache::get`] is ready at its first poll.
//! 2. A decision is served only if nothing in the [invalidation log](log) newer than its
//!    stamp matches it. The rule is the same for stored entries and for decisions that are
//!    still being evaluated when the invalidation comes.
//!
//! The crate knows nothing of Python and holds no unsafe code; a Rust service can use it as it is.

#![forbid(unsafe_code)]

pub mod cache;
mod census;
pub mod clock;
pub mod error;
pub mod glob;
pub mod key;
pub mod latency;
pub mod limits;
pub mod load;
pub mod log;
pub mod pauses;
mod policies;
pub mod ready;
mod shim;
pub mod stats;
mod sweep;
mod table;
mod weight;

pub use cache::{Cache, Entry, Eviction, Options};
pub use error::Refused;
pub use key::{Key, KeyWriter, NotJson};
pub use load::Flights;
pub use log::{Scope, Stamp, Tags};
pub use ready::{poll_once, poll_or_keep};
