//! JSON values and requests as plain Rust data, to compare keys and stored values with.
//!
//! Equality compares the structure: floats by their bits, and fields in their order. It does not
//! depend on any encoding.

use arbitrary::{Arbitrary, Result, Unstructured};
use sark_cache_core::limits::{MAX_DEPTH, MAX_ENTRY_BYTES};
use sark_cache_core::{EncodeError, KeyWriter};

/// The largest value that is tried, in bytes, so that no value is refused for its size.
pub const MAX_SIZE: usize = MAX_ENTRY_BYTES / 2;
/// The deepest nesting of generated values. Values deeper than the limit must be refused.
const MAX_GENERATED_DEPTH: usize = MAX_DEPTH + 8;

/// A JSON value, or a similar value that is not JSON; see [`Value::is_json`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits in 64 bits.
    Int(i64),
    /// Any other integer, in hexadecimal.
    BigInt(String),
    /// The bits of a float, finite or not.
    Float(u64),
    /// Text.
    String(String),
    /// Items.
    List(Vec<Value>),
    /// Fields in their order. Two of them may have the same name.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Returns whether the value can be part of a key, or stored.
    pub fn is_json(&self) -> bool {
        self.fits(MAX_DEPTH)
    }

    fn fits(&self, depth: usize) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::BigInt(_) | Self::String(_) => true,
            Self::Float(bits) => f64::from_bits(*bits).is_finite(),
            Self::List(items) => depth > 0 && items.iter().all(|item| item.fits(depth - 1)),
            Self::Map(fields) => {
                let names = || fields.iter().map(|(name, _)| name);
                depth > 0
                    && names().enumerate().all(|(at, name)| !names().take(at).any(|it| it == name))
                    && fields.iter().all(|(_, value)| value.fits(depth - 1))
            }
        }
    }

    /// Returns the size of the value in a key, in bytes. A stored value is not larger.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 1,
            Self::Int(_) | Self::Float(_) => 9,
            Self::BigInt(text) | Self::String(text) => 5 + text.len(),
            Self::List(items) => 5 + items.iter().map(Self::size).sum::<usize>(),
            Self::Map(fields) => {
                5 + fields.iter().map(|(name, it)| 4 + name.len() + it.size()).sum::<usize>()
            }
        }
    }

    /// Returns the value with the fields of all mappings sorted by name.
    #[must_use]
    pub fn sorted(&self) -> Self {
        match self {
            Self::List(items) => Self::List(items.iter().map(Self::sorted).collect()),
            Self::Map(fields) => {
                let sorted = |(name, value): &(String, Self)| (name.clone(), value.sorted());
                let mut fields: Vec<_> = fields.iter().map(sorted).collect();
                fields.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
                Self::Map(fields)
            }
            _ => self.clone(),
        }
    }

    /// Writes the value as a part of a key.
    ///
    /// # Errors
    /// The reason why it is not JSON.
    pub fn write(&self, writer: &mut KeyWriter) -> std::result::Result<(), EncodeError> {
        match self {
            Self::Null => writer.null(),
            Self::Bool(value) => writer.bool(*value),
            Self::Int(value) => writer.int(*value),
            Self::BigInt(digits) => writer.big_int(digits)?,
            Self::Float(bits) => writer.float(f64::from_bits(*bits))?,
            Self::String(text) => writer.string(text)?,
            Self::List(items) => writer.list(items.iter(), |writer, item| item.write(writer))?,
            Self::Map(fields) => {
                let mut entries: Vec<_> =
                    fields.iter().map(|(name, value)| (name.as_str(), value)).collect();
                writer.map(&mut entries, |writer, value| value.write(writer))?;
            }
        }
        Ok(())
    }

    fn generate(u: &mut Unstructured<'_>, depth: usize) -> Result<Self> {
        Ok(match u.arbitrary::<u8>()? % 12 {
            0 => Self::Null,
            1 => Self::Bool(u.arbitrary()?),
            2 => Self::Int(i64::from(u.arbitrary::<i8>()?)),
            3 => Self::Float(f64::from(u.arbitrary::<i8>()?).to_bits()),
            4 => Self::String(u.arbitrary::<i8>()?.to_string()),
            5 => Self::String(text(u)?),
            6 => Self::Float(u.arbitrary()?),
            7 => integer(u.arbitrary()?, 0),
            8 => integer(i128::from(u.arbitrary::<i64>()?), u.arbitrary()?),
            9 if depth < MAX_GENERATED_DEPTH => {
                let levels = usize::from(u.arbitrary::<u8>()?) % (MAX_GENERATED_DEPTH - depth);
                let innermost = Self::generate(u, depth + levels)?;
                (0..levels).fold(innermost, |inner, _| Self::List(vec![inner]))
            }
            10 if depth < MAX_GENERATED_DEPTH => {
                let count = u.arbitrary::<u8>()? % 16;
                let item = |_| Self::generate(u, depth + 1);
                Self::List((0..count).map(item).collect::<Result<_>>()?)
            }
            11 if depth < MAX_GENERATED_DEPTH => Self::Map(fields(u, depth)?),
            _ => Self::Null,
        })
    }
}

impl<'a> Arbitrary<'a> for Value {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Self::generate(u, 0)
    }
}

/// An authorization request, or the key of a general cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The policy, user, action and resource, and the fields of the context, if any.
    Request([String; 4], Vec<(String, Value)>),
    /// Any value.
    General(Value),
}

impl Subject {
    /// Returns the approximate size of the key, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Request(fields, context) => {
                let context = context.iter().map(|(name, it)| 4 + name.len() + it.size());
                fields.iter().map(|field| 4 + field.len()).chain(context).sum::<usize>() + 7
            }
            Self::General(value) => 1 + value.size(),
        }
    }

    /// Returns whether the subject can have a key.
    pub fn is_json(&self) -> bool {
        match self {
            Self::Request(_, context) => Value::Map(context.clone()).is_json(),
            Self::General(value) => value.is_json(),
        }
    }

    /// Returns the subject with all fields sorted by name.
    #[must_use]
    pub fn sorted(&self) -> Self {
        match self {
            Self::Request(fields, context) => match Value::Map(context.clone()).sorted() {
                Value::Map(context) => Self::Request(fields.clone(), context),
                _ => unreachable!("a sorted mapping is a mapping"),
            },
            Self::General(value) => Self::General(value.sorted()),
        }
    }

    /// Returns the key.
    ///
    /// # Errors
    /// The reason why the subject has no key.
    pub fn key(&self) -> std::result::Result<Vec<u8>, EncodeError> {
        let mut writer = KeyWriter::new();
        match self {
            Self::Request([policy, user, action, resource], context) => {
                writer.policy(policy)?;
                writer.request(user, action, resource)?;
                if !context.is_empty() {
                    Value::Map(context.clone()).write(&mut writer)?;
                }
            }
            Self::General(value) => {
                writer.general();
                value.write(&mut writer)?;
            }
        }
        Ok(writer.into_buffer())
    }
}

impl<'a> Arbitrary<'a> for Subject {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(if u.arbitrary()? {
            Self::General(u.arbitrary()?)
        } else {
            Self::Request([text(u)?, text(u)?, text(u)?, text(u)?], fields(u, 0)?)
        })
    }
}

fn fields(u: &mut Unstructured<'_>, depth: usize) -> Result<Vec<(String, Value)>> {
    let count = u.arbitrary::<u8>()? % 16;
    (0..count).map(|_| Ok((text(u)?, Value::generate(u, depth + 1)?))).collect()
}

/// Generates text of up to 71 bytes: names that are short enough to be kept by number, and longer
/// ones.
pub fn text(u: &mut Unstructured<'_>) -> Result<String> {
    let length = usize::from(u.arbitrary::<u8>()? % 72).min(u.len());
    Ok(String::from_utf8_lossy(u.bytes(length)?).into_owned())
}

/// Returns the integer with this many hexadecimal zeros appended.
pub fn integer(value: i128, zeros: u8) -> Value {
    match i64::try_from(value) {
        Ok(small) if zeros == 0 || small == 0 => Value::Int(small),
        _ => {
            let sign = if value < 0 { "-" } else { "" };
            let digits = format!("{:x}{}", value.unsigned_abs(), "0".repeat(zeros.into()));
            hexadecimal(sign, &digits)
        }
    }
}

/// Returns the integer with this sign (`-` or nothing) and these digits, without leading zeros.
pub fn hexadecimal(sign: &str, digits: &str) -> Value {
    let written = format!("{sign}{digits}");
    i64::from_str_radix(&written, 16).map_or(Value::BigInt(written), Value::Int)
}
