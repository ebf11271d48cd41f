//! The next step of a request that missed.

use crate::python_modules::loading;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The next step of a request that missed; `Step` of `sark_cache.backends._shared.loading` in Python.
#[derive(Clone, Copy)]
pub enum Step {
    /// Run the loader, store its decision, and give it to all requests that wait.
    Lead,
    /// Return the decision of another request's load.
    Answered,
    /// Run the loader for this request only: the decision of the load it waited for cannot be copied.
    Alone,
    /// Run the loader and store nothing: the cache was disabled or closed.
    Off,
}

impl Step {
    /// Returns the member of the Python enum.
    pub fn to_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        static MEMBERS: PyOnceLock<[Py<PyAny>; 4]> = PyOnceLock::new();
        let [lead, answered, alone, off] = MEMBERS.get_or_try_init(py, || {
            let step = loading(py)?.getattr("Step")?;
            let member = |name| step.getattr(name).map(Bound::unbind);
            Ok::<_, PyErr>([member("LEAD")?, member("ANSWERED")?, member("ALONE")?, member("OFF")?])
        })?;
        let member = match self {
            Self::Lead => lead,
            Self::Answered => answered,
            Self::Alone => alone,
            Self::Off => off,
        };
        Ok(member.bind(py).clone())
    }
}
