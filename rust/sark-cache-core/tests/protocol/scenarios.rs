//! The scenarios: each is one run of two processes, with a rule that may be broken.

use crate::checker::one_of;
use crate::fault::Fault;
use crate::process::Process;
use crate::server::What;
use crate::world::{Broken, ROUNDING, SPAN, WAIT, World, dawdle, random};
use shuttle::sync::atomic::Ordering;
use shuttle::thread;
use std::sync::Arc;

/// Some processes confirm and request decisions. One of them revokes twice. The server has a fault.
pub fn processes_revoke(broken: Broken, fault: Fault, caches: usize) {
    let world = World::new(broken);
    let processes: Vec<_> = (0..2).map(|_| Process::start(&world, caches)).collect();
    *processes[1].is_cut_off.lock().unwrap() = fault == Fault::Replaced;
    // All of them have served for longer than a span.
    for process in &processes {
        process.confirm();
        for cache in &process.caches {
            process.evaluates(cache);
        }
    }
    if fault == Fault::None || one_of([true, false]) {
        world.time.fetch_add(2 * SPAN, Ordering::SeqCst);
        for process in &processes {
            process.confirm();
        }
    }
    let mut running = Vec::new();
    for process in &processes {
        let reads = Arc::clone(process);
        running.push(thread::spawn(move || {
            for _ in 0..5 {
                reads.confirm();
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
        writer.invalidate(&writer.caches[0]);
        for process in &processes {
            process.ask(&process.caches[caches - 1]);
        }
    }
    for thread in running {
        thread.join().unwrap();
    }
}

/// Returns two processes that have served from their caches under leases for longer than a span.
pub fn serving(broken: Broken) -> (Arc<World>, Arc<Process>, Arc<Process>) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    world.wait(2 * SPAN);
    for process in [&writer, &serves] {
        process.confirm();
        process.evaluates(&process.caches[0]);
    }
    (world, writer, serves)
}

pub fn at_once(tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
    for task in running {
        task.join().unwrap();
    }
}

macro_rules! at_once {
    ($($process:ident => $task:expr),* $(,)?) => {
        at_once(vec![$({
            let $process = Arc::clone(&$process);
            Box::new(move || _ = $task) as Box<dyn FnOnce() + Send>
        }),*])
    };
}

/// Revocations are recorded while a process is not connected, for longer than its lease lasts.
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

/// A revocation is recorded while a confirmation is sent, which takes longer than a lease.
pub fn a_reply_is_late(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    world.wait(2 * SPAN);
    at_once! {
        serves => serves.confirm(),
        writer => { writer.records(); writer.world.wait(SPAN + ROUNDING) },
    }
    serves.ask(&serves.caches[0]);
}

/// The server loses a revocation that a process did not see.
pub fn the_log_loses_its_end(broken: Broken, fault: Fault) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    serves.confirm();
    serves.evaluates(&serves.caches[0]);
    writer.records();
    fault.strike(&world);
    world.wait(SPAN + ROUNDING);
    at_once! {
        serves => for _ in 0..3 { serves.confirm() },
        writer => writer.confirm(),
    }
    serves.ask(&serves.caches[0]);
}

/// A process adopts a new log while it evaluates and a decision is revoked.
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

/// A writer settles twice, while both processes confirm now and then.
pub fn revocations_are_settled(broken: Broken) {
    let (_, writer, serves) = serving(broken);
    at_once! {
        serves => for _ in 0..one_of([1, 2, 3]) { serves.confirm() },
        writer => for _ in 0..4 { writer.confirm() },
        writer => for _ in 0..2 {
            writer.invalidate(&writer.caches[0]);
            serves.ask(&serves.caches[0]);
        },
    }
}

/// A silent reader confirms at the moment when a writer stops waiting for it.
pub fn a_silent_reader_comes_back(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    let silent_until = world.now() + WAIT;
    at_once! {
        writer => writer.invalidate(&writer.caches[0]),
        serves => {
            while serves.world.now() < silent_until {
                serves.world.step();
            }
            for _ in 0..2 {
                serves.confirm();
            }
            serves.evaluates(&serves.caches[0]);
        },
    }
    at_once! {
        writer => for _ in 0..3 { writer.confirm() },
        writer => writer.invalidate(&writer.caches[0]),
    }
    serves.ask(&serves.caches[0]);
}

/// Registrations are lost. When one process registers again, the server refuses because memory is
/// full.
pub fn a_registration_is_refused(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    Fault::Unregistered.strike(&world);
    for _ in 0..2 {
        writer.confirm();
    }
    world.wait(2 * SPAN);
    world.server.lock().unwrap().takes_writes = false;
    serves.confirm();
    serves.evaluates(&serves.caches[0]);
    world.server.lock().unwrap().takes_writes = true;
    at_once! {
        writer => for _ in 0..3 { writer.confirm() },
        writer => writer.invalidate(&writer.caches[0]),
    }
    serves.ask(&serves.caches[0]);
}

/// A process forks. Another one revokes, and settles with the acknowledgement of the parent.
pub fn a_process_forks(broken: Broken) {
    let (_, writer, parent) = serving(broken);
    let child = parent.fork();
    at_once! {
        parent => for _ in 0..3 { parent.confirm() },
        writer => for _ in 0..3 { writer.confirm() },
        child => if one_of([true, false]) { child.confirm() },
        writer => writer.invalidate(&writer.caches[0]),
    }
    child.ask(&child.caches[0]);
}
