//! When a confirmation grants a lease, and for how long.

use super::{at_once, revoke_and_ask, serving};
use crate::broken::Broken;
use crate::checker::one_of;
use crate::fault::Fault;
use crate::process::Process;
use crate::server::What;
use crate::world::{ROUNDING, SPAN, World, dawdle, random};

/// Revocations are recorded while a process is away, for longer than its lease lasts.
pub fn a_process_comes_back(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    for _ in 0..one_of([0, 2]) {
        world.server.lock().unwrap().append(world.now(), random(), What::Other);
    }
    writer.records();
    world.wait(2 * SPAN);
    at_once! {
        serves => for _ in 0..3 { serves.confirm() },
        serves => {
            dawdle();
            serves.ask(&serves.caches[0]);
        },
    }
    serves.ask(&serves.caches[0]);
}

/// A revocation is recorded while a confirmation is on its way, which takes longer than a lease.
pub fn a_reply_is_late(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    world.wait(2 * SPAN);
    at_once! {
        serves => serves.confirm(),
        writer => { writer.records(); writer.world.wait(SPAN + ROUNDING) },
    }
    serves.ask(&serves.caches[0]);
}

/// Registrations are lost, and for one process memory is full when it would register again.
pub fn a_registration_is_refused(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    Fault::Unregistered.strike(&world);
    for _ in 0..2 {
        writer.confirm();
    }
    world.wait(2 * SPAN);
    world.server.lock().unwrap().is_full = true;
    serves.serve();
    world.server.lock().unwrap().is_full = false;
    writer.confirm();
    revoke_and_ask(&writer, &serves);
}

/// The log begins again with lower IDs, and memory is full when a process would register in it.
pub fn a_registration_is_ahead(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    writer.records();
    serves.confirm();
    Fault::Deleted.strike(&world);
    world.server.lock().unwrap().is_full = true;
    serves.adopt();
    world.server.lock().unwrap().is_full = false;
    writer.adopt();
    world.wait(2 * SPAN);
    writer.confirm();
    serves.serve();
    revoke_and_ask(&writer, &serves);
}

/// Two processes have different spans. One revokes, while the other one serves.
pub fn spans_differ(broken: Broken) {
    let world = World::new(broken);
    let [span, other] = one_of([[SPAN, SPAN / 2], [SPAN / 2, SPAN]]);
    let start = |span| Process::start_with(&world, 1, span);
    let (writer, serves) = if one_of([true, false]) {
        let writer = start(span);
        (writer, start(other))
    } else {
        let serves = start(other);
        (start(span), serves)
    };
    writer.serve();
    serves.serve();
    at_once! {
        writer => for _ in 0..2 { writer.confirm() },
        writer => writer.invalidate(0),
        serves => for _ in 0..one_of([0, 2]) { serves.confirm() },
    }
    serves.ask(&serves.caches[0]);
}
