//! Changes that moka delays, because an earlier one was cancelled while its log of writes was full.

use sark_cache_core::{Cache, Key, KeyWriter, Options, Tags};
use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// True while a dropped value keeps moka's maintenance from going on.
static BLOCKS: AtomicBool = AtomicBool::new(false);
static MAY_GO_ON: AtomicBool = AtomicBool::new(false);

thread_local! {
    static MAINTAINS: Cell<bool> = const { Cell::new(false) };
}

/// A value that blocks the first thread that drops it during maintenance.
struct Value(&'static [u8]);

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if MAINTAINS.get() && !BLOCKS.swap(true, SeqCst) {
            while !MAY_GO_ON.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn key(user: &str) -> Key {
    let mut writer = KeyWriter::new();
    writer.request(user, "read", "doc").unwrap();
    writer.to_key()
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = poll(future.as_mut()) {
            return output;
        }
        thread::yield_now();
    }
}

fn insert(cache: &Cache<Value>, user: &str) -> impl Future<Output = bool> + Send {
    let stored = cache.insert(key(user), Value(b"old"), MINUTE, Tags::default(), cache.stamp());
    async { stored.await.is_ok() }
}

#[test]
fn a_removal_that_moka_delays_leaves_nothing_in_the_index() {
    let cache = Arc::new(Cache::<Value>::new(Options::new(2_000)));
    let maintaining = {
        let cache = Arc::clone(&cache);
        thread::spawn(move || {
            for user in 0..1_000_000 {
                assert!(wait(insert(&cache, &format!("filler-{user}"))));
                MAINTAINS.set(true);
                cache.maintain();
                MAINTAINS.set(false);
                if BLOCKS.load(SeqCst) {
                    break;
                }
            }
        })
    };
    while !BLOCKS.load(SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(wait(insert(&cache, "alice")));
    // The log of writes fills up, because another thread has the maintenance.
    let cancelled = (0..5_000).any(|user| {
        let name = format!("other-{user}");
        let pending = pin!(insert(&cache, &name));
        poll(pending).is_pending()
    });
    assert!(cancelled);
    let alice = key("alice");
    let mut removal = Box::pin(cache.remove_superseded(alice.as_bytes()));
    assert!(poll(removal.as_mut()).is_pending(), "moka finishes the cancelled insert first");
    assert!(cache.look_up(alice.as_bytes()).is_some(), "moka still holds it");
    MAY_GO_ON.store(true, SeqCst);
    maintaining.join().unwrap();
    wait(removal);
    assert!(cache.look_up(alice.as_bytes()).is_none());
}
