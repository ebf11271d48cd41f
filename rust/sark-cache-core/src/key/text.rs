//! The text forms of a request's key, which patterns are matched against.
//!
//! A text form is `policy:decision:{user}:{action}:{resource}:{context}`, whatever the policy. The
//! context is `none` or the first 32 hexadecimal digits of the SHA-256 over its canonical bytes.
//! There are three spellings of the other parts, and a pattern that matches one of them matches:
//!
//! * encoded: `% : * ? [ ] { } \` and control characters percent-encoded, so that a pattern can be
//!   written that matches one part and nothing else;
//! * raw: as they are, so that `user-1:tool:invoke:*` finds the action `tool:invoke`;
//! * SARK's: raw, but with `_` for each `:` and `/` of the resource.
//!
//! In the last two `:` may stand for itself or between parts. A pattern may so match more than was
//! meant, which costs evaluations and serves nothing wrong.
//!
//! # Cost
//! Making the texts costs about a microsecond, and only those that differ are made. It is never done
//! on the path of a hit that no pattern is newer than. Fields are bounded, so a text has at most
//! 75 KiB.

use super::KeyParts;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What every text key starts with.
pub const KEY_PREFIX: &str = "policy:decision";

/// The text forms of one request's key.
pub struct KeyTexts([Option<String>; 3]);

impl KeyTexts {
    /// The spellings that differ, the encoded one first.
    pub fn of(parts: &KeyParts<'_>) -> Self {
        let context = context_text(parts.context);
        let [user, action, resource] = parts.fields;
        let spelled = |fields: [&str; 3]| format!("{KEY_PREFIX}:{}:{context}", fields.join(":"));
        let raw = parts.fields.iter().any(|field| field.contains(is_encoded));
        let sarks = resource.contains([':', '/']);
        Self([
            Some(key_text(parts)),
            raw.then(|| spelled(parts.fields)),
            sarks.then(|| spelled([user, action, &resource.replace([':', '/'], "_")])),
        ])
    }

    /// The texts, each once.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}

/// The encoded text form of a request's key.
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
    if context.is_empty() {
        return "none".to_owned();
    }
    let mut text = String::new();
    for byte in &Sha256::digest(context)[..16] {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}
