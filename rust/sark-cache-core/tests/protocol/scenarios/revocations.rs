//! Processes confirm, ask, revoke, fork and exit, while the server has a fault.

use super::{at_once, serving};
use crate::broken::Broken;
use crate::checker::one_of;
use crate::fault::Fault;
use crate::process::Process;
use crate::world::{SPAN, World, dawdle};
use shuttle::sync::atomic::Ordering;
use shuttle::thread;
use std::sync::Arc;

/// Each of some processes confirms and asks; one of them revokes twice; the server has a fault.
pub fn processes_revoke(broken: Broken, fault: Fault, caches: usize) {
    let world = World::new(broken);
    fault.prepare(&world);
    let processes: Vec<_> = (0..2).map(|_| Process::start(&world, caches)).collect();
    *processes[1].is_cut_off.lock().unwrap() =
        matches!(fault, Fault::Replaced | Fault::Promoted) && one_of([true, true, false]);
    // All of them have served for long.
    for process in &processes {
        process.serve();
    }
    if fault == Fault::None || one_of([true, false]) {
        world.time.fetch_add(2 * SPAN, Ordering::SeqCst);
        for process in &processes {
            process.confirm();
        }
    }
    if one_of([true, false]) {
        world.save();
    }
    let mut running = Vec::new();
    for process in &processes {
        let reads = Arc::clone(process);
        running.push(thread::spawn(move || {
            for _ in 0..5 {
                reads.follow();
            }
        }));
        for at in 0..caches {
            let asks = Arc::clone(process);
            running.push(thread::spawn(move || {
                for _ in 0..5 {
                    asks.ask(&asks.caches[at]);
                }
            }));
        }
    }
    let strikes = Arc::clone(&world);
    running.push(thread::spawn(move || fault.strike(&strikes)));
    let writer = Arc::clone(&processes[0]);
    for _ in 0..2 {
        writer.invalidate(0);
        for process in &processes {
            process.ask(&process.caches[caches - 1]);
        }
    }
    for thread in running {
        thread.join().unwrap();
    }
}

/// Processes come and go while two of them revoke, and a command revokes too. The server has a
/// fault.
pub fn processes_come_and_go(broken: Broken, fault: Fault) {
    let world = World::new(broken);
    fault.prepare(&world);
    let [writer, parent] = [(); 2].map(|()| Process::start(&world, 1));
    *parent.is_cut_off.lock().unwrap() = one_of([true, false]);
    world.wait(one_of([0, 2 * SPAN]));
    parent.serve();
    writer.serve();
    if one_of([true, false]) {
        world.save();
    }
    at_once! {
        writer => for _ in 0..3 { writer.follow() },
        writer => for _ in 0..2 { writer.invalidate(0); writer.ask(&writer.caches[0]) },
        parent => {
            for _ in 0..2 {
                parent.follow();
                parent.ask(&parent.caches[0]);
            }
            if one_of([true, false]) {
                parent.exit();
                parent.ask(&parent.caches[0]);
            }
        },
        parent => {
            dawdle();
            let child = parent.fork();
            for _ in 0..3 {
                child.ask(&child.caches[0]);
                child.follow();
            }
            child.ask(&child.caches[0]);
            child.invalidate(0);
        },
        world => {
            dawdle();
            if let Some(command) = Process::without_reader(&world) {
                command.invalidate(0);
            }
        },
        world => fault.strike(&world),
    }
    parent.ask(&parent.caches[0]);
    writer.ask(&writer.caches[0]);
}

/// A writer settles twice, while both processes confirm now and then.
pub fn revocations_are_settled(broken: Broken) {
    let (_, writer, serves) = serving(broken);
    at_once! {
        serves => for _ in 0..one_of([1, 2, 3]) { serves.follow() },
        writer => for _ in 0..4 { writer.follow() },
        writer => for _ in 0..2 {
            writer.invalidate(0);
            serves.ask(&serves.caches[0]);
        },
    }
}

/// A process exits while it is asked, and another one revokes.
pub fn a_process_exits(broken: Broken) {
    let (_, writer, exits) = serving(broken);
    at_once! {
        exits => { exits.follow(); exits.exit() },
        exits => for _ in 0..4 { exits.ask(&exits.caches[0]) },
        writer => for _ in 0..3 { writer.confirm() },
        writer => writer.invalidate(0),
    }
}

/// Memory is full when a revocation is to be recorded.
pub fn memory_is_full(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    world.server.lock().unwrap().is_full = true;
    at_once! {
        serves => for _ in 0..one_of([0, 2]) { serves.follow() },
        writer => writer.invalidate(0),
        world => {
            dawdle();
            world.server.lock().unwrap().is_full = one_of([true, false]);
        },
    }
    serves.ask(&serves.caches[0]);
}
