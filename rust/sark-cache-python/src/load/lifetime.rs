//! The choice of a decision's time to live, for decisions that are set and for those that are loaded.

use std::time::Duration;

/// The times to live that a decision can get.
#[derive(Clone, Copy)]
pub struct Lifetime {
    /// The time to live that the caller gave.
    pub given: Option<Duration>,
    /// The time to live of the cache.
    pub default: Duration,
    /// The longest one that the request's sensitivity allows.
    pub max: Duration,
}

impl Lifetime {
    /// Returns the time to live: the loader's, or else the caller's, or else the cache's, and at most
    /// what the sensitivity allows.
    pub fn choose(self, of_loader: Option<Duration>) -> Duration {
        of_loader.or(self.given).unwrap_or(self.default).min(self.max)
    }
}
