//! Redis glob patterns over the text form of a request's key, as `invalidate_pattern` takes them.
//!
//! The text form is `policy:decision:{user}:{action}:{resource}:{context}`, the key the same
//! decision has in Redis: each part percent-encoded for `% : * ? [ ] \` and control characters, so
//! that no user id can act as a pattern, and the context `none` or the first 32 hexadecimal digits
//! of the SHA-256 over its canonical bytes. Making it costs about a microsecond; it is never made
//! on the path of a hit that no pattern is newer than.

use crate::key::Parts;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What every text key starts with.
pub const KEY_PREFIX: &str = "policy:decision";

/// A compiled pattern: `*` any run, `?` any one byte, `[a-z]` one of, `[^a-z]` none of, `\x` x itself.
///
/// Matches bytes, as Redis does (`stringmatchlen` in its `util.c` is the reference). Matching costs
/// at most pattern length × text length steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Run,
    One,
    Byte(u8),
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Run => false,
            Self::One => true,
            Self::Byte(wanted) => *wanted == byte,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }
}

impl Glob {
    /// Compiles `pattern`. Every string is a pattern: an unclosed class ends where the pattern ends.
    pub fn new(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut bytes = pattern.bytes().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' if tokens.last() == Some(&Token::Run) => {}
                b'*' => tokens.push(Token::Run),
                b'?' => tokens.push(Token::One),
                b'\\' => tokens.push(Token::Byte(bytes.next().unwrap_or(b'\\'))),
                b'[' => tokens.push(class(&mut bytes)),
                _ => tokens.push(Token::Byte(byte)),
            }
        }
        Self(tokens)
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let (tokens, text) = (&self.0, text.as_bytes());
        let (mut at, mut position) = (0, 0);
        // Where to go on if what follows the latest run does not fit: one byte further into it.
        let mut retry = None;
        while position < text.len() {
            match tokens.get(at) {
                Some(Token::Run) => {
                    at += 1;
                    retry = Some((at, position));
                }
                Some(token) if token.takes(text[position]) => {
                    at += 1;
                    position += 1;
                }
                _ => match &mut retry {
                    Some((after_run, from)) => {
                        *from += 1;
                        (at, position) = (*after_run, *from);
                    }
                    None => return false,
                },
            }
        }
        tokens[at..].iter().all(|token| *token == Token::Run)
    }
}

fn class(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> Token {
    let negated = bytes.next_if_eq(&b'^').is_some();
    let mut ranges = Vec::new();
    while let Some(byte) = bytes.next() {
        let low = match byte {
            b']' => break,
            b'\\' => bytes.next().unwrap_or(b'\\'),
            _ => byte,
        };
        let mut ahead = bytes.clone();
        match (ahead.next(), ahead.next()) {
            (Some(b'-'), Some(high)) => {
                *bytes = ahead;
                ranges.push((low.min(high), low.max(high)));
            }
            _ => ranges.push((low, low)),
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
            if matches!(character, '%' | ':' | '*' | '?' | '[' | ']' | '\\')
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
