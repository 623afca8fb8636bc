#include "token_ids.hpp"

#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "py_errors.hpp"

#if PY_VERSION_HEX < 0x030b0000
#include <longintrepr.h>
#endif

namespace ringcast::bindings {

namespace nb = nanobind;

namespace {

constexpr std::size_t kTokenBytes = sizeof(std::uint32_t);

template <class T>
constexpr T swapped(T value) {
    using Bits = std::make_unsigned_t<T>;
    Bits bits = static_cast<Bits>(value), result = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i, bits = static_cast<Bits>(bits >> 4 >> 4))
        result = static_cast<Bits>((result << 4 << 4) | (bits & 0xff));
    return static_cast<T>(result);
}

// Compilers make vector instructions of the loop where `Dense` says that the elements lie side by side.
template <class T, bool Swap, bool Dense>
bool convert_all(const char* from, std::ptrdiff_t stride, std::size_t count, std::byte* into) {
    std::uint64_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
        T value;
        std::memcpy(&value, from + static_cast<std::ptrdiff_t>(i) * (Dense ? std::ptrdiff_t{sizeof(T)} : stride),
                    sizeof(T));
        if constexpr (Swap) value = swapped(value);
        if constexpr (std::is_signed_v<T> || sizeof(T) > kTokenBytes)
            wrong |= static_cast<std::uint64_t>(static_cast<std::int64_t>(value)) >> 32;
        auto token = static_cast<std::uint32_t>(value);
        if constexpr (std::endian::native == std::endian::big) token = swapped(token);
        std::memcpy(into + i * kTokenBytes, &token, kTokenBytes);
    }
    return wrong == 0;
}

template <class T, bool Swap>
bool convert(const char* from, std::ptrdiff_t stride, std::size_t count, std::byte* into) {
    return stride == std::ptrdiff_t{sizeof(T)} ? convert_all<T, Swap, true>(from, stride, count, into)
                                               : convert_all<T, Swap, false>(from, stride, count, into);
}

[[noreturn]] void refuse_type(const std::string& what, const char* expected, nb::handle value) {
    std::string shown = nb::cast<std::string>(
        nb::str(nb::handle(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr()))).attr("__qualname__")));
    raise("ArgumentTypeError", what + " must be " + expected + ", not of type " + shown);
}

std::string name_of(std::size_t index) { return "token_ids[" + std::to_string(index) + "]"; }

[[noreturn]] void refuse_value(const std::string& what, nb::handle value) {
    raise("ArgumentError", what + " is " + nb::cast<std::string>(nb::str(value)) + "; a token is from 0 to 4294967295");
}

// Is it an int of one digit, as nearly all tokens are? Calls of the C API would take longer than the hash.
inline bool small_token(PyObject* element, std::uint32_t& token) {
    if (!PyLong_CheckExact(element)) return false;
#if PY_VERSION_HEX >= 0x030c0000
    const auto* integer = reinterpret_cast<const PyLongObject*>(element);
    if (PyUnstable_Long_IsCompact(integer) == 0) return false;
    const Py_ssize_t value = PyUnstable_Long_CompactValue(integer);
    if (value < 0) return false;
    token = static_cast<std::uint32_t>(value);
#else
    const Py_ssize_t digits = Py_SIZE(element);
    if (digits != 0 && digits != 1) return false;
    token = digits == 0 ? 0 : reinterpret_cast<const PyLongObject*>(element)->ob_digit[0];
#endif
    return true;
}

constexpr const char* kExpected = "a sequence, array or tensor of integers, of one dimension";

}  // namespace

TokenIds::Convert TokenIds::convert_of(const char* format, std::size_t bytes) {
    bool swap = false;
    switch (*format) {
        case '<':
            swap = std::endian::native == std::endian::big;
            ++format;
            break;
        case '>':
        case '!':
            swap = std::endian::native == std::endian::little;
            ++format;
            break;
        case '=':
        case '@':
            ++format;
            break;
        default:
            break;
    }
    if (*format == '\0' || format[1] != '\0') return nullptr;
    const bool is_signed = std::strchr("bhilqn", *format) != nullptr;
    if (!is_signed && std::strchr("BHILQN", *format) == nullptr) return nullptr;
    switch (bytes) {
        case 1:
            return is_signed ? &convert<std::int8_t, false> : &convert<std::uint8_t, false>;
        case 2:
            if (swap) return is_signed ? &convert<std::int16_t, true> : &convert<std::uint16_t, true>;
            return is_signed ? &convert<std::int16_t, false> : &convert<std::uint16_t, false>;
        case 4:
            if (swap) return is_signed ? &convert<std::int32_t, true> : &convert<std::uint32_t, true>;
            return is_signed ? &convert<std::int32_t, false> : &convert<std::uint32_t, false>;
        case 8:
            if (swap) return is_signed ? &convert<std::int64_t, true> : &convert<std::uint64_t, true>;
            return is_signed ? &convert<std::int64_t, false> : &convert<std::uint64_t, false>;
        default:
            return nullptr;
    }
}

TokenIds::TokenIds(nb::handle ids) {
    PyObject* object = ids.ptr();
    // Bytes are integers to Python, but nobody's tokens; a mapping's order and a string's characters neither.
    if (PyBytes_Check(object) || PyByteArray_Check(object) || PyUnicode_Check(object) || PyDict_Check(object))
        refuse_type("token_ids", kExpected, ids);
    if (PyList_Check(object) || PyTuple_Check(object) || !PyObject_CheckBuffer(object)) {
        if (!PySequence_Check(object)) refuse_type("token_ids", kExpected, ids);
#ifndef Py_GIL_DISABLED
        if (PyList_CheckExact(object)) {
            list_ = nb::borrow(ids);
            size_ = static_cast<std::size_t>(PyList_GET_SIZE(object));
            return;
        }
#endif
        read_sequence(ids);
        return;
    }
    if (PyObject_GetBuffer(object, &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
        nb::python_error cause;
        if (!cause.matches(PyExc_BufferError) && !cause.matches(PyExc_ValueError)) throw cause;
        raise_from(cause, "ArgumentTypeError",
                   std::string("token_ids must be ") + kExpected + "; its memory cannot be read");
    }
    const char* format = buffer_.format == nullptr ? "B" : buffer_.format;
    if (buffer_.ndim == 1) convert_ = convert_of(format, static_cast<std::size_t>(buffer_.itemsize));
    if (convert_ == nullptr) {
        const std::string found = std::to_string(buffer_.ndim) + " dimensions and elements of format '" + format + "'";
        PyBuffer_Release(&buffer_);
        raise("ArgumentTypeError", std::string("token_ids must be ") + kExpected + "; it has " + found);
    }
    from_ = static_cast<const char*>(buffer_.buf);
    stride_ = buffer_.strides[0];
    size_ = static_cast<std::size_t>(buffer_.shape[0]);
}

TokenIds::~TokenIds() {
    if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
}

std::size_t TokenIds::read(std::size_t begin, std::span<std::byte> into) const noexcept {
    if (in_list()) return read_from_list(begin, into);
    const std::size_t count = into.size() / kTokenBytes;
    const char* from = from_ + static_cast<std::ptrdiff_t>(begin) * stride_;
    if (convert_(from, stride_, count, into.data())) return size_;
    for (std::size_t i = 0; i < count; ++i)
        if (!convert_(from + static_cast<std::ptrdiff_t>(i) * stride_, stride_, 1, into.data())) return begin + i;
    return size_;  // another thread has changed it meanwhile
}

std::size_t TokenIds::read_from_list(std::size_t begin, std::span<std::byte> into) const noexcept {
#ifndef Py_GIL_DISABLED
    PyObject** items = PySequence_Fast_ITEMS(list_.ptr()) + begin;
    const std::size_t count = into.size() / kTokenBytes;
    std::uint32_t token = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (!small_token(items[i], token)) return begin + i;
        if constexpr (std::endian::native == std::endian::big) token = swapped(token);
        std::memcpy(into.data() + i * kTokenBytes, &token, kTokenBytes);
    }
#else
    static_cast<void>(begin), static_cast<void>(into);
#endif
    return size_;
}

void TokenIds::read_list() {
    if (!in_list()) return;
    const nb::object list = std::move(list_);
    read_sequence(list);
}

void TokenIds::read_sequence(nb::handle sequence) {
    // A tuple is what no other thread, and no element's own code, can change.
    const nb::object elements = owned(PySequence_Tuple(sequence.ptr()));
    const Py_ssize_t count = PyTuple_GET_SIZE(elements.ptr());
    read_.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) take(PyTuple_GET_ITEM(elements.ptr(), i));
    convert_ = &convert_all<std::uint32_t, false, true>;
    from_ = reinterpret_cast<const char*>(read_.data());
    size_ = read_.size();
}

// The next element of a sequence.
void TokenIds::take(PyObject* element) {
    std::uint32_t token = 0;
    if (small_token(element, token)) {
        read_.push_back(token);
        return;
    }
    const std::string what = name_of(read_.size());
    if (PyBool_Check(element) || !PyIndex_Check(element)) refuse_type(what, "an integer", element);
    const nb::object integer = nb::steal(PyNumber_Index(element));
    if (!integer.is_valid()) {
        nb::python_error cause;
        if (!cause.matches(PyExc_TypeError)) throw cause;
        raise_from(cause, "ArgumentTypeError", what + " must be an integer");
    }
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow);
    if (overflow != 0 || value < 0 || value > std::numeric_limits<std::uint32_t>::max()) refuse_value(what, integer);
    read_.push_back(static_cast<std::uint32_t>(value));
}

void TokenIds::refuse(std::size_t index) const {
    refuse_value(name_of(index), nb::borrow(buffer_.obj)[nb::int_(index)]);
}

}  // namespace ringcast::bindings
