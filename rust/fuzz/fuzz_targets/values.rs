//! A stored value is returned with the same types by every accessor, and its key is that of the model.
//! Values that are not JSON are refused. Changes to a returned object do not affect the next one.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use pyo3::prelude::*;
use pyo3::types::PyString;
use sark_cache_core::KeyWriter;
use sark_cache_fuzz::convert::json::is_mapping;
use sark_cache_fuzz::convert::{arguments, key};
use sark_cache_fuzz::error::Fault;
use sark_cache_fuzz::model::{MAX_SIZE, Subject, Value, text};
use sark_cache_fuzz::objects::{ObjectMaker, read, spoil, with_python};
use sark_cache_fuzz::value::Stored;

/// The number of reads after which a template replaces another one.
const READS: usize = 66;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    match with_python(|py| try_out(py, &mut Unstructured::new(bytes))) {
        Ok(()) => Corpus::Keep,
        Err(_) => Corpus::Reject,
    }
});

fn try_out(py: Python<'_>, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (policy, user) = (text(u)?, text(u)?);
    let value: Value = u.arbitrary()?;
    if value.size() > MAX_SIZE {
        return Err(arbitrary::Error::IncorrectFormat);
    }
    let mut maker = ObjectMaker::new(py, u);
    let object = maker.object(&value)?;
    let is_json = value.is_json() && !maker.has_foreign;
    let similar = similar(u, &value)?;

    if is_mapping(&object)
        && let Value::Map(fields) = &value
    {
        let subject = Subject::Request([policy, user, "read".into(), "doc".into()], fields.clone());
        assert_same_key(py, &object, &subject, is_json);
    }
    let stored = match Stored::from_python(&object) {
        Ok(stored) => stored,
        Err(Fault::NotStorable(_)) => {
            assert!(!is_json, "{value:?} was refused");
            return Ok(());
        }
        Err(Fault::WrongType(error) | Fault::Raised(error)) => panic!("{value:?}: {error}"),
    };
    assert!(is_json, "{value:?} was stored");

    assert_round_trip(py, &stored, &value);
    // The templates of recent values are not mixed up with a similar value.
    if similar.is_json() && similar.size() <= MAX_SIZE {
        let object = ObjectMaker::new(py, &mut Unstructured::new(&[])).object(&similar)?;
        let like = Stored::from_python(&object).map_err(PyErr::from).expect("it is JSON");
        assert_eq!(like.bytes() == stored.bytes(), similar == value);
        for _ in 0..2 {
            assert_served(py, &like, &similar);
            assert_served(py, &stored, &value);
        }
    }
    spoil(&object);
    assert_eq!(stored.is_object(), matches!(value, Value::Map(_)));
    if let Value::Map(fields) = &value {
        let decision = stored.decision(py).expect("it is a mapping");
        assert!(decision.is(&stored.decision(py).expect("it is a mapping")), "it is shared");
        assert_agrees(decision.as_any(), fields, &stored).expect("no accessor raises");
    }
    Ok(())
}

/// Returns a mapping with the same names and some of the values, or with other names.
fn similar(u: &mut Unstructured<'_>, value: &Value) -> arbitrary::Result<Value> {
    let Value::Map(mut fields) = value.clone() else { return Ok(Value::Null) };
    for (name, value) in &mut fields {
        match u.arbitrary::<u8>()? % 4 {
            1 => *value = u.arbitrary()?,
            2 => *name = text(u)?,
            _ => {}
        }
    }
    if u.arbitrary()? {
        fields.pop();
    }
    Ok(Value::Map(fields))
}

/// Reads a value so often that the last reads copy it from a template.
fn assert_round_trip(py: Python<'_>, stored: &Stored, value: &Value) {
    assert_served(py, stored, value);
    for _ in 0..READS {
        stored.to_python(py).expect("it was stored");
    }
    assert_served(py, stored, value);
    let served = stored.to_python(py).expect("it was stored");
    let again = Stored::from_python(&served).map_err(PyErr::from).expect("it is JSON");
    assert_eq!(again.bytes(), stored.bytes());
}

fn assert_served(py: Python<'_>, stored: &Stored, value: &Value) {
    let served = stored.to_python(py).expect("it was stored");
    assert_eq!(read(&served, false).as_ref(), Some(value));
    spoil(&served);
}

/// Asserts that the key of the object is that of the model, or that both have none.
fn assert_same_key(py: Python<'_>, context: &Bound<'_, PyAny>, subject: &Subject, is_json: bool) {
    let Subject::Request(fields, _) = subject else { return };
    let [policy, user, action, resource] = fields.each_ref().map(|field| PyString::new(py, field));
    let (policy, fields) = (Some(policy.as_borrowed()), [&user, &action, &resource]);
    let asked = arguments::Request { policy, fields, context: Some(context) };
    let key = key::request(asked, KeyWriter::to_key);
    match key {
        Ok(key) => {
            assert!(is_json, "{subject:?} has a key");
            assert_eq!(Ok(key.as_bytes()), subject.key().as_deref());
        }
        Err(Fault::NotStorable(_)) => assert!(!is_json, "{subject:?} has no key"),
        Err(Fault::WrongType(error) | Fault::Raised(error)) => panic!("{subject:?}: {error}"),
    }
}

/// Asserts that a decision reads as the model does, field by field and as a whole.
fn assert_agrees(
    decision: &Bound<'_, PyAny>,
    fields: &[(String, Value)],
    stored: &Stored,
) -> PyResult<()> {
    let py = decision.py();
    let value = Value::Map(fields.to_vec());
    let dict = decision.call_method0("to_dict")?;
    assert_eq!(read(&dict, false).as_ref(), Some(&value));
    assert!(decision.eq(&dict)?);
    spoil(&dict);
    assert_eq!(read(decision, true).as_ref(), Some(&value));
    assert_eq!(decision.len()?, fields.len());
    for (name, value) in fields {
        assert_eq!(read(&decision.get_item(name)?, true).as_ref(), Some(value));
    }
    assert_eq!(decision.contains("no such")?, fields.iter().any(|(name, _)| name == "no such"));
    let allows = fields.iter().any(|it| *it == ("allow".to_owned(), Value::Bool(true)));
    assert_eq!(decision.getattr("allow")?.extract::<bool>()?, allows);

    let copied = decision.get_type().call1((stored.to_python(py)?,))?;
    assert!(copied.eq(decision)?);
    assert_eq!(copied.hash()?, decision.hash()?);
    let same = Stored::from_python(decision).map_err(PyErr::from)?;
    assert_eq!(same.bytes(), stored.bytes());
    Ok(())
}
