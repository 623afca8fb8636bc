// The one place where arguments are checked, in Python's terms: positional and keyword arguments into fixed places, for
// native methods that must not pay for a general dispatcher, and the conversions, which Python's side uses as well.
#pragma once

#include <nanobind/nanobind.h>
#include <array>
#include <cstdint>

namespace ringcast::bindings {

// Fills `values`, borrowed, from a vectorcall; absent ones stay null. Raises TypeError like a Python function.
void parse_arguments(const char* method, const char* const* names, std::size_t count, std::size_t required,
                     PyObject* const* arguments, Py_ssize_t positional, PyObject* keywords, PyObject** values);

template <std::size_t N>
std::array<PyObject*, N> parse(const char* method, const std::array<const char*, N>& names, std::size_t required,
                               PyObject* const* arguments, Py_ssize_t positional, PyObject* keywords) {
    std::array<PyObject*, N> values{};
    if (keywords == nullptr && positional <= static_cast<Py_ssize_t>(N) &&
        positional >= static_cast<Py_ssize_t>(required)) {
        for (Py_ssize_t i = 0; i < positional; ++i) values[static_cast<std::size_t>(i)] = arguments[i];
        return values;
    }
    parse_arguments(method, names.data(), N, required, arguments, positional, keywords, values.data());
    return values;
}

// Each of these names the argument, says what it must be and what it was: ArgumentTypeError for a wrong type, else
// ArgumentError. Whatever acts as an int or a float will do, NumPy's scalars included, but truth is no number.

// Seconds, or None (or null) for no limit, as nanoseconds; kForever if there is none.
std::int64_t parse_seconds(const char* what, PyObject* seconds);
inline std::int64_t parse_timeout(PyObject* timeout) { return parse_seconds("timeout", timeout); }
std::int64_t parse_int(const char* what, PyObject* value, std::int64_t least, std::int64_t most);
std::uint64_t parse_count(const char* what, PyObject* value);  // at least 1
bool parse_flag(const char* what, PyObject* flag);             // null is false
// What ends a wait from outside: null, None or something with is_set(), like a threading.Event.
PyObject* parse_cancel(PyObject* cancel);
nanobind::object parse_iterable(const char* what, PyObject* value);  // its iterator

}  // namespace ringcast::bindings
