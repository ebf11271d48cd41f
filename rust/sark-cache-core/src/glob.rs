//! Redis glob patterns over the text form of a request's key, as `invalidate_pattern` takes them.
//!
//! The text form is `policy:decision:{user}:{action}:{resource}:{context}`, the key the same
//! decision has in Redis: each part percent-encoded for `% : * ? [ ] \ { }` and control characters, so
//! that no user id can act as a pattern, and the context `none` or the first 32 hexadecimal digits
//! of the SHA-256 over its canonical bytes. Making it costs about a microsecond; it is never made
//! on the path of a hit that no pattern is newer than.

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

/// The text form of a request's key.
pub fn key_text(parts: &Parts<'_>) -> String {
    let mut text = String::from(KEY_PREFIX);
    for field in parts.fields {
        text.push(':');
        for character in field.chars() {
            if matches!(character, '%' | ':' | '*' | '?' | '[' | ']' | '\\' | '{' | '}')
                || character.is_control()
            {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    write!(text, "%{byte:02X}").expect("writing to a string cannot fail");
                }
            } else {
                text.push(character);
            }
        }
    }
    text.push(':');
    if parts.context.is_empty() {
        text.push_str("none");
    } else {
        for byte in &Sha256::digest(parts.context)[..16] {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}
