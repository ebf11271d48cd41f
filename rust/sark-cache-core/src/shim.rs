//! The locks and atomics of [`invalidation`](crate::invalidation), [`coherence`](crate::coherence)
//! and [`single_flight`](crate::single_flight).
//!
//! They are the standard library's and arc-swap's. With the feature `shuttle` they are a model
//! checker's, so that the code that ships is the code that is checked (`tests/model`,
//! `tests/protocol`). The checker explores interleavings, not weak memory: it treats every atomic
//! as sequentially consistent.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use arc_swap::ArcSwap as Swap;
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
}
#[cfg(not(feature = "shuttle"))]
pub(crate) use real::*;

#[cfg(feature = "shuttle")]
mod checked {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
    use std::sync::{Arc, PoisonError};

    /// The used part of arc-swap, on a lock that the checker controls.
    #[derive(Default)]
    pub(crate) struct Swap<T>(Mutex<Arc<T>>);

    impl<T> Swap<T> {
        pub(crate) fn from_pointee(value: T) -> Self {
            Self(Mutex::new(Arc::new(value)))
        }

        pub(crate) fn load(&self) -> Arc<T> {
            Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }
}
#[cfg(feature = "shuttle")]
pub(crate) use checked::*;
