//! The writer of a process: it records revocations, and settles them by acknowledgements.

use crate::broken::Broken;
use crate::cache::alice;
use crate::process::Process;
use crate::server::Progress;
use crate::world::{Recorded, SPAN, random};
use sark_cache_core::Position;
use shuttle::sync::atomic::Ordering;
use std::collections::HashSet;

/// Returns the time that a writer waits for all leases to end. Its clock may be fast.
pub fn whole(span: u64) -> u64 {
    span / 10 * 11 + 10
}

/// A mark at a silent reader.
#[derive(Clone, Copy)]
pub struct Mark {
    pub nonce: u64,
    /// When this process saw it first, by its own clock.
    pub seen: u64,
}

/// A recorded revocation that is being settled.
struct Settling {
    recorded: Recorded,
    nonce: u64,
    /// The position of the process before its record.
    own: Position,
    /// When the record was confirmed to it, by its own clock.
    answered: u64,
}

impl Process {
    /// Revokes everywhere through one of the caches, and returns once no process can serve it any
    /// more. Without caches it only writes.
    pub fn invalidate(&self, at: usize) {
        let world = &self.world;
        let version = world.revoke_in_engine();
        let nonce = random();
        if let Some(cache) = self.caches.get(at) {
            cache.record(alice());
            cache.own.lock().unwrap().insert(nonce);
        }
        world.travel();
        let own = self.known.lock().unwrap().position;
        let recorded = (0..8).find_map(|_| {
            world.travel();
            world.record(version, nonce)
        });
        let Some(recorded) = recorded else {
            return; // an InvalidationError: nothing is certain, and nothing is promised
        };
        world.travel();
        self.settle(&Settling { recorded, nonce, own, answered: self.clock().0 });
        world.settled.fetch_max(version + 1, Ordering::SeqCst);
    }

    /// Revokes without waiting for anything but its record.
    pub fn records(&self) {
        let (version, nonce) = (self.world.revoke_in_engine(), random());
        if let Some(cache) = self.caches.first() {
            cache.record(alice());
            cache.own.lock().unwrap().insert(nonce);
        }
        self.world.step();
        self.world.record(version, nonce);
    }

    fn settle(&self, settling: &Settling) {
        let broken = self.world.broken;
        if settling.recorded.position.is_none() && broken == Broken::EarlyAfterUnlink {
            return;
        }
        let mut marked = HashSet::new();
        while self.clock().0 < settling.answered + self.whole_span() {
            self.world.travel();
            let mut progress = {
                let server = self.world.server.lock().unwrap();
                server.progress(settling.recorded.position, settling.own, broken)
            };
            self.see(&progress);
            if broken == Broken::RemovedByClock {
                self.remove_by_clock(&mut progress);
            }
            if progress.behind.is_empty() && self.may_return_early(settling, &progress) {
                break;
            }
            self.mark(&progress, settling, &mut marked);
        }
        self.remove_silent();
    }

    /// Returns the time for which this process waits for all leases to end.
    fn whole_span(&self) -> u64 {
        let largest = match self.world.broken {
            Broken::WaitOfOwnSpan => self.span,
            Broken::NoDrift => return SPAN,
            _ => self.known.lock().unwrap().largest_span,
        };
        whole(largest)
    }

    fn see(&self, progress: &Progress) {
        let mut known = self.known.lock().unwrap();
        known.largest_span = known.largest_span.max(progress.span.unwrap_or(0));
    }

    /// Returns whether registrations can be relied on: the process has known this log, under this
    /// history and this generation, for longer than any lease can last.
    fn may_return_early(&self, settling: &Settling, progress: &Progress) -> bool {
        let broken = self.world.broken;
        if broken == Broken::AbsentMeansNever && progress.generation.is_none() {
            return progress.span.is_none() && settling.recorded.position.is_some();
        }
        let (now, whole) = (self.clock().0, self.whole_span());
        let known = *self.known.lock().unwrap();
        let held = now.saturating_sub(known.held_since) >= whole;
        let is_same_history = known.history == progress.history;
        let is_same_generation =
            known.generation.is_some() && known.generation == progress.generation;
        (held || broken == Broken::EarlyWithoutHistory)
            && (is_same_history || broken == Broken::EarlyInAnyHistory)
            && (is_same_generation || broken == Broken::AnyGeneration)
            && (progress.has_own_position || broken == Broken::OwnPositionNotAsked)
    }

    /// Marks the readers that are behind, each once, if they have been silent for a while.
    fn mark(&self, progress: &Progress, settling: &Settling, marked: &mut HashSet<u64>) {
        let broken = self.world.broken;
        if self.clock().0 < settling.answered + self.whole_span() / 4 {
            return;
        }
        for (reader, _) in &progress.behind {
            if !marked.insert(*reader) && broken != Broken::MarkedAgain {
                continue;
            }
            self.world.step();
            let mark =
                self.world.send(progress.history, |server| server.mark(*reader, settling.nonce));
            let Some(nonce) = mark.flatten() else { continue };
            if nonce != settling.nonce && broken == Broken::MarkOfAnother {
                continue;
            }
            let seen = match broken {
                Broken::MarkedBefore => settling.answered,
                _ => self.clock().0,
            };
            let mut marks = self.marks.lock().unwrap();
            let mark = marks.entry(*reader).or_insert(Mark { nonce, seen });
            if mark.nonce != nonce {
                *mark = Mark { nonce, seen };
            }
        }
    }

    /// Removes the readers whose marks have stood for as long as a lease can last.
    pub fn remove_silent(&self) {
        let (now, whole) = (self.clock().0, self.whole_span());
        let mut marks = self.marks.lock().unwrap();
        let due: Vec<_> = marks.iter().filter(|(_, mark)| now >= mark.seen + whole).collect();
        let due: Vec<_> = due.into_iter().map(|(reader, mark)| (*reader, mark.nonce)).collect();
        for (reader, _) in &due {
            marks.remove(reader);
        }
        drop(marks);
        for (reader, nonce) in due {
            self.world.step();
            let mut server = self.world.server.lock().unwrap();
            server.remove(reader, nonce, self.world.broken);
        }
    }

    /// Removes the readers that wrote nothing for a whole span, by the server's clock.
    fn remove_by_clock(&self, progress: &mut Progress) {
        let now = self.world.now();
        progress.behind.retain(|(reader, written)| {
            let is_silent = *written + whole(SPAN) <= now;
            if is_silent {
                self.world.server.lock().unwrap().deregister(*reader);
            }
            !is_silent
        });
    }
}
