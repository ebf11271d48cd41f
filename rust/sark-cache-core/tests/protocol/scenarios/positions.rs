//! Scenarios in which a process finds its place in the log again, or adopts a new one.

use super::{at_once, serving};
use crate::broken::Broken;
use crate::checker::one_of;
use crate::fault::Fault;
use crate::process::Process;
use crate::server::What;
use crate::world::{ROUNDING, SPAN, World, dawdle, random};

/// The server loses a revocation that a process did not see.
pub fn the_log_loses_its_end(broken: Broken, fault: Fault) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    world.save();
    serves.serve();
    writer.records();
    fault.strike(&world);
    world.wait(SPAN + ROUNDING);
    at_once! {
        serves => for _ in 0..3 { serves.confirm() },
        writer => writer.confirm(),
    }
    serves.ask(&serves.caches[0]);
}

/// A process adopts a log that was begun again, while it evaluates and something is revoked.
pub fn a_log_is_adopted(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    Fault::Deleted.strike(&world);
    at_once! {
        serves => serves.adopt(),
        serves => { dawdle(); serves.evaluates(&serves.caches[0]) },
        writer => { dawdle(); writer.records() },
    }
    world.wait(SPAN + ROUNDING);
    serves.confirm();
    serves.ask(&serves.caches[0]);
}

/// The log is cut beyond the position of a process that still has a lease.
pub fn a_log_is_cut(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    for _ in 0..2 {
        world.server.lock().unwrap().append(world.now(), random(), What::Other);
    }
    for _ in 0..2 {
        writer.confirm();
    }
    Fault::Cut.strike(&world);
    at_once! {
        serves => { dawdle(); serves.follow() },
        serves => { dawdle(); serves.ask(&serves.caches[0]) },
        writer => for _ in 0..3 { writer.confirm() },
        writer, serves => { writer.invalidate(0); serves.ask(&serves.caches[0]) },
    }
}

/// The log is cut between a revocation and news that a process hears of. The record at which the
/// process is may be appended twice.
pub fn news_are_cut(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    let at = serves.known.lock().unwrap().position.nonce;
    at_once! {
        serves => for _ in 0..2 { dawdle(); serves.hear() },
        serves => serves.ask(&serves.caches[0]),
        writer => { dawdle(); writer.records() },
        world => {
            dawdle();
            if one_of([true, false]) {
                world.server.lock().unwrap().append(world.now(), at, What::Other);
            }
            world.server.lock().unwrap().append(world.now(), random(), What::Other);
            Fault::Cut.strike(&world);
        },
    }
    world.wait(SPAN + ROUNDING);
    for _ in 0..2 {
        serves.confirm();
    }
    serves.ask(&serves.caches[0]);
}

/// An acknowledgement is on its way while its connection is lost and the log begins again with lower
/// IDs.
pub fn an_acknowledgement_is_late(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    let late = *serves.known.lock().unwrap();
    serves.reconnect();
    Fault::Deleted.strike(&world);
    for process in [&serves, &writer] {
        process.adopt();
    }
    world.wait(2 * SPAN);
    writer.confirm();
    serves.serve();
    at_once! {
        writer => for _ in 0..one_of([2, 3]) { writer.confirm() },
        writer => writer.invalidate(0),
        world => {
            dawdle();
            world.server.lock().unwrap().acknowledge(late.id, late.position, world.now());
        },
    }
    serves.ask(&serves.caches[0]);
}
