//! Readers that are silent, for a time or for ever.

use super::{at_once, revoke_and_ask, serving};
use crate::broken::Broken;
use crate::checker::one_of;
use crate::server::What;
use crate::world::{SPAN, dawdle, random};
use crate::writer::whole;

/// A reader that was silent confirms just when a writer has waited for it long enough.
pub fn a_silent_reader_comes_back(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    for _ in 0..one_of([0, 2]) {
        world.server.lock().unwrap().append(world.now(), random(), What::Other);
    }
    let silent_until = world.now() + one_of([whole(SPAN), SPAN, SPAN / 10 * 9]);
    at_once! {
        writer => { writer.invalidate(0); writer.remove_silent() },
        serves => {
            while serves.world.now() < silent_until {
                serves.world.step();
            }
            for _ in 0..3 {
                serves.confirm();
            }
            serves.evaluates(&serves.caches[0]);
        },
        writer => { dawdle(); writer.confirm() },
    }
    world.wait(one_of([0, SPAN / 4]));
    writer.remove_silent();
    revoke_and_ask(&writer, &serves);
}

/// A reader confirms just before a writer marks it, and its acknowledgement comes after that.
pub fn a_reader_is_marked(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    let confirms_at = world.now() + SPAN / 4;
    at_once! {
        writer => { writer.invalidate(0); writer.remove_silent() },
        serves => {
            while serves.world.now() < confirms_at {
                serves.world.step();
            }
            serves.confirm();
            serves.evaluates(&serves.caches[0]);
        },
    }
    revoke_and_ask(&writer, &serves);
}

/// A reader has crashed, and so has the writer that marked it. Others wait for it, but not for ever.
pub fn a_reader_dies(broken: Broken) {
    let (world, writer, dies) = serving(broken);
    let id = dies.known.lock().unwrap().id;
    world.server.lock().unwrap().mark(id, random());
    at_once! {
        writer => for _ in 0..2 { writer.invalidate(0); writer.remove_silent() },
        writer => writer.confirm(),
    }
    assert!(!world.server.lock().unwrap().readers.contains_key(&id), "immortal");
}
