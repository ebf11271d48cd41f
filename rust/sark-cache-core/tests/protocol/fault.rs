//! The faults of the server.

use crate::checker::one_of;
use crate::server::What;
use crate::world::{ROUNDING, SPAN, World, random};

/// The fault of the server in a run.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The log is deleted and begun again, by a server whose clock is behind.
    Deleted,
    /// The log loses all records but the newest one.
    Cut,
    /// The registrations are lost.
    Unregistered,
    /// Every key is lost. Another process begins the log again.
    Flushed,
    /// The server comes back from an older snapshot, as another history.
    Restored,
    /// Memory is full for a while: writes that take memory are refused.
    Full,
    /// Another server becomes the primary, because the old one was silent. The old one goes on for
    /// the processes that are cut off with it.
    Replaced,
    /// The replica is promoted by a command, at once. It may not have the newest writes.
    Promoted,
}

impl Fault {
    /// Prepares the world before any process has started.
    pub fn prepare(self, world: &World) {
        if self == Self::Promoted {
            let server = world.server.lock().unwrap();
            *world.replica.lock().unwrap() = Some(server.clone());
        }
    }

    pub fn strike(self, world: &World) {
        world.step();
        let mut server = world.server.lock().unwrap();
        match self {
            Self::None => {}
            Self::Deleted => {
                server.behind = world.now();
                server.clear(one_of([true, false]));
                server.append(0, random(), What::Begun);
            }
            Self::Cut => {
                let cut = server.log.len().saturating_sub(1);
                server.log.drain(..cut);
            }
            Self::Unregistered => {
                server.readers.clear();
                server.generation = None;
                if one_of([true, false]) {
                    server.suspects.clear();
                    server.span = None;
                }
            }
            Self::Flushed => {
                server.clear(true);
                server.readers.clear();
                server.generation = None;
                server.suspects.clear();
                server.span = None;
                server.append(world.now(), random(), What::Begun);
            }
            Self::Restored => {
                // The records that are lost were revocations, so the engine is ahead of the log.
                *server = world.saved.lock().unwrap().clone();
                server.history = random();
            }
            Self::Full => {
                server.is_full = true;
                drop(server);
                for _ in 0..4 {
                    world.step();
                }
                world.server.lock().unwrap().is_full = false;
            }
            Self::Replaced => {
                // The old primary misses its replicas, and holds its confirmations back, before
                // they can elect another one: `down-after-milliseconds` is longer than the span.
                let mut replaced = server.clone();
                replaced.is_primary = false;
                *world.replaced.lock().unwrap() = Some(replaced);
                server.takes_writes = false;
                drop(server);
                let elected = world.now() + SPAN + ROUNDING;
                while world.now() < elected {
                    world.travel();
                }
                world.server.lock().unwrap().takes_writes = true;
            }
            Self::Promoted => {
                // The old primary misses its replica at once.
                let promoted = world.replica.lock().unwrap().take().expect("prepared");
                let mut replaced = std::mem::replace(&mut *server, promoted);
                server.previous = Some(replaced.history);
                server.history = random();
                replaced.is_primary = false;
                *world.replaced.lock().unwrap() = Some(replaced);
            }
        }
    }
}
