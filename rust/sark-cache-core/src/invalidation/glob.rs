//! Redis glob patterns over the [text forms](crate::key::KeyTexts) of a request's key, as
//! `invalidate_pattern` takes them.

use crate::key::KeyTexts;
use crate::limits::MAX_PATTERN_BYTES;
use memchr::memmem;

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

    /// Whether one of the text forms of a key matches.
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
