//! The reader of a process: it confirms, applies, acknowledges, adopts a log, and exits.

use crate::broken::Broken;
use crate::cache::{Cache, alice, bob};
use crate::checker::one_of;
use crate::process::Process;
use crate::server::{Confirmation, Record, What};
use crate::world::{PAGE, dawdle, random};
use sark_cache_core::{Position, Scope};
use std::collections::HashSet;

/// Returns the length of a lease by the clock of the process that holds it. The clock may be slow.
pub fn lease(span: u64) -> u64 {
    span / 10 * 9
}

impl Process {
    /// Confirms once: asks, applies the records, extends the lease, and acknowledges.
    pub fn confirm(&self) {
        let (world, broken) = (&self.world, self.world.broken);
        let known = *self.known.lock().unwrap();
        let (mut sent, _) = self.clock();
        world.travel();
        let reply = self.ask_server(|server| server.confirm(known.id, known.position));
        world.travel();
        if broken == Broken::LeaseFromReply {
            sent = self.clock().0;
        }
        if !reply.is_primary && broken != Broken::AnyRole {
            // It leaves this server, and asks the present primary from now on.
            *self.is_cut_off.lock().unwrap() = false;
            return;
        }
        let is_same_history =
            reply.history == known.history || reply.previous == Some(known.history);
        let is_mine = reply.records.first().is_some_and(|first| {
            first.position.id == known.position.id
                && (first.position.nonce == known.position.nonce || broken == Broken::NoNonce)
        });
        if !is_mine && reply.previous == Some(known.history) && known.proven != known.position {
            // A promoted replica lacks what was heard, and has what was confirmed.
            self.known.lock().unwrap().position = known.proven;
            return;
        }
        if !(is_same_history || broken == Broken::AnyHistory) || !is_mine {
            return self.adopt();
        }
        self.note(&reply);
        let length = self.granted(&reply, known.position);
        if let Some(length) = length.filter(|_| broken == Broken::LeaseBeforeRecords) {
            self.extend(sent + length);
        }
        if broken == Broken::AcknowledgedEarly {
            self.acknowledge(&reply);
        }
        let mut own_of_all = HashSet::new();
        for record in &reply.records[1..] {
            for cache in &self.caches {
                self.apply(cache, record, &mut own_of_all);
            }
        }
        {
            let mut known = self.known.lock().unwrap();
            known.position = newest(&reply);
            known.proven = known.position;
        }
        if let Some(length) = length {
            self.extend(sent + length);
        }
        self.acknowledge(&reply);
    }

    /// Hears of news over the connection of its bell, applies them if none before them is missing,
    /// and acknowledges them over that connection. They grant no lease.
    pub fn hear(&self) {
        let broken = self.world.broken;
        let known = *self.known.lock().unwrap();
        self.world.travel();
        let (history, news) = self.ask_server(|server| server.hear(known.position));
        self.world.travel();
        let mut position = known.position;
        let mut own_of_all = HashSet::new();
        for record in news {
            let follows = record.previous.is_some_and(|previous| {
                previous == position
                    || (broken == Broken::NewsAfterNonce && previous.nonce == position.nonce)
            });
            if !follows && broken != Broken::NewsFromAnywhere {
                break;
            }
            for cache in &self.caches {
                self.apply(cache, &record, &mut own_of_all);
            }
            position = record.position;
        }
        if position != known.position {
            self.known.lock().unwrap().position = position;
            self.world.step();
            let now = self.world.now();
            self.world.send(history, |server| server.acknowledge(known.id, position, now));
        }
    }

    /// Confirms, or hears of news.
    pub fn follow(&self) {
        if one_of([true, false]) {
            self.hear();
        } else {
            self.confirm();
        }
    }

    /// Returns the length of the lease that a confirmation grants. Registers again where it must.
    fn granted(&self, reply: &Confirmation, asked_from: Position) -> Option<u64> {
        let broken = self.world.broken;
        let is_registered = match broken {
            Broken::AnyRegistration => reply.registered.is_some(),
            _ => reply.registered == Some(asked_from),
        };
        let is_silent = reply.is_marked && broken != Broken::LeaseUnderMark;
        if !is_registered || is_silent || reply.span.is_none() {
            // Registered now, so the next confirmation may grant a lease.
            self.register(reply.history);
            if broken != Broken::UnregisteredLease {
                return None;
            }
        }
        let is_last = reply.records.len() < PAGE;
        let span = match broken {
            Broken::LeaseOfOwnSpan => self.span,
            _ => self.span.min(reply.span.unwrap_or(self.span)),
        };
        let length = if broken == Broken::NoDrift { span } else { lease(span) };
        (is_last || broken == Broken::LeaseForHalfAPage).then_some(length)
    }

    fn apply(&self, cache: &Cache, record: &Record, own_of_all: &mut HashSet<u64>) {
        self.world.step();
        let nonce = record.position.nonce;
        let mut is_own = cache.own.lock().unwrap().remove(&nonce);
        if self.world.broken == Broken::OneOwnSet {
            is_own |= own_of_all.contains(&nonce);
            if is_own {
                own_of_all.insert(nonce);
            }
        }
        match record.what {
            What::Begun => {}
            _ if is_own => {}
            What::Revoked => _ = cache.record(alice()),
            What::Other => _ = cache.record(bob()),
        }
    }

    fn extend(&self, until: u64) {
        for cache in &self.caches {
            cache.lease.extend_until(until);
        }
    }

    /// Writes down what was applied, if that is more than before. The connection is the one of the
    /// confirmation.
    fn acknowledge(&self, reply: &Confirmation) {
        if reply.records.len() > 1 {
            self.world.step();
            let (id, now) = (self.known.lock().unwrap().id, self.world.now());
            let newest = newest(reply);
            self.world.send(reply.history, |server| server.acknowledge(id, newest, now));
        }
    }

    /// Registers under the position that was applied, and clears the mark.
    pub fn register(&self, history: u64) {
        self.world.step();
        let (known, now) = (*self.known.lock().unwrap(), self.world.now());
        self.world.send(history, |server| {
            server.register(known.id, known.position, self.span, now);
        });
    }

    /// Adopts the newest position of the log. Nothing that is cached is served any more.
    pub fn adopt(&self) {
        let broken = self.world.broken;
        let flush = || {
            for cache in &self.caches {
                cache.record(Scope::Everything);
                cache.own.lock().unwrap().clear();
            }
        };
        if broken == Broken::FlushBeforePosition {
            flush();
            dawdle();
        }
        self.world.travel();
        let found = {
            let mut server = self.world.server.lock().unwrap();
            server.takes_writes.then(|| server.find(self.world.now())).flatten()
        };
        let Some(found) = found else { return };
        self.world.travel();
        let mut is_flushed = broken == Broken::FlushBeforePosition;
        if broken != Broken::RegistrationBeforeFlush && !is_flushed {
            flush();
            is_flushed = true;
        }
        let now = self.clock().0;
        {
            let mut known = self.known.lock().unwrap();
            known.position = found.newest;
            known.proven = found.newest;
            known.history = found.history;
            known.generation = found.generation;
            known.held_since = now;
        }
        self.register(found.history);
        if !is_flushed {
            dawdle();
            flush();
        }
    }

    /// Notes the history and generation of the positions, and since when they are the same.
    fn note(&self, reply: &Confirmation) {
        let now = self.clock().0;
        let mut known = self.known.lock().unwrap();
        known.largest_span = known.largest_span.max(reply.span.unwrap_or(0));
        let was_promoted = self.world.broken == Broken::HeldAcrossPromotion
            && reply.previous == Some(known.history);
        if known.generation != reply.generation || (known.history != reply.history && !was_promoted)
        {
            known.held_since = now;
        }
        (known.history, known.generation) = (reply.history, reply.generation);
    }

    /// Connects again. A late acknowledgement over the old connection then acknowledges for nobody.
    pub fn reconnect(&self) {
        let (old, new) = (self.known.lock().unwrap().id, random());
        if self.world.broken != Broken::SameIdAfterReconnect {
            self.world.server.lock().unwrap().deregister(old);
            self.known.lock().unwrap().id = new;
        }
    }

    /// Exits: ends the lease, and then removes the registration, so that nobody waits for it.
    pub fn exit(&self) {
        let end = || {
            for cache in &self.caches {
                cache.lease.end();
            }
        };
        let known = *self.known.lock().unwrap();
        if self.world.broken != Broken::DeregisteredFirst {
            end();
        }
        self.world.travel();
        self.world.send(known.history, |server| server.deregister(known.id));
        dawdle();
        end();
    }
}

fn newest(reply: &Confirmation) -> Position {
    reply.records.last().expect("mine is there").position
}
