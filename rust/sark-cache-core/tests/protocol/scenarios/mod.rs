//! The scenarios: each is one run of a few processes, with a rule that may be broken.

pub mod forks;
pub mod histories;
pub mod leases;
pub mod positions;
pub mod revocations;
pub mod shared_values;
pub mod silence;

use crate::broken::Broken;
pub use crate::process::Process;
use crate::server::What;
use crate::world::{SPAN, World, random};
use shuttle::thread;
use std::sync::Arc;

/// Two processes that serve from their caches under leases, and have for more than a span.
fn serving(broken: Broken) -> (Arc<World>, Arc<Process>, Arc<Process>) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    world.wait(2 * SPAN);
    // So that their positions are ahead of a log that begins again.
    world.server.lock().unwrap().append(world.now(), random(), What::Other);
    for process in [&writer, &serves] {
        process.serve();
    }
    (world, writer, serves)
}

impl Process {
    /// Confirms, and fills every cache.
    fn serve(&self) {
        self.confirm();
        for cache in &self.caches {
            self.evaluates(cache);
        }
    }
}

fn run(tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
    for task in running {
        task.join().unwrap();
    }
}

/// Runs tasks in threads, each with clones of the `Arc`s that it names, and waits for all of them.
macro_rules! at_once {
    ($($($shared:ident),+ => $task:expr),* $(,)?) => {
        $crate::scenarios::run(vec![$({
            $(let $shared = ::std::sync::Arc::clone(&$shared);)+
            Box::new(move || _ = $task) as Box<dyn FnOnce() + Send>
        }),*])
    };
}
use at_once;

/// Revokes through one process while it confirms, and then asks the other one.
fn revoke_and_ask(writer: &Arc<Process>, serves: &Arc<Process>) {
    at_once! {
        writer => for _ in 0..3 { writer.confirm() },
        writer => writer.invalidate(0),
    }
    serves.ask(&serves.caches[0]);
}
