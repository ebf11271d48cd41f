//! A decoder of keys. Because every key can be decoded, the encoding is injective.
//!
//! Written only from the tables in the documentation of the encoding. It is strict: it accepts only
//! the bytes that a subject should have, so no subject has two keys.

use crate::model::{Subject, Value, hexadecimal};
use sark_cache_core::limits::MAX_DEPTH;

/// Returns the subject of a key, or `None` if the bytes are not a key.
pub fn subject(key: &[u8]) -> Option<Subject> {
    let mut rest = key;
    let (mut first, mut policy) = (byte(&mut rest)?, String::new());
    if first == 3 {
        policy = text(&mut rest)?;
        first = byte(&mut rest).filter(|first| *first == 1 && !policy.is_empty())?;
    }
    let subject = match first {
        1 => {
            let fields = [policy, text(&mut rest)?, text(&mut rest)?, text(&mut rest)?];
            let context = if rest.is_empty() {
                Vec::new()
            } else {
                match value(&mut rest, 0)? {
                    Value::Map(context) if !context.is_empty() => context,
                    _ => return None,
                }
            };
            Subject::Request(fields, context)
        }
        2 => Subject::General(value(&mut rest, 0)?),
        _ => return None,
    };
    rest.is_empty().then_some(subject)
}

fn value(rest: &mut &[u8], depth: usize) -> Option<Value> {
    Some(match byte(rest)? {
        0 => Value::Null,
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::Int(i64::from_le_bytes(*array(rest)?)),
        4 => {
            let written = text(rest)?;
            let (sign, digits) = match written.strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", written.as_str()),
            };
            let lower = |digit| matches!(digit, '0'..='9' | 'a'..='f');
            if digits.is_empty() || digits.starts_with('0') || !digits.chars().all(lower) {
                return None;
            }
            match hexadecimal(sign, digits) {
                Value::Int(_) => return None,
                big => big,
            }
        }
        5 => {
            let bits = u64::from_le_bytes(*array(rest)?);
            f64::from_bits(bits).is_finite().then_some(Value::Float(bits))?
        }
        6 => Value::String(text(rest)?),
        7 if depth < MAX_DEPTH => {
            let count = length(rest)?;
            Value::List((0..count).map(|_| value(rest, depth + 1)).collect::<Option<_>>()?)
        }
        8 if depth < MAX_DEPTH => {
            let count = length(rest)?;
            let mut fields: Vec<(String, Value)> = Vec::new();
            for _ in 0..count {
                let name = text(rest)?;
                if fields.last().is_some_and(|(last, _)| last.as_bytes() >= name.as_bytes()) {
                    return None;
                }
                fields.push((name, value(rest, depth + 1)?));
            }
            Value::Map(fields)
        }
        _ => return None,
    })
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    array::<1>(rest).map(|[byte]| *byte)
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*array(rest)?)).ok()
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = length(rest)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

fn array<'b, const N: usize>(rest: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (array, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(array)
}
