//! Reading back from a key the parts that an invalidation can name.

use super::{POLICY, REQUEST};

/// The parts of a request that an invalidation can name, read back from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyParts<'k> {
    /// The policy that decides; empty when none is named.
    pub policy: &'k str,
    /// User, action and resource, in this order.
    pub fields: [&'k str; 3],
    /// The canonical bytes of the context; empty when there is none.
    pub context: &'k [u8],
}

impl<'k> KeyParts<'k> {
    /// Reads the parts of a request's key; `None` for a general key, which has none.
    pub fn of(key: &'k [u8]) -> Option<Self> {
        let (policy, request) = split_policy(key)?;
        let (&REQUEST, mut rest) = request.split_first()? else {
            return None;
        };
        let mut fields = [""; 3];
        for field in &mut fields {
            (*field, rest) = split_text(rest)?;
        }
        Some(Self { policy, fields, context: rest })
    }
}

/// The key of the same request under no policy; other keys as they are.
pub fn without_policy(key: &[u8]) -> &[u8] {
    split_policy(key).map_or(key, |(_, request)| request)
}

/// The policy of a key; empty if it names none.
pub(crate) fn policy_of(key: &[u8]) -> &str {
    split_policy(key).map_or("", |(policy, _)| policy)
}

/// The policy that a key begins with, and what follows it; `None` if it is cut short, or written
/// although it is empty.
fn split_policy(key: &[u8]) -> Option<(&str, &[u8])> {
    match key.split_first() {
        Some((&POLICY, rest)) => split_text(rest).filter(|(policy, _)| !policy.is_empty()),
        _ => Some(("", key)),
    }
}

fn split_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
