//! Redis glob patterns over the text forms of a request's key, as `invalidate_pattern` takes them.
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

use crate::key::Parts;
use memchr::memmem;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What every text key starts with.
pub const KEY_PREFIX: &str = "policy:decision";

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// A compiled pattern: `*` any run, `?` any one byte, `[a-z]` one of, `[^a-z]` none of, `\x` x itself.
///
/// Matches bytes, as Redis does (`stringmatchlen` in its `util.c` is the reference). What stands
/// between two `*` is looked for once, from the left: linear in the text if it is literal, at worst
/// the text times its own length if it has `?` or classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// What stands before the first run.
    first: Segment,
    /// What stands after each run.
    rest: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Vec<u8>),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    One,
    Byte(u8),
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::One => true,
            Self::Byte(wanted) => *wanted == byte,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }
}

impl Segment {
    fn new(tokens: Vec<Token>) -> Self {
        let literal = tokens.iter().map(|token| match token {
            Token::Byte(byte) => Some(*byte),
            Token::One | Token::Class { .. } => None,
        });
        literal.collect::<Option<Vec<u8>>>().map_or_else(|| Self::Tokens(tokens), Self::Literal)
    }

    fn len(&self) -> usize {
        match self {
            Self::Literal(bytes) => bytes.len(),
            Self::Tokens(tokens) => tokens.len(),
        }
    }

    /// Whether it matches all of `text`, which is as long as it is.
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Literal(bytes) => bytes == text,
            Self::Tokens(tokens) => tokens.iter().zip(text).all(|(token, byte)| token.takes(*byte)),
        }
    }

    /// Where in `text` it first matches.
    fn find(&self, text: &[u8]) -> Option<usize> {
        match self {
            Self::Literal(bytes) => memmem::find(text, bytes),
            Self::Tokens(tokens) => text.windows(tokens.len()).position(|text| self.matches(text)),
        }
    }
}

impl Glob {
    /// Compiles `pattern`; `None` if it is longer than [`MAX_PATTERN_BYTES`]. Any other string is a
    /// pattern: an unclosed class ends where the pattern ends.
    pub fn new(pattern: &str) -> Option<Self> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return None;
        }
        let mut segments = Vec::new();
        let mut tokens = Vec::new();
        let mut bytes = pattern.bytes().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' => segments.push(Segment::new(std::mem::take(&mut tokens))),
                b'?' => tokens.push(Token::One),
                b'\\' => tokens.push(Token::Byte(bytes.next().unwrap_or(b'\\'))),
                b'[' => tokens.push(class(&mut bytes)),
                _ => tokens.push(Token::Byte(byte)),
            }
        }
        segments.push(Segment::new(tokens));
        let first = segments.remove(0);
        Some(Self { first, rest: segments })
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let Self { first, rest } = self;
        let Some((last, between)) = rest.split_last() else {
            return text.len() == first.len() && first.matches(text);
        };
        let Some((head, text)) = text.split_at_checked(first.len()) else { return false };
        let Some((mut text, tail)) = text.len().checked_sub(last.len()).map(|at| text.split_at(at))
        else {
            return false;
        };
        if !first.matches(head) || !last.matches(tail) {
            return false;
        }
        for segment in between.iter().filter(|segment| segment.len() > 0) {
            let Some(at) = segment.find(text) else { return false };
            text = &text[at + segment.len()..];
        }
        true
    }
}

fn class(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> Token {
    let negated = bytes.next_if_eq(&b'^').is_some();
    let mut ranges = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b']' => break,
            // What is escaped stands for itself alone and begins no range.
            b'\\' => {
                let escaped = bytes.next().unwrap_or(b'\\');
                ranges.push((escaped, escaped));
            }
            low => {
                let mut ahead = bytes.clone();
                if let (Some(b'-'), Some(high)) = (ahead.next(), ahead.next()) {
                    *bytes = ahead;
                    ranges.push((low.min(high), low.max(high)));
                } else {
                    ranges.push((low, low));
                }
            }
        }
    }
    Token::Class { negated, ranges }
}

/// The text forms of one request's key.
pub struct Texts([Option<String>; 3]);

impl Texts {
    /// The spellings that differ, the encoded one first.
    pub fn of(parts: &Parts<'_>) -> Self {
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

    /// Whether a pattern matches one of them.
    pub fn match_any(&self, glob: &Glob) -> bool {
        self.0.iter().flatten().any(|text| glob.matches(text))
    }
}

/// The encoded text form of a request's key.
pub fn key_text(parts: &Parts<'_>) -> String {
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
