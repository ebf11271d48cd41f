//! What an invalidation covers, and the hashes that the log finds it by.

use super::glob::Glob;
use super::tags::Tags;
use crate::key::{KeyParts, without_policy};
use ahash::RandomState;

/// The bits of a kind that names user, action, resource, policy and a tag.
const FIELDS: [u32; 3] = [1, 2, 4];
const POLICY: u32 = 8;
const TAGGED: u32 = 16;
/// The kind of records that name one whole key.
const KEY_KIND: u32 = 32;
/// The kind of records that name one request under every policy.
const REQUEST_KIND: u32 = 33;

/// Kinds of scopes: bits 0–31 by the mask of fields, policy and tag that one names, two more for
/// whole keys and whole requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScopeKinds(pub(super) u64);

impl ScopeKinds {
    fn of(kind: u32) -> Self {
        Self(1 << kind)
    }

    fn has(self, kind: u32) -> bool {
        self.0 & (1 << kind) != 0
    }

    /// Those that name parts of a request or tags, in rising order.
    fn masks(self) -> impl Iterator<Item = u32> {
        (1..KEY_KIND).filter(move |mask| self.has(*mask))
    }

    pub(crate) fn union(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }
}

/// Which decisions an invalidation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Everything,
    /// The one under this key.
    Key(Box<[u8]>),
    /// Those for one request under whatever policy, given by its key under none.
    Request(Box<[u8]>),
    /// Those whose user, action, resource and policy equal the given ones, and, if there are tags,
    /// that carry at least one of them. What is `None` matches anything.
    Fields {
        /// User, action and resource, in this order.
        fields: [Option<Box<str>>; 3],
        /// The policy that decides; the empty one is that of requests that name none.
        policy: Option<Box<str>>,
        /// Tags; empty: tags do not matter.
        tags: Vec<Box<str>>,
    },
    /// Those with a text key that matches a pattern.
    Glob(Glob),
}

impl Scope {
    /// The scope of these fields and tags under whatever policy; [`Scope::Everything`] when none is
    /// given.
    pub fn of(fields: [Option<&str>; 3], tags: &[&str]) -> Self {
        Self::under(None, fields, tags)
    }

    /// The scope of this policy, these fields and tags; [`Scope::Everything`] when none is given.
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

/// A decision as the log sees it: its key and its tags.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The canonical key.
    pub key: &'a [u8],
    /// Its tags, as [`Log::tags`](super::Log::tags) numbers them.
    pub tags: &'a [u64],
}

/// Hashes scopes and tags under one random seed.
pub(crate) struct ScopeHasher(RandomState);

impl ScopeHasher {
    pub(super) fn new() -> Self {
        Self(RandomState::new())
    }

    /// The numbers under which the log knows these tags.
    pub(super) fn tags<N: AsRef<str>>(&self, names: &[N]) -> Tags {
        let mut numbers: Vec<u64> = names.iter().map(|name| self.tag(name.as_ref())).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Tags(numbers.into())
    }

    fn tag(&self, name: &str) -> u64 {
        self.0.hash_one(name)
    }

    /// Whether `lookup` says yes to the hash of any scope of these kinds that covers the subject.
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
                // A key without parts is matched by no record that names some.
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

    /// The hashes under which [`matches_any_scope`](Self::matches_any_scope) finds this scope, and their kind; none
    /// for everything and for patterns.
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

/// The parts of a request that a record names.
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
    /// Those of them that a kind names.
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

/// Zero marks an empty slot, so no hash may be zero.
fn non_zero(hash: u64) -> u64 {
    hash.max(1)
}
