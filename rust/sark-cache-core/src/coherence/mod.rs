//! The parts of a cache that shares its invalidation log with other processes.
//!
//! Each process has a log of its own. A reader copies the records of a shared log into it, and
//! *confirms* its position in the shared log again and again. Between two confirmations other
//! processes may revoke what this one still has. Two types bound what that can cost:
//!
//! - a [`Lease`] ends a span after the newest confirmation, and without it nothing is served;
//! - [`Positions`] say which stamp a position in the shared log stands for, so that a decision that
//!   another process evaluated is judged by all records since its evaluation.
//!
//! This module does no input or output, and knows no server. `tests/protocol` runs the whole
//! protocol under a model checker.

mod lease;
mod positions;

pub use lease::Lease;
pub use positions::{Position, Positions};
