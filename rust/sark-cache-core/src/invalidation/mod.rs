//! The invalidation log: the record of what was revoked, and when.
//!
//! Its clock is a counter. A *stamp* is the value of the counter when an evaluation began. An
//! *invalidation* adds one to the counter and records its *scope* under the new value. A decision is
//! valid while no *record* newer than its stamp matches it. The rule is the same for a stored entry
//! and for a decision that the policy engine is still evaluating.
//!
//! # Cost
//! A decision that is stamped with the newest record costs one atomic load ([`Log::newest`]). An
//! older one costs one lookup (a hash and a probe) per kind of scope that was ever recorded. Then
//! the cache raises the stamp, so that it is checked once per invalidation at most. Reading takes
//! no lock and never waits. Recording takes one mutex and constant time, amortized.
//!
//! # Memory
//! 16 bytes per slot, at most half of the slots used, at most [`MAX_RECORDS`] records: 2 MiB. Each
//! scope has one record: invalidating the same user twice takes no more memory than once.
//!
//! # The floor
//! A decision that is stamped below the *floor* is revoked. Three events raise the floor and remove
//! the records below it; nothing else shrinks the log:
//!
//! - everything is invalidated;
//! - records are pruned: one older than the longest time to live matches only decisions that have
//!   expired, so the floor can replace it;
//! - the log is full.
//!
//! In doubt a decision is revoked, never served. Scopes are stored as 64-bit hashes with a random
//! seed. If two of them collide, a decision that could have been served is revoked.

mod glob;
mod log;
mod policies;
mod scope;
mod table;
mod tags;

pub use glob::Glob;
pub use log::{Log, MAX_GLOBS, MAX_RECORDS, Recorded, Stamp, Verdict};
pub use scope::{Scope, Subject};
pub use tags::Tags;

pub(crate) use policies::KnownPolicies;
pub(crate) use scope::ScopeKinds;
