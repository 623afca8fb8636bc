// Arguments of the native methods that must not pay for a general dispatcher: positional and keyword arguments into
// fixed places, and the conversions they need.
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

// Seconds, or None for no limit, as nanoseconds; kForever if there is none.
std::int64_t parse_timeout(PyObject* timeout);
bool parse_flag(PyObject* flag);
std::uint64_t parse_count(const char* what, PyObject* value);

}  // namespace ringcast::bindings
