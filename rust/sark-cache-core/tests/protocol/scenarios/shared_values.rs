//! The scenario in which processes share decisions: each carries a position of the log.

use crate::broken::Broken;
use crate::cache::alice;
use crate::checker::one_of;
use crate::process::Process;
use crate::reader::lease;
use crate::world::{PAGE, ROUNDING, SPAN, World, dawdle, random};
use sark_cache_core::{Positions, Stamp};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::Ordering;
use shuttle::thread;
use std::sync::Arc;

/// One process evaluates and shares its decisions. Another one fills its cache with them, and
/// revokes too. A third one only revokes.
pub fn values_are_shared(broken: Broken) {
    let world = World::new(broken);
    let [evaluates, reads] = [(); 2].map(|()| Process::start(&world, 1));
    let shared = Arc::new(Mutex::new(None));
    let positions = Arc::new(Mutex::new(Positions::new(8)));
    let begun = reads.known.lock().unwrap().position;
    positions.lock().unwrap().enter(begun, Stamp::default());
    let cache = &reads.caches[0];
    // Another process revokes, then evaluates, then shares the decision.
    let (from, to) = (Arc::clone(&world), Arc::clone(&shared));
    let sharing = thread::spawn(move || {
        if one_of([true, false]) {
            _ = from.record(from.revoke_in_engine(), random());
        }
        evaluates.confirm();
        let at = evaluates.known.lock().unwrap().position;
        from.step();
        let version = from.engine.load(Ordering::SeqCst);
        from.step();
        *to.lock().unwrap() = Some((version, at));
        if one_of([true, false]) {
            _ = from.record(from.revoke_in_engine(), random());
        }
    });
    // A revocation of this process takes effect at the call, before its record is in the log.
    let mut own = None;
    dawdle();
    world.step();
    if one_of([true, false]) {
        let (version, nonce) = (world.revoke_in_engine(), random());
        let mut positions = positions.lock().unwrap();
        positions.note_own(nonce, cache.record(alice()));
        own = Some((version, nonce));
    }
    sharing.join().unwrap();
    let must = own.map_or(0, |(version, _)| version + 1);
    for _ in 0..2 {
        reads.replay(&positions);
        if let Some((version, at)) = *shared.lock().unwrap() {
            let stamp = match broken {
                Broken::StampedWhenRead => Some(cache.log.newest()),
                _ => positions.lock().unwrap().stamp(at),
            };
            if let Some(stamp) = stamp {
                cache.store(version, stamp);
            }
        }
        if let Some((version, served)) = reads.look_up(cache) {
            assert!(version >= must, "stale, own: got {version}, must be {must}");
            world.check(version, 0, served, SPAN);
        }
        if let Some((version, nonce)) = own.take() {
            world.record(version, nonce);
        }
        world.wait(SPAN + ROUNDING);
        reads.replay(&positions);
        if let Some((version, served)) = reads.look_up(cache) {
            assert!(version >= must, "stale, own: got {version}, must be {must}");
            world.check(version, 0, served, SPAN);
        }
    }
}

impl Process {
    /// Makes a confirmation that enters the position of each applied record.
    pub fn replay(&self, positions: &Mutex<Positions>) {
        let cache = &self.caches[0];
        let (sent, _) = self.clock();
        self.world.travel();
        let (reader, from) = {
            let known = self.known.lock().unwrap();
            (known.id, known.position)
        };
        let reply = self.ask_server(|server| server.confirm(reader, from));
        self.world.travel();
        for record in &reply.records[1..] {
            self.world.step();
            let mut positions = positions.lock().unwrap();
            if !positions.take_own(record.position.nonce) {
                cache.record(alice());
            }
            let newest = cache.log.newest();
            if self.world.broken == Broken::PositionPastOwn {
                positions.enter_past_own(record.position, newest);
            } else {
                positions.enter(record.position, newest);
            }
        }
        self.known.lock().unwrap().position = reply.records.last().expect("mine").position;
        if reply.records.len() < PAGE {
            cache.lease.extend_until(sent + lease(SPAN));
        }
    }
}
