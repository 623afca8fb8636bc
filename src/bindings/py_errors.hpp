// From the core's error codes to the exception types of ringcast.errors.
#pragma once

#include <nanobind/nanobind.h>
#include <exception>
#include <new>
#include <string>

#include "errors.hpp"

namespace ringcast::bindings {

// Raises ringcast.errors.<type>(message). `type` is a name in that module.
[[noreturn]] void raise(const char* type, const std::string& message, int system_errno = 0);
// Raises the Python exception for an error of the core, with `context` ("queue 'a', writer, pid 7") before its message.
[[noreturn]] void raise(const Error& error, const std::string& context);

// ringcast.errors.QueueTimeoutError, looked up once.
nanobind::handle timeout_error();

// The same, with the Python exception `cause` as its cause.
[[noreturn]] void raise_from(nanobind::python_error& cause, const char* type, const std::string& message);
// Whose doing is an exception that came while an object was pickled or rebuilt? See ringcast._interruptions.
enum class Cause { object, interruption, want_of_memory, doubtful };
Cause cause_of(const nanobind::python_error& error);
// May it be something else than the object's doing?
bool interrupts(const nanobind::python_error& error);
// Is it an exception of ringcast.errors, of this type?
bool is_one_of(const nanobind::python_error& error, const char* type);
// "ValueError: bad value"
std::string text_of(const nanobind::python_error& error);

// Runs `body`, whose exceptions become Python's; returns `failed` then.
template <class Result, class Body>
Result translated(Result failed, Body&& body) noexcept {
    try {
        return body();
    } catch (nanobind::python_error& error) {
        error.restore();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_SystemError, error.what());
    }
    return failed;
}

// A new reference from the C API, or the exception that it set.
inline nanobind::object owned(PyObject* result) {
    if (result == nullptr) throw nanobind::python_error();
    return nanobind::steal(result);
}

}  // namespace ringcast::bindings
