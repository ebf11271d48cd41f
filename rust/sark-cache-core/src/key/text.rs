//! The text forms of a request's key, which glob patterns match.
//!
//! A text form is `policy:decision:{user}:{action}:{resource}:{context}`; the policy is not part of
//! it. The context is `none` or the first 32 hexadecimal digits of the SHA-256 of its canonical
//! bytes. The other parts have three spellings, and a pattern matches a request if it matches one of
//! them:
//!
//! * encoded: `% : * ? [ ] { } \` and control characters are percent-encoded, so that a pattern can
//!   match exactly one part;
//! * raw: the parts as they are, so that `user-1:tool:invoke:*` matches the action `tool:invoke`;
//! * SARK's: raw, but each `:` and `/` of the resource is replaced by `_`.
//!
//! In the last two, a `:` may belong to a part or separate two parts. A pattern may therefore match
//! more requests than intended. That costs evaluations; no wrong decision is served.
//!
//! # Cost
//! Building the texts costs about a microsecond. Only spellings that differ are built. A hit builds
//! them only if a pattern was recorded after the entry's stamp. Fields are bounded, so a text has at
//! most 75 KiB.

use super::KeyParts;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The prefix of every text form.
pub const KEY_PREFIX: &str = "policy:decision";

/// The number of digits of the context's hash in a text form.
const CONTEXT_DIGITS: usize = 32;

/// The text forms of one request's key.
pub struct KeyTexts([Option<String>; 3]);

impl KeyTexts {
    /// Builds the spellings that differ, the encoded one first. Costs about a microsecond.
    pub fn of(parts: &KeyParts<'_>) -> Self {
        let context = context_text(parts.context);
        let [user, action, resource] = parts.fields;
        let spelled = |fields: [&str; 3]| format!("{KEY_PREFIX}:{}:{context}", fields.join(":"));
        let has_encoded = parts.fields.iter().any(|field| field.contains(is_encoded));
        let has_separator = resource.contains([':', '/']);
        Self([
            Some(key_text(parts)),
            has_encoded.then(|| spelled(parts.fields)),
            has_separator.then(|| spelled([user, action, &resource.replace([':', '/'], "_")])),
        ])
    }

    /// Iterates over the texts; no spelling appears twice.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}

/// Returns the encoded text form of a request's key.
pub fn key_text(parts: &KeyParts<'_>) -> String {
    let mut text = String::from(KEY_PREFIX);
    for field in parts.fields {
        text.push(':');
        for character in field.chars() {
            if is_encoded(character) {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    write!(text, "%{byte:02X}").expect("writing to a string cannot fail");
                }
            } else {
                text.push(character);
            }
        }
    }
    text.push(':');
    text.push_str(&context_text(parts.context));
    text
}

fn is_encoded(character: char) -> bool {
    matches!(character, '%' | ':' | '*' | '?' | '[' | ']' | '{' | '}' | '\\')
        || character.is_control()
}

fn context_text(context: &[u8]) -> String {
    let mut text = context_digits(context);
    text.truncate(CONTEXT_DIGITS);
    text
}

/// Returns all 64 hexadecimal digits of the SHA-256 of a context's canonical bytes; `none` if there
/// is no context.
pub fn context_digits(context: &[u8]) -> String {
    if context.is_empty() {
        return "none".to_owned();
    }
    let mut text = String::new();
    for byte in Sha256::digest(context) {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}
