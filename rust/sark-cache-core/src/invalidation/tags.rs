//! The tags of a decision, as numbers.

use std::ops::Deref;

/// The tags of a decision, as numbered by [`Log::tags`](super::Log::tags).
///
/// A sorted set of numbers, 8 bytes per tag. Valid only for the log that numbered them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(pub(super) Box<[u64]>);

impl Tags {
    /// Returns the tags that are in either set. Linear in their number.
    #[must_use]
    pub fn union(&self, more: &Self) -> Self {
        if more.is_empty() {
            return self.clone();
        }
        let (mut own, mut others) = (self.iter().peekable(), more.iter().peekable());
        let mut both = Vec::with_capacity(self.len() + more.len());
        while let Some(next) = own.peek().into_iter().chain(others.peek()).min().copied() {
            own.next_if_eq(&next);
            others.next_if_eq(&next);
            both.push(*next);
        }
        Self(both.into())
    }

    /// Returns the tags that are not in `less`. Costs a binary search per tag.
    #[must_use]
    pub fn difference(&self, less: &Self) -> Self {
        Self(self.iter().filter(|tag| less.binary_search(tag).is_err()).copied().collect())
    }
}

impl Deref for Tags {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.0
    }
}
