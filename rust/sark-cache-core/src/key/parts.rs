//! Reading the parts of a request back from its key.

use super::{POLICY, REQUEST};

/// The parts of a request that an invalidation can name. Borrows from the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyParts<'k> {
    /// The policy; empty if the request names none.
    pub policy: &'k str,
    /// The user, the action and the resource, in this order.
    pub fields: [&'k str; 3],
    /// The canonical bytes of the context; empty if there is none.
    pub context: &'k [u8],
}

impl<'k> KeyParts<'k> {
    /// Reads the parts of a request's key. Returns `None` for a general key, which has no parts, and
    /// for bytes that are not a key. Costs a UTF-8 check of the parts.
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

/// Returns the key of the same request under no policy. Other keys are returned unchanged.
pub fn without_policy(key: &[u8]) -> &[u8] {
    split_policy(key).map_or(key, |(_, request)| request)
}

/// Returns the policy of a key; empty if it names none.
pub(crate) fn policy_of(key: &[u8]) -> &str {
    split_policy(key).map_or("", |(policy, _)| policy)
}

/// Splits a key into its policy and the rest. Returns `None` if the policy is truncated, or written
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
