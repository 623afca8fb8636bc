#include "arrays.hpp"

#include <cstring>

#include "frames.hpp"
#include "geometry.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace {

// Made at first use and kept for ever: there are few dtypes in a program.
PyObject* kept(PyObject*& object, PyObject* (*make)()) {
    if (object == nullptr) object = make();
    if (object == nullptr) throw nb::python_error();
    return object;
}
PyObject* array_type = nullptr;
PyObject* text_by_dtype = nullptr;
PyObject* dtype_by_text = nullptr;

bool is_array(PyObject* object) {
    if (array_type == nullptr) {
        if (std::strcmp(Py_TYPE(object)->tp_name, "numpy.ndarray") != 0) return false;
        array_type = nb::object(nb::module_::import_("numpy").attr("ndarray")).release().ptr();
    }
    return reinterpret_cast<PyObject*>(Py_TYPE(object)) == array_type;
}

// The cached value for `key`, or what ringcast.codec.arrays.<function> gives for it.
nb::object looked_up(PyObject*& cache, nb::handle key, const char* function) {
    PyObject* known = PyDict_GetItemWithError(kept(cache, PyDict_New), key.ptr());
    if (known != nullptr) return nb::borrow(known);
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    nb::object found = nb::module_::import_("ringcast.codec.arrays").attr(function)(key);
    if (PyDict_SetItem(cache, key.ptr(), found.ptr()) != 0) throw nb::python_error();
    return found;
}

bool view_of(PyObject* array, int contiguity, Py_buffer& view) {
    if (PyObject_GetBuffer(array, &view, contiguity) == 0) return true;
    PyErr_Clear();
    return false;
}

}  // namespace

void raise_corrupt_array(const char* what, std::uint64_t length) {
    raise("CorruptError", "a message of an array or tensor, of " + std::to_string(length) + " bytes, " + what);
}

std::uint64_t array_data_offset(std::size_t ndim, std::size_t dtype_bytes) {
    return round_up(kFixedHeaderBytes + 8 * ndim + dtype_bytes, kDataAlignment);
}

ArrayHeader read_array_header(const std::byte* bytes, std::uint64_t length) {
    std::uint32_t data_offset = 0;
    std::uint16_t dtype_bytes = 0;
    if (length < kFixedHeaderBytes) raise_corrupt_array("has no whole header", length);
    std::memcpy(&data_offset, bytes, 4);
    const auto ndim = static_cast<std::size_t>(bytes[4]);
    const char order = static_cast<char>(bytes[5]);
    std::memcpy(&dtype_bytes, bytes + 6, 2);
    if (ndim > kMostDimensions || (order != 'C' && order != 'F') || data_offset > length ||
        data_offset != array_data_offset(ndim, dtype_bytes))
        raise_corrupt_array("has an impossible header", length);
    const std::byte* shape = bytes + kFixedHeaderBytes;
    return ArrayHeader{data_offset, ndim, order, shape,
                       std::string_view(reinterpret_cast<const char*>(shape + 8 * ndim), dtype_bytes)};
}

OutgoingArray::OutgoingArray(const Py_buffer& view, char order, nb::object dtype_text)
    : view_(view), order_(order), dtype_text_(std::move(dtype_text)) {
    Py_ssize_t bytes = 0;
    dtype_ = PyUnicode_AsUTF8AndSize(dtype_text_.ptr(), &bytes);
    dtype_bytes_ = static_cast<std::size_t>(bytes);
    data_offset_ = array_data_offset(static_cast<std::size_t>(view_.ndim), dtype_bytes_);
}

OutgoingArray::OutgoingArray(OutgoingArray&& other) noexcept
    : view_(other.view_),
      order_(other.order_),
      dtype_text_(std::move(other.dtype_text_)),
      dtype_(other.dtype_),
      dtype_bytes_(other.dtype_bytes_),
      data_offset_(other.data_offset_) {
    other.owns_ = false;
}

OutgoingArray::~OutgoingArray() {
    if (owns_) PyBuffer_Release(&view_);
}

std::optional<OutgoingArray> OutgoingArray::of(PyObject* object) {
    if (!is_array(object)) return std::nullopt;
    nb::object text = looked_up(text_by_dtype, nb::handle(object).attr("dtype"), "dtype_text");
    if (text.is_none() || PyUnicode_GET_LENGTH(text.ptr()) > UINT16_MAX) return std::nullopt;
    Py_buffer view;
    // The view keeps the array alive, also one that was made here.
    if (view_of(object, PyBUF_C_CONTIGUOUS, view)) return OutgoingArray(view, 'C', std::move(text));
    if (view_of(object, PyBUF_F_CONTIGUOUS, view)) return OutgoingArray(view, 'F', std::move(text));
    const nb::object copy = nb::module_::import_("numpy").attr("ascontiguousarray")(nb::handle(object));
    if (view_of(copy.ptr(), PyBUF_C_CONTIGUOUS, view)) return OutgoingArray(view, 'C', std::move(text));
    return std::nullopt;
}

void OutgoingArray::write(std::byte* payload) const {
    write_array_header(payload, order_, view_.shape, static_cast<std::size_t>(view_.ndim),
                       std::string_view(dtype_, dtype_bytes_));
    copy_bytes(payload + data_offset_, view_.buf, static_cast<std::uint64_t>(view_.len));
}

nb::object make_array(const nb::object& buffer, const std::byte* bytes, std::uint64_t length) {
    const ArrayHeader header = read_array_header(bytes, length);
    const nb::object shape = owned(PyTuple_New(static_cast<Py_ssize_t>(header.ndim)));
    for (std::size_t i = 0; i < header.ndim; ++i)
        PyTuple_SET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(i),
                         owned(PyLong_FromLongLong(header.extent(i))).release().ptr());
    const nb::object text =
        owned(PyUnicode_DecodeUTF8(header.dtype.data(), static_cast<Py_ssize_t>(header.dtype.size()), nullptr));
    const nb::object dtype = looked_up(dtype_by_text, text, "dtype_of");
    if (array_type == nullptr) array_type = nb::object(nb::module_::import_("numpy").attr("ndarray")).release().ptr();
    const nb::object offset = owned(PyLong_FromUnsignedLongLong(header.data_offset));
    const nb::object order = owned(PyUnicode_FromStringAndSize(&header.order, 1));
    PyObject* arguments[] = {shape.ptr(), dtype.ptr(), buffer.ptr(), offset.ptr(), Py_None, order.ptr()};
    return owned(PyObject_Vectorcall(array_type, arguments, 6, nullptr));
}

}  // namespace ringcast::bindings
