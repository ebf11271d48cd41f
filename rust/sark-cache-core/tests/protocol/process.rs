//! A process: its caches, its clock, its requests, and its forks.

use crate::broken::Broken;
use crate::cache::Cache;
use crate::checker::one_of;
use crate::server::Server;
use crate::world::{SPAN, World, random};
use crate::writer::Mark;
use sark_cache_core::Position;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// The shared log as a process knows it.
#[derive(Clone, Copy)]
pub struct Known {
    /// The reader ID, or a random number if the process has no reader.
    pub id: u64,
    pub position: Position,
    /// The position at the last confirmation by a primary.
    pub proven: Position,
    pub history: u64,
    pub generation: Option<u64>,
    /// Since when, by the own clock, it has held positions under this history and generation.
    pub held_since: u64,
    /// The largest span that it has seen or is set to.
    pub largest_span: u64,
}

pub struct Process {
    pub world: Arc<World>,
    /// Tenths of real time that its clock counts.
    pub rate: u64,
    /// The setting of the span.
    pub span: u64,
    pub caches: Vec<Cache>,
    pub known: Mutex<Known>,
    /// The marks that stood at readers when this process saw them first.
    pub marks: Mutex<HashMap<u64, Mark>>,
    /// True if it stays with a primary that is replaced, until that one says that it is none.
    pub is_cut_off: Mutex<bool>,
}

impl Process {
    /// Creates a process with a reader. It has adopted the log and registered, and has no lease yet.
    pub fn start(world: &Arc<World>, caches: usize) -> Arc<Self> {
        Self::start_with(world, caches, SPAN)
    }

    pub fn start_with(world: &Arc<World>, caches: usize, span: u64) -> Arc<Self> {
        let process = Self::new(world, caches, span).expect("memory is not full yet");
        let known = *process.known.lock().unwrap();
        let mut server = world.server.lock().unwrap();
        server.register(known.id, known.position, span, world.now());
        process.known.lock().unwrap().generation = server.generation;
        drop(server);
        process
    }

    /// Creates a process without a reader: a command, or one whose cache is on the server. `None`:
    /// there is no log, and memory is too full to begin one, so the process does not start.
    pub fn without_reader(world: &Arc<World>) -> Option<Arc<Self>> {
        Self::new(world, 0, SPAN)
    }

    fn new(world: &Arc<World>, caches: usize, span: u64) -> Option<Arc<Self>> {
        let rate = one_of([9, 10, 11]);
        let mut server = world.server.lock().unwrap();
        if world.broken != Broken::AbsentMeansNever {
            server.begin_generation();
        }
        let found = server.find(world.now())?;
        let known = Known {
            id: random(),
            position: found.newest,
            proven: found.newest,
            history: found.history,
            generation: found.generation,
            held_since: world.now() * rate / 10,
            largest_span: span,
        };
        drop(server);
        Some(Arc::new(Self {
            world: Arc::clone(world),
            rate,
            span,
            caches: (0..caches).map(|_| Cache::new()).collect(),
            known: Mutex::new(known),
            marks: Mutex::default(),
            is_cut_off: Mutex::new(false),
        }))
    }

    /// Forks. The lease of the child has ended before any other code of the child runs.
    pub fn fork(&self) -> Arc<Self> {
        // The position first: the caches have all its records by then.
        let mut known = *self.known.lock().unwrap();
        let caches: Vec<_> = self.caches.iter().map(Cache::fork).collect();
        if self.world.broken == Broken::InheritedLease {
            for (child, parent) in caches.iter().zip(&self.caches) {
                child.lease.extend_until(parent.lease.until());
            }
        }
        if self.world.broken != Broken::InheritedId {
            known.id = random();
        }
        Arc::new(Self {
            world: Arc::clone(&self.world),
            rate: self.rate,
            span: self.span,
            caches,
            known: Mutex::new(known),
            marks: Mutex::default(),
            is_cut_off: Mutex::new(*self.is_cut_off.lock().unwrap()),
        })
    }

    /// Returns the time of this process's clock, and the real time at which it was read.
    pub fn clock(&self) -> (u64, u64) {
        let real = self.world.now();
        (real * self.rate / 10, real)
    }

    pub fn ask_server<R>(&self, ask: impl FnOnce(&Server) -> R) -> R {
        let replaced = self.world.replaced.lock().unwrap().clone();
        match replaced {
            Some(replaced) if *self.is_cut_off.lock().unwrap() => ask(&replaced),
            _ => ask(&self.world.server.lock().unwrap()),
        }
    }

    pub fn evaluates(&self, cache: &Cache) -> u64 {
        let stamp = cache.log.newest();
        self.world.step();
        let version = self.world.engine.load(Ordering::SeqCst);
        self.world.step();
        cache.store(version, stamp);
        version
    }

    pub fn look_up(&self, cache: &Cache) -> Option<(u64, u64)> {
        cache.look_up(&self.world, || self.clock())
    }

    /// Requests a decision from one of the caches. The cache evaluates if it cannot serve.
    pub fn ask(&self, cache: &Cache) {
        let must = self.world.settled.load(Ordering::SeqCst);
        self.world.step();
        match self.look_up(cache) {
            Some((version, served)) => self.world.check(version, must, served, self.span),
            None => assert!(self.evaluates(cache) >= must, "settled: evaluated too early"),
        }
    }
}
