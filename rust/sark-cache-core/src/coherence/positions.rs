//! The stamps that positions in the shared log stand for.
//!
//! A decision that another process evaluated carries the position of the shared log at which its
//! evaluation began. To judge it, this cache needs the stamp at which its own log had the records
//! up to that position, and no later ones.
//!
//! One rule needs care. A revocation made *here*, a *local* one, is in effect at the call, before
//! its record is in the shared log. A foreign record may get into the shared log before that
//! record, and be applied after the call. Then the position of the foreign record is older than the
//! local revocation in the shared log, but its stamp here is newer. The local revocation must still
//! revoke a decision that was evaluated at that position. So the position stands for a stamp older
//! than every local revocation whose record was not seen in the shared log yet.

use crate::invalidation::Stamp;
use ahash::RandomState;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A place in the shared log: the id of a record, and its nonce, because ids can repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The milliseconds and the sequence number of the record. Compared as integers.
    pub id: (u64, u64),
    /// The random bits of the record.
    pub nonce: u64,
}

/// The newest positions that one cache applied, each with the stamp that it stands for.
///
/// Keep it in a mutex. Hold that mutex
/// - while a local revocation is recorded in the cache's log *and* [noted](Self::note_own) here;
/// - while a record of the shared log is applied *and* [entered](Self::enter) here.
///
/// Otherwise a foreign record could be applied between the two steps of a local revocation.
///
/// # Cost
/// Entering takes constant time, a lookup takes a binary search. 40 bytes per position, and about
/// 100 bytes per local revocation that was not seen in the shared log.
#[derive(Debug)]
pub struct Positions {
    entered: VecDeque<(Position, Stamp)>,
    capacity: usize,
    /// The local revocations whose records were not seen in the shared log, by nonce.
    unseen: HashMap<u64, Stamp, RandomState>,
    unseen_by_stamp: BTreeSet<(Stamp, u64)>,
}

impl Positions {
    /// Creates an empty set, which keeps the newest `capacity` positions.
    pub fn new(capacity: usize) -> Self {
        Self {
            entered: VecDeque::new(),
            capacity: capacity.max(1),
            unseen: HashMap::default(),
            unseen_by_stamp: BTreeSet::new(),
        }
    }

    /// Notes a local revocation, which was recorded in the cache's log at `stamp`. Call it before
    /// the record is sent to the shared log.
    ///
    /// It counts until its record [is seen](Self::take_own), even if sending it failed: the server
    /// may have stored it.
    pub fn note_own(&mut self, nonce: u64, stamp: Stamp) {
        if let Some(older) = self.unseen.insert(nonce, stamp) {
            self.unseen_by_stamp.remove(&(older, nonce));
        }
        self.unseen_by_stamp.insert((stamp, nonce));
    }

    /// Returns whether a record of the shared log is that of a local revocation and was not seen
    /// before. Marks it as seen. It is not applied again: its revocation took effect at the call.
    pub fn take_own(&mut self, nonce: u64) -> bool {
        let stamp = self.unseen.remove(&nonce);
        stamp.is_some_and(|stamp| self.unseen_by_stamp.remove(&(stamp, nonce)))
    }

    /// Enters a position, after every record up to it was applied. `stamp` is the cache's newest.
    pub fn enter(&mut self, position: Position, stamp: Stamp) {
        let oldest_own = self.unseen_by_stamp.first().map(|(stamp, _)| stamp.before());
        self.push(position, oldest_own.map_or(stamp, |before| stamp.min(before)));
    }

    /// Enters a position without regard to local revocations, for the model checker to notice.
    #[cfg(feature = "shuttle")]
    pub fn enter_past_own(&mut self, position: Position, stamp: Stamp) {
        self.push(position, stamp);
    }

    fn push(&mut self, position: Position, stamp: Stamp) {
        if self.entered.back().is_some_and(|(last, _)| last.id >= position.id) {
            // Ids grow within one log, so this is another log.
            self.entered.clear();
        }
        if self.entered.len() == self.capacity {
            self.entered.pop_front();
        }
        self.entered.push_back((position, stamp));
    }

    /// Returns the stamp that a position stands for, or `None` if it was not entered or is not kept
    /// any more.
    pub fn stamp(&self, position: Position) -> Option<Stamp> {
        let at = self.entered.partition_point(|(entered, _)| entered.id < position.id);
        let (entered, stamp) = self.entered.get(at)?;
        (*entered == position).then_some(*stamp)
    }

    /// Returns the number of positions that are kept.
    pub fn len(&self) -> usize {
        self.entered.len()
    }

    /// Returns whether no position is kept.
    pub fn is_empty(&self) -> bool {
        self.entered.is_empty()
    }

    /// Forgets all positions, because the shared log was replaced. The local revocations that
    /// were not seen still count.
    pub fn clear(&mut self) {
        self.entered.clear();
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn at(seconds: u64, sequence: u64) -> Position {
        Position { id: (seconds, sequence), nonce: seconds * 1_000 + sequence }
    }

    fn stamp(raw: u64) -> Stamp {
        Stamp::from_raw(raw)
    }

    #[test]
    fn a_position_stands_for_the_stamp_at_which_it_was_entered() {
        let mut positions = Positions::new(8);
        for n in 1..=5 {
            positions.enter(at(1, n), stamp(n * 10));
        }
        for n in 1..=5 {
            assert_eq!(positions.stamp(at(1, n)), Some(stamp(n * 10)));
        }
        assert_eq!(positions.stamp(at(1, 6)), None);
        assert_eq!(positions.stamp(at(0, 9)), None);
        assert_eq!(positions.stamp(Position { nonce: 7, ..at(1, 3) }), None);
    }

    #[test]
    fn the_newest_positions_are_kept() {
        let mut positions = Positions::new(3);
        for n in 1..=5 {
            positions.enter(at(n, 0), stamp(n));
        }
        assert_eq!(positions.len(), 3);
        let known = (1..=5).map(|n| positions.stamp(at(n, 0)).is_some());
        assert_eq!(known.collect::<Vec<_>>(), [false, false, true, true, true]);
    }

    #[test]
    fn a_position_is_older_than_every_own_revocation_that_was_not_seen() {
        let mut positions = Positions::new(8);
        positions.note_own(70, stamp(5));
        positions.note_own(71, stamp(7));
        positions.enter(at(1, 0), stamp(8));
        assert_eq!(positions.stamp(at(1, 0)), Some(stamp(4)));
        assert!(positions.take_own(70));
        positions.enter(at(2, 0), stamp(9));
        assert_eq!(positions.stamp(at(2, 0)), Some(stamp(6)));
        assert!(positions.take_own(71));
        positions.enter(at(3, 0), stamp(9));
        assert_eq!(positions.stamp(at(3, 0)), Some(stamp(9)));
        assert!(!positions.take_own(71), "a nonce is seen once");
    }

    #[test]
    fn an_own_revocation_that_was_not_seen_counts_in_the_next_log() {
        let mut positions = Positions::new(8);
        positions.enter(at(9, 0), stamp(2));
        positions.note_own(70, stamp(3));
        positions.clear();
        assert!(positions.is_empty());
        positions.enter(at(1, 0), stamp(8));
        assert_eq!(positions.stamp(at(1, 0)), Some(stamp(2)));
    }

    #[test]
    fn a_log_whose_ids_begin_again_replaces_the_older_one() {
        let mut positions = Positions::new(8);
        positions.enter(at(5, 0), stamp(1));
        positions.enter(at(6, 0), stamp(2));
        positions.enter(at(5, 0), stamp(3));
        assert_eq!(positions.len(), 1);
        assert_eq!(positions.stamp(at(5, 0)), Some(stamp(3)));
        assert_eq!(positions.stamp(at(6, 0)), None);
    }
}
