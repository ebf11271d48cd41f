//! Poll once on the caller's thread.
//!
//! Every operation of the cache is a future, and nearly every one is ready at its first poll:
//! no waker is ever called, no task is made, no thread is changed. [`poll_or_keep`] takes that
//! one poll with a waker that does nothing, and hands the future back when it was not ready, so
//! that a runtime can finish it. A pending future of moka's must not be dropped half way.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// The outcome of the one poll: the value, or the future to be finished elsewhere.
pub enum Polled<F: Future> {
    /// The future was ready.
    Ready(F::Output),
    /// It was not; a runtime has to finish it.
    Pending(Pin<Box<F>>),
}

/// Polls `future` once and keeps it if it is not ready. Allocates: one box.
///
/// For futures that own what they need. On the hit path use [`poll_once`], which does not allocate.
pub fn poll_or_keep<F: Future>(future: F) -> Polled<F> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Polled::Ready(output),
        Poll::Pending => Polled::Pending(future),
    }
}

/// Polls `future` once and drops it: `None` if it was not ready. Does not allocate.
///
/// Only for futures that may be dropped at any point, as look-ups and maintenance may.
#[inline]
pub fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Pending once, ready at the next poll: the place where a long sweep lets others run.
pub async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
