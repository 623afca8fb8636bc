#include "arrays.hpp"

#include <atomic>
#include <cstring>

#include "frames.hpp"
#include "geometry.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace {

// Made at first use and kept for ever. Threads of a build without a global lock may make one at once: the first is kept.
PyObject* kept(std::atomic<PyObject*>& object, PyObject* (*make)()) {
    PyObject* first = object.load(std::memory_order_acquire);  // acquire [made]
    if (first != nullptr) return first;
    nb::object made = owned(make());
    // release [made]
    if (object.compare_exchange_strong(first, made.ptr(), std::memory_order_acq_rel, std::memory_order_acquire))
        return made.release().ptr();
    return first;
}
std::atomic<PyObject*> array_type_{nullptr};
PyObject* array_type() {
    return kept(array_type_, [] { return nb::object(nb::module_::import_("numpy").attr("ndarray")).release().ptr(); });
}

bool is_array(PyObject* object) {
    PyObject* known = array_type_.load(std::memory_order_acquire);  // acquire [made]
    if (known == nullptr) {
        if (std::strcmp(Py_TYPE(object)->tp_name, "numpy.ndarray") != 0) return false;
        known = array_type();
    }
    return reinterpret_cast<PyObject*>(Py_TYPE(object)) == known;
}

nb::object names_of(nb::handle dtype) {
    static PyObject* const names = PyUnicode_InternFromString("names");
    return owned(PyObject_GetAttr(dtype.ptr(), names));
}

// What ringcast.codec.arrays.<function> gives for a key, remembered for some keys. An entry is the key's object, the result
// and the names of the dtype's fields: equal dtypes may differ in metadata and alignment, and names can be changed in place.
// It then holds no more.
class Cache {
public:
    explicit Cache(const char* function) : function_(function) {}

    nb::object of(nb::handle key, bool key_is_dtype) {
        PyObject* entries = kept(entries_, PyDict_New);
        if (const nb::object entry = find(entries, key); entry.is_valid()) {
            PyObject* found = PyTuple_GET_ITEM(entry.ptr(), 1);
            PyObject* names = PyTuple_GET_ITEM(entry.ptr(), 2);
            if ((!key_is_dtype || PyTuple_GET_ITEM(entry.ptr(), 0) == key.ptr()) &&
                (names == Py_None || names_of(key_is_dtype ? key.ptr() : found).ptr() == names))
                return nb::borrow(found);
        }
        nb::object found = nb::module_::import_("ringcast.codec.arrays").attr(function_)(key);
        const nb::object names = names_of(key_is_dtype ? key : nb::handle(found));
        const nb::object entry = owned(PyTuple_Pack(3, key.ptr(), found.ptr(), names.ptr()));
        if (PyDict_Size(entries) >= kMost) PyDict_Clear(entries);
        if (PyDict_SetItem(entries, key.ptr(), entry.ptr()) != 0) throw nb::python_error();
        return found;
    }

private:
    static constexpr Py_ssize_t kMost = 256;  // programs with more dtypes look them up again

    static nb::object find(PyObject* entries, nb::handle key) {
#if PY_VERSION_HEX >= 0x030D0000
        PyObject* entry = nullptr;
        if (PyDict_GetItemRef(entries, key.ptr(), &entry) < 0) throw nb::python_error();
        return nb::steal(entry);
#else
        PyObject* entry = PyDict_GetItemWithError(entries, key.ptr());
        if (entry == nullptr && PyErr_Occurred() != nullptr) throw nb::python_error();
        return nb::borrow(entry);
#endif
    }

    const char* function_;
    std::atomic<PyObject*> entries_{nullptr};
};

nb::object text_of_dtype(nb::handle dtype) {
    static Cache cache("dtype_text");
    return cache.of(dtype, true);
}
nb::object dtype_of_text(nb::handle text) {
    static Cache cache("dtype_of");
    return cache.of(text, false);
}

bool view_of(PyObject* array, int contiguity, Py_buffer& view) {
    if (PyObject_GetBuffer(array, &view, contiguity) == 0) return true;
    PyErr_Clear();
    return false;
}

// The order of the elements in a view of all of them, or of a copy; the view keeps what was made here alive.
std::optional<char> view_in_order(PyObject* array, Py_buffer& view) {
    if (view_of(array, PyBUF_C_CONTIGUOUS, view)) return 'C';
    if (view_of(array, PyBUF_F_CONTIGUOUS, view)) return 'F';
    const nb::object copy = nb::module_::import_("numpy").attr("ascontiguousarray")(nb::handle(array));
    if (view_of(copy.ptr(), PyBUF_C_CONTIGUOUS, view)) return 'C';
    return std::nullopt;
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
    nb::object text = text_of_dtype(nb::object(nb::handle(object).attr("dtype")));
    if (text.is_none() || PyUnicode_GET_LENGTH(text.ptr()) > UINT16_MAX) return std::nullopt;
    Py_buffer view;
    std::optional<char> order = view_in_order(object, view);
    if (!order) {
        // Not every dtype (datetime64, overlapping fields) has a buffer format; the same elements as plain bytes have.
        const nb::object type =
            owned(PyUnicode_FromFormat("V%S", nb::object(nb::handle(object).attr("itemsize")).ptr()));
        PyObject* bytes = PyObject_CallMethod(object, "view", "O", type.ptr());
        if (bytes == nullptr) PyErr_Clear();
        if (bytes != nullptr) order = view_in_order(nb::steal(bytes).ptr(), view);
    }
    if (!order) return std::nullopt;
    return OutgoingArray(view, *order, std::move(text));
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
    const nb::object dtype = dtype_of_text(text);
    const nb::object offset = owned(PyLong_FromUnsignedLongLong(header.data_offset));
    const nb::object order = owned(PyUnicode_FromStringAndSize(&header.order, 1));
    PyObject* arguments[] = {shape.ptr(), dtype.ptr(), buffer.ptr(), offset.ptr(), Py_None, order.ptr()};
    return owned(PyObject_Vectorcall(array_type(), arguments, 6, nullptr));
}

}  // namespace ringcast::bindings
