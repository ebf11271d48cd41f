//! Polling a future once, on the caller's thread.
//!
//! Every operation of the cache is a future, and nearly every one is ready at its first poll: it
//! needs no waker, no task and no other thread. [`poll_once`] and [`poll_or_keep`] make that one poll
//! with a waker that does nothing. `poll_or_keep` returns a pending future, so that a runtime can
//! finish it; an insert of moka's must not be dropped half way.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// The result of [`poll_or_keep`].
pub enum Polled<F: Future> {
    /// The output of a future that was ready.
    Ready(F::Output),
    /// A future that was not ready and that a runtime has to finish.
    Pending(Pin<Box<F>>),
}

/// Polls `future` once and returns it if it is not ready. Allocates one box.
///
/// On the hit path use [`poll_once`], which does not allocate.
pub fn poll_or_keep<F: Future>(future: F) -> Polled<F> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Polled::Ready(output),
        Poll::Pending => Polled::Pending(future),
    }
}

/// Polls `future` once and drops it. Returns `None` if it was not ready. Does not allocate.
///
/// Only for futures that may be dropped at any point, such as lookups and maintenance.
#[inline]
pub fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Is pending once and ready at the next poll, so that other tasks run during a long operation.
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
