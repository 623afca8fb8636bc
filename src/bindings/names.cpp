#include "names.hpp"

#include "py_errors.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

namespace {

constexpr int kFrames = 2;

// Null, with an exception, if they cannot be had.
nb::object values_of(PyFrameObject* frame) {
    const nb::object code = nb::steal(reinterpret_cast<PyObject*>(PyFrame_GetCode(frame)));
    const bool is_function = (reinterpret_cast<PyCodeObject*>(code.ptr())->co_flags & CO_OPTIMIZED) != 0;
    const nb::object variables = nb::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(frame), "f_locals"));
    if (!variables.is_valid()) return {};
    const bool is_dict = PyDict_CheckExact(variables.ptr()) != 0;
    if (!is_function && !is_dict)
        return nb::steal(PyList_New(0));  // a mapping of the user's, whose code would run here
    nb::object values = nb::steal(PyMapping_Values(variables.ptr()));
#if PY_VERSION_HEX < 0x030D0000
    // A snapshot, which the frame keeps, and with it whatever its variables were until now. Emptied, unless it is shown to
    // somebody: a debugger, or a caller of locals().
    if (is_function && is_dict && Py_REFCNT(variables.ptr()) == 2) PyDict_Clear(variables.ptr());
#endif
    return values;
}

bool contains(nb::handle values, nb::handle object) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values.ptr()); ++i)
        if (PyList_GET_ITEM(values.ptr(), i) == object.ptr()) return true;
    return false;
}

PyObject* drop(PyObject*, PyObject* reference) {
    Py_DECREF(reference);
    return Py_NewRef(Py_None);
}
PyMethodDef drop_method = {"drop", &drop, METH_O, nullptr};

}  // namespace

bool is_named(nb::handle object) {
#if PY_VERSION_HEX < 0x030D0000
    // Within a trace function, the snapshots of frames are the interpreter's, which takes variables from them.
    if (PyThreadState_Get()->tracing != 0) return false;
#endif
    nb::object frame = nb::borrow(reinterpret_cast<PyObject*>(PyEval_GetFrame()));
    for (int i = 0; i < kFrames && frame.is_valid(); ++i) {
        auto* const running = reinterpret_cast<PyFrameObject*>(frame.ptr());
        const nb::object values = values_of(running);
        if (!values.is_valid()) {
            PyErr_Clear();
            return false;
        }
        if (contains(values, object)) return true;
        frame = nb::steal(reinterpret_cast<PyObject*>(PyFrame_GetBack(running)));
    }
    return false;
}

void keep_until_gone(nb::handle object, nb::handle what) {
    const nb::object callback = owned(PyCFunction_New(&drop_method, what.ptr()));
    owned(PyWeakref_NewRef(object.ptr(), callback.ptr())).release();  // `drop` has it
}

}  // namespace ringcast::bindings
