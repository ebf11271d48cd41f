//! Hashes of keys. Both moka and the index find an entry by the hash of its key.

use ahash::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Hashes keys with a random seed of its own, so that no client can choose keys of equal hashes.
pub(super) struct KeyHasher(RandomState);

impl Default for KeyHasher {
    fn default() -> Self {
        Self(RandomState::new())
    }
}

impl KeyHasher {
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash_one(key)
    }
}

/// Returns a hash unchanged, for moka, whose keys are hashes.
#[derive(Clone, Default)]
pub(super) struct Hashed;

impl BuildHasher for Hashed {
    type Hasher = Unchanged;

    fn build_hasher(&self) -> Unchanged {
        Unchanged(0)
    }
}

pub(super) struct Unchanged(u64);

impl Hasher for Unchanged {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only hashes are hashed");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
