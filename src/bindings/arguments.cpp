#include "arguments.hpp"

#include <cmath>
#include <cstring>
#include <string>

#include "modules.hpp"
#include "py_errors.hpp"
#include "waiting.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {
[[noreturn]] void type_error(const std::string& message) {
    PyErr_SetString(PyExc_TypeError, message.c_str());
    throw nb::python_error();
}

std::string shown(PyObject* value) {
    constexpr std::size_t kMost = 80;
    const nb::object text = nb::steal(PyObject_Repr(value));
    const char* bytes = text.is_valid() ? PyUnicode_AsUTF8(text.ptr()) : nullptr;
    if (bytes == nullptr) {
        PyErr_Clear();
        return std::string("one of type ") + Py_TYPE(value)->tp_name;
    }
    std::string result(bytes);
    if (result.size() <= kMost) return result;
    std::size_t end = kMost;
    while ((static_cast<unsigned char>(result[end]) & 0xc0) == 0x80) --end;  // not inside a character
    return result.substr(0, end) + "...";
}

// An error that a conversion has raised tells less than these do; one that ends programs is passed on.
void drop_error() {
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) throw nb::python_error();
    PyErr_Clear();
}
[[noreturn]] void refuse_value(const char* what, const std::string& expected, PyObject* value) {
    drop_error();
    raise("ArgumentError", std::string(what) + " must be " + expected + ", not " + shown(value));
}
[[noreturn]] void refuse_type(const char* what, const std::string& expected, PyObject* value) {
    drop_error();
    const std::string type = value == Py_None ? "" : std::string(" (") + Py_TYPE(value)->tp_name + ")";
    raise("ArgumentTypeError", std::string(what) + " must be " + expected + ", not " + shown(value) + type);
}

bool is_truth(PyObject* value) {
    return PyBool_Check(value) || std::strncmp(Py_TYPE(value)->tp_name, "numpy.bool", 10) == 0;
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

std::int64_t parse_seconds(const char* what, PyObject* value) {
    if (value == nullptr || value == Py_None) return kForever;
    const char* const kind = "zero or more seconds, or None to wait without limit";
    double seconds = 0;
    if (PyFloat_CheckExact(value)) {
        seconds = PyFloat_AS_DOUBLE(value);
    } else {
        if (is_truth(value)) refuse_type(what, kind, value);
        seconds = PyFloat_AsDouble(value);
        if (seconds == -1.0 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_OverflowError)) refuse_value(what, kind, value);
            refuse_type(what, kind, value);
        }
    }
    if (std::isnan(seconds) || seconds < 0) refuse_value(what, kind, value);
    if (seconds > 1e9) return kForever;
    return static_cast<std::int64_t>(seconds * 1e9);
}

std::int64_t parse_int(const char* what, PyObject* value, std::int64_t least, std::int64_t most) {
    if (is_truth(value) || !PyIndex_Check(value)) refuse_type(what, "an int", value);
    const nb::object number = nb::steal(PyNumber_Index(value));
    if (!number.is_valid()) refuse_type(what, "an int", value);
    int overflow = 0;
    const long long result = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow != 0 || result < least || result > most) {
        const bool too_small = overflow < 0 || (overflow == 0 && result < least);
        const std::string range = most == INT64_MAX && too_small
                                      ? "at least " + std::to_string(least)
                                      : "from " + std::to_string(least) + " to " + std::to_string(most);
        refuse_value(what, range, number.ptr());
    }
    return result;
}

std::uint64_t parse_count(const char* what, PyObject* value) {
    return static_cast<std::uint64_t>(parse_int(what, value, 1, INT64_MAX));
}

bool parse_flag(const char* what, PyObject* flag) {
    if (flag == nullptr || flag == Py_False) return false;
    if (flag == Py_True) return true;
    if (is_truth(flag)) return PyObject_IsTrue(flag) == 1;
    if (PyLong_CheckExact(flag)) {
        int overflow = 0;
        const long value = PyLong_AsLongAndOverflow(flag, &overflow);
        if (overflow == 0 && (value == 0 || value == 1)) return value == 1;
    }
    refuse_type(what, "True or False", flag);
}

PyObject* parse_cancel(PyObject* cancel) {
    if (cancel == nullptr || cancel == Py_None || PyObject_HasAttrString(cancel, "is_set")) return cancel;
    refuse_type("cancel", "a threading.Event, another object with is_set(), or None", cancel);
}

nb::object parse_iterable(const char* what, PyObject* value) {
    nb::object iterator = nb::steal(PyObject_GetIter(value));
    if (!iterator.is_valid()) refuse_type(what, "an iterable", value);
    return iterator;
}

void bind_arguments(nb::module_& module) {
    module.def(
        "checked_int",
        [](const char* what, nb::handle value, std::int64_t least, std::int64_t most) {
            return parse_int(what, value.ptr(), least, most);
        },
        "what"_a, "value"_a.none(), "least"_a, "most"_a);
    module.def(
        "checked_ns", [](const char* what, nb::handle seconds) { return parse_seconds(what, seconds.ptr()); }, "what"_a,
        "seconds"_a.none());
    module.def(
        "checked_flag", [](const char* what, nb::handle flag) { return parse_flag(what, flag.ptr()); }, "what"_a,
        "flag"_a.none());
}

}  // namespace ringcast::bindings
