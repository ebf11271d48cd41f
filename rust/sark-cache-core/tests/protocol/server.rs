//! The modelled server: one log, registrations of readers, and marks of silent ones.

use crate::world::{Broken, MILLISECOND, PAGE, random};
use sark_cache_core::Position;
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum What {
    Begun,
    Revoked,
    /// A revocation of a decision that the model does not request.
    Other,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Record {
    pub position: Position,
    pub what: What,
}

/// The reply to one confirming transaction.
pub struct Confirmation {
    pub is_registered: bool,
    pub is_marked: bool,
    pub is_primary: bool,
    pub history: u64,
    pub generation: u64,
    /// The records from the requested position on, this one included, if the log still has it.
    pub records: Vec<Record>,
}

/// The reply to one query of a settling writer.
pub struct Progress {
    pub everybody_applied: bool,
    pub behind: Vec<u64>,
    pub generation: u64,
    pub history: u64,
    pub has_own_position: bool,
}

#[derive(Clone)]
pub struct Server {
    pub log: Vec<Record>,
    /// The position that each registered reader applied.
    pub readers: HashMap<u64, Position>,
    pub suspects: HashMap<u64, u64>,
    pub generation: u64,
    pub history: u64,
    pub is_primary: bool,
    /// True at `maxmemory`: writes are refused, and reads are answered.
    pub takes_writes: bool,
    /// The time by which the server's clock is behind.
    pub behind: u64,
}

impl Server {
    pub fn new() -> Self {
        let mut server = Self {
            log: Vec::new(),
            readers: HashMap::new(),
            suspects: HashMap::new(),
            generation: random(),
            history: random(),
            is_primary: true,
            takes_writes: true,
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
        self.log.push(Record { position, what });
        position
    }

    pub fn confirm(&self, reader: u64, position: Position) -> Confirmation {
        let from = self.log.iter().position(|record| record.position.id >= position.id);
        let records = from.map_or(&[][..], |from| &self.log[from..]);
        Confirmation {
            is_registered: self.readers.contains_key(&reader),
            is_marked: self.suspects.contains_key(&reader),
            is_primary: self.is_primary,
            history: self.history,
            generation: self.generation,
            records: records[..records.len().min(PAGE)].to_vec(),
        }
    }

    pub fn progress(&self, record: Position, own: Position, broken: Broken) -> Progress {
        let has_applied = |applied: &Position| match broken {
            Broken::ByMilliseconds => applied.id.0 >= record.id.0,
            _ => applied.id >= record.id,
        };
        let behind = self.readers.iter().filter(|(_, applied)| !has_applied(applied));
        let behind: Vec<u64> = behind.map(|(reader, _)| *reader).collect();
        Progress {
            everybody_applied: behind.is_empty(),
            behind,
            generation: self.generation,
            history: self.history,
            has_own_position: self.log.iter().any(|record| record.position == own),
        }
    }
}
