// From the core's error codes to the exception types of ringcast.errors.
#pragma once

#include <nanobind/nanobind.h>
#include <string>

#include "errors.hpp"

namespace ringcast::bindings {

// Raises ringcast.errors.<type>(message). `type` is a name in that module.
[[noreturn]] void raise(const char* type, const std::string& message, int system_errno = 0);
// Raises the Python exception for an error of the core, with `context` ("queue 'a', writer, pid 7") before its message.
[[noreturn]] void raise(const Error& error, const std::string& context);

// A new reference from the C API, or the exception that it set.
inline nanobind::object owned(PyObject* result) {
    if (result == nullptr) throw nanobind::python_error();
    return nanobind::steal(result);
}

}  // namespace ringcast::bindings
