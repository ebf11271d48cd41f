//! The locks and atomics of [`invalidation`](crate::invalidation), [`coherence`](crate::coherence),
//! [`single_flight`](crate::single_flight) and [`index`](crate::index).
//!
//! They are the standard library's and arc-swap's. With the feature `shuttle` they are a model
//! checker's, so that the code that ships is the code that is checked (`tests/model`,
//! `tests/protocol`). The checker explores interleavings, not weak memory: it treats every atomic
//! as sequentially consistent.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use arc_swap::{ArcSwap as Swap, ArcSwapOption as SwapOption};
    use std::sync::Arc;
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

    /// The contents of a [`SwapOption`], which stay alive while this exists.
    pub(crate) type Loaded<T> = arc_swap::Guard<Option<Arc<T>>>;

    pub(crate) fn into_inner<T>(loaded: Loaded<T>) -> Option<Arc<T>> {
        arc_swap::Guard::into_inner(loaded)
    }
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

    pub(crate) type Loaded<T> = Box<Option<Arc<T>>>;

    pub(crate) fn into_inner<T>(loaded: Loaded<T>) -> Option<Arc<T>> {
        *loaded
    }

    /// The used part of arc-swap's optional form.
    pub(crate) struct SwapOption<T>(Mutex<Option<Arc<T>>>);

    impl<T> SwapOption<T> {
        pub(crate) fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub(crate) fn load(&self) -> Loaded<T> {
            Box::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut *held, value);
            drop(held);
            drop(old);
        }

        pub(crate) fn compare_and_swap(&self, seen: &Option<Arc<T>>, value: Option<Arc<T>>) {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if held.as_ref().map(Arc::as_ptr) == seen.as_ref().map(Arc::as_ptr) {
                let old = std::mem::replace(&mut *held, value);
                drop(held);
                drop(old);
            }
        }
    }
}
#[cfg(feature = "shuttle")]
pub(crate) use checked::*;
