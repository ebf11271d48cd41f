//! Keys are equal exactly when the requests are equal.

use proptest::prelude::*;
use sark_cache_core::key::{KeyParts, without_policy};
use sark_cache_core::limits::{MAX_DEPTH, MAX_FIELD_BYTES, MAX_KEY_BYTES, MAX_POLICY_BYTES};
use sark_cache_core::{EncodeError, KeyWriter};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Int(i64),
    BigInt(String),
    Float(f64),
    String(String),
    List(Vec<Json>),
    Map(BTreeMap<String, Json>),
}

impl Json {
    fn write(&self, writer: &mut KeyWriter) -> Result<(), EncodeError> {
        match self {
            Self::Null => writer.null(),
            Self::Bool(value) => writer.bool(*value),
            Self::Int(value) => writer.int(*value),
            Self::BigInt(digits) => writer.big_int(digits)?,
            Self::Float(value) => writer.float(*value)?,
            Self::String(value) => writer.string(value)?,
            Self::List(items) => writer.list(items.iter(), |writer, item| item.write(writer))?,
            Self::Map(map) => {
                // In reverse order, so that the writer has to sort.
                let mut entries: Vec<_> =
                    map.iter().rev().map(|(key, value)| (key.as_str(), value)).collect();
                writer.map(&mut entries, |writer, value| value.write(writer))?;
            }
        }
        Ok(())
    }

    /// Returns whether two values are equal, comparing floats by their bits: 0.0 and -0.0 differ.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && a.same(b))
            }
            _ => self == other,
        }
    }
}

fn json() -> impl Strategy<Value = Json> {
    let text = "[:/_*%a1\u{0}é]{0,4}";
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        (-2_i64..3).prop_map(Json::Int),
        any::<i64>().prop_map(Json::Int),
        "-?[1-9a-f][0-9a-f]{16,20}".prop_map(Json::BigInt),
        prop_oneof![Just(0.0), Just(-0.0), Just(1.0), -1e300..1e300].prop_map(Json::Float),
        text.prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
            prop::collection::btree_map(text, inner, 0..4).prop_map(Json::Map),
        ]
    })
}

fn request(parts: &[String; 3], context: Option<&Json>) -> Vec<u8> {
    request_under("", parts, context)
}

fn request_under(policy: &str, parts: &[String; 3], context: Option<&Json>) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.policy(policy).unwrap();
    writer.request(&parts[0], &parts[1], &parts[2]).unwrap();
    if let Some(context) = context {
        context.write(&mut writer).unwrap();
    }
    writer.as_bytes().to_vec()
}

fn general(value: &Json) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.general();
    value.write(&mut writer).unwrap();
    writer.as_bytes().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn different_values_have_different_keys_and_equal_ones_equal_keys(a in json(), b in json()) {
        prop_assert_eq!(general(&a) == general(&b), a.same(&b));
    }

    #[test]
    fn different_requests_have_different_keys(
        policy in "[:a\u{1}\u{3}]{0,2}",
        other_policy in "[:a\u{1}\u{3}]{0,2}",
        a in prop::array::uniform3("[:/_*a]{0,3}"),
        b in prop::array::uniform3("[:/_*a]{0,3}"),
        context in prop::option::of(json()),
        other in prop::option::of(json()),
    ) {
        let same = policy == other_policy && a == b && match (&context, &other) {
            (None, None) => true,
            (Some(a), Some(b)) => a.same(b),
            _ => false,
        };
        let key = request_under(&policy, &a, context.as_ref());
        let other = request_under(&other_policy, &b, other.as_ref());
        prop_assert_eq!(key == other, same);
    }

    #[test]
    fn the_parts_of_a_request_are_read_back(
        policy in ".{0,8}",
        parts in prop::array::uniform3(".{0,8}"),
        context in json(),
    ) {
        let key = request_under(&policy, &parts, Some(&context));
        let read = KeyParts::of(&key).unwrap();
        prop_assert_eq!(read.policy, policy);
        prop_assert_eq!(without_policy(&key), request(&parts, Some(&context)));
        prop_assert_eq!(read.fields.map(str::to_owned), parts);
        prop_assert_eq!(read.context, &general(&context)[1..]);
    }

    #[test]
    fn reading_the_parts_of_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = KeyParts::of(&bytes);
        let _ = without_policy(&bytes);
    }
}

#[test]
fn the_empty_policy_is_no_policy() {
    let parts = ["alice", "read", "doc"].map(str::to_owned);
    let mut written_out = vec![3, 0, 0, 0, 0];
    written_out.extend(request(&parts, None));
    assert_eq!(KeyParts::of(&written_out), None);
    assert_eq!(request_under("", &parts, None)[0], 1);
}

#[test]
fn a_part_that_is_too_long_is_refused_by_its_name() {
    let (longest, beyond) = ("x".repeat(MAX_FIELD_BYTES), "x".repeat(MAX_FIELD_BYTES + 1));
    for (at, part) in ["user_id", "action", "resource"].into_iter().enumerate() {
        let mut fields = ["a", "b", "c"];
        fields[at] = &longest;
        assert_eq!(KeyWriter::new().request(fields[0], fields[1], fields[2]), Ok(()));
        fields[at] = &beyond;
        let refused = KeyWriter::new().request(fields[0], fields[1], fields[2]);
        assert_eq!(refused, Err(EncodeError::TooLong { part, limit: MAX_FIELD_BYTES }));
    }
    assert_eq!(KeyWriter::new().policy(&"x".repeat(MAX_POLICY_BYTES)), Ok(()));
    let refused = KeyWriter::new().policy(&"x".repeat(MAX_POLICY_BYTES + 1));
    assert_eq!(refused, Err(EncodeError::TooLong { part: "policy", limit: MAX_POLICY_BYTES }));
}

#[test]
fn a_general_key_has_no_parts() {
    assert_eq!(KeyParts::of(&general(&Json::String("alice".into()))), None);
}

#[test]
fn one_and_its_lookalikes_have_four_keys() {
    let lookalikes = [Json::Int(1), Json::Float(1.0), Json::Bool(true), Json::String("1".into())]
        .map(|v| general(&v));
    for (i, a) in lookalikes.iter().enumerate() {
        for b in &lookalikes[i + 1..] {
            assert_ne!(a, b);
        }
    }
}

#[test]
fn values_that_json_cannot_hold_are_refused() {
    for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Json::Float(float).write(&mut KeyWriter::new()), Err(EncodeError::NotFinite));
    }
    let twice = KeyWriter::new().map(&mut [("a", 1), ("a", 2)], |_, _| Ok::<_, EncodeError>(()));
    assert_eq!(twice, Err(EncodeError::DuplicateKey));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| (0..depth).fold(Json::Null, |inner, _| Json::List(vec![inner]));
    assert_eq!(nested(MAX_DEPTH).write(&mut KeyWriter::new()), Ok(()));
    assert_eq!(nested(MAX_DEPTH + 1).write(&mut KeyWriter::new()), Err(EncodeError::TooDeep));
}

#[test]
fn writing_stops_at_the_largest_key() {
    // Without a limit this would write 2⁶⁰ strings.
    fn doubled(writer: &mut KeyWriter, depth: u32) -> Result<(), EncodeError> {
        if depth == 0 {
            return writer.string("x");
        }
        writer.list([(); 2].iter(), |writer, ()| doubled(writer, depth - 1))
    }
    let mut writer = KeyWriter::new();
    assert_eq!(doubled(&mut writer, 60), Err(EncodeError::TooLarge));
    assert!(writer.as_bytes().len() < 2 * MAX_KEY_BYTES);
    assert_eq!(KeyWriter::new().string(&"x".repeat(MAX_KEY_BYTES + 1)), Err(EncodeError::TooLarge));
}

#[test]
fn a_reused_buffer_keeps_nothing() {
    let mut first = KeyWriter::new();
    first.request("alice", "read", "doc").unwrap();
    let mut second = KeyWriter::with_buffer(first.into_buffer());
    second.request("bob", "", "").unwrap();
    assert_eq!(second.as_bytes(), request(&["bob".into(), String::new(), String::new()], None));
}
