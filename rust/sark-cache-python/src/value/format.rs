//! The byte format of stored values.
//!
//! | value | bytes |
//! |---|---|
//! | `None`, `False`, `True` | one tag |
//! | `int` | tag, 1 or 8 bytes; larger ones as hexadecimal text |
//! | `float` | tag, 8 bytes |
//! | `str` | tag, length, UTF-8 |
//! | `list`, `tuple` | tag, count, items; comes back as a `list` |
//! | `dict`, any `Mapping` | tag, count, for each field its name and value; comes back as a `dict` |
//!
//! A field name is its number in [`field_names`](crate::value::field_names), two bytes, or
//! [`SPELLED`], length and UTF-8. Numbers are little-endian. Lengths and counts are varints of 7
//! bits a byte, lowest first. The format is private to the process that wrote it.

pub const NONE: u8 = 0;
pub const FALSE: u8 = 1;
pub const TRUE: u8 = 2;
pub const SMALL_INT: u8 = 3;
pub const INT: u8 = 4;
pub const BIG_INT: u8 = 5;
pub const FLOAT: u8 = 6;
pub const STRING: u8 = 7;
pub const LIST: u8 = 8;
pub const DICT: u8 = 9;

/// Stands in place of the number of a field name whose text follows.
pub const SPELLED: u16 = u16::MAX;
