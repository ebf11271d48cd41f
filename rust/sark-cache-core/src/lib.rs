//! An in-process cache of authorization decisions that never serves a revoked one.
//!
//! A service asks the same questions again and again: may *this user* do *this action* on *this
//! resource*? A policy engine takes 0.1–50 ms to answer. This cache repeats the answer in 0.25 µs,
//! until the service revokes it:
//!
//! ```
//! use sark_cache_core::{Cache, InsertError, KeyWriter, Options, Scope, Tags};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Arc::new(Cache::new(Options::new(10_000)));
//!
//! let mut writer = KeyWriter::new();
//! writer.request("alice", "read", "document-1")?;
//! let key = writer.to_key();
//!
//! // A miss: take the stamp, evaluate, store.
//! assert!(cache.get(key.as_bytes()).await.is_none());
//! let stamp = cache.stamp();
//! let decision = "allow"; // the policy engine's answer
//! let minute = Duration::from_secs(60);
//! cache.insert(key.clone(), decision, minute, Tags::default(), stamp).await?;
//!
//! // A hit.
//! let entry = cache.get(key.as_bytes()).await.expect("it was stored");
//! assert_eq!(*entry.value(), "allow");
//!
//! // A revocation: takes effect when `invalidate` is called. The future counts the entries removed.
//! let stamp = cache.stamp();
//! let removed = cache.invalidate(Scope::of([Some("alice"), None, None], &[])).await;
//! assert_eq!(removed, 1);
//! assert!(cache.get(key.as_bytes()).await.is_none());
//!
//! // A decision whose evaluation began before the revocation is not stored.
//! let late = cache.insert(key, "allow", minute, Tags::default(), stamp).await;
//! assert_eq!(late, Err(InsertError::Invalidated));
//! # Ok(())
//! # }
//! ```
//!
//! `examples/axum.rs` is a web service with this guarantee, in which concurrent requests for one
//! decision share one evaluation.
//!
//! # Two rules
//! 1. A hit never leaves the caller's thread: [`Cache::get`] is ready at its first poll, so
//!    [`poll_once`] is enough.
//! 2. A decision is served only if no record of the [invalidation log](invalidation) is newer than
//!    its stamp and matches it. The rule is the same for stored entries and for decisions that are
//!    being evaluated when the invalidation comes.
//!
//! # Parts
//!
//! | module | contents |
//! |---|---|
//! | [`cache`] | the entries: lookup, insert, revocation, expiration, eviction |
//! | [`index`] | the entries that are requested often, in front of moka |
//! | [`key`] | requests as canonical bytes, and their text forms |
//! | [`invalidation`] | the log of revocations, its scopes and patterns |
//! | [`coherence`] | leases and positions, for caches that share a log with other processes |
//! | [`single_flight`] | one evaluation per key, however many callers ask |
//! | [`metrics`] | counters and latencies |
//! | [`limits`], [`clock`], [`poll`] | bounds, time, and polling without a runtime |
//!
//! The cache needs no runtime. Operations that visit every entry yield, so that a runtime can run
//! other tasks in between.
//!
//! # Cost
//!
//! | operation | cost |
//! |---|---|
//! | hit | 0.25 µs for a hot key, without a lock |
//! | insert | 2 µs |
//! | revocation, until it is in effect | one mutex, a hash per scope |
//! | revocation, until the entries are removed | up to 1 µs per entry of the cache |
//! | memory | 520 bytes per entry in addition to key and value; up to 2 MiB for the log |
//!
//! # Features
//! `shuttle` replaces the locks and atomics by those of a model checker. It is for this crate's own
//! tests; a cache that is built with it works only inside the checker.

#![forbid(unsafe_code)]

pub mod cache;
pub mod clock;
pub mod coherence;
mod error;
pub mod index;
pub mod invalidation;
pub mod key;
pub mod limits;
pub mod metrics;
mod options;
pub mod poll;
mod shim;
pub mod single_flight;

pub use cache::{BatchLookup, Cache, Entry, Hit};
pub use coherence::{Lease, Position, Positions};
pub use error::{EncodeError, InsertError};
pub use invalidation::{Glob, Scope, Stamp, Tags};
pub use key::{Key, KeyWriter};
pub use options::{Eviction, Options};
pub use poll::{poll_once, poll_or_keep};
pub use single_flight::Flights;
