//! The scope of an invalidation, and the hashes under which the log records it.

use super::glob::Glob;
use super::tags::Tags;
use crate::key::{KeyParts, without_policy};
use ahash::RandomState;

// The bits of a kind of scope: user, action, resource, policy, tag.
const FIELDS: [u32; 3] = [1, 2, 4];
const POLICY: u32 = 8;
const TAGGED: u32 = 16;
/// The kind of scope that names one key.
const KEY_KIND: u32 = 32;
/// The kind of scope that names one request under every policy.
const REQUEST_KIND: u32 = 33;

/// A set of kinds of scopes, one bit each: bits 0–31 for the combinations of fields, policy and tag,
/// two more for keys and for requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScopeKinds(pub(super) u64);

impl ScopeKinds {
    fn of(kind: u32) -> Self {
        Self(1 << kind)
    }

    fn has(self, kind: u32) -> bool {
        self.0 & (1 << kind) != 0
    }

    /// Iterates over the kinds that name fields, a policy or tags, in rising order.
    fn masks(self) -> impl Iterator<Item = u32> {
        (1..KEY_KIND).filter(move |mask| self.has(*mask))
    }

    pub(crate) fn union(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }
}

/// The decisions that an invalidation revokes.
///
/// ```
/// use sark_cache_core::{Glob, Scope};
///
/// let everything_alice_reads = Scope::of([Some("alice"), Some("read"), None], &[]);
/// let tagged = Scope::of([None; 3], &["role:admin", "bundle:7"]);
/// let policy = Scope::under(Some("admins"), [None; 3], &[]);
/// let pattern = Glob::new("policy:decision:alice:*").map(Scope::Glob);
/// # assert!(pattern.is_some());
/// assert_eq!(Scope::of([None; 3], &[]), Scope::Everything);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All decisions.
    Everything,
    /// The decision under this key.
    Key(Box<[u8]>),
    /// The decisions for one request under every policy, given its key under no policy.
    Request(Box<[u8]>),
    /// The decisions with these fields and this policy, and with at least one of the tags, if any are
    /// given. `None` matches every value.
    Fields {
        /// The user, the action and the resource, in this order.
        fields: [Option<Box<str>>; 3],
        /// The policy. The empty one matches requests that name no policy.
        policy: Option<Box<str>>,
        /// The tags. If empty, tags are not compared.
        tags: Vec<Box<str>>,
    },
    /// The decisions with a text key that matches a pattern.
    Glob(Glob),
}

impl Scope {
    /// Returns the scope of these fields and tags under every policy, or [`Scope::Everything`] if none
    /// is given.
    pub fn of(fields: [Option<&str>; 3], tags: &[&str]) -> Self {
        Self::under(None, fields, tags)
    }

    /// Returns the scope of this policy, these fields and tags, or [`Scope::Everything`] if none is
    /// given.
    pub fn under(policy: Option<&str>, fields: [Option<&str>; 3], tags: &[&str]) -> Self {
        if policy.is_none() && fields.iter().all(Option::is_none) && tags.is_empty() {
            return Self::Everything;
        }
        Self::Fields {
            fields: fields.map(|field| field.map(Box::from)),
            policy: policy.map(Box::from),
            tags: tags.iter().map(|tag| Box::from(*tag)).collect(),
        }
    }
}

/// The number of parts of a key's text: user, action, resource and context.
const TEXT_PARTS: usize = 4;

impl Scope {
    /// Returns a scope that covers the decision under a key, given the key's text.
    ///
    /// The text is `{user}:{action}:{resource}:{context}`, as in
    /// [`key_text`](crate::key::key_text) without its prefix, or the same with a policy and a colon
    /// in front. Special characters are percent-encoded.
    ///
    /// The context cannot be read from its hash, so the scope covers all contexts. A text of any
    /// other form gives [`Scope::Everything`]: in doubt a decision is revoked. Linear in the text.
    pub fn of_key_text(text: &str) -> Self {
        let mut parts: Vec<&str> = text.split(':').collect();
        let policy = (parts.len() > TEXT_PARTS).then(|| parts.remove(0));
        let [user, action, resource, _context] = parts[..] else { return Self::Everything };
        let decoded = [user, action, resource].map(percent_decoded);
        let [Some(user), Some(action), Some(resource)] = &decoded else { return Self::Everything };
        let fields = [Some(&**user), Some(&**action), Some(&**resource)];
        match policy.map(percent_decoded) {
            None => Self::under(None, fields, &[]),
            Some(Some(policy)) => Self::under(Some(&policy), fields, &[]),
            Some(None) => Self::Everything,
        }
    }

    /// Returns the scope of a [pattern](Glob), or [`Scope::Everything`] if it is too long for one.
    pub fn of_pattern(pattern: &str) -> Self {
        Glob::new(pattern).map_or(Self::Everything, Self::Glob)
    }
}

/// Decodes `%XX`. Returns `None` if the text is not encoded in this way, or is not UTF-8 afterwards.
fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut decoded) = (text.bytes(), Vec::with_capacity(text.len()));
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// A decision as the log checks it: its key and its tags.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The canonical key.
    pub key: &'a [u8],
    /// Its tags, as numbered by [`Log::tags`](super::Log::tags).
    pub tags: &'a [u64],
}

/// The hasher of scopes and tags, with one random seed.
pub(crate) struct ScopeHasher(RandomState);

impl ScopeHasher {
    pub(super) fn new() -> Self {
        Self(RandomState::new())
    }

    /// Returns the numbers of these tags.
    pub(super) fn tags<N: AsRef<str>>(&self, names: &[N]) -> Tags {
        let mut numbers: Vec<u64> = names.iter().map(|name| self.tag(name.as_ref())).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Tags(numbers.into())
    }

    fn tag(&self, name: &str) -> u64 {
        self.0.hash_one(name)
    }

    /// Returns whether `lookup` is true for any scope of these kinds that covers the subject.
    pub(crate) fn matches_any_scope(
        &self,
        kinds: ScopeKinds,
        subject: Subject<'_>,
        mut lookup: impl FnMut(u64) -> bool,
    ) -> bool {
        if kinds.has(KEY_KIND) && lookup(self.hash_whole(KEY_KIND, subject.key)) {
            return true;
        }
        if kinds.has(REQUEST_KIND)
            && lookup(self.hash_whole(REQUEST_KIND, without_policy(subject.key)))
        {
            return true;
        }
        let parts = KeyParts::of(subject.key).map(Named::from);
        for mask in kinds.masks() {
            let named = match parts {
                Some(parts) => parts.only(mask),
                // A record of fields or a policy does not match a key without parts.
                None if mask & !TAGGED != 0 => continue,
                None => Named::default(),
            };
            let covers = if mask & TAGGED == 0 {
                lookup(self.hash_named(named, None))
            } else {
                subject.tags.iter().any(|tag| lookup(self.hash_named(named, Some(*tag))))
            };
            if covers {
                return true;
            }
        }
        false
    }

    /// Returns the kind of a scope, and the hashes under which
    /// [`matches_any_scope`](Self::matches_any_scope) looks it up.
    ///
    /// Patterns, and the scope of everything, have none.
    pub(crate) fn hashes(&self, scope: &Scope) -> (ScopeKinds, Vec<u64>) {
        let whole = |kind, key| (ScopeKinds::of(kind), vec![self.hash_whole(kind, key)]);
        match scope {
            Scope::Everything | Scope::Glob(_) => (ScopeKinds::default(), Vec::new()),
            Scope::Key(key) => whole(KEY_KIND, key),
            Scope::Request(key) => whole(REQUEST_KIND, key),
            Scope::Fields { fields, policy, tags } => {
                let fields = fields.each_ref().map(Option::as_deref);
                let named = Named { fields, policy: policy.as_deref() };
                if tags.is_empty() {
                    return (ScopeKinds::of(named.mask()), vec![self.hash_named(named, None)]);
                }
                let numbers = tags.iter().map(|tag| self.tag(tag));
                let hashes = numbers.map(|tag| self.hash_named(named, Some(tag))).collect();
                (ScopeKinds::of(named.mask() | TAGGED), hashes)
            }
        }
    }

    fn hash_whole(&self, kind: u32, key: &[u8]) -> u64 {
        non_zero(self.0.hash_one((kind, key)))
    }

    fn hash_named(&self, named: Named<'_>, tag: Option<u64>) -> u64 {
        non_zero(self.0.hash_one((named.mask(), named.fields, named.policy, tag)))
    }
}

/// The parts of a request that a scope names.
#[derive(Clone, Copy, Default)]
struct Named<'a> {
    fields: [Option<&'a str>; 3],
    policy: Option<&'a str>,
}

impl<'a> From<KeyParts<'a>> for Named<'a> {
    fn from(parts: KeyParts<'a>) -> Self {
        Self { fields: parts.fields.map(Some), policy: Some(parts.policy) }
    }
}

impl Named<'_> {
    /// Keeps only the parts that a kind names.
    fn only(mut self, mask: u32) -> Self {
        for (field, bit) in self.fields.iter_mut().zip(FIELDS) {
            *field = field.filter(|_| mask & bit != 0);
        }
        self.policy = self.policy.filter(|_| mask & POLICY != 0);
        self
    }

    fn mask(&self) -> u32 {
        let fields = self.fields.iter().zip(FIELDS);
        let named = fields.map(|(field, bit)| if field.is_some() { bit } else { 0 });
        named.sum::<u32>() | if self.policy.is_some() { POLICY } else { 0 }
    }
}

/// Replaces a hash of zero, which marks an empty slot.
fn non_zero(hash: u64) -> u64 {
    hash.max(1)
}
