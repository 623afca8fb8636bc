// What the hot calls of an end share. They are CPython method descriptors, not functions of the binding library: they
// get their arguments as an array and turn exceptions into Python's by themselves.
#pragma once

#include <nanobind/nanobind.h>
#include <cstddef>

#include "end.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

using Arguments = PyObject* const*;

inline constexpr int kFastCall = METH_FASTCALL | METH_KEYWORDS;

template <class Function>
PyCFunction as_c_function(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

inline End& end_of(PyObject* self) {
    if (!nb::inst_ready(self)) {
        PyErr_SetString(PyExc_RuntimeError, "this queue was not initialised: its __init__ did not run, or failed");
        throw nb::python_error();
    }
    return *nb::inst_ptr<End>(self);
}

// Runs the body of a call; null with a Python exception set if it throws.
template <class Body>
PyObject* guarded(PyObject* self, Body&& body) noexcept {
    return translated<PyObject*>(nullptr, [&]() -> PyObject* {
        try {
            return body();
        } catch (const Error& error) {
            raise(error, end_of(self).context());
        }
    });
}

// Room for a message, once there is some: `self` is the Python object of the end, whose turn the caller has. False: the
// time is over, and the Python exception set.
[[nodiscard]] bool reserve(End& end, Sender& sender, std::uint64_t bytes, Sender::Room& room,
                           const WaitOptions& options, std::int64_t& deadline_ns, PyObject* self);
// The next message's bytes, once there is one; a chunk is open on it then. Invalid objects: the time is over, and the Python
// exception set.
struct TakenChunk {
    nb::object buffer;
    nb::object view;  // a memoryview of it
};
TakenChunk await_chunk(End& end, Receiver& receiver, const WaitOptions& options, std::int64_t& deadline_ns,
                       PyObject* self);

void add_methods(nb::handle type, PyMethodDef* methods, std::size_t count);
void add_send_methods(nb::handle type);
void add_receive_methods(nb::handle type);
PyObject* end_iternext(PyObject* self);

}  // namespace ringcast::bindings
