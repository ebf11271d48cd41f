//! Redis glob patterns, which match the [text forms](crate::key::KeyTexts) of a request's key.

use crate::key::KeyTexts;
use crate::limits::MAX_PATTERN_BYTES;
use memchr::memmem;

/// A compiled glob pattern, with the syntax of Redis.
///
/// | pattern | matches |
/// |---|---|
/// | `*` | any bytes, or none |
/// | `?` | any one byte |
/// | `[a-z]` | one byte of the class |
/// | `[^a-z]` | one byte outside of the class |
/// | `\x` | the byte `x` itself |
///
/// Bytes are matched, as in Redis (the reference is `stringmatchlen` in its `util.c`).
///
/// # Cost
/// Each segment between two `*` is searched for once, from the left. A literal segment costs time
/// linear in the text. One with `?` or a class costs at most the length of the text times its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// The segment before the first `*`.
    first: Segment,
    /// The segments that follow a `*`.
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

    /// Returns whether the segment matches `text`, which has the same length.
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Literal(bytes) => bytes == text,
            Self::Tokens(tokens) => tokens.iter().zip(text).all(|(token, byte)| token.takes(*byte)),
        }
    }

    /// Returns the offset of the first match in `text`.
    fn find(&self, text: &[u8]) -> Option<usize> {
        match self {
            Self::Literal(bytes) => memmem::find(text, bytes),
            Self::Tokens(tokens) => text.windows(tokens.len()).position(|text| self.matches(text)),
        }
    }
}

impl Glob {
    /// Compiles a pattern. Returns `None` if it is longer than [`MAX_PATTERN_BYTES`].
    ///
    /// Any other string is a pattern: an unclosed class ends with the pattern.
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

    /// Returns whether the pattern matches the whole of `text`.
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

    /// Returns whether the pattern matches one of the text forms of a key.
    pub fn matches_any(&self, texts: &KeyTexts) -> bool {
        texts.iter().any(|text| self.matches(text))
    }
}

fn class(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> Token {
    let negated = bytes.next_if_eq(&b'^').is_some();
    let mut ranges = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b']' => break,
            // An escaped byte stands for itself and does not start a range.
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
