//! The invalidation log: what was revoked, and when.
//!
//! Its clock is a counter. A *stamp* is the counter's value at the moment an evaluation began; an
//! *invalidation* adds one to the counter and records its scope under the new value. A decision
//! holds as long as no record newer than its stamp matches it, wherever the decision is: stored, or
//! still on its way from the policy engine.
//!
//! # Cost
//! A decision stamped at or after the newest record costs one atomic load ([`Log::newest`]). An
//! older one is checked once: one look-up (a hash and a probe) for each combination of
//! fields and policy that was ever invalidated; then its owner stamps it anew. Reading takes no lock and never
//! waits. Recording takes one mutex and constant time, amortized.
//!
//! # Memory
//! 16 bytes per slot, at most half of the slots used, at most [`MAX_RECORDS`] records: 2 MiB. One
//! record per scope: invalidating the same user twice takes no more room than once.
//!
//! # The floor
//! Everything stamped below the floor is dead. Three things raise it, and they are all that ever
//! shrinks the log: invalidating everything, pruning (records older than the longest time to live
//! can only matter to decisions that have expired, so the floor takes their place), and a log
//! that is full. When in doubt a decision is dropped; it is never served.
//!
//! Scopes are kept as 64-bit hashes under a random seed. Should two collide, a decision is
//! dropped that could have been kept.

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
