//! The modelled server: one log, the registrations of its readers, and the marks of silent ones.
//!
//! Each method is one command or one transaction.

use crate::broken::Broken;
use crate::world::{MILLISECOND, PAGE, random};
use sark_cache_core::Position;
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum What {
    Begun,
    Revoked,
    /// A revocation of what nobody asks for here.
    Other,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Record {
    pub position: Position,
    pub what: What,
    /// The position of the record before, as the head had it.
    pub previous: Option<Position>,
}

/// The registration of a reader.
#[derive(Clone, Copy)]
pub struct Registration {
    /// The position up to which every cache of the process applied the log.
    pub applied: Position,
    /// When it was written, by the server's clock.
    pub written: u64,
}

/// The log and its readers as a process finds them.
#[derive(Clone, Copy)]
pub struct Found {
    pub newest: Position,
    pub history: u64,
    pub generation: Option<u64>,
}

/// The reply to one confirming transaction.
pub struct Confirmation {
    pub registered: Option<Position>,
    pub is_marked: bool,
    pub is_primary: bool,
    pub history: u64,
    /// The history before this server was promoted.
    pub previous: Option<u64>,
    pub generation: Option<u64>,
    pub span: Option<u64>,
    /// From the position that was asked for, if it is there; it included.
    pub records: Vec<Record>,
}

/// The reply to one look of a settling writer.
pub struct Progress {
    /// The readers that did not apply the record, and when each wrote last.
    pub behind: Vec<(u64, u64)>,
    pub history: u64,
    pub generation: Option<u64>,
    pub span: Option<u64>,
    pub has_own_position: bool,
}

#[derive(Clone)]
pub struct Server {
    pub log: Vec<Record>,
    /// The position of the last record. It may be lost, or outlive the log.
    pub head: Option<Position>,
    /// The registrations, with the generation in the same key.
    pub readers: HashMap<u64, Registration>,
    pub generation: Option<u64>,
    pub span: Option<u64>,
    pub suspects: HashMap<u64, u64>,
    pub history: u64,
    pub previous: Option<u64>,
    pub is_primary: bool,
    /// False while no primary is elected.
    pub takes_writes: bool,
    /// At `maxmemory` writes that take memory are refused.
    pub is_full: bool,
    /// The time by which the server's clock is behind.
    pub behind: u64,
}

impl Server {
    pub fn new() -> Self {
        let mut server = Self {
            log: Vec::new(),
            head: None,
            readers: HashMap::new(),
            generation: None,
            span: None,
            suspects: HashMap::new(),
            history: random(),
            previous: None,
            is_primary: true,
            takes_writes: true,
            is_full: false,
            behind: 0,
        };
        server.append(0, 1, What::Begun);
        server
    }

    pub fn append(&mut self, now: u64, nonce: u64, what: What) -> Position {
        let time = (now.saturating_sub(self.behind)) / MILLISECOND;
        let id = match self.log.last() {
            Some(last) if last.position.id.0 >= time => {
                (last.position.id.0, last.position.id.1 + 1)
            }
            _ => (time, 0),
        };
        let position = Position { id, nonce };
        self.log.push(Record { position, what, previous: self.head.replace(position) });
        position
    }

    /// Removes the log, with or without its head.
    pub fn clear(&mut self, with_head: bool) {
        self.log.clear();
        if with_head {
            self.head = None;
        }
    }

    /// Returns the newest position, and begins the log if it is empty. `None`: memory is full.
    pub fn find(&mut self, now: u64) -> Option<Found> {
        if self.log.is_empty() {
            if self.is_full {
                return None;
            }
            self.append(now, random(), What::Begun);
        }
        let newest = self.log.last().expect("begun").position;
        Some(Found { newest, history: self.history, generation: self.generation })
    }

    /// Sets the generation if there is none.
    pub fn begin_generation(&mut self) {
        if !self.is_full {
            self.generation.get_or_insert_with(random);
        }
    }

    pub fn confirm(&self, reader: u64, position: Position) -> Confirmation {
        let from = self.log.iter().position(|record| record.position.id >= position.id);
        let records = from.map_or(&[][..], |from| &self.log[from..]);
        Confirmation {
            registered: self.readers.get(&reader).map(|registration| registration.applied),
            is_marked: self.suspects.contains_key(&reader),
            is_primary: self.is_primary,
            history: self.history,
            previous: self.previous,
            generation: self.generation,
            span: self.span,
            records: records[..records.len().min(PAGE)].to_vec(),
        }
    }

    /// Returns the history, and the first records that are newer than a position by their IDs.
    pub fn hear(&self, position: Position) -> (u64, Vec<Record>) {
        let newer = self.log.iter().filter(|record| record.position.id > position.id);
        (self.history, newer.take(PAGE).copied().collect())
    }

    /// Registers a reader under the position that it applied, and clears its mark.
    pub fn register(&mut self, reader: u64, applied: Position, span: u64, now: u64) {
        if self.is_full {
            return;
        }
        self.begin_generation();
        self.span.get_or_insert(span);
        self.readers.insert(reader, Registration { applied, written: now });
        self.suspects.remove(&reader);
    }

    pub fn acknowledge(&mut self, reader: u64, applied: Position, now: u64) {
        if !self.is_full {
            self.readers.insert(reader, Registration { applied, written: now });
        }
    }

    pub fn deregister(&mut self, reader: u64) {
        self.readers.remove(&reader);
        self.suspects.remove(&reader);
    }

    pub fn progress(&self, record: Option<Position>, own: Position, broken: Broken) -> Progress {
        let has_applied = |applied: Position| match (record, broken) {
            (None, _) => true,
            (Some(record), Broken::ByMilliseconds) => applied.id.0 >= record.id.0,
            (Some(record), _) => applied.id >= record.id,
        };
        let behind = self.readers.iter().filter(|(_, reader)| !has_applied(reader.applied));
        Progress {
            behind: behind.map(|(id, reader)| (*id, reader.written)).collect(),
            history: self.history,
            generation: self.generation,
            span: self.span,
            has_own_position: self.log.iter().any(|record| record.position == own),
        }
    }

    /// Marks a reader as silent, unless it has a mark. Returns the mark that stands.
    pub fn mark(&mut self, reader: u64, nonce: u64) -> Option<u64> {
        if !self.is_full {
            self.suspects.entry(reader).or_insert(nonce);
        }
        self.suspects.get(&reader).copied()
    }

    /// Removes a reader if the mark still stands.
    pub fn remove(&mut self, reader: u64, mark: u64, broken: Broken) {
        if self.suspects.get(&reader) == Some(&mark) || broken == Broken::RemovedWithoutMark {
            self.deregister(reader);
        }
    }
}
