//! The faults of the server.

use crate::server::What;
use crate::world::{ROUNDING, SPAN, World, random};

/// The fault of the server in a run.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The log is deleted and begun again, by a server whose clock is behind.
    Deleted,
    /// The registrations are lost.
    Unregistered,
    /// The server comes back from an older snapshot, as another history.
    Restored,
    /// Memory is full for some time: writes are refused.
    Full,
    /// Another server becomes the primary. The old one still answers the processes that are cut off
    /// with it.
    Replaced,
}

impl Fault {
    pub fn strike(self, world: &World) {
        world.step();
        let mut server = world.server.lock().unwrap();
        match self {
            Self::None => {}
            Self::Deleted => {
                server.behind = world.now();
                server.log.clear();
                let (now, nonce) = (world.now(), random());
                server.append(now, nonce, What::Begun);
            }
            Self::Unregistered => {
                server.readers.clear();
                server.suspects.clear();
                server.generation = random();
            }
            Self::Restored => {
                // The records that are lost were revocations, so the engine is ahead of the log.
                server.log.truncate(1);
                server.readers.clear();
                server.history = random();
            }
            Self::Full => {
                server.takes_writes = false;
                drop(server);
                for _ in 0..4 {
                    world.step();
                }
                world.server.lock().unwrap().takes_writes = true;
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
        }
    }
}
