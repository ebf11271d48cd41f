//! Decoding of stored bytes into new Python objects.

use crate::value::field_names;
use crate::value::format::{
    BIG_INT, DICT, FALSE, FLOAT, INT, LIST, NONE, SMALL_INT, SPELLED, STRING, TRUE,
};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyInt, PyList, PyString, PyTuple};
use sark_cache_core::limits::MAX_DEPTH;
use smallvec::SmallVec;
use std::mem;

/// A reader of the bytes that [`encode`](crate::value::encode) writes. Other bytes are an error,
/// never a panic.
///
/// Its methods do not recurse: 64 nested levels need no more stack than one.
pub struct Reader<'b> {
    rest: &'b [u8],
}

/// A list or dict that exists already and is being filled.
struct Open<'py> {
    container: Container<'py>,
    /// The number of items or fields that are not read yet.
    left: usize,
}

enum Container<'py> {
    List(Bound<'py, PyList>),
    Dict(Bound<'py, PyDict>),
}

impl<'py> Container<'py> {
    fn as_any(&self) -> &Bound<'py, PyAny> {
        match self {
            Self::List(list) => list.as_any(),
            Self::Dict(dict) => dict.as_any(),
        }
    }

    fn into_any(self) -> Bound<'py, PyAny> {
        match self {
            Self::List(list) => list.into_any(),
            Self::Dict(dict) => dict.into_any(),
        }
    }
}

/// The content of a list or dict that is created later: its items, or its names and values.
pub struct Begun<'py> {
    pub py: Python<'py>,
    pub items: Vec<Bound<'py, PyAny>>,
    is_dict: bool,
    /// The number of items or fields that are not read yet.
    left: usize,
    /// The name of the field whose value comes next.
    name: Option<Bound<'py, PyString>>,
}

impl<'py> Begun<'py> {
    fn put(&mut self, value: Bound<'py, PyAny>) -> PyResult<()> {
        let item = match self.name.take() {
            None => value,
            Some(name) => (name, value).into_bound_py_any(self.py)?,
        };
        self.items.push(item);
        Ok(())
    }
}

/// A Python object with the hash of a list or dict, in the place of that list or dict.
#[pyclass(frozen, module = "sark_cache._native")]
struct Hashed(isize);

impl Hashed {
    fn of(Begun { py, items, is_dict, .. }: Begun<'_>) -> PyResult<Bound<'_, PyAny>> {
        let hash = if is_dict {
            PyFrozenSet::new(py, items)?.hash()?
        } else {
            PyTuple::new(py, items)?.hash()?
        };
        Self(hash).into_bound_py_any(py)
    }
}

#[pymethods]
impl Hashed {
    fn __hash__(&self) -> isize {
        self.0
    }
}

/// The name of a field.
pub enum Name<'b> {
    Known(&'static Py<PyString>),
    Spelled(&'b [u8]),
}

impl Name<'_> {
    pub fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        match self {
            Self::Known(name) => Ok(name.bind(py).clone()),
            Self::Spelled(name) => PyString::from_bytes(py, name),
        }
    }

    /// Returns true if it is the name `wanted`, whose text is `text`.
    #[inline]
    fn is(&self, py: Python<'_>, wanted: &Bound<'_, PyString>, text: &str) -> bool {
        match self {
            Self::Known(known) => known.is(wanted) || *known.bind(py) == *text,
            Self::Spelled(spelled) => *spelled == text.as_bytes(),
        }
    }
}

impl<'b> Reader<'b> {
    /// Creates a reader of one stored value.
    pub fn new(stored: &'b [u8]) -> Self {
        Self { rest: stored }
    }

    /// Builds the value. It is a new object, and so are all lists and dicts in it.
    pub fn value<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let tag = self.byte()?;
        let Some(mut inner) = self.open(py, tag)? else { return self.scalar(py, tag) };
        let mut outer = SmallVec::<[Open<'py>; 4]>::new();
        loop {
            if inner.left == 0 {
                match outer.pop() {
                    Some(around) => inner = around,
                    None => return Ok(inner.container.into_any()),
                }
                continue;
            }
            inner.left -= 1;
            let opened = match &inner.container {
                Container::List(list) => self.next(py, |value| list.append(value))?,
                Container::Dict(dict) => match self.name()? {
                    Name::Known(name) => self.next(py, |value| dict.set_item(name, value))?,
                    name @ Name::Spelled(_) => {
                        let name = name.to_python(py)?;
                        self.next(py, |value| dict.set_item(name, value))?
                    }
                },
            };
            if let Some(opened) = opened {
                if outer.len() + 1 == MAX_DEPTH {
                    return Err(corrupt());
                }
                outer.push(mem::replace(&mut inner, opened));
            }
        }
    }

    /// Reads the next value and passes it to `put`. A list or dict is put in its place empty, and
    /// returned to be filled.
    #[inline]
    fn next<'py>(
        &mut self,
        py: Python<'py>,
        put: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<Option<Open<'py>>> {
        let tag = self.byte()?;
        let opened = self.open(py, tag)?;
        match &opened {
            Some(opened) => put(opened.container.as_any())?,
            None => put(&self.scalar(py, tag)?)?,
        }
        Ok(opened)
    }

    /// Creates an empty list or dict for `tag`. Returns `None` if it is the tag of a scalar.
    #[inline]
    fn open<'py>(&mut self, py: Python<'py>, tag: u8) -> PyResult<Option<Open<'py>>> {
        let container = match tag {
            LIST => Container::List(PyList::empty(py)),
            DICT => Container::Dict(PyDict::new(py)),
            _ => return Ok(None),
        };
        Ok(Some(Open { container, left: self.length()? }))
    }

    /// Returns the hash of the immutable value.
    pub fn hash(&mut self, py: Python<'_>) -> PyResult<isize> {
        self.inside_out(py, |_, _| Ok(None), Hashed::of)?.hash()
    }

    /// Skips the next value and returns its bytes.
    pub fn take_bytes(&mut self) -> PyResult<&'b [u8]> {
        let begun = self.rest;
        self.skip()?;
        Ok(&begun[..begun.len() - self.rest.len()])
    }

    /// Builds the value from the inside out. `whole` may read a dict at once; it returns `None` to
    /// leave that to this method. `finish` creates the object of every other dict, and of every
    /// list, from its content.
    pub fn inside_out<'py>(
        &mut self,
        py: Python<'py>,
        whole: impl Fn(&mut Self, Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>>,
        finish: impl Fn(Begun<'py>) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut outer = SmallVec::<[Begun<'py>; 2]>::new();
        loop {
            let mut value = match self.rest.first() {
                Some(&DICT) => whole(self, py)?,
                Some(&LIST) => None,
                _ => {
                    let tag = self.byte()?;
                    Some(self.scalar(py, tag)?)
                }
            };
            if value.is_none() {
                if outer.len() == MAX_DEPTH {
                    return Err(corrupt());
                }
                let is_dict = self.byte()? == DICT;
                outer.push(Begun {
                    py,
                    items: Vec::new(),
                    left: self.length()?,
                    is_dict,
                    name: None,
                });
            }
            // A value may complete the list or dict around it, which is then a value too.
            loop {
                let Some(around) = outer.last_mut() else { return value.ok_or_else(corrupt) };
                if let Some(value) = value.take() {
                    around.put(value)?;
                }
                if around.left > 0 {
                    around.left -= 1;
                    if around.is_dict {
                        around.name = Some(self.name()?.to_python(py)?);
                    }
                    break;
                }
                value = outer.pop().map(&finish).transpose()?;
            }
        }
    }

    /// Returns true if a field of a dict exists and is `True`.
    pub fn is_true(&mut self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<bool> {
        Ok(self.seek(py, name)? && self.byte()? == TRUE)
    }

    /// Returns two lengths in bytes for each field of a dict: of its name, and of name and value.
    pub fn field_lengths(&mut self) -> PyResult<Vec<(usize, usize)>> {
        let lengths = |reader: &mut Self| {
            let begun = reader.rest.len();
            reader.name()?;
            let named = begun - reader.rest.len();
            reader.skip()?;
            Ok((named, begun - reader.rest.len()))
        };
        (0..self.count()?).map(|_| lengths(self)).collect()
    }

    /// Skips `wanted` if these bytes come next. Returns whether they did.
    ///
    /// No encoded name or value is a prefix of another one.
    #[inline]
    pub fn skip_prefix(&mut self, wanted: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Returns the number of fields of the dict. The first one is read next.
    pub fn count(&mut self) -> PyResult<usize> {
        if self.byte()? == DICT { self.length() } else { Err(corrupt()) }
    }

    /// Moves to the value of a field. Returns false if there is no such field.
    pub fn seek(&mut self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<bool> {
        // No field has a name with a lone surrogate.
        let Ok(text) = name.to_str() else { return Ok(false) };
        for _ in 0..self.count()? {
            if self.name()?.is(py, name, text) {
                return Ok(true);
            }
            self.skip()?;
        }
        Ok(false)
    }

    fn skip(&mut self) -> PyResult<()> {
        let mut outer = SmallVec::<[(usize, bool); 4]>::new();
        loop {
            match self.byte()? {
                NONE | FALSE | TRUE => {}
                SMALL_INT => self.array::<1>().map(drop)?,
                INT | FLOAT => self.array::<8>().map(drop)?,
                BIG_INT | STRING => self.text().map(drop)?,
                tag @ (LIST | DICT) if outer.len() < MAX_DEPTH => {
                    outer.push((self.length()?, tag == DICT));
                }
                _ => return Err(corrupt()),
            }
            loop {
                let Some((left, is_dict)) = outer.last_mut() else { return Ok(()) };
                if *left > 0 {
                    *left -= 1;
                    if *is_dict {
                        self.name()?;
                    }
                    break;
                }
                outer.pop();
            }
        }
    }

    /// Builds a value that is not a list or a dict.
    #[inline]
    fn scalar<'py>(&mut self, py: Python<'py>, tag: u8) -> PyResult<Bound<'py, PyAny>> {
        match tag {
            NONE => Ok(py.None().into_bound(py)),
            FALSE => false.into_bound_py_any(py),
            TRUE => true.into_bound_py_any(py),
            SMALL_INT => i8::from_le_bytes(self.array()?).into_bound_py_any(py),
            INT => i64::from_le_bytes(self.array()?).into_bound_py_any(py),
            BIG_INT => {
                let digits = PyString::from_bytes(py, self.text()?)?;
                py.get_type::<PyInt>().call1((digits, 16))
            }
            FLOAT => f64::from_le_bytes(self.array()?).into_bound_py_any(py),
            STRING => string(py, self.text()?),
            _ => Err(corrupt()),
        }
    }

    #[inline]
    pub fn name(&mut self) -> PyResult<Name<'b>> {
        match u16::from_le_bytes(self.array()?) {
            SPELLED => self.text().map(Name::Spelled),
            id => field_names::string(id).map(Name::Known).ok_or_else(corrupt),
        }
    }

    fn byte(&mut self) -> PyResult<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(corrupt)?;
        self.rest = rest;
        Ok(*array)
    }

    fn length(&mut self) -> PyResult<usize> {
        let mut length = 0;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(length);
            }
        }
        Err(corrupt())
    }

    /// Reads raw UTF-8. It is validated when a `str` is built from it.
    fn text(&mut self) -> PyResult<&'b [u8]> {
        let length = self.length()?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or_else(corrupt)?;
        self.rest = rest;
        Ok(text)
    }
}

#[inline]
fn string<'py>(py: Python<'py>, utf8: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if !utf8.is_ascii() {
        return Ok(PyString::from_bytes(py, utf8)?.into_any());
    }
    // Takes half the time of decoding UTF-8.
    // SAFETY: the pointer and the length are those of `utf8`. An ASCII character is one byte.
    unsafe {
        let string = ffi::PyUnicode_FromKindAndData(
            ffi::PyUnicode_1BYTE_KIND.cast_signed(),
            utf8.as_ptr().cast(),
            utf8.len().cast_signed(),
        );
        Bound::from_owned_ptr_or_err(py, string)
    }
}

#[cold]
fn corrupt() -> PyErr {
    PyRuntimeError::new_err("a stored value is corrupt: report this fault of sark-cache")
}
