//! Sets `cfg(Py_GIL_DISABLED)` and the path of the interpreter's library.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_libpython_rpath_link_args();
}
