#include "arguments.hpp"

#include <cmath>
#include <string>

#include "py_errors.hpp"
#include "waiting.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

namespace {
[[noreturn]] void type_error(const std::string& message) {
    PyErr_SetString(PyExc_TypeError, message.c_str());
    throw nb::python_error();
}
}  // namespace

void parse_arguments(const char* method, const char* const* names, std::size_t count, std::size_t required,
                     PyObject* const* arguments, Py_ssize_t positional, PyObject* keywords, PyObject** values) {
    const std::string call = std::string(method) + "()";
    if (positional > static_cast<Py_ssize_t>(count))
        type_error(call + " takes at most " + std::to_string(count) + " arguments, not " + std::to_string(positional));
    for (Py_ssize_t i = 0; i < positional; ++i) values[i] = arguments[i];
    const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t k = 0; k < named; ++k) {
        PyObject* name = PyTuple_GET_ITEM(keywords, k);
        std::size_t i = 0;
        while (i < count && PyUnicode_CompareWithASCIIString(name, names[i]) != 0) ++i;
        if (i == count) type_error(call + " has no argument '" + nb::borrow<nb::str>(name).c_str() + "'");
        if (values[i] != nullptr) type_error(call + " got two values for '" + names[i] + "'");
        values[i] = arguments[positional + k];
    }
    for (std::size_t i = 0; i < required; ++i)
        if (values[i] == nullptr) type_error(call + " needs '" + names[i] + "'");
}

std::int64_t parse_timeout(PyObject* timeout) {
    if (timeout == nullptr || timeout == Py_None) return kForever;
    const double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        type_error(std::string("timeout must be a number of seconds or None, not ") + Py_TYPE(timeout)->tp_name);
    }
    if (std::isnan(seconds) || seconds < 0)
        raise("ArgumentError", "timeout must be zero or more seconds, or None to wait without limit");
    if (seconds > 1e9) return kForever;
    return static_cast<std::int64_t>(seconds * 1e9);
}

bool parse_flag(PyObject* flag) {
    if (flag == nullptr) return false;
    const int truth = PyObject_IsTrue(flag);
    if (truth < 0) throw nb::python_error();
    return truth != 0;
}

std::uint64_t parse_count(const char* what, PyObject* value) {
    if (!PyLong_Check(value)) type_error(std::string(what) + " must be an int, not " + Py_TYPE(value)->tp_name);
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) raise("ArgumentError", std::string(what) + " is beyond reason");
    if (number < 1) raise("ArgumentError", std::string(what) + " must be at least 1, not " + std::to_string(number));
    return static_cast<std::uint64_t>(number);
}

}  // namespace ringcast::bindings
