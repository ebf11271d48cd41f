//! Conversion of [model](crate::model) values to Python objects, in all shapes that callers may pass,
//! and back.

use crate::model::{Value, hexadecimal};
use crate::value::Decision;
use crate::value::field_names;
use arbitrary::{Result, Unstructured};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use std::sync::OnceLock;

/// Names that are registered at the start, so that stored values refer to them by number.
const NAMES: [&str; 4] = ["allow", "reason", "a", "é"];

/// Subclasses whose methods must not be called, and mappings that only their own methods can read.
const SHAPES: &std::ffi::CStr = cr#"
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

class Lying:
    def __eq__(self, other): return True
    def __hash__(self): return 1
    def __str__(self): return "a lie"
    __repr__ = __str__
    def __format__(self, spec): return "a lie"
    def __int__(self): return 7
    def __index__(self): return 7
    def __float__(self): return 7.0
    def __bool__(self): return False
    def __len__(self): return 7
    def __getitem__(self, at): raise LookupError

class Str(Lying, str):
    __eq__ = str.__eq__
    __hash__ = str.__hash__

class Int(Lying, int): pass
class Float(Lying, float): pass
class List(list): pass
class Tuple(tuple): pass

class Pairs(Mapping):
    def __init__(self, pairs): self.pairs = pairs
    def __getitem__(self, name): raise LookupError
    def __iter__(self): return (name for name, _ in self.pairs)
    def __len__(self): return len(self.pairs)
    def items(self): return iter(self.pairs)

def proxied(pairs): return MappingProxyType(dict(pairs))
"#;

/// Starts the interpreter once, and calls `using` with it.
pub fn with_python<R>(using: impl FnOnce(Python<'_>) -> R) -> R {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        // SAFETY: the fuzzer has one thread.
        unsafe {
            std::env::set_var("PYTHONMALLOC", "malloc");
            std::env::set_var("PYTHONHASHSEED", "0");
        }
        Python::attach(|py| {
            PyMapping::register::<Decision>(py).expect("a decision is a mapping");
            for name in NAMES {
                field_names::id(py, name);
            }
        });
    });
    Python::attach(using)
}

/// A converter of values to objects, whose shapes the remaining bytes of the input choose.
pub struct ObjectMaker<'py, 'u, 'b> {
    py: Python<'py>,
    shapes: Bound<'py, PyModule>,
    u: &'u mut Unstructured<'b>,
    /// True if an object that is not JSON was put in.
    pub has_foreign: bool,
}

impl<'py, 'u, 'b> ObjectMaker<'py, 'u, 'b> {
    /// Creates a converter that takes its choices from `u`. Without bytes left, objects are plain.
    pub fn new(py: Python<'py>, u: &'u mut Unstructured<'b>) -> Self {
        static MODULE: OnceLock<Py<PyModule>> = OnceLock::new();
        let module = MODULE.get_or_init(|| {
            PyModule::from_code(py, SHAPES, c"shapes.py", c"shapes").expect("it is Python").unbind()
        });
        Self { py, shapes: module.bind(py).clone(), u, has_foreign: false }
    }

    fn choice(&mut self) -> Result<u8> {
        if self.u.is_empty() { Ok(0) } else { self.u.arbitrary() }
    }

    fn shape(&self, name: &str, of: impl IntoPyObject<'py>) -> Bound<'py, PyAny> {
        let class = self.shapes.getattr(name).expect("it is there");
        class.call1((of.into_bound_py_any(self.py).expect("it can be made"),)).expect("it takes it")
    }

    /// Returns an object for `value`.
    ///
    /// # Errors
    /// None: any bytes are accepted.
    pub fn object(&mut self, value: &Value) -> Result<Bound<'py, PyAny>> {
        let py = self.py;
        let choice = self.choice()?;
        if choice >= 250 {
            self.has_foreign = true;
            return Ok(self.not_json(choice));
        }
        let subclass = choice % 4 == 1;
        Ok(match value {
            Value::Null => py.None().into_bound(py),
            Value::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
            Value::Int(value) if subclass => self.shape("Int", *value),
            Value::Int(value) => value.into_bound_py_any(py).expect("it can be made"),
            Value::BigInt(digits) => {
                let int = py.get_type::<PyInt>().call1((digits, 16)).expect("it is a number");
                if subclass { self.shape("Int", int) } else { int }
            }
            Value::Float(bits) if subclass => self.shape("Float", f64::from_bits(*bits)),
            Value::Float(bits) => PyFloat::new(py, f64::from_bits(*bits)).into_any(),
            Value::String(text) => self.string(text, choice),
            Value::List(items) => {
                let objects: Vec<_> =
                    items.iter().map(|item| self.object(item)).collect::<Result<_>>()?;
                match choice % 4 {
                    0 => PyList::new(py, objects).expect("it can be made").into_any(),
                    1 => self.shape("List", objects),
                    2 => PyTuple::new(py, objects).expect("it can be made").into_any(),
                    _ => self.shape("Tuple", objects),
                }
            }
            Value::Map(fields) => self.mapping(fields, choice)?,
        })
    }

    /// Returns a mapping with these fields.
    ///
    /// # Errors
    /// None: any bytes are accepted.
    pub fn mapping(&mut self, fields: &[(String, Value)], choice: u8) -> Result<Bound<'py, PyAny>> {
        let py = self.py;
        let mut pairs = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let choice = self.choice()?;
            let name = if choice >= 250 {
                self.has_foreign = true;
                match choice % 2 {
                    0 => PyBytes::new(py, name.as_bytes()).into_any(),
                    _ => self.surrogate(),
                }
            } else {
                self.string(name, choice)
            };
            pairs.push((name, self.object(value)?));
        }
        let is_duplicate = |at: usize| fields[..at].iter().any(|(name, _)| *name == fields[at].0);
        // A dict would drop duplicates.
        if (0..fields.len()).any(is_duplicate) {
            return Ok(self.shape("Pairs", pairs));
        }
        Ok(match choice % 4 {
            1 => self.shape("OrderedDict", pairs),
            2 => self.shape("Pairs", pairs),
            3 => self.shape("proxied", pairs),
            _ => {
                let dict = PyDict::new(py);
                for (name, value) in pairs {
                    dict.set_item(name, value).expect("names can be hashed");
                }
                dict.into_any()
            }
        })
    }

    /// Returns a `str`: a new one, the interned one, or one of a subclass.
    fn string(&self, text: &str, choice: u8) -> Bound<'py, PyAny> {
        match choice % 8 {
            1 => self.shape("Str", text),
            2 => PyString::intern(self.py, text).into_any(),
            _ => PyString::new(self.py, text).into_any(),
        }
    }

    /// Returns a string that UTF-8 cannot represent.
    fn surrogate(&self) -> Bound<'py, PyAny> {
        self.py.eval(c"'a\\ud800'", None, None).expect("it is Python")
    }

    fn not_json(&self, choice: u8) -> Bound<'py, PyAny> {
        let py = self.py;
        match choice % 4 {
            0 => PyBytes::new(py, b"a").into_any(),
            1 => PyFloat::new(py, f64::NAN).into_any(),
            2 => self.surrogate(),
            _ => py.get_type::<PyInt>().into_any(),
        }
    }
}

/// Returns the value of an object of exactly the types that the cache returns, and `None` for others.
///
/// With `frozen`, lists are tuples and dicts are [`Decision`]s.
pub fn read(object: &Bound<'_, PyAny>, frozen: bool) -> Option<Value> {
    let py = object.py();
    Some(if object.is_none() {
        Value::Null
    } else if let Ok(value) = object.cast_exact::<PyBool>() {
        Value::Bool(value.is_true())
    } else if let Ok(value) = object.cast_exact::<PyInt>() {
        let digits: String = value.call_method1("__format__", ("x",)).ok()?.extract().ok()?;
        match digits.strip_prefix('-') {
            Some(digits) => hexadecimal("-", digits),
            None => hexadecimal("", &digits),
        }
    } else if let Ok(value) = object.cast_exact::<PyFloat>() {
        Value::Float(value.value().to_bits())
    } else if let Ok(text) = object.cast_exact::<PyString>() {
        Value::String(text.to_str().ok()?.to_owned())
    } else if !frozen && object.is_exact_instance_of::<PyList>()
        || frozen && object.is_exact_instance_of::<PyTuple>()
    {
        let items = object.try_iter().ok()?;
        Value::List(items.map(|item| read(&item.ok()?, frozen)).collect::<Option<_>>()?)
    } else if !frozen && object.is_exact_instance_of::<PyDict>()
        || frozen && object.get_type().is(&py.get_type::<Decision>())
    {
        let items = object.call_method0("items").ok()?.try_iter().ok()?;
        let field = |item: PyResult<Bound<'_, PyAny>>| {
            let (name, value) =
                item.ok()?.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>().ok()?;
            let name = name.cast_exact::<PyString>().ok()?.to_str().ok()?.to_owned();
            Some((name, read(&value, frozen)?))
        };
        Value::Map(items.map(field).collect::<Option<_>>()?)
    } else {
        return None;
    })
}

/// Changes every list and dict in an object that the cache returned.
pub fn spoil(object: &Bound<'_, PyAny>) {
    if let Ok(list) = object.cast::<PyList>() {
        list.iter().for_each(|item| spoil(&item));
        list.call_method0("clear").expect("it can be changed");
        list.append("spoiled").expect("it can be changed");
    } else if let Ok(dict) = object.cast::<PyDict>() {
        dict.values().iter().for_each(|item| spoil(&item));
        dict.clear();
        dict.set_item("spoiled", true).expect("it can be changed");
    }
}
