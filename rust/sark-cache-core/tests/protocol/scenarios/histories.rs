//! Scenarios of writers that rely on the registrations in a log, and of faults that lose these.

use super::{Process, at_once, serving};
use crate::broken::Broken;
use crate::checker::one_of;
use crate::fault::Fault;
use crate::world::{SPAN, World, dawdle};

/// A process serves, the server has a fault, and a writer revokes that has known the log for long.
pub fn a_log_is_known(broken: Broken, fault: Fault) {
    let (world, writer, serves) = serving(broken);
    fault.strike(&world);
    at_once! {
        writer => for _ in 0..one_of([0, 2]) { writer.confirm() },
        writer => { dawdle(); writer.invalidate(0) },
        serves => { dawdle(); serves.ask(&serves.caches[0]) },
    }
    serves.ask(&serves.caches[0]);
}

/// A process has just begun to serve, the server has a fault, and a writer revokes that has known the
/// log for long. It is in the snapshot, and the replica has it.
pub fn a_reader_is_new(broken: Broken, fault: Fault) {
    let world = World::new(broken);
    let has_reader = one_of([true, false]);
    let writer = if has_reader {
        Process::start(&world, 1)
    } else {
        Process::without_reader(&world).expect("memory is not full")
    };
    world.wait(2 * SPAN);
    if has_reader {
        writer.confirm();
    }
    world.save();
    fault.prepare(&world);
    let serves = Process::start(&world, 1);
    serves.serve();
    fault.strike(&world);
    at_once! {
        writer => if has_reader { for _ in 0..one_of([0, 1, 2]) { writer.confirm() } },
        writer => { dawdle(); writer.invalidate(0) },
        serves => for _ in 0..one_of([0, 2]) { serves.confirm() },
    }
    serves.ask(&serves.caches[0]);
}

/// A process serves, the server has a fault, and a writer revokes that has just begun to know it.
pub fn a_writer_is_new(broken: Broken, fault: Fault) {
    let world = World::new(broken);
    fault.prepare(&world);
    let serves = Process::start(&world, 1);
    world.wait(one_of([0, 2 * SPAN]));
    serves.serve();
    fault.strike(&world);
    at_once! {
        world => Process::without_reader(&world).expect("memory is not full").invalidate(0),
        serves => for _ in 0..one_of([0, 1]) { serves.confirm() },
    }
    serves.ask(&serves.caches[0]);
}

/// A replica that does not have the newest writes is promoted, just when a revocation is recorded.
pub fn a_replica_is_promoted(broken: Broken) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    *serves.is_cut_off.lock().unwrap() = one_of([true, false]);
    world.wait(2 * SPAN);
    writer.serve();
    serves.serve();
    Fault::Promoted.prepare(&world);
    at_once! {
        writer => writer.invalidate(0),
        world => { dawdle(); Fault::Promoted.strike(&world) },
        serves => for _ in 0..4 { serves.follow() },
    }
    serves.ask(&serves.caches[0]);
}
